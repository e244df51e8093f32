//! What only the leader does, as long as it leads: members into the catalog, old tombstones out of it.
//!
//! What is to be written is decided in `model::sync`. [`follow_dead_nodes`] is the part of the same knowledge that
//! every agent needs for itself, quorum or not.

#[cfg(test)]
mod tests;
mod tombstones;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::tombstones::Tombstones;
use crate::agent::handle::{Consensus, ProposeError, ReadMode, Replica, Topic};
use crate::model::catalog::{Key, key_of};
use crate::model::membership::Member;
use crate::model::sync::{LeaderView, UNHEARD_GRACE, dead_nodes, plan_members};
use crate::tasks::Spawner;

/// Time between two reconciliations of all members when nothing happens (Consul's).
const RECONCILE_INTERVAL: Duration = Duration::from_mins(1);
/// Pause after a write that failed while this server still leads.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// After nodes of the catalog changed, how long to collect further changes before members are compared again.
const NODES_SETTLE: Duration = Duration::from_millis(500);

/// The members as gossip has them, and each change of them.
pub type MembersReceiver = watch::Receiver<Arc<Vec<Member>>>;

/// Who this server is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its node name.
    pub node_name: String,
    /// Its datacenter.
    pub datacenter: String,
}

/// Starts the duties of a leader; they are done only while `leading` is true.
pub fn start(
    settings: Settings,
    replica: Arc<Replica>,
    consensus: Arc<dyn Consensus>,
    members: MembersReceiver,
    leading: watch::Receiver<bool>,
    spawner: &Spawner,
) {
    let duties = Duties { settings, replica, consensus, members, leading, heard: BTreeSet::new() };
    spawner.start("leader", duties.run(spawner.stop_token()));
}

/// Keeps `dead` at what gossip has confirmed dead, on every agent. `own_name` is never in it.
pub fn follow_dead_nodes(
    own_name: String,
    replica: Arc<Replica>,
    mut members: MembersReceiver,
    dead: Arc<ArcSwap<BTreeSet<Arc<str>>>>,
    spawner: &Spawner,
) {
    let stop = spawner.stop_token();
    spawner.start("dead nodes", async move {
        loop {
            let now_dead = dead_nodes(&members.borrow_and_update(), &own_name);
            if **dead.load() != now_dead {
                dead.store(Arc::new(now_dead));
                replica.touch();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = members.changed() => if changed.is_err() {
                    // Gossip has stopped, which it does only when the agent does.
                    stop.cancelled().await;
                    return Ok(());
                },
            }
        }
    });
}

struct Duties {
    settings: Settings,
    replica: Arc<Replica>,
    consensus: Arc<dyn Consensus>,
    members: MembersReceiver,
    leading: watch::Receiver<bool>,
    /// See [`LeaderView::heard`].
    heard: BTreeSet<Key>,
}

impl Duties {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = self.follow() => {}
        }
        // Gossip or consensus have stopped, which they do only when the agent does.
        stop.cancelled().await;
        Ok(())
    }

    /// Leads whenever told so; ends when nobody tells any more.
    async fn follow(&mut self) {
        loop {
            self.listen();
            if *self.leading.borrow_and_update() {
                let mut leading = self.leading.clone();
                tokio::select! {
                    // Who no longer leads writes nothing more, even when there is something to write.
                    biased;
                    _ = leading.wait_for(|leads| !leads) => {}
                    () = self.lead() => return,
                }
                continue;
            }
            let changed = tokio::select! {
                biased;
                changed = self.leading.changed() => changed,
                changed = self.members.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Takes note of who is there.
    fn listen(&mut self) -> Arc<Vec<Member>> {
        let members = self.members.borrow_and_update().clone();
        self.heard.extend(members.iter().map(|member| key_of(&member.name)));
        members
    }

    /// One term of leadership; dropped when it is over.
    async fn lead(&mut self) {
        let since = Instant::now();
        let mut tombstones = Tombstones::default();
        let mut nodes = self.replica.watch(Topic::Nodes);
        let mut is_fresh = false;
        let mut next = since;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(next) => {}
                () = nodes.changed() => {
                    next = next.min(Instant::now() + NODES_SETTLE);
                    continue;
                }
                changed = self.members.changed() => if changed.is_err() {
                    return;
                },
            }
            let done = async {
                if !is_fresh {
                    // What earlier leaders wrote has to be here before it is compared.
                    self.consensus.barrier(ReadMode::Default).await?;
                    is_fresh = true;
                }
                self.reconcile(since.elapsed()).await?;
                self.reap(&mut tombstones).await
            };
            let pause = match done.await {
                // The first time again as soon as nodes that were not heard of yet may be judged.
                Ok(()) => match UNHEARD_GRACE.saturating_sub(since.elapsed()) {
                    Duration::ZERO => RECONCILE_INTERVAL,
                    grace => grace,
                },
                Err(error) => {
                    tracing::warn!("the catalog was not told of all members: {error:#}");
                    RETRY_PAUSE
                }
            };
            next = Instant::now() + pause;
        }
    }

    async fn reconcile(&mut self, leading_for: Duration) -> anyhow::Result<()> {
        let members = self.listen();
        let view = LeaderView {
            members: &members,
            heard: &self.heard,
            own_name: &self.settings.node_name,
            datacenter: &self.settings.datacenter,
            leading_for,
        };
        let mut refused = None;
        for command in plan_members(&view, &self.replica.snapshot()) {
            match self.consensus.propose(command).await {
                Ok(_) => {}
                // The others of the batch were applied all the same.
                Err(ProposeError::Rejected(error)) => refused = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        refused.map_or(Ok(()), |error| Err(error).context("the catalog refused"))
    }

    async fn reap(&self, tombstones: &mut Tombstones) -> anyhow::Result<()> {
        let catalog = self.replica.snapshot();
        tombstones.observe(Instant::now(), catalog.index());
        if catalog.tombstone_count() == 0 {
            return Ok(());
        }
        if let Some(command) = tombstones.due(Instant::now()) {
            self.consensus.propose(command).await?;
        }
        Ok(())
    }
}
