//! A server in a simulation: a log that is written by a task instead of a thread, and a look at raft.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver as _;

use super::log::{Log, LogSettings};
use super::server::{Inner, Server};
use super::types::{LogId, NodeId};
use crate::agent::handle::ReadMode;
use crate::model::catalog::Catalog;
use crate::model::names::ClusterId;
use crate::simulation::mutants::{self, Mutant};
use crate::simulation::running;

/// Bytes of the first segment: small, so that short histories see several.
const SEGMENT_BYTES_FIRST: u64 = 32 << 10;
/// Bytes of a segment at most.
const SEGMENT_BYTES_MAX: u64 = 64 << 10;

/// What raft knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RaftView {
    pub(crate) id: NodeId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) term: u64,
    pub(crate) leads: bool,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) applied: u64,
}

/// A log whose writer ends with the simulated process.
pub(super) fn open_log(settings: LogSettings) -> anyhow::Result<Log> {
    let disk = settings.disk.clone();
    let sizes = LogSettings { first_bytes: SEGMENT_BYTES_FIRST, max_bytes: SEGMENT_BYTES_MAX, ..settings };
    let (log, pump) = Log::open_pumped(sizes)?;
    running::spawn_within(pump.run(move || disk.delay()));
    Ok(log)
}

impl Inner {
    /// Whether, by a planted fault, a writer is not told that its entry was committed.
    pub(super) fn leaves_untold(&self, written: LogId) -> bool {
        if !mutants::is(Mutant::ReadsForgetTheUntold) {
            return false;
        }
        let untold = written.index.is_multiple_of(2);
        let mut told = self.told.lock();
        if !untold && told.as_ref().is_none_or(|(last, _)| *last < written) {
            *told = Some((written, self.replica.snapshot()));
        }
        untold
    }

    /// With that fault, what a leader shows to a default read: all that it has told its writers of.
    pub(super) fn only_told(&self, mode: ReadMode) -> Option<Arc<Catalog>> {
        let leads = self.leader.borrow().as_ref().is_some_and(|leader| leader.here);
        if !mutants::is(Mutant::ReadsForgetTheUntold) || mode != ReadMode::Default || !leads {
            return None;
        }
        let term = self.raft.metrics().borrow_watched().current_term;
        let told = self.told.lock();
        told.as_ref().filter(|(last, _)| last.leader_id.term == term).map(|(_, catalog)| Arc::clone(catalog))
    }
}

impl Server {
    pub(crate) fn view(&self) -> RaftView {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        RaftView {
            id: metrics.id,
            cluster: self.inner.identity.cluster(),
            term: metrics.current_term,
            leads: metrics.state == openraft::ServerState::Leader,
            voters: metrics.membership_config.membership().voter_ids().collect(),
            applied: metrics.last_applied.map_or(0, |log_id| log_id.index),
        }
    }
}
