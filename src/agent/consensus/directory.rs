//! The part of the data directory that belongs to consensus: used by one process, by one node, of one cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::types::NodeId;
use crate::agent::rpc::{Connection, Identity};
use crate::hint::WithHint as _;
use crate::host::disk::{Disk, Held};
use crate::host::files::{MODE_PRIVATE, create_private_folder_on, lock, read_if_there_on, write_atomic_on};
use crate::host::versioned;
use crate::model::names::ClusterId;
use crate::tasks::Spawner;

/// The folder in the data directory.
pub const FOLDER: &str = "raft";
const OWNER_FILE: &str = "owner.json";
/// How often it is tried to reach the machine that a folder may be a copy of: a packet may be lost.
const LOOKS: usize = 2;

/// Whose data this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The raft id: data must never be used under another one.
    pub(super) node: NodeId,
    /// The cluster, once there is one.
    pub(super) cluster: Option<ClusterId>,
    /// Where its RPC was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<SocketAddr>,
    /// Where the machine lives that this folder was copied from: it must never be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copy_of: Option<SocketAddr>,
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
        let known = self.owner()?;
        let address = known.as_ref().and_then(|known| known.address);
        let owner = Owner { node, cluster, address, copy_of: None };
        // A server must be able to start on a full disk.
        if known.as_ref() == Some(&owner) {
            return Ok(());
        }
        write(&*self.disk, &self.folder, &owner)
    }

    /// Writes where the owner's RPC is, for [`refuse_copy`].
    pub(super) fn note_address(&self, address: SocketAddr) -> anyhow::Result<()> {
        let Some(known) = self.owner()?.filter(|known| known.address != Some(address)) else { return Ok(()) };
        write(&*self.disk, &self.folder, &Owner { address: Some(address), ..known })
    }
}

fn write(disk: &dyn Disk, folder: &Path, owner: &Owner) -> anyhow::Result<()> {
    write_atomic_on(disk, &folder.join(OWNER_FILE), &versioned::encode(owner)?, MODE_PRIVATE)
}

/// Refuses a raft folder that was copied from a machine that lives: two servers with one raft id could both be elected.
/// It is refused for ever, also when the original has died, because what that wrote since is not in the copy.
///
/// Only a machine that is at another address than before has to look, and only there.
///
/// # Errors
/// When the original answers at its address, or did so once.
pub async fn refuse_copy(
    disk: &dyn Disk,
    data: &Path,
    here: SocketAddr,
    identity: &Identity,
    spawner: &Spawner,
) -> anyhow::Result<()> {
    let folder = data.join(FOLDER);
    let Some(owner) = read_owner(disk, &folder.join(OWNER_FILE))? else { return Ok(()) };
    let moved = owner.address.filter(|before| *before != here);
    let original = match (owner.copy_of, moved) {
        (Some(original), _) => original,
        (None, None) => return Ok(()),
        (None, Some(before)) => {
            if !answers_as(before, owner.node, &identity.stranger(), spawner).await {
                return Ok(());
            }
            write(disk, &folder, &Owner { copy_of: Some(before), ..owner })?;
            before
        }
    };
    let text = format!("{} is a copy of that of the server at {original}", folder.display());
    Err(anyhow::anyhow!(text))
        .hint("two machines cannot be one server: start this one with an empty data directory and a name of its own")
}

/// Whether the server with this raft id answers there.
async fn answers_as(address: SocketAddr, node: NodeId, asker: &Identity, spawner: &Spawner) -> bool {
    for _ in 0..LOOKS {
        match Connection::open(address, asker, spawner).await {
            Ok(connection) => {
                connection.close();
                return connection.peer().node == node;
            }
            Err(error) => tracing::info!(%address, %error, "nobody answers where this server was before"),
        }
    }
    false
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
    write(disk, folder, &Owner { node, cluster, address: None, copy_of: None })
}

fn read_owner(disk: &dyn Disk, path: &Path) -> anyhow::Result<Option<Owner>> {
    let Some(bytes) = read_if_there_on(disk, path)? else { return Ok(None) };
    let advice = "restore the file, or move the data directory away and let this machine join as a new one";
    versioned::decode(&bytes).map(Some).map_err(|error| error.about(path, advice))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::{Directory, refuse_copy};
    use crate::agent::rpc::{Identity, Listener};
    use crate::host::disk::{Disk, HostDisk};
    use crate::tasks::Tasks;

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

    #[tokio::test]
    async fn a_copy_beside_its_original_is_refused_for_ever_and_a_machine_that_has_moved_is_not() {
        let data = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(HostDisk);
        let directory = Directory::open(&disk, data.path()).unwrap();
        directory.set_owner(7, None).unwrap();
        let original = Tasks::default();
        let listener =
            Listener::bind("127.81.0.2:0".parse().unwrap(), Identity::new(7, "one", None), Arc::default());
        let listener = listener.await.unwrap();
        let before = listener.address().unwrap();
        original.start("listener", listener.run(original.spawner()));
        directory.note_address(before).unwrap();
        drop(directory);
        let tasks = Tasks::default();
        let start = async |here: SocketAddr| {
            refuse_copy(&*disk, data.path(), here, &Identity::new(7, "two", None), &tasks.spawner()).await
        };
        start(before).await.expect("where it was");
        let elsewhere: SocketAddr = "127.81.0.3:1".parse().unwrap();
        let error = start(elsewhere).await.unwrap_err();
        let report = crate::hint::report(&error);
        assert!(report.contains(&format!("is a copy of that of the server at {before}")), "{report}");
        assert!(report.contains("empty data directory"), "{report}");
        original.run_until(async {}).await.unwrap();
        start(elsewhere).await.expect_err("also when its original is gone");

        let other = tempfile::tempdir().unwrap();
        let directory = Directory::open(&disk, other.path()).unwrap();
        directory.set_owner(7, None).unwrap();
        directory.note_address(before).unwrap();
        let identity = Identity::new(7, "two", None);
        let moved = refuse_copy(&*disk, other.path(), elsewhere, &identity, &tasks.spawner()).await;
        moved.expect("nobody is where it was");
    }
}
