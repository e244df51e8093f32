//! The end of an agent that was asked to stop, or to leave for good: what it hands over before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Part, Roles};
use crate::agent::consensus::Server;
use crate::agent::handle::{Consensus as _, Order, OrderError, OrderReply};

/// How long a server that leaves waits for another machine to take its place.
const SWAP_WAIT: Duration = Duration::from_secs(15);
/// How often it asks.
const SWAP_INTERVAL: Duration = Duration::from_millis(100);
/// How long a server that leaves stays for the others to remove it from the voters.
const REMOVAL_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const REMOVAL_LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl Roles {
    /// Before a server stops: lets another lead, so that nobody waits for an election.
    pub(in crate::agent) async fn hand_over_leadership(&self) {
        if let Some(server) = self.part().server {
            hand_over_leadership(&server).await;
        }
    }

    /// Leaves the cluster: lets another machine take the place of a server, if one can, ends with `silence` what this
    /// agent still writes to the catalog, says goodbye, and helps to commit its own removal.
    pub(in crate::agent) async fn leave(&self, silence: impl FnOnce()) {
        let part = self.part();
        self.hand_over_place(&part).await;
        silence();
        self.gossip.leave().await;
        if let Some(server) = &part.server {
            wait_for_removal(server, part.raft_id).await;
        }
    }

    async fn hand_over_place(&self, part: &Part) {
        self.leaving.store(true, Ordering::Relaxed);
        let Some(server) = &part.server else { return };
        let swapping = async {
            loop {
                hand_over_leadership(server).await;
                match self.switch.order(Order::Depart { id: part.raft_id }).await {
                    Ok(OrderReply::Departing(true)) => {
                        tracing::info!("another machine is taking the place of this server");
                    }
                    Err(OrderError::Refused(why)) => tracing::debug!(why, "leaving has to wait"),
                    Ok(_) | Err(OrderError::NoLeader(_)) => return,
                }
                tokio::time::sleep(SWAP_INTERVAL).await;
            }
        };
        if tokio::time::timeout(SWAP_WAIT, swapping).await.is_err() {
            tracing::warn!(
                "nobody has taken the place of this server within {SWAP_WAIT:?}: it leaves all the same"
            );
        }
    }
}

async fn hand_over_leadership(server: &Server) {
    if let Err(error) = server.transfer_leadership(None).await {
        tracing::warn!("leadership was not handed over: {error:#}");
    }
}

/// A voter that leaves must help to commit its own removal.
async fn wait_for_removal(server: &Server, raft_id: u64) {
    let removed = async {
        loop {
            let peers = server.status().await.peers;
            let voters = peers.iter().filter(|peer| peer.voter).count();
            if voters <= 1 || !peers.iter().any(|peer| peer.id == raft_id && peer.voter) {
                return;
            }
            tokio::time::sleep(REMOVAL_LOOK_INTERVAL).await;
        }
    };
    if tokio::time::timeout(REMOVAL_WAIT, removed).await.is_err() {
        tracing::warn!("the other servers did not remove this one within {REMOVAL_WAIT:?}");
    }
}
