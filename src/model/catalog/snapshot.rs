//! A catalog as bytes and back: raft snapshots, and the start of a replica's stream.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::rows::{Check, KvEntry, Node, Service};
use super::servers::ServerTable;
use super::{Catalog, NodeRow, ServiceRow, TableIndexes, key_of};
use crate::model::names::ClusterId;

/// Version of the layout below. Fields may be added (they are named); a changed meaning raises this number.
const FORMAT: u32 = 1;

/// How deep values may nest; ours have eight levels. Deeper ones would take the stack that decodes them.
const DEPTH_MAX: usize = 64;

/// How much of the catalog a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// Everything: what servers need.
    Full,
    /// Nodes, services and checks: what every other agent holds.
    Discovery,
}

/// Why bytes are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are damaged or something else.
    #[error("the catalog snapshot is unreadable")]
    Unreadable(#[source] rmp_serde::decode::Error),
    /// Written by a newer version.
    #[error("the catalog snapshot has format {0}, this version reads up to {FORMAT}")]
    TooNew(u32),
    /// It could not be encoded.
    #[error("the catalog snapshot cannot be encoded")]
    Encode(#[source] rmp_serde::encode::Error),
}

#[derive(Serialize, Deserialize)]
struct Tables {
    format: u32,
    index: u64,
    cluster: Option<ClusterId>,
    indexes: TableIndexes,
    nodes: Vec<NodeTable>,
    /// Name and index of each service; instances follow from the nodes.
    services: Vec<(Arc<str>, u64)>,
    kv: Vec<Arc<KvEntry>>,
    tombstones: Vec<(Arc<str>, u64)>,
    /// Not in snapshots of the first release.
    #[serde(default)]
    servers: Arc<ServerTable>,
}

#[derive(Serialize, Deserialize)]
struct NodeTable {
    node: Arc<Node>,
    services: Vec<Arc<Service>>,
    checks: Vec<Arc<Check>>,
    index: u64,
}

impl Catalog {
    /// The catalog as bytes (`MessagePack` with named fields).
    ///
    /// # Errors
    /// When encoding fails, which means a defect.
    pub fn to_bytes(&self, depth: Depth) -> Result<Vec<u8>, SnapshotError> {
        let full = depth == Depth::Full;
        let tables = Tables {
            format: FORMAT,
            index: self.index,
            cluster: self.cluster.clone(),
            indexes: self.indexes,
            nodes: self
                .nodes()
                .map(|row| NodeTable {
                    node: row.node.clone(),
                    services: row.services.values().cloned().collect(),
                    checks: row.checks.iter().cloned().collect(),
                    index: row.index,
                })
                .collect(),
            services: self.services().map(|row| (row.name.clone(), row.index)).collect(),
            kv: if full { self.kv.values().cloned().collect() } else { Vec::new() },
            tombstones: if full {
                self.tombstones.iter().map(|(k, v)| (k.clone(), *v)).collect()
            } else {
                Vec::new()
            },
            servers: self.servers.clone(),
        };
        rmp_serde::to_vec_named(&tables).map_err(SnapshotError::Encode)
    }

    /// The catalog that [`Catalog::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged or written by a newer version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
        decoder.set_max_depth(DEPTH_MAX);
        let tables = Tables::deserialize(&mut decoder).map_err(SnapshotError::Unreadable)?;
        if tables.format > FORMAT {
            return Err(SnapshotError::TooNew(tables.format));
        }
        let mut catalog = Self {
            index: tables.index,
            cluster: tables.cluster,
            indexes: tables.indexes,
            kv: tables.kv.into_iter().map(|entry| (Arc::from(entry.key.as_str()), entry)).collect(),
            tombstones: tables.tombstones.into_iter().collect(),
            servers: tables.servers,
            ..Self::default()
        };
        for (name, index) in tables.services {
            let row = ServiceRow { name: name.clone(), instances: OrdMap::new(), index };
            catalog.services.insert(key_of(&name), Arc::new(row));
        }
        for table in tables.nodes {
            let key = key_of(&table.node.node);
            for service in &table.services {
                if let Some(row) = catalog.services.get_mut(&key_of(&service.name)) {
                    let id = Arc::from(service.id.as_str());
                    Arc::make_mut(row).instances.insert((key.clone(), id), ());
                }
            }
            let row = NodeRow {
                node: table.node,
                services: table.services.into_iter().map(|row| (Arc::from(row.id.as_str()), row)).collect(),
                checks: table.checks.into_iter().collect(),
                index: table.index,
            };
            catalog.nodes.insert(key, Arc::new(row));
        }
        Ok(catalog)
    }
}
