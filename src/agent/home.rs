//! Where the machine of a data directory was last: a directory that was copied to a second machine is refused.
//!
//! Two machines with one node id would take each other's row in the catalog, in turns. A server's log is looked after
//! more strictly, by its raft id (`consensus/directory.rs`).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::membership::{BoundGossip, Gossip};
use crate::hint::WithHint as _;
use crate::host::disk::Disk;
use crate::host::files::{MODE_PRIVATE, read_if_there_on, write_atomic_on};
use crate::host::versioned;
use crate::model::sync::servers::TAG_NODE_ID;

/// File with the address of the machine.
const FILE: &str = "address.json";
/// How long the machine that this directory may be a copy of may take to say who it is.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How often it is asked: a packet may be lost.
const LOOKS: usize = 2;

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Home {
    /// Where gossip was last.
    address: SocketAddr,
    /// Where the machine lives that this directory was copied from: it must never be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy_of: Option<SocketAddr>,
}

/// Who this agent is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Me<'a> {
    pub(super) name: &'a str,
    pub(super) node_id: &'a str,
    /// Where its gossip is reached.
    pub(super) address: SocketAddr,
}

/// Refuses a data directory that was copied from a machine that lives, and notes where this one is.
///
/// Only a machine that is at another address than before has to look, and only there. Who was found to be a copy once
/// is one for ever.
///
/// # Errors
/// When the original answers at its address, or did so once; when the file is damaged.
pub(super) async fn refuse_copy(
    disk: &dyn Disk,
    data: &Path,
    me: Me<'_>,
    bound: &BoundGossip,
) -> anyhow::Result<()> {
    let path = data.join(FILE);
    let known = read(disk, &path)?;
    let moved_from = known.map(|home| home.address).filter(|before| *before != me.address);
    let original = match (known.and_then(|home| home.copy_of), moved_from) {
        (Some(original), _) => Some(original),
        (None, Some(before)) if lives_at(before, me, bound).await => {
            write(disk, &path, Home { address: before, copy_of: Some(before) })?;
            Some(before)
        }
        _ => None,
    };
    if let Some(original) = original {
        let text = format!("{} is a copy of that of the machine at {original}", data.display());
        return Err(anyhow::anyhow!(text))
            .hint("two machines cannot be one node: start this one with an empty data directory and a name of its own");
    }
    if known.is_none_or(|home| home.address != me.address)
        && let Err(error) = write(disk, &path, Home { address: me.address, copy_of: None })
    {
        // An agent must be able to start on a full disk.
        tracing::warn!("where this machine is could not be noted: {error:#}");
    }
    Ok(())
}

/// Whether an agent with our node id answers there.
async fn lives_at(address: SocketAddr, me: Me<'_>, bound: &BoundGossip) -> bool {
    for _ in 0..LOOKS {
        if let Some((_, tags)) = Gossip::who_is_at(bound, me.name, address, ANSWER_WAIT).await {
            return tags.as_map().get(TAG_NODE_ID).is_some_and(|id| id == me.node_id);
        }
    }
    tracing::info!(%address, "nobody answers where this machine was before");
    false
}

fn read(disk: &dyn Disk, path: &Path) -> anyhow::Result<Option<Home>> {
    let Some(bytes) = read_if_there_on(disk, path)? else { return Ok(None) };
    let advice =
        "if this data directory is no copy of another machine's, remove the file and start the agent again";
    versioned::decode(&bytes).map(Some).map_err(|error| error.about(path, advice))
}

fn write(disk: &dyn Disk, path: &Path, home: Home) -> anyhow::Result<()> {
    write_atomic_on(disk, path, &versioned::encode(&home)?, MODE_PRIVATE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::path::Path;

    use super::{FILE, MODE_PRIVATE, Me, refuse_copy};
    use crate::agent::membership::{self, Gossip};
    use crate::host::disk::HostDisk;
    use crate::host::files::write_atomic;
    use crate::model::membership::{Config, Tags};
    use crate::tasks::Tasks;

    /// An agent with the node id `id`, and where it is.
    async fn agent(id: &str, tasks: &Tasks) -> SocketAddr {
        let bound = Gossip::bind("127.81.0.4:0".parse().unwrap()).await.unwrap();
        let advertise = bound.address();
        let tags = BTreeMap::from([("id".to_owned(), id.to_owned())]);
        let settings = membership::Settings {
            name: "original".to_owned(),
            advertise,
            tags: Tags::try_from(tags).unwrap(),
            seed: 1,
            retry_join: Vec::new(),
            remembered: Vec::new(),
            retry_interval: std::time::Duration::from_secs(1),
            config: Config::default(),
        };
        Gossip::start(bound, settings, &tasks.spawner()).unwrap();
        advertise
    }

    /// Starts with the data directory as the agent `id` at `address`; gives the error.
    async fn start(data: &Path, id: &str, address: SocketAddr) -> Option<String> {
        let bound = Gossip::bind("127.81.0.5:0".parse().unwrap()).await.unwrap();
        let me = Me { name: "copy", node_id: id, address };
        refuse_copy(&HostDisk, data, me, &bound).await.err().map(|error| crate::hint::report(&error))
    }

    #[tokio::test]
    async fn a_copied_data_directory_is_refused_while_its_original_lives_and_ever_after() {
        let (data, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
        let original = agent("7", &tasks).await;
        assert_eq!(start(data.path(), "7", original).await, None, "where it is");
        let elsewhere: SocketAddr = "127.81.0.5:1".parse().unwrap();
        let report = start(data.path(), "7", elsewhere).await.unwrap();
        assert!(report.contains(&format!("is a copy of that of the machine at {original}")), "{report}");
        assert!(report.contains("empty data directory"), "{report}");
        tasks.run_until(async {}).await.unwrap();
        assert!(start(data.path(), "7", elsewhere).await.is_some(), "also when its original is gone");
    }

    #[tokio::test]
    async fn a_copy_is_refused_though_somebody_holds_conversations_with_the_original_open() {
        let (data, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
        let original = agent("7", &tasks).await;
        assert_eq!(start(data.path(), "7", original).await, None, "where it is");
        let mut held = Vec::new();
        for _ in 0..64 {
            held.push(tokio::net::TcpStream::connect(original).await.unwrap());
        }
        let report = start(data.path(), "7", "127.81.0.5:1".parse().unwrap()).await;
        assert!(report.is_some_and(|report| report.contains("is a copy")));
        drop(held);
    }

    #[tokio::test]
    async fn a_machine_that_has_moved_is_let_in_wherever_it_goes() {
        let (data, tasks) = (tempfile::tempdir().unwrap(), Tasks::default());
        let other = agent("8", &tasks).await;
        assert_eq!(start(data.path(), "7", other).await, None);
        let (second, third) = ("127.81.0.5:1".parse().unwrap(), "127.81.0.5:2".parse().unwrap());
        assert_eq!(start(data.path(), "7", second).await, None, "another machine has its address now");
        assert_eq!(start(data.path(), "7", third).await, None, "nobody has");
    }

    #[tokio::test]
    async fn a_damaged_note_of_the_address_is_refused_with_what_to_do() {
        let data = tempfile::tempdir().unwrap();
        write_atomic(&data.path().join(FILE), b"{", MODE_PRIVATE).unwrap();
        let report = start(data.path(), "7", "127.81.0.5:1".parse().unwrap()).await.unwrap();
        assert!(report.contains("address.json is damaged") && report.contains("remove the file"), "{report}");
    }
}
