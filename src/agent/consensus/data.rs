//! Opening what a server has on disk, after checking that it is this machine's and this cluster's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};

use super::directory::{Directory, Owner};
use super::log::{Log, LogSettings};
use super::server::Settings;
use super::snapshot::SnapshotStore;
use crate::agent::rpc::Identity;
use crate::hint::WithHint as _;
use crate::host::disk::Disk;

/// What a server has on disk: whose it is, the log, the snapshots.
pub(super) type Data = (Option<Directory>, Log, SnapshotStore);

/// Opens log and snapshots; the identity takes the cluster that the data is of.
///
/// # Errors
/// When the data directory is in use, damaged, or of another node or cluster.
pub(super) fn open_data(settings: &Settings, identity: &Identity) -> anyhow::Result<Data> {
    let Some(data) = &settings.data else { return Ok((None, Log::in_memory(), SnapshotStore::in_memory())) };
    let disk = &settings.disk;
    let directory = Directory::open(disk, data)?;
    let store = SnapshotStore::on(Arc::clone(disk), &directory.snapshots())?;
    let mut log = open_log(disk, &directory.log())?;
    let cluster = if log.is_empty() {
        // Raft never began here: whatever cluster was planned, the present plan counts.
        ensure!(store.load()?.is_none(), "{} holds a snapshot, but its raft log is gone", data.display());
        identity.cluster()
    } else {
        let owner = directory.owner()?.with_context(|| {
            format!("{} holds a raft log, but not the file that says whose it is", data.display())
        })?;
        check_node(&owner, identity, data)?;
        match (owner.cluster, identity.cluster()) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                if !log.is_unborn() {
                    return Err(anyhow::anyhow!(
                        "the raft log in {} is of cluster {theirs}, and this machine was told to be in {ours}",
                        data.display()
                    ))
                    .hint("a machine is in one cluster for ever; to move it, start with an empty data directory");
                }
                // A birth that was given up: no leader ever wrote, so nothing is lost.
                tracing::info!(old = %theirs, new = %ours, "a raft log of a cluster that was never born is dropped");
                log.close();
                let folder = directory.log();
                disk.remove_folder(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
                log = open_log(disk, &folder)?;
                Some(ours)
            }
            (theirs, ours) => theirs.or(ours),
        }
    };
    if let Some(cluster) = &cluster {
        identity.adopt(cluster);
    }
    directory.set_owner(identity.node(), cluster)?;
    if let Err(error) = directory.note_address(settings.peer.address) {
        // A server must be able to start on a full disk, also at another address.
        tracing::warn!("where this server is could not be noted: {error:#}");
    }
    Ok((Some(directory), log, store))
}

/// Opens the log in a folder that no other process uses.
///
/// # Errors
/// See [`Log::open`].
pub(super) fn open_log(disk: &Arc<dyn Disk>, folder: &Path) -> anyhow::Result<Log> {
    let settings = LogSettings::in_folder(Arc::clone(disk), folder);
    #[cfg(test)]
    if !disk.threads() {
        return super::simulated::open_log(settings);
    }
    Log::open(settings)
}

fn check_node(owner: &Owner, identity: &Identity, data: &Path) -> anyhow::Result<()> {
    if owner.node == identity.node() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "the raft log in {} is that of node {:016x}, and this is node {:016x}",
        data.display(),
        owner.node,
        identity.node()
    ))
    .hint("a data directory cannot be given to another machine; start this one with an empty one")
}
