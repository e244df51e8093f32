//! Gossip as the other parts use it: tags of this agent, the trait of the handle, servers to talk to, peers on disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handle::{JoinReport, Members, NoSuchMember};
use super::membership::Gossip;
use crate::host::disk::Disk;
use crate::host::files::{MODE_PRIVATE, read_if_there_on, write_atomic_on};
use crate::host::versioned::{self, VersionedError};
use crate::model::membership::{Member, MemberStatus};
use crate::model::sync::servers::{
    ROLE_CLIENT, ROLE_SERVER, ServerMember, TAG_CLUSTER, TAG_DATACENTER, TAG_EPOCH, TAG_EXPECT, TAG_NODE_ID,
    TAG_NOMINATION, TAG_RAFT_ID, TAG_ROLE, TAG_RPC_PORT, TAG_SPARE,
};
use crate::model::version::{CONSUL_VERSION, REVISION};

/// File with the addresses of members, so that an agent finds its cluster again when nobody tells it where.
pub const PEERS_FILE: &str = "peers.json";
/// Most addresses kept: one living member is enough to find all others.
const PEERS_MAX: usize = 64;

/// What decides an agent's tags.
#[derive(Debug, Clone)]
pub(super) struct TagSource {
    pub(super) datacenter: String,
    pub(super) node_id: String,
    pub(super) rpc_port: u16,
    /// Whether it could become a server.
    pub(super) spare: bool,
    pub(super) expect: Option<usize>,
    pub(super) bootstrap: bool,
}

impl TagSource {
    /// The tags, with the cluster once it is known. Names are Consul's where Consul has them.
    pub(super) fn tags(
        &self,
        part: ServerPart,
        cluster: Option<&str>,
        epoch: u64,
    ) -> BTreeMap<String, String> {
        let role = if part.is_server() { ROLE_SERVER } else { ROLE_CLIENT };
        let mut tags = BTreeMap::from([
            (TAG_ROLE, role.to_owned()),
            (TAG_DATACENTER, self.datacenter.clone()),
            (TAG_NODE_ID, self.node_id.clone()),
            ("build", format!("{CONSUL_VERSION}:{REVISION}")),
            ("segment", String::new()),
            ("vsn", "2".to_owned()),
            ("vsn_min", "2".to_owned()),
            ("vsn_max", "3".to_owned()),
        ]);
        match part {
            ServerPart::None if self.spare => {
                tags.insert(TAG_SPARE, "1".to_owned());
            }
            ServerPart::None => {}
            ServerPart::ByFlags { raft_id } => {
                self.server_tags(raft_id, &mut tags);
                if let Some(expect) = self.expect {
                    tags.insert(TAG_EXPECT, expect.to_string());
                }
                if self.bootstrap {
                    tags.insert("bootstrap", "1".to_owned());
                }
            }
            ServerPart::Nominated { raft_id, serial } => {
                self.server_tags(raft_id, &mut tags);
                tags.insert(TAG_NOMINATION, serial.to_string());
            }
        }
        if epoch > 0 {
            tags.insert(TAG_EPOCH, epoch.to_string());
        }
        if let Some(cluster) = cluster {
            tags.insert(TAG_CLUSTER, cluster.to_owned());
        }
        tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn server_tags(&self, raft_id: u64, tags: &mut BTreeMap<&'static str, String>) {
        tags.insert(TAG_RPC_PORT, self.rpc_port.to_string());
        tags.insert(TAG_RAFT_ID, raft_id.to_string());
        tags.insert("raft_vsn", "3".to_owned());
    }
}

/// As what an agent shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerPart {
    /// A client.
    None,
    /// A server because its flags say so.
    ByFlags { raft_id: u64 },
    /// A server by nomination; serial 0 when it does not know by which.
    Nominated { raft_id: u64, serial: u64 },
}

impl ServerPart {
    fn is_server(self) -> bool {
        self != Self::None
    }
}

/// The handle's view of gossip.
pub(super) struct GossipMembers(pub(super) Gossip);

#[async_trait]
impl Members for GossipMembers {
    fn members(&self) -> Arc<Vec<Member>> {
        self.0.members()
    }

    fn changes(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.0.changes()
    }

    async fn join(&self, addresses: &[String]) -> JoinReport {
        self.0.join(addresses).await
    }

    async fn leave(&self) {
        self.0.leave().await;
    }

    async fn force_leave(&self, name: &str, prune: bool) -> Result<(), NoSuchMember> {
        self.0.force_leave(name, prune).await
    }
}

/// RPC addresses of the living servers, but for this machine.
pub(super) fn server_addresses(members: &[Member], own_name: &str) -> Vec<SocketAddr> {
    let others = members.iter().filter(|member| member.name != own_name);
    let servers = others.filter_map(ServerMember::of);
    servers.filter(|server| server.status == MemberStatus::Alive).map(|server| server.address).collect()
}

/// Keeps `servers` true while members change.
pub(super) async fn follow_servers(
    mut members: watch::Receiver<Arc<Vec<Member>>>,
    own_name: String,
    servers: watch::Sender<Vec<SocketAddr>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let now = server_addresses(&members.borrow_and_update(), &own_name);
        servers.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = members.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// The addresses of an earlier life. A damaged file is as good as none, and is told.
pub(super) fn remembered(disk: &dyn Disk, data_dir: Option<&PathBuf>) -> anyhow::Result<Vec<SocketAddr>> {
    let Some(path) = data_dir.map(|folder| folder.join(PEERS_FILE)) else { return Ok(Vec::new()) };
    let Some(bytes) = read_if_there_on(disk, &path)? else { return Ok(Vec::new()) };
    match versioned::decode(&bytes) {
        Err(newer @ VersionedError::Newer(_)) => Err(newer.about(&path, "")),
        Err(VersionedError::Damaged(error)) => {
            tracing::warn!("{} is damaged and is not used: {error}", path.display());
            Ok(Vec::new())
        }
        Ok(addresses) => Ok(addresses),
    }
}

/// Writes the addresses of the members each time that they change.
pub(super) async fn remember(
    gossip: Gossip,
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let path = data_dir.join(PEERS_FILE);
    let mut changes = gossip.changes();
    let mut written = None;
    loop {
        changes.mark_unchanged();
        let mut addresses = gossip.known_addresses();
        addresses.truncate(PEERS_MAX);
        if written.as_ref() != Some(&addresses) && !addresses.is_empty() {
            let bytes = versioned::encode(&addresses)?;
            match write_atomic_on(&*disk, &path, &bytes, MODE_PRIVATE) {
                Ok(()) => written = Some(addresses),
                // The agent works without it; the next change tries again.
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
