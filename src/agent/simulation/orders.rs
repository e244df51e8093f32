//! What operators order while everything goes wrong: agents that leave, another leader, more, fewer or other servers.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::World;
use crate::agent::consensus::RaftView;
use crate::agent::handle::{Consensus, Order, Which};
use crate::simulation::running;

/// How long an operator looks at an order before something else happens; it is carried out all the same.
const GLANCE: Duration = Duration::from_millis(200);
/// How long an order may take: no disk is lost while there are fewer servers by an order.
const SETTLED: Duration = Duration::from_secs(20);
/// How long it may take until everybody knows of a loss: nobody orders that there are fewer servers before.
const KNOWN: Duration = Duration::from_secs(8);

impl World {
    /// An agent is told to leave; what follows is its own.
    pub(super) fn leave(&mut self, number: usize) -> Option<String> {
        if !self.may_order() {
            return Some("not now".to_owned());
        }
        match &self.machines[number].process {
            Some(process) => {
                process.leave.cancel();
                self.truth.leavers.insert(process.part().raft_id);
                None
            }
            None => Some("it is down".to_owned()),
        }
    }

    pub(super) async fn order_transfer(&mut self, at: usize, to: usize) -> Option<String> {
        let order = Order::Transfer(Some(Which::Id(self.machines[to].name.clone())));
        self.tell(at, |consensus| async move { consensus.order(order).await }).await
    }

    pub(super) async fn order_servers(&mut self, at: usize, servers: u8) -> Option<String> {
        let order = Order::Want(servers.into());
        self.tell(at, |consensus| async move { consensus.order(order).await }).await
    }

    pub(super) async fn order_retirement(&mut self, at: usize, server: usize) -> Option<String> {
        let order = Order::Retire(Which::Id(self.machines[server].name.clone()));
        self.tell(at, |consensus| async move { consensus.order(order).await }).await
    }

    pub(super) async fn order_exchange(&mut self, at: usize, old: usize, new: usize) -> Option<String> {
        let [old, new] = [old, new].map(|number| Some(self.machines[number].name.clone()));
        let order = Order::Replace { old, new };
        self.tell(at, |consensus| async move { consensus.order(order).await }).await
    }

    /// Whether everybody knows of the last loss.
    fn may_order(&mut self) -> bool {
        let may = self.last_loss.is_none_or(|at| at.elapsed() > KNOWN);
        if may {
            self.last_order = Some(Instant::now());
        }
        may
    }

    /// Whether the last order was carried out, or never will be.
    pub(super) fn is_settled(&self, leader: &RaftView) -> bool {
        let retired = |id: &u64| {
            self.truth.leavers.contains(id)
                || self.truth.catalog().is_some_and(|catalog| catalog.servers().retired.contains(id))
        };
        self.last_order.is_none_or(|at| at.elapsed() > SETTLED)
            && self.under_way.iter().all(AbortHandle::is_finished)
            && !leader.voters.iter().any(retired)
    }

    /// Gives an order to the agent of a machine; what it answers at once.
    async fn tell<T, F>(&mut self, at: usize, order: impl FnOnce(Arc<dyn Consensus>) -> F) -> Option<String>
    where
        T: Debug + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        if !self.may_order() {
            return Some("not now".to_owned());
        }
        let Some(process) = &self.machines[at].process else { return Some("it is down".to_owned()) };
        let gone = process.gone.clone();
        let ordered = running::within(process.number, order(process.consensus.clone()));
        let answer = running::spawn(async move {
            tokio::select! {
                biased;
                () = gone.cancelled() => None,
                answer = ordered => Some(answer),
            }
        });
        self.under_way.push(answer.abort_handle());
        Some(match tokio::time::timeout(GLANCE, answer).await {
            Err(_) => "under way".to_owned(),
            Ok(Ok(Some(answer))) => format!("{answer:?}"),
            Ok(_) => "no answer".to_owned(),
        })
    }
}
