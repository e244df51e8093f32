//! After a quorum is lost for good: what one server has becomes the first state of a successor, a new cluster.
//!
//! Everything in the log counts, committed or not: what was acknowledged may be among what this server never heard to
//! be committed. The old folder is only read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};

use super::directory::{Directory, FOLDER, write_owner};
use super::log::{Log, LogSettings};
use super::snapshot::SnapshotStore;
use super::types::{LogId, NodeId, Peer, SnapshotMeta, StoredMembership, Vote};
use crate::host::disk::Disk;
use crate::host::files::create_private_folder_on;
use crate::model::catalog::{Catalog, Command, Depth};
use crate::model::names::ClusterId;

/// Where a successor is made ready, beside the folder that it replaces.
pub const NEXT_FOLDER: &str = "raft.next";

/// Makes the raft folder of the successor `cluster` ready, with `id` at `peer` as its only voter. Blocks.
///
/// # Errors
/// When the old folder is in use or damaged, or the new one cannot be written.
pub fn prepare_successor(
    disk: &Arc<dyn Disk>,
    data: &Path,
    cluster: &ClusterId,
    id: NodeId,
    peer: Peer,
) -> anyhow::Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot start a runtime")?;
    let Last { catalog, id: last, vote, voters } = runtime.block_on(read(disk, data))?;
    let successor = catalog.succeeded_by(cluster.clone(), voters);
    let next = data.join(NEXT_FOLDER);
    if disk.exists(&next).with_context(|| format!("cannot look into {}", next.display()))? {
        // An attempt that was interrupted; it never was anybody's.
        disk.remove_folder(&next).with_context(|| format!("cannot remove {}", next.display()))?;
    }
    create_private_folder_on(&**disk, &next)?;
    let voters = vec![std::collections::BTreeSet::from([id])];
    let membership = openraft::Membership::new(voters, std::collections::BTreeMap::from([(id, peer)]))
        .context("the successor's membership is not valid")?;
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
    };
    let bytes = Bytes::from(successor.to_bytes(Depth::Full)?);
    SnapshotStore::on(Arc::clone(disk), &next.join("snapshots"))?.save(&meta, &bytes)?;
    let mut log = Log::open(LogSettings::in_folder(Arc::clone(disk), &next.join("log")))?;
    // A log that says nothing is that of a machine that never began.
    let own = Vote::new(vote.map_or(1, |vote| vote.leader_id.term + 1), id);
    runtime.block_on(log.save_vote(&own)).context("cannot write the successor's log")?;
    log.close();
    write_owner(&**disk, &next, id, Some(cluster.clone()))?;
    disk.sync_folder(data).with_context(|| format!("cannot sync {}", data.display()))?;
    Ok(next)
}

/// All that a server has.
struct Last {
    /// The catalog after the last entry of its log.
    catalog: Catalog,
    /// That entry.
    id: LogId,
    vote: Option<Vote>,
    /// How many voted last.
    voters: u32,
}

async fn read(disk: &Arc<dyn Disk>, data: &Path) -> anyhow::Result<Last> {
    let directory = Directory::open(disk, data)?;
    let store = SnapshotStore::on(Arc::clone(disk), &directory.snapshots())?;
    let mut log = Log::open(LogSettings::in_folder(Arc::clone(disk), &directory.log()))?;
    let (mut catalog, mut last, mut voters) = match store.load()? {
        Some((meta, bytes)) => {
            let voters = meta.last_membership.membership().voter_ids().count();
            (Catalog::from_bytes(&bytes)?, meta.last_log_id, voters)
        }
        None => (Catalog::default(), None, 0),
    };
    let vote = log.read_vote().await.context("cannot read the last vote")?;
    for entry in log.try_get_log_entries(0..).await.context("cannot read the log")? {
        if last.is_some_and(|last| entry.log_id.index <= last.index) {
            continue;
        }
        let index = entry.log_id.index;
        match &entry.payload {
            EntryPayload::Normal(proposal) => {
                let command: Command = rmp_serde::from_slice(&proposal.0).with_context(|| {
                    format!("entry {index} of the log is not a command that this version knows")
                })?;
                // What a command was refused for it is refused for again.
                drop(catalog.apply(index, &command));
            }
            EntryPayload::Membership(membership) => voters = membership.voter_ids().count(),
            EntryPayload::Blank => {}
        }
        catalog.skip_to(index);
        last = Some(entry.log_id);
    }
    log.close();
    let folder = data.join(FOLDER);
    let id = last.with_context(|| format!("{} holds nothing to go on from", folder.display()))?;
    ensure!(catalog.cluster().is_some(), "{} is of a cluster that was never born", folder.display());
    let voters = u32::try_from(voters).context("there are too many voters")?;
    Ok(Last { catalog, id, vote, voters })
}
