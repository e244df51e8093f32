//! Orders for the leader: handed to the steward when this server leads, else to the server that does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::forward::{HOLD, wait_for_change};
use super::server::{Inner, Leader, Server};
use crate::agent::handle::{NoLeader, Order, OrderError, OrderReply, ReadMode, Steward};
use crate::agent::rpc::messages::OrderAnswer;
use crate::agent::rpc::{Method, decode, encode};

/// How long the leader may take for an order: a transfer of the leadership, or a few entries.
pub(super) const ORDER_WAIT: Duration = Duration::from_secs(10);

impl Server {
    /// Puts in who carries out orders while this server leads.
    pub fn set_steward(&self, steward: Arc<dyn Steward>) {
        *self.inner.steward.lock() = Some(steward);
    }
}

impl Inner {
    /// Carries an order out, here or at the leader.
    pub(super) async fn order(&self, order: Order) -> OrderAnswer {
        let deadline = Instant::now() + HOLD;
        let stop = self.spawner.stop_token();
        let mut leaders = self.leader.subscribe();
        loop {
            let leader = leaders.borrow_and_update().clone();
            let tried = match &leader {
                Some(leader) if leader.here => self.order_here(order.clone()).await,
                Some(leader) => self.order_at(leader, &order).await,
                None => Err(NoLeader.into()),
            };
            match tried {
                Err(OrderError::NoLeader(_)) if Instant::now() < deadline => {}
                tried => return tried,
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(NoLeader.into()),
                () = wait_for_change(&mut leaders, leader.is_some(), deadline) => {}
            }
        }
    }

    async fn order_at(&self, leader: &Leader, order: &Order) -> OrderAnswer {
        let question = encode(order).map_err(|error| OrderError::Refused(error.to_string()))?;
        let channel = self.channels.to(leader.id, &leader.peer);
        match channel.call(Method::OrderHere, question, ORDER_WAIT).await {
            Ok(answer) => decode::<OrderAnswer>(&answer)
                .unwrap_or_else(|error| Err(OrderError::Refused(error.to_string()))),
            Err(error) if error.nothing_done() => Err(NoLeader.into()),
            Err(error) => Err(OrderError::Refused(format!("the leader did not answer: {error}"))),
        }
    }

    /// Carries an order out if this server leads, which a majority has to confirm first: what is said about servers
    /// must not come from one that was left behind.
    pub(super) async fn order_here(&self, order: Order) -> Result<OrderReply, OrderError> {
        if !self.leader.borrow().as_ref().is_some_and(|leader| leader.here) {
            return Err(NoLeader.into());
        }
        let index = self.read_index_here(ReadMode::Consistent).await?;
        self.replica.wait_applied(index).await;
        let steward = self.steward.lock().clone();
        match steward {
            Some(steward) => steward.carry_out(order).await,
            None => Err(NoLeader.into()),
        }
    }
}
