//! A server in a simulation: a log that is written by a task instead of a thread, and a look at raft.

use openraft::async_runtime::watch::WatchReceiver as _;

use super::log::{Log, LogSettings};
use super::server::{Inner, Server};
use super::types::{LogId, NodeId};
use crate::model::names::ClusterId;
use crate::simulation::mutants::{self, Mutant};
use crate::simulation::running;

/// With a planted fault, one in so many writers is not told what became of its write.
const UNTOLD_ONE_IN: u64 = 3;

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
        let untold = written.index.is_multiple_of(UNTOLD_ONE_IN);
        if !untold {
            let mut told = self.told.lock();
            *told = (*told).max(Some(written));
        }
        untold
    }

    /// With that fault, the read index of a leader: not all that is committed, but all that its writers were told of.
    pub(super) fn planted_read_index(&self, term: u64) -> Option<u64> {
        let told = (*self.told.lock())?;
        (mutants::is(Mutant::ReadsForgetTheUntold) && told.leader_id.term == term).then_some(told.index)
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
