//! What the log can hold, and what applying it answers.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::rows::{Check, Service};
use super::servers::ServersCommand;
use crate::model::names::ClusterId;

/// One change of the catalog. The only input of [`super::Catalog::apply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The first leader of a new cluster says which one it is.
    ClusterBorn {
        /// The cluster's identity, for its whole life.
        cluster_id: ClusterId,
    },
    /// Creates or changes a node, a service on it, checks on it.
    Register(Box<Registration>),
    /// Removes a check, a service with its checks, or a node with everything on it.
    Deregister(Deregistration),
    /// Writes a key.
    KvWrite(KvWrite),
    /// Deletes a key or all keys under a prefix.
    KvDelete(KvDelete),
    /// Forgets the tombstones of deletes before a raft index.
    KvReap {
        /// Tombstones older than this index go.
        before: u64,
    },
    /// Several registrations and deregistrations as one entry.
    Batch(Vec<Command>),
    /// Concerns the servers of the cluster.
    Servers(ServersCommand),
}

impl Command {
    /// Whether only keys change: replicas of the discovery part skip it.
    pub fn is_kv(&self) -> bool {
        matches!(self, Self::KvWrite(_) | Self::KvDelete(_) | Self::KvReap { .. })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterBorn { cluster_id } => write!(f, "cluster born {cluster_id}"),
            Self::Register(registration) => write!(f, "register {}", registration.node.node),
            Self::Deregister(deregistration) => write!(f, "deregister {}", deregistration.node),
            Self::KvWrite(write) => write!(f, "kv write {}", write.key),
            Self::KvDelete(delete) => write!(f, "kv delete {}", delete.key),
            Self::KvReap { before } => write!(f, "kv reap before {before}"),
            Self::Batch(commands) => write!(f, "batch of {}", commands.len()),
            Self::Servers(command) => write!(f, "servers: {command}"),
        }
    }
}

/// The node part of a registration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeRegistration {
    /// UUID, or empty.
    pub id: String,
    /// The node's name.
    pub node: String,
    /// IP address or host name.
    pub address: String,
    /// Datacenter.
    pub datacenter: String,
    /// See [`super::Node::tagged_addresses`].
    pub tagged_addresses: Option<BTreeMap<String, String>>,
    /// See [`super::Node::meta`].
    pub meta: Option<BTreeMap<String, String>>,
}

/// `PUT /v1/catalog/register` as a command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub node: NodeRegistration,
    /// Leave an existing node as it is.
    pub skip_node_update: bool,
    /// A service on it; its indexes are ignored.
    pub service: Option<Service>,
    /// Checks on it; their indexes, node, service name and tags are filled in.
    pub checks: Vec<Check>,
}

/// `PUT /v1/catalog/deregister` as a command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Deregistration {
    /// The node's name.
    pub node: String,
    /// Only this service and its checks.
    pub service_id: Option<String>,
    /// Only this check.
    pub check_id: Option<String>,
}

/// When a key may be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always.
    None,
    /// Only when its `ModifyIndex` is this one; 0 means only when there is no such key.
    ModifyIndex(u64),
}

/// `PUT /v1/kv/KEY` as a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvWrite {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Free number for clients.
    pub flags: u64,
    /// When to write.
    pub condition: Condition,
}

/// `DELETE /v1/kv/KEY` as a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KvDelete {
    /// The key or prefix.
    pub key: String,
    /// All keys that start with `key`.
    pub recurse: bool,
    /// Only when the key's `ModifyIndex` is this one (or the key is missing).
    pub modify_index: Option<u64>,
}

/// What a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Done, or not done because of its condition.
    Bool(bool),
}

/// Why a command was refused. The state did not change, but for commands before it in a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CatalogError {
    /// Two agents with different ids claim one name.
    #[error(
        "failed inserting node: Error while renaming Node ID: \"{id}\": Node name {name} is reserved by node {holder} with name {name} ({address})"
    )]
    NodeNameReserved {
        /// The newcomer.
        id: String,
        /// The name.
        name: String,
        /// Who has it.
        holder: String,
        /// Where that one is.
        address: String,
    },
    /// A check for a service that is not there.
    #[error("failed inserting check: Missing service registration on node \"{node}\"")]
    MissingService {
        /// The node.
        node: String,
    },
    /// A service or check for a node that is not there.
    #[error("failed inserting service: Missing node registration")]
    MissingNode,
    /// A batch holds registrations and deregistrations only.
    #[error("a batch holds registrations and deregistrations only")]
    NotInBatch,
}
