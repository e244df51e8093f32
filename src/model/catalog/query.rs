//! Reads of nodes, services and checks, and the index that each blocking query waits on.

use std::sync::Arc;

use super::rows::{Check, Node, Service, Status};
use super::{Catalog, NodeRow, ServiceRow, TableIndexes, key_of};

/// A service instance with the node that carries it.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// The node, with its checks.
    pub row: &'a NodeRow,
    /// The instance.
    pub service: &'a Arc<Service>,
}

impl<'a> Instance<'a> {
    /// The node.
    pub fn node(&self) -> &'a Node {
        &self.row.node
    }

    /// Its checks: the node's by id, then its own by id.
    pub fn checks(&self) -> impl Iterator<Item = &'a Arc<Check>> {
        self.row.checks.of_service("").chain(self.row.checks.of_service(&self.service.id))
    }

    /// The worst of its checks; passing when there are none.
    pub fn status(&self) -> Status {
        self.checks().map(|check| check.status).max().unwrap_or(Status::Passing)
    }

    /// Where clients reach it: the service's address, else the node's.
    pub fn address(&self) -> &'a str {
        if self.service.address.is_empty() { &self.row.node.address } else { &self.service.address }
    }

    /// Whether the instance carries `tag`, in any case (Consul compares tags so).
    pub fn has_tag(&self, tag: &str) -> bool {
        self.service.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
    }
}

impl Catalog {
    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node of this name, in any case.
    pub fn node(&self, name: &str) -> Option<&NodeRow> {
        self.nodes.get(&key_of(name)).map(Arc::as_ref)
    }

    /// All services by name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRow> {
        self.services.values().map(Arc::as_ref)
    }

    /// Number of service names.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// The service of this name, in any case.
    pub fn service(&self, name: &str) -> Option<&ServiceRow> {
        self.services.get(&key_of(name)).map(Arc::as_ref)
    }

    /// The instances of a service, by node name and service id: every list has this order.
    pub fn instances(&self, name: &str) -> impl Iterator<Item = Instance<'_>> {
        self.service(name).into_iter().flat_map(|row| self.instances_of(row))
    }

    /// As [`Catalog::instances`], for a row already found.
    pub fn instances_of<'a>(&'a self, row: &'a ServiceRow) -> impl Iterator<Item = Instance<'a>> {
        row.instances.keys().filter_map(|(node, id)| {
            let row = self.nodes.get(node)?;
            let service = row.services.get(id)?;
            Some(Instance { row, service })
        })
    }

    /// All checks, by node and check id.
    pub fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.nodes().flat_map(|row| row.checks.iter())
    }

    /// When each table changed last.
    pub fn table_indexes(&self) -> TableIndexes {
        self.indexes
    }

    /// Index of `catalog/nodes`.
    pub fn nodes_index(&self) -> u64 {
        self.indexes.nodes.max(1)
    }

    /// Index of `catalog/services`: registrations, not checks.
    pub fn services_index(&self) -> u64 {
        self.indexes.services.max(1)
    }

    /// Index of `health/node` and `health/state`.
    pub fn checks_index(&self) -> u64 {
        self.indexes.checks.max(1)
    }

    /// Index of `catalog/service/X`, `health/service/X` and `health/checks/X`; it never goes back.
    pub fn service_index(&self, name: &str) -> u64 {
        self.service(name).map_or(self.indexes.service_extinction, |row| row.index).max(1)
    }

    /// Index of `catalog/node/X`.
    pub fn node_index(&self, name: &str) -> u64 {
        self.node(name).map_or(self.indexes.nodes, |row| row.index).max(1)
    }
}
