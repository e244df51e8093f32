//! The part of the data directory that belongs to consensus: used by one process, by one node, of one cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::types::NodeId;
use crate::host::disk::{Disk, Held};
use crate::host::files::{MODE_PRIVATE, create_private_folder_on, lock, read_if_there_on, write_atomic_on};
use crate::host::versioned;
use crate::model::names::ClusterId;

/// The folder in the data directory.
pub const FOLDER: &str = "raft";
const OWNER_FILE: &str = "owner.json";

/// Whose data this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The raft id: data must never be used under another one.
    pub(super) node: NodeId,
    /// The cluster, once there is one.
    pub(super) cluster: Option<ClusterId>,
}

/// An exclusively held folder `raft` in the data directory.
#[derive(Debug)]
pub(super) struct Directory {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    _lock: Box<dyn Held>,
}

impl Directory {
    /// Creates and locks the folder.
    ///
    /// # Errors
    /// When another process holds it.
    pub(super) fn open(disk: &Arc<dyn Disk>, data: &Path) -> anyhow::Result<Self> {
        Self::open_folder(disk, &data.join(FOLDER))
    }

    /// As [`Directory::open`], with the folder itself.
    ///
    /// # Errors
    /// When another process holds it.
    pub(super) fn open_folder(disk: &Arc<dyn Disk>, folder: &Path) -> anyhow::Result<Self> {
        create_private_folder_on(&**disk, folder)?;
        let data = folder.parent().unwrap_or(folder);
        disk.sync_folder(data).with_context(|| format!("cannot sync {}", data.display()))?;
        let lock = lock(&**disk, data, &folder.join("lock"))?;
        Ok(Self { disk: Arc::clone(disk), folder: folder.to_owned(), _lock: lock })
    }

    /// The folder of log segments.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The folder of snapshots.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.folder.join("snapshots")
    }

    fn owner_path(&self) -> PathBuf {
        self.folder.join(OWNER_FILE)
    }

    /// Whose data is here, if anybody's.
    ///
    /// # Errors
    /// When the file is damaged or of another version.
    pub(super) fn owner(&self) -> anyhow::Result<Option<Owner>> {
        read_owner(&*self.disk, &self.owner_path())
    }

    /// Writes whose data this is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn set_owner(&self, node: NodeId, cluster: Option<ClusterId>) -> anyhow::Result<()> {
        let owner = Owner { node, cluster };
        // A server must be able to start on a full disk.
        if self.owner()?.as_ref() == Some(&owner) {
            return Ok(());
        }
        let bytes = versioned::encode(&owner)?;
        write_atomic_on(&*self.disk, &self.owner_path(), &bytes, MODE_PRIVATE)
    }
}

/// The raft id whose data is in the raft folder `folder`, without holding it; `None` when there is none.
///
/// # Errors
/// When the file that says so is damaged.
pub fn owner_of(disk: &dyn Disk, folder: &Path) -> anyhow::Result<Option<NodeId>> {
    Ok(read_owner(disk, &folder.join(OWNER_FILE))?.map(|owner| owner.node))
}

/// Writes whose data is in a raft folder that nobody uses yet.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write_owner(
    disk: &dyn Disk,
    folder: &Path,
    node: NodeId,
    cluster: Option<ClusterId>,
) -> anyhow::Result<()> {
    let bytes = versioned::encode(&Owner { node, cluster })?;
    write_atomic_on(disk, &folder.join(OWNER_FILE), &bytes, MODE_PRIVATE)
}

fn read_owner(disk: &dyn Disk, path: &Path) -> anyhow::Result<Option<Owner>> {
    let Some(bytes) = read_if_there_on(disk, path)? else { return Ok(None) };
    let advice = "restore the file, or move the data directory away and let this machine join as a new one";
    versioned::decode(&bytes).map(Some).map_err(|error| error.about(path, advice))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Directory;
    use crate::host::disk::{Disk, HostDisk};

    #[test]
    fn a_data_directory_serves_one_process_and_remembers_its_owner() {
        let data = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(HostDisk);
        let directory = Directory::open(&disk, data.path()).unwrap();
        let error = Directory::open(&disk, data.path()).unwrap_err();
        assert!(crate::hint::report(&error).contains("is in use by another process"), "{error:#}");
        assert_eq!(directory.owner().unwrap(), None);
        directory.set_owner(7, None).unwrap();
        drop(directory);
        assert_eq!(Directory::open(&disk, data.path()).unwrap().owner().unwrap().unwrap().node, 7);
    }
}
