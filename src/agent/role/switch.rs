//! Consensus as the other parts see it while this machine is now a client, now a server.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::agent::handle::{
    Consensus, ConsensusStatus, Freshness, KvRead, NoLeader, Order, OrderError, OrderReply, ProposeError,
    ReadMode,
};
use crate::model::catalog::{Command, KvAnswer, Reply};
use crate::model::names::ClusterId;

/// How long requests that are under way may take when the part changes: a write takes milliseconds.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// Hands everything to the present part. While it changes, requests wait for the next one.
pub(super) struct Switch {
    slot: ArcSwap<Slot>,
    /// How often the part has changed.
    turns: watch::Sender<u64>,
    recoveries: mpsc::Sender<Recovery>,
}

/// An operator's order to recover, and where the outcome goes.
pub(super) struct Recovery {
    /// The cluster whose quorum is lost.
    pub(super) cluster: ClusterId,
    /// Also where a server that may found a successor itself is silent, or was promised it.
    pub(super) force: bool,
    outcome: oneshot::Sender<Result<ClusterId, OrderError>>,
}

impl Recovery {
    /// Says what came of it. Who asked may have gone away.
    pub(super) fn tell(self, outcome: Result<ClusterId, OrderError>) {
        drop(self.outcome.send(outcome));
    }
}

/// How the answer begins when it is not known whether there is a successor: the agent ends, and says so when it starts.
pub(in crate::agent) const BROKE_OFF: &str = "the recovery broke off";
/// Recoveries that wait: one person gives one order.
const RECOVERIES_WAITING_MAX: usize = 1;

struct Slot {
    inner: Arc<dyn Consensus>,
    turn: u64,
    open: bool,
    under_way: TaskTracker,
}

impl Switch {
    pub(super) fn new(inner: Arc<dyn Consensus>) -> (Self, mpsc::Receiver<Recovery>) {
        let slot = Slot { inner, turn: 0, open: true, under_way: TaskTracker::new() };
        let (recoveries, ordered) = mpsc::channel(RECOVERIES_WAITING_MAX);
        (Self { slot: ArcSwap::from_pointee(slot), turns: watch::channel(0).0, recoveries }, ordered)
    }

    /// From now on requests wait; returns when those under way are done, or soon after.
    pub(super) async fn close(&self) {
        let slot = self.slot.load_full();
        let closed = Slot {
            inner: slot.inner.clone(),
            turn: slot.turn,
            open: false,
            under_way: slot.under_way.clone(),
        };
        self.slot.store(Arc::new(closed));
        slot.under_way.close();
        if tokio::time::timeout(DRAIN_WAIT, slot.under_way.wait()).await.is_err() {
            tracing::debug!("requests were under way when this machine's part changed");
        }
    }

    /// Hands all requests to `inner`.
    pub(super) fn set(&self, inner: Arc<dyn Consensus>) {
        let turn = self.slot.load().turn + 1;
        self.slot.store(Arc::new(Slot { inner, turn, open: true, under_way: TaskTracker::new() }));
        self.turns.send_replace(turn);
    }

    async fn open(&self) -> Arc<Slot> {
        let mut turns = self.turns.subscribe();
        loop {
            turns.borrow_and_update();
            let slot = self.slot.load_full();
            if slot.open {
                return slot;
            }
            // The sender lives as long as `self`, so this cannot fail.
            let _closed = turns.changed().await.is_err();
        }
    }

    /// Whether a request that found no leader may be tried again, because the part has changed meanwhile.
    fn has_changed(&self, slot: &Slot) -> bool {
        let now = self.slot.load();
        now.turn != slot.turn || !now.open
    }
}

#[async_trait]
impl Consensus for Switch {
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        loop {
            let slot = self.open().await;
            let _under_way = slot.under_way.token();
            match slot.inner.propose(command.clone()).await {
                Err(ProposeError::NoLeader(_)) if self.has_changed(&slot) => {}
                done => return done,
            }
        }
    }

    async fn barrier(&self, mode: ReadMode) -> Result<Freshness, NoLeader> {
        loop {
            let slot = self.open().await;
            match slot.inner.barrier(mode).await {
                Err(_) if self.has_changed(&slot) => {}
                done => return done,
            }
        }
    }

    async fn kv_read(&self, read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        loop {
            let slot = self.open().await;
            match slot.inner.kv_read(read.clone()).await {
                Err(_) if self.has_changed(&slot) => {}
                done => return done,
            }
        }
    }

    fn freshness(&self) -> Freshness {
        self.slot.load().inner.freshness()
    }

    async fn status(&self) -> ConsensusStatus {
        self.open().await.inner.status().await
    }

    async fn recover(&self, cluster: ClusterId, force: bool) -> Result<ClusterId, OrderError> {
        let (sender, outcome) = oneshot::channel();
        let recovery = Recovery { cluster, force, outcome: sender };
        let gone = || OrderError::Refused("the agent stops".to_owned());
        self.recoveries.send(recovery).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    async fn order(&self, order: Order) -> Result<OrderReply, OrderError> {
        loop {
            let slot = self.open().await;
            match slot.inner.order(order.clone()).await {
                Err(OrderError::NoLeader(_)) if self.has_changed(&slot) => {}
                done => return done,
            }
        }
    }
}
