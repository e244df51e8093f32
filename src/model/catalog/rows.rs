//! The rows of the catalog's tables. Their JSON for clients is in `model::api`; here they are log and snapshot data.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Health of a check, or of an instance as the worst of its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Passing,
    /// Still served by DNS, unless `only_passing`.
    Warning,
    /// Not served.
    Critical,
}

impl Status {
    /// Consul's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads Consul's word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

/// A machine in the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// UUID of the agent, empty for externally registered nodes.
    pub id: String,
    /// The node's name.
    pub node: String,
    /// IP address or host name.
    pub address: String,
    /// Datacenter.
    pub datacenter: String,
    /// `lan`, `wan`, `lan_ipv4`, …; `None` is `null` in JSON.
    pub tagged_addresses: Option<BTreeMap<String, String>>,
    /// The node's metadata; `None` is `null` in JSON.
    pub meta: Option<BTreeMap<String, String>>,
    /// Raft index of its creation.
    pub create_index: u64,
    /// Raft index of its last change.
    pub modify_index: u64,
}

/// Address and port under one of a service's names for its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddress {
    /// IP address or host name.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// DNS SRV weights by health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Weight while passing, at least 1.
    pub passing: u16,
    /// Weight while warning.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// One instance of a service on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique on its node.
    pub id: String,
    /// The service's name.
    pub name: String,
    /// Tags in the order given.
    pub tags: Vec<String>,
    /// IP address or host name; empty means the node's address.
    pub address: String,
    /// Addresses by network name.
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Free pairs.
    pub meta: BTreeMap<String, String>,
    /// Port, 0 for none.
    pub port: u16,
    /// Unix socket instead of address and port.
    pub socket_path: String,
    /// DNS weights.
    pub weights: Weights,
    /// Tags written to the catalog win over the agent's.
    pub enable_tag_override: bool,
    /// Consul's kind of service, empty for a usual one.
    pub kind: String,
    /// Raft index of its creation.
    pub create_index: u64,
    /// Raft index of its last change.
    pub modify_index: u64,
}

/// One health check of a node or of a service instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The node's name.
    pub node: String,
    /// Unique on its node.
    pub check_id: String,
    /// The check's name.
    pub name: String,
    /// Its state.
    pub status: Status,
    /// For people.
    pub notes: String,
    /// What the check said last.
    pub output: String,
    /// The instance it belongs to; empty for a node-level check.
    pub service_id: String,
    /// That service's name.
    pub service_name: String,
    /// That service's tags.
    pub service_tags: Vec<String>,
    /// `ttl`, `http`, …; empty when unknown.
    pub kind: String,
    /// Go duration text, empty when unknown.
    pub interval: String,
    /// Go duration text, empty when unknown.
    pub timeout: String,
    /// Consul's `Definition` object as JSON text, `{}` when there is none.
    pub definition: String,
    /// Raft index of its creation.
    pub create_index: u64,
    /// Raft index of its last change.
    pub modify_index: u64,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            node: String::new(),
            check_id: String::new(),
            name: String::new(),
            status: Status::Critical,
            notes: String::new(),
            output: String::new(),
            service_id: String::new(),
            service_name: String::new(),
            service_tags: Vec::new(),
            kind: String::new(),
            interval: String::new(),
            timeout: String::new(),
            definition: "{}".to_owned(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

impl Check {
    /// Whether it belongs to the node itself, and so to all services on it.
    pub fn is_node_level(&self) -> bool {
        self.service_id.is_empty()
    }
}

/// One key with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Free number for clients.
    pub flags: u64,
    /// The session that holds the key's lock.
    pub session: Option<String>,
    /// How often the lock was taken.
    pub lock_index: u64,
    /// Raft index of its creation.
    pub create_index: u64,
    /// Raft index of its last change.
    pub modify_index: u64,
}
