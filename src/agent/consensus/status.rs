//! What consensus looks like, for people.

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;

use super::server::{Inner, Server};
use super::types::LogId;
use crate::agent::handle::{ConsensusState, ConsensusStatus, Peer};

/// Term and index of an entry. Servers of the first release do not tell the term.
pub type LogEnd = (Option<u64>, u64);

/// How far a log goes.
#[derive(Debug, Clone, Copy)]
pub struct LogState {
    /// The last entry.
    pub end: LogEnd,
    /// The last one that a majority is known to have.
    pub committed: LogEnd,
}

impl Server {
    /// How far the log goes here, now.
    pub fn log_state(&self) -> LogState {
        let of = |entry: Option<LogId>| {
            (
                Some(entry.map_or(0, |entry| entry.committed_leader_id().term)),
                entry.map_or(0, |entry| entry.index),
            )
        };
        let committed = self.inner.raft.metrics().borrow_watched().cluster_committed;
        LogState {
            end: of(self.inner.raft.data_metrics().borrow_watched().last_log),
            committed: of(committed),
        }
    }
}

impl Inner {
    /// A view of raft now.
    pub(super) fn status(&self) -> ConsensusStatus {
        let known = self.freshness().known_leader;
        let leader = self.leader.borrow().clone().filter(|_| known);
        let last = self.raft.data_metrics().borrow_watched().last_log;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let peers = membership.nodes().map(|(id, peer)| Peer {
            id: *id,
            name: peer.name.clone(),
            address: peer.address.to_string(),
            voter: voters.contains(id),
            leader: leader.as_ref().is_some_and(|leader| leader.id == *id),
            incarnation: peer.incarnation.clone(),
        });
        ConsensusStatus {
            state: match metrics.state {
                ServerState::Leader => ConsensusState::Leader,
                ServerState::Follower => ConsensusState::Follower,
                ServerState::Candidate => ConsensusState::Candidate,
                _ => ConsensusState::Learner,
            },
            term: metrics.current_term,
            leader_address: leader.as_ref().map(|leader| leader.peer.address.to_string()),
            leader_name: leader.as_ref().map(|leader| leader.peer.name.clone()),
            last_log_index: last.as_ref().map_or(0, |log_id| log_id.index),
            last_log_term: Some(last.as_ref().map_or(0, |log_id| log_id.committed_leader_id().term)),
            commit_index: metrics.cluster_committed.map_or(0, |log_id| log_id.index),
            applied_index: metrics.last_applied.map_or(0, |log_id| log_id.index),
            peers: peers.collect(),
            storage: self.storage.borrow().clone(),
        }
    }
}
