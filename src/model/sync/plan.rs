//! Anti-entropy as a function: what an agent owns against what the catalog says of its node, as commands.
//!
//! The agent is the truth for its own node and looks at no other. When both agree there is no command (I7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::catalog::{
    CONSUL_SERVICE, Check, Command, Deregistration, NodeRegistration, NodeRow, Registration, SERF_HEALTH,
    Service,
};

/// Commands in one batch: one log entry stays far below the limits of a proposal even with large outputs.
pub const BATCH_COMMANDS_MAX: usize = 128;

/// The services and checks that were registered at an agent, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Owned {
    /// Services, without `consul`.
    pub services: BTreeMap<String, Arc<Service>>,
    /// Checks, without `serfHealth`; those of a service only together with it.
    pub checks: BTreeMap<String, Arc<Check>>,
}

/// Which rows are looked at.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All rows of the node.
    All,
    /// Only what is known to have changed.
    Only {
        /// Service ids.
        services: &'a BTreeSet<String>,
        /// Check ids.
        checks: &'a BTreeSet<String>,
    },
}

/// The commands that make the catalog's `row` of the own node agree with `owned`. The node itself comes first.
///
/// * What the catalog lacks or has differently is registered, what the agent does not own is removed, except the
///   leader's: the service `consul` and the check `serfHealth`.
/// * A service with `enable_tag_override` keeps the tags of the catalog.
/// * For the checks in `output_waits`, a difference in the output alone is no reason to write.
/// * A node of our name with another id gets no further command: first the catalog must accept that we are it.
pub fn plan(
    owned: &Owned,
    node: &NodeRegistration,
    row: Option<&NodeRow>,
    scope: Scope<'_>,
    output_waits: &BTreeSet<String>,
) -> Vec<Command> {
    let mut commands = Vec::new();
    if !row.is_some_and(|row| is_same_node(node, row)) {
        commands.push(Command::Register(Box::new(Registration {
            node: node.clone(),
            ..Registration::default()
        })));
    }
    if row.is_some_and(|row| !row.node.id.is_empty() && row.node.id != node.id) {
        return commands;
    }
    let differences = Differences { owned, node, row, output_waits };
    if let (Scope::Only { services, checks }, Some(row)) = (scope, row) {
        // A check cannot be registered before its service.
        let mut services: BTreeSet<&str> = services.iter().map(String::as_str).collect();
        for check in checks.iter().filter_map(|id| owned.checks.get(id)) {
            if !check.is_node_level() && !row.services.contains_key(check.service_id.as_str()) {
                services.insert(&check.service_id);
            }
        }
        let checks = checks.iter().map(String::as_str).collect();
        differences.add_to(&services, &checks, &mut commands);
    } else {
        let mut services: BTreeSet<&str> = owned.services.keys().map(String::as_str).collect();
        let mut checks: BTreeSet<&str> = owned.checks.keys().map(String::as_str).collect();
        if let Some(row) = row {
            services.extend(row.services.keys().map(|id| &**id));
            checks.extend(row.checks.iter().map(|check| check.check_id.as_str()));
        }
        differences.add_to(&services, &checks, &mut commands);
    }
    batches(commands)
}

/// The tags that the catalog has for services which leave them to it (`enable_tag_override`), where they differ.
pub fn overridden_tags(owned: &Owned, row: &NodeRow) -> Vec<(String, Vec<String>)> {
    let overridable = owned.services.values().filter(|service| service.enable_tag_override);
    overridable
        .filter_map(|service| {
            let there = row.services.get(service.id.as_str())?;
            (there.tags != service.tags).then(|| (service.id.clone(), there.tags.clone()))
        })
        .collect()
}

/// Puts commands together into as few log entries as the limit allows.
pub(super) fn batches(mut commands: Vec<Command>) -> Vec<Command> {
    if commands.len() <= 1 {
        return commands;
    }
    let mut batches = Vec::with_capacity(commands.len().div_ceil(BATCH_COMMANDS_MAX));
    while !commands.is_empty() {
        let rest = commands.split_off(commands.len().min(BATCH_COMMANDS_MAX));
        batches.push(Command::Batch(std::mem::replace(&mut commands, rest)));
    }
    batches
}

struct Differences<'a> {
    owned: &'a Owned,
    node: &'a NodeRegistration,
    row: Option<&'a NodeRow>,
    output_waits: &'a BTreeSet<String>,
}

impl Differences<'_> {
    fn add_to(&self, services: &BTreeSet<&str>, checks: &BTreeSet<&str>, commands: &mut Vec<Command>) {
        let mut checks_to_register: BTreeMap<&str, Vec<Check>> = BTreeMap::new();
        let mut new_services = BTreeSet::new();
        for id in services.iter().filter(|id| !self.has_service(id)) {
            new_services.insert(*id);
        }
        // A service that appears does so with all its checks, or it would be served before it is healthy.
        for check in self.owned.checks.values() {
            if new_services.contains(check.service_id.as_str()) && !checks.contains(check.check_id.as_str()) {
                checks_to_register.entry(&check.service_id).or_default().push(Check::clone(check));
            }
        }
        for check in checks.iter().filter_map(|id| self.owned.checks.get(*id)) {
            let has_home = check.is_node_level() || self.owned.services.contains_key(&check.service_id);
            if has_home && !self.has_check(check) {
                checks_to_register.entry(&check.service_id).or_default().push(Check::clone(check));
            }
        }
        for id in services {
            match self.owned.services.get(*id) {
                Some(service) if !self.is_same_service(service) => {
                    let checks = checks_to_register.remove(*id).unwrap_or_default();
                    commands.push(self.register(Some(self.with_overridden_tags(service)), checks));
                }
                None if *id != CONSUL_SERVICE && self.has_service(id) => {
                    commands.push(self.deregister(Some(id), None));
                }
                _ => {}
            }
        }
        for checks in checks_to_register.into_values() {
            commands.push(self.register(None, checks));
        }
        for id in checks {
            let surplus = self.row.and_then(|row| row.checks.get(id)).filter(|check| {
                check.check_id != SERF_HEALTH
                    && check.service_id != CONSUL_SERVICE
                    && !self.owned.checks.contains_key(*id)
                    && (check.is_node_level() || self.owned.services.contains_key(&check.service_id))
            });
            if surplus.is_some() {
                commands.push(self.deregister(None, Some(id)));
            }
        }
    }

    fn has_service(&self, id: &str) -> bool {
        self.row.is_some_and(|row| row.services.contains_key(id))
    }

    fn with_overridden_tags(&self, service: &Service) -> Service {
        let mut service = service.clone();
        if service.enable_tag_override
            && let Some(there) = self.row.and_then(|row| row.services.get(service.id.as_str()))
        {
            service.tags.clone_from(&there.tags);
        }
        service
    }

    fn is_same_service(&self, service: &Service) -> bool {
        let Some(there) = self.row.and_then(|row| row.services.get(service.id.as_str())) else {
            return false;
        };
        // Every field is named, so that a new one cannot be forgotten.
        let Service {
            id,
            name,
            tags,
            address,
            tagged_addresses,
            meta,
            port,
            socket_path,
            weights,
            enable_tag_override,
            kind,
            create_index: _,
            modify_index: _,
        } = service;
        *id == there.id
            && *name == there.name
            && (*enable_tag_override || *tags == there.tags)
            && *address == there.address
            && *tagged_addresses == there.tagged_addresses
            && *meta == there.meta
            && *port == there.port
            && *socket_path == there.socket_path
            && *weights == there.weights
            && *enable_tag_override == there.enable_tag_override
            && *kind == there.kind
    }

    /// The node, and the service's name and tags, are the catalog's to fill in.
    fn has_check(&self, check: &Check) -> bool {
        let Some(there) = self.row.and_then(|row| row.checks.get(&check.check_id)) else { return false };
        let Check {
            node: _,
            check_id,
            name,
            status,
            notes,
            output,
            service_id,
            service_name: _,
            service_tags: _,
            kind,
            interval,
            timeout,
            definition,
            create_index: _,
            modify_index: _,
        } = check;
        *check_id == there.check_id
            && *name == there.name
            && *status == there.status
            && *notes == there.notes
            && (*output == there.output || self.output_waits.contains(check_id))
            && *service_id == there.service_id
            && *kind == there.kind
            && *interval == there.interval
            && *timeout == there.timeout
            && *definition == there.definition
    }

    fn register(&self, service: Option<Service>, checks: Vec<Check>) -> Command {
        let node = self.node.clone();
        Command::Register(Box::new(Registration { node, skip_node_update: true, service, checks }))
    }

    fn deregister(&self, service_id: Option<&str>, check_id: Option<&str>) -> Command {
        Command::Deregister(Deregistration {
            node: self.node.node.clone(),
            service_id: service_id.map(str::to_owned),
            check_id: check_id.map(str::to_owned),
        })
    }
}

fn is_same_node(node: &NodeRegistration, row: &NodeRow) -> bool {
    let there = &row.node;
    let NodeRegistration { id, node, address, datacenter, tagged_addresses, meta } = node;
    *id == there.id
        && *node == there.node
        && *address == there.address
        && *datacenter == there.datacenter
        && *tagged_addresses == there.tagged_addresses
        && *meta == there.meta
}
