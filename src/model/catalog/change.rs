//! What an applied command changed, so that exactly those who wait for it are woken.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Key;
use super::command::{CatalogError, Reply};

/// The result of applying one log entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The entry's raft index.
    pub index: u64,
    /// The answer for who proposed it.
    pub result: Result<Reply, CatalogError>,
    /// What is different now.
    pub changes: Changes,
}

/// The resources whose index rose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The nodes table.
    pub node_table: bool,
    /// Some service registration.
    pub service_table: bool,
    /// Some check.
    pub check_table: bool,
    /// Nodes that changed, or whose services did.
    pub nodes: BTreeSet<Key>,
    /// Services whose instances, checks or nodes changed.
    pub services: BTreeSet<Key>,
    /// Keys written or deleted.
    pub keys: BTreeSet<Arc<str>>,
    /// The table of servers.
    pub servers: bool,
}

impl Changes {
    /// Whether nothing changed, so nobody is to be woken (I7).
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another entry changed.
    pub fn merge(&mut self, other: Self) {
        self.node_table |= other.node_table;
        self.service_table |= other.service_table;
        self.check_table |= other.check_table;
        self.nodes.extend(other.nodes);
        self.services.extend(other.services);
        self.keys.extend(other.keys);
        self.servers |= other.servers;
    }
}
