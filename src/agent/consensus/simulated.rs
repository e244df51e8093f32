//! A server on a simulated disk, whose log is written by a task instead of a thread.

use std::path::Path;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver as _;

use super::log::{Log, LogSettings};
use super::server::Server;
use super::snapshot::SnapshotStore;
use super::types::NodeId;
use crate::agent::handle::Replica;
use crate::agent::rpc::{Identity, Router};
use crate::host::disk::simulated::SimulatedDisk;
use crate::tasks::Spawner;

/// Bytes of the first segment: small, so that short histories see several.
const SEGMENT_BYTES_FIRST: u64 = 32 << 10;
/// Bytes of a segment at most.
const SEGMENT_BYTES_MAX: u64 = 64 << 10;

/// What raft knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RaftView {
    pub(crate) term: u64,
    pub(crate) leads: bool,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) applied: u64,
}

impl Server {
    /// As [`Server::open`], on a simulated disk.
    pub(crate) async fn open_simulated(
        disk: &SimulatedDisk,
        identity: Arc<Identity>,
        replica: Arc<Replica>,
        router: &Router,
        spawner: Spawner,
    ) -> anyhow::Result<Self> {
        let (log, pump) = Log::open_pumped(LogSettings {
            disk: Arc::new(disk.clone()),
            folder: Path::new("/raft/log").to_owned(),
            first_bytes: SEGMENT_BYTES_FIRST,
            max_bytes: SEGMENT_BYTES_MAX,
        })?;
        let store = SnapshotStore::on(Arc::new(disk.clone()), Path::new("/raft/snapshots"))?;
        let clock = disk.clone();
        spawner.start_short("log writer", pump.run(move || clock.delay()));
        Self::open_on((None, log, store), "/raft".to_owned(), identity, replica, router, spawner).await
    }

    pub(crate) fn view(&self) -> RaftView {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        RaftView {
            term: metrics.current_term,
            leads: metrics.state == openraft::ServerState::Leader,
            voters: metrics.membership_config.membership().voter_ids().collect(),
            applied: metrics.last_applied.map_or(0, |log_id| log_id.index),
        }
    }
}
