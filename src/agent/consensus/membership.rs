//! Changes of who is a server, for the leader's own loop. One at a time; raft refuses a second.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;

use super::server::{Inner, LEADER_SILENCE_MAX, Server};
use super::types::{NodeId, Peer};
use crate::model::membership::Member;
use crate::model::sync::servers::ConfiguredServer;

/// How long a change may take: two entries on a majority.
const CHANGE_WAIT: Duration = Duration::from_secs(10);
/// How long a transfer may take before it counts as failed: a healthy one takes milliseconds, and whoever stops a
/// machine waits for it.
const TRANSFER_WAIT: Duration = Duration::from_millis(500);
/// A learner that misses no more entries than this has caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;

impl Server {
    /// Looks for the other servers where gossip has them, and where it has none, where raft's configuration does.
    pub fn follow_addresses(&self, members: watch::Receiver<Arc<Vec<Member>>>) {
        self.inner.channels.follow(members);
    }

    /// Takes a server in that receives everything but does not vote.
    ///
    /// # Errors
    /// When this server does not lead or a change is under way.
    pub async fn add_learner(&self, id: NodeId, peer: Peer) -> anyhow::Result<()> {
        within(self.inner.raft.add_learner(id, peer, false)).await.context("cannot take in a server")
    }

    /// Raft's configuration as the leader sees it, and whether a joint change is under way.
    pub fn configuration(&self) -> (Vec<ConfiguredServer>, bool) {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let last_own = metrics.last_log_index.unwrap_or(0);
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let servers = membership.nodes().map(|(id, peer)| {
            let here = *id == metrics.id;
            let matched = metrics.replication.as_ref().and_then(|all| all.get(id).copied()).flatten();
            let last_index = if here { Some(last_own) } else { matched.map(|log_id| log_id.index) };
            let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied()).flatten();
            ConfiguredServer {
                id: *id,
                name: peer.name.clone(),
                address: peer.address.to_string(),
                incarnation: peer.incarnation.clone(),
                voter: voters.contains(id),
                caught_up: last_index.is_some_and(|index| index + CAUGHT_UP_ENTRIES >= last_own),
                leader: here && metrics.current_leader == Some(*id),
                last_index,
                heard: if here { Some(Duration::ZERO) } else { heard.map(|at| at.elapsed()) },
            }
        });
        (servers.collect(), membership.get_joint_config().len() > 1)
    }

    /// The index of the last entry in this server's log, applied or not. Raft answers after all that was asked of it
    /// before, also by who waits no more.
    ///
    /// # Errors
    /// When raft has stopped.
    pub async fn last_log_index(&self) -> anyhow::Result<u64> {
        let last = self.inner.raft.with_raft_state(|state| state.log_ids.last().map(|last| last.index)).await;
        Ok(last.context("raft has stopped")?.unwrap_or(0))
    }

    /// Whether this server votes, as far as a majority has confirmed to it.
    pub fn votes(&self) -> bool {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.id;
        metrics.committed_membership_config.membership().voter_ids().any(|voter| voter == id)
    }

    /// Whether this server is in touch with its cluster: it leads and a majority has just answered, or the leader has
    /// just spoken to it.
    pub fn is_in_touch(&self) -> bool {
        if !self.inner.leader.borrow().as_ref().is_some_and(|leader| leader.here) {
            return self.inner.freshness().known_leader;
        }
        // Who has lost its followers still calls itself the leader.
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.membership().voter_ids().count() <= 1;
        alone || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < LEADER_SILENCE_MAX)
    }

    /// Brings a joint change to its end that the leader before could not finish.
    ///
    /// # Errors
    /// When this server does not lead.
    pub async fn finish_change(&self) -> anyhow::Result<()> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        within(self.inner.raft.change_membership(change, false))
            .await
            .context("cannot finish a change of servers")
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// When this server does not lead, or the other is no learner.
    pub async fn promote(&self, id: NodeId) -> anyhow::Result<()> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        within(self.inner.raft.change_membership(change, false)).await.context("cannot make a server a voter")
    }

    /// Puts a learner in the place of a voter, in one joint change (I4).
    ///
    /// # Errors
    /// When this server does not lead, or the newcomer is no learner.
    pub async fn replace_voter(&self, old: NodeId, new: NodeId) -> anyhow::Result<()> {
        let change = ChangeMembers::Batch(vec![
            ChangeMembers::AddVoterIds(BTreeSet::from([new])),
            ChangeMembers::RemoveVoters(BTreeSet::from([old])),
        ]);
        within(self.inner.raft.change_membership(change, false)).await.context("cannot replace a voter")
    }

    /// Removes a voter or a learner. The last voter cannot be removed.
    ///
    /// # Errors
    /// When this server does not lead.
    pub async fn remove_server(&self, id: NodeId) -> anyhow::Result<()> {
        let voter = self.inner.raft.voter_ids().any(|voter| voter == id);
        let ids = BTreeSet::from([id]);
        let change = if voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
        within(self.inner.raft.change_membership(change, false)).await.context("cannot remove a server")
    }

    /// Notes the new name or address of a known server.
    ///
    /// # Errors
    /// When this server does not lead.
    pub async fn update_server(&self, id: NodeId, peer: Peer) -> anyhow::Result<()> {
        let change = ChangeMembers::SetNodes(BTreeMap::from([(id, peer)]));
        within(self.inner.raft.change_membership(change, true))
            .await
            .context("cannot change a server's address")
    }

    /// Hands leadership to `to`, or to the voter that has most of the log. Call it before the process stops:
    /// then no write waits for an election. Does nothing when this server does not lead or is alone.
    ///
    /// # Errors
    /// When nobody took over in time.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> anyhow::Result<()> {
        let mut leaders = self.leader_changes();
        if !leaders.borrow().as_ref().is_some_and(|leader| leader.here) {
            return Ok(());
        }
        let Some(target) = to.or_else(|| self.best_successor()) else { return Ok(()) };
        self.inner.raft.trigger().transfer_leader(target).await.context("raft has stopped")?;
        let other = leaders.wait_for(|leader| leader.as_ref().is_some_and(|leader| !leader.here));
        let changed = tokio::time::timeout(TRANSFER_WAIT, other).await;
        changed
            .with_context(|| format!("nobody took the lead within {TRANSFER_WAIT:?}"))?
            .context("raft has stopped")?;
        Ok(())
    }

    fn best_successor(&self) -> Option<NodeId> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let voters = metrics.membership_config.membership().voter_ids();
        voters
            .filter(|id| *id != metrics.id)
            .max_by_key(|id| replication.get(id).copied().flatten().map(|log_id| log_id.index))
    }
}

impl Inner {
    /// Whether a server is at `address`, by raft's configuration or by gossip, which knows of a move first.
    pub(super) fn knows_server_at(&self, address: IpAddr) -> bool {
        let metrics = self.raft.server_metrics();
        let configured = {
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().nodes().any(|(_, peer)| peer.address.ip() == address)
        };
        configured || self.channels.knows_server_at(address)
    }
}

async fn within<T, E: std::error::Error + Send + Sync + 'static>(
    change: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<()> {
    tokio::time::timeout(CHANGE_WAIT, change)
        .await
        .with_context(|| format!("no majority took the change within {CHANGE_WAIT:?}"))??;
    Ok(())
}
