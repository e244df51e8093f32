//! After a quorum is lost for good: what one server has becomes the first state of a successor, a new cluster.
//!
//! Everything in the log counts, committed or not: what was acknowledged may be among what this server never heard to
//! be committed. The old folder is only read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};

use super::data::open_log;
use super::directory::{Directory, FOLDER, write_owner};
use super::snapshot::SnapshotStore;
use super::types::{LogId, NodeId, Peer, SnapshotMeta, StoredMembership, Vote};
use crate::host::disk::Disk;
use crate::host::files::create_private_folder_on;
use crate::model::catalog::{Catalog, Command, Depth};
use crate::model::names::ClusterId;

/// Where a successor is made ready, beside the folder that it replaces.
pub const NEXT_FOLDER: &str = "raft.next";

/// Makes the raft folder of the successor `cluster` ready, with `id` at `peer` as its only voter. Its steps block.
///
/// # Errors
/// When the old folder is in use or damaged, or the new one cannot be written.
pub async fn prepare_successor(
    disk: &Arc<dyn Disk>,
    data: &Path,
    cluster: &ClusterId,
    id: NodeId,
    peer: Peer,
) -> anyhow::Result<PathBuf> {
    let last = read(disk, data).await?;
    let successor = last.catalog.succeeded_by(cluster.clone(), last.voters);
    #[cfg(test)]
    last.tell_simulation(&successor, id);
    let Last { id: last, vote, .. } = last;
    let next = data.join(NEXT_FOLDER);
    if disk.exists(&next).with_context(|| format!("cannot look into {}", next.display()))? {
        // An attempt that was interrupted; it never was anybody's.
        disk.remove_folder(&next).with_context(|| format!("cannot remove {}", next.display()))?;
    }
    create_private_folder_on(&**disk, &next)?;
    let voters = vec![BTreeSet::from([id])];
    let membership = openraft::Membership::new(voters, BTreeMap::from([(id, peer)]))
        .context("the successor's membership is not valid")?;
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(Some(last), membership),
    };
    let bytes = Bytes::from(successor.to_bytes(Depth::Full)?);
    SnapshotStore::on(Arc::clone(disk), &next.join("snapshots"))?.save(&meta, &bytes)?;
    let mut log = open_log(disk, &next.join("log"))?;
    // A log that says nothing is that of a machine that never began.
    let own = Vote::new(vote.map_or(1, |vote| vote.leader_id.term + 1), id);
    log.save_vote(&own).await.context("cannot write the successor's log")?;
    log.close();
    #[cfg(test)]
    log.written().await;
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
    /// Up to where a snapshot says what there was, and the entries after that.
    #[cfg(test)]
    tail: (u64, Vec<super::types::Entry>),
}

#[cfg(test)]
impl Last {
    fn tell_simulation(&self, successor: &Catalog, id: NodeId) {
        let (from, tail) = &self.tail;
        let entry = |entry: &super::types::Entry| {
            let command = match &entry.payload {
                EntryPayload::Normal(proposal) => Some(proposal.0.clone()),
                _ => None,
            };
            (entry.log_id.index, entry.log_id.leader_id.term, command)
        };
        let founded = crate::simulation::running::Founded {
            founder: id,
            catalog: successor.clone(),
            last: self.id.index,
            from: *from,
            tail: tail.iter().map(entry).collect(),
        };
        crate::simulation::running::founded(founded);
    }
}

/// How many vote, or will when a change that is under way is done.
fn count(halves: &[BTreeSet<NodeId>]) -> usize {
    halves.last().map_or(0, BTreeSet::len)
}

async fn read(disk: &Arc<dyn Disk>, data: &Path) -> anyhow::Result<Last> {
    let directory = Directory::open(disk, data)?;
    let store = SnapshotStore::on(Arc::clone(disk), &directory.snapshots())?;
    let mut log = open_log(disk, &directory.log())?;
    let (mut catalog, mut last, mut voters) = match store.load()? {
        Some((meta, bytes)) => {
            let voters = count(meta.last_membership.membership().get_joint_config());
            (Catalog::from_bytes(&bytes)?, meta.last_log_id, voters)
        }
        None => (Catalog::default(), None, 0),
    };
    let vote = log.read_vote().await.context("cannot read the last vote")?;
    let snapshot = last.map(|last| last.index);
    let mut entries = log.try_get_log_entries(0..).await.context("cannot read the log")?;
    entries.retain(|entry| snapshot.is_none_or(|snapshot| entry.log_id.index > snapshot));
    for entry in &entries {
        let index = entry.log_id.index;
        match &entry.payload {
            EntryPayload::Normal(proposal) => {
                let command: Command = rmp_serde::from_slice(&proposal.0).with_context(|| {
                    format!("entry {index} of the log is not a command that this version knows")
                })?;
                // What a command was refused for it is refused for again.
                drop(catalog.apply(index, &command));
            }
            EntryPayload::Membership(membership) => voters = count(membership.get_joint_config()),
            EntryPayload::Blank => {}
        }
        catalog.skip_to(index);
        last = Some(entry.log_id);
    }
    log.close();
    #[cfg(test)]
    log.written().await;
    let folder = data.join(FOLDER);
    let id = last.with_context(|| format!("{} holds nothing to go on from", folder.display()))?;
    ensure!(catalog.cluster().is_some(), "{} is of a cluster that was never born", folder.display());
    let voters = u32::try_from(voters).context("there are too many voters")?;
    Ok(Last {
        catalog,
        id,
        vote,
        voters,
        #[cfg(test)]
        tail: (snapshot.unwrap_or(0), entries),
    })
}
