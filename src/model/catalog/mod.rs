//! The replicated catalog: nodes, services, checks and keys, and the one door that changes them.
//!
//! [`Catalog::apply`] is deterministic: the same commands in the same order give the same catalog on every
//! machine. A catalog is an immutable value that is cheap to clone, so readers keep one while writers go on.

mod change;
mod checks;
mod command;
mod kv;
mod query;
mod registration;
mod rows;
mod servers;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use imbl::OrdMap;

use crate::model::names::ClusterId;

pub use change::{Changes, Outcome};
pub use checks::CheckRows;
pub use command::{
    CatalogError, Command, Condition, Deregistration, KvDelete, KvWrite, NodeRegistration, Registration,
    Reply,
};
pub use kv::{KvAnswer, KvQuery, KvRows};
pub use query::Instance;
pub use rows::{Check, KvEntry, Node, Service, ServiceAddress, Status, Weights};
pub use servers::{Autopilot, Departure, Nomination, Purpose, ServerTable, ServersCommand, Settlement, Swap};
pub use snapshot::{Depth, SnapshotError};

/// Name of the check that the leader keeps about a member's gossip state.
pub const SERF_HEALTH: &str = "serfHealth";
/// Name of the service that the leader registers for every server.
pub const CONSUL_SERVICE: &str = "consul";

/// Case-folded name of a node or service; Consul treats names that differ only in case as one.
pub type Key = Arc<str>;

/// A node with everything on it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// The node itself.
    pub node: Arc<Node>,
    /// Its service instances by service id.
    pub services: OrdMap<Arc<str>, Arc<Service>>,
    /// Its checks, node-level and of services.
    pub checks: CheckRows,
    /// Last change to the node or its services.
    pub index: u64,
}

/// All instances of one service name.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRow {
    /// The name as first registered.
    pub name: Arc<str>,
    /// (node key, service id), in the order of every list: by node, then by id.
    pub instances: OrdMap<(Key, Arc<str>), ()>,
    /// Last change to an instance, its checks, or a node (or node-level check) that carries one.
    pub index: u64,
}

/// Last raft index at which each table changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableIndexes {
    /// Nodes added, changed or removed.
    pub nodes: u64,
    /// Service instances added, changed or removed.
    pub services: u64,
    /// Checks added, changed or removed.
    pub checks: u64,
    /// The last instance of some service went away.
    pub service_extinction: u64,
    /// Keys written.
    pub kv: u64,
    /// Keys deleted.
    pub tombstones: u64,
}

/// One immutable state of the catalog.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    index: u64,
    cluster: Option<ClusterId>,
    nodes: OrdMap<Key, Arc<NodeRow>>,
    services: OrdMap<Key, Arc<ServiceRow>>,
    kv: OrdMap<Arc<str>, Arc<KvEntry>>,
    /// Deleted keys and when, so that the index of a prefix never goes back.
    tombstones: OrdMap<Arc<str>, u64>,
    indexes: TableIndexes,
    servers: Arc<ServerTable>,
}

impl Catalog {
    /// Applies the log entry at `index`. A command that changes nothing raises no index (I7).
    ///
    /// # Panics
    /// When `index` was applied before: log entries are applied once and in order.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        assert!(self.index < index, "log entries are applied once and in order");
        self.index = index;
        let mut changes = Changes::default();
        let result = match command {
            Command::ClusterBorn { cluster_id } => {
                self.cluster.get_or_insert_with(|| cluster_id.clone());
                Ok(Reply::Done)
            }
            Command::Register(registration) => self.register(registration, &mut changes),
            Command::Deregister(deregistration) => {
                self.deregister(deregistration, &mut changes);
                Ok(Reply::Done)
            }
            Command::KvWrite(write) => Ok(Reply::Bool(self.kv_write(write, &mut changes))),
            Command::KvDelete(delete) => Ok(Reply::Bool(self.kv_delete(delete, &mut changes))),
            Command::KvReap { before } => {
                self.kv_reap(*before);
                Ok(Reply::Done)
            }
            Command::Batch(commands) => self.batch(commands, &mut changes),
            Command::Servers(command) => Ok(Reply::Bool(self.apply_servers(index, command, &mut changes))),
        };
        Outcome { index, result, changes }
    }

    /// Applies commands as one entry; the first failure is the answer, the others are still applied.
    fn batch(&mut self, commands: &[Command], changes: &mut Changes) -> Result<Reply, CatalogError> {
        let mut first = Ok(Reply::Done);
        for command in commands {
            let result = match command {
                Command::Register(registration) => self.register(registration, changes),
                Command::Deregister(deregistration) => {
                    self.deregister(deregistration, changes);
                    Ok(Reply::Done)
                }
                _ => Err(CatalogError::NotInBatch),
            };
            if first.is_ok() {
                first = result.map(|_| Reply::Done);
            }
        }
        first
    }

    /// Takes note of an entry that is not for the catalog (a membership change, a blank entry, a key on a
    /// replica without keys).
    pub fn skip_to(&mut self, index: u64) {
        self.index = self.index.max(index);
    }

    /// This catalog without keys, as an agent that is no server has it.
    #[must_use]
    pub fn without_keys(&self) -> Self {
        Self { kv: OrdMap::new(), tombstones: OrdMap::new(), ..self.clone() }
    }

    /// The raft index of the last entry applied.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The cluster that this catalog belongs to, once its first leader has said so.
    pub fn cluster(&self) -> Option<&ClusterId> {
        self.cluster.as_ref()
    }
}

/// Folds a name to its key.
pub fn key_of(name: &str) -> Key {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) || !name.is_ascii() {
        Key::from(name.to_lowercase())
    } else {
        Key::from(name)
    }
}
