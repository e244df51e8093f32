//! All that the parts of the agent may ask of each other.
//!
//! HTTP, DNS, checks and the local state know this module, never one another: each part implements or uses one of
//! the traits here, and `agent/mod.rs` puts them together.

mod consensus;
mod local;
mod members;
mod orders;
mod probes;
mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use consensus::{
    Consensus, ConsensusState, ConsensusStatus, Freshness, KvBlocking, KvRead, NoLeader, Peer, ProposeError,
    ReadMode,
};
pub use local::{Local, LocalError, Maintenance};
pub use members::{JoinReport, Members, NoSuchMember};
pub use orders::{Order, OrderError, OrderReply, Steward, Which};
pub use probes::{ProbeBoard, ProbeOrder, ProbeOrders};
pub use replica::{Replica, Topic, Watch, blocking};

/// Who this agent is; fixed for the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// UUID of the node, kept in the data directory.
    pub node_id: String,
    /// Its name in the catalog.
    pub node_name: String,
    /// Its datacenter.
    pub datacenter: String,
    /// The DNS zone without dots at its ends, normally `consul`.
    pub domain: String,
    /// The address that others reach it at.
    pub advertise: IpAddr,
    /// Whether it was started as a server; what it is now says [`Consensus::status`].
    pub server: bool,
    /// Metadata of the node.
    pub node_meta: BTreeMap<String, String>,
    /// Addresses as bound, by purpose (`http`, `dns`, `serf_lan`, `server`), for `/v1/agent/self`.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// JSON responses are always indented (`-dev`).
    pub pretty: bool,
    /// Effective settings without secrets, as `DebugConfig` of `/v1/agent/self` shows them.
    pub debug_config: BTreeMap<String, serde_json::Value>,
}

/// Asks that the configuration is read again: where the answer goes, an error as text for a person.
pub type ReloadRequest = tokio::sync::oneshot::Sender<Result<(), String>>;

/// What a part of the agent holds. Cheap to clone.
#[derive(Clone)]
pub struct AgentHandle {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// The catalog as this agent has it.
    pub replica: Arc<Replica>,
    /// Writes, and reads that must be fresh.
    pub consensus: Arc<dyn Consensus>,
    /// Who is there.
    pub members: Arc<dyn Members>,
    /// This agent's own services and checks.
    pub local: Arc<dyn Local>,
    /// Nodes (keys of the catalog) that our own gossip has confirmed dead: DNS hides them at once.
    pub dead_nodes: Arc<ArcSwap<BTreeSet<Arc<str>>>>,
    /// Asks the process to leave the cluster and end (`PUT /v1/agent/leave`).
    pub shutdown: tokio_util::sync::CancellationToken,
}
