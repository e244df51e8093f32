//! The local state in memory: services and checks, where they come from, and what has to be told to the catalog.
//!
//! No file, no clock, no task: those are around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::store::{CheckOrigin, CheckRecord, ServiceRecord, StateRecord};
use crate::agent::handle::{ProbeOrder, ProbeOrders};
use crate::model::catalog::{Check, Service, Status};
use crate::model::health::{CheckDefinition, CheckKind, Ttl, maintenance_check};
use crate::model::sync::{CheckRegistration, Owned, check_row};

/// Who registered something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A client; kept on disk.
    Client,
    /// A configuration file, which is read again at the next start.
    Configuration,
}

#[derive(Debug, Clone)]
pub(super) struct LocalCheck {
    pub(super) origin: CheckOrigin,
    pub(super) source: Source,
    pub(super) generation: u64,
    pub(super) ttl: Option<Ttl>,
    /// Since it was first found critical without a break.
    critical_since: Option<Duration>,
    /// When a change of the output alone is to be told.
    output_due: Option<Duration>,
}

impl LocalCheck {
    fn definition(&self) -> Option<&CheckDefinition> {
        match &self.origin {
            CheckOrigin::Registered(registration) => Some(&registration.definition),
            CheckOrigin::Maintenance { .. } => None,
        }
    }
}

/// What the catalog has not been told yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    pub(super) all: bool,
    pub(super) services: BTreeSet<String>,
    pub(super) checks: BTreeSet<String>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A service with its checks as it was, to take a registration back.
#[derive(Debug)]
pub(super) struct Before {
    service: Option<(Arc<Service>, Source)>,
    checks: Vec<(Arc<Check>, LocalCheck)>,
    /// Checks that the registration names, wherever they were.
    named: Vec<String>,
}

/// A deadline that has passed, or the next one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Something for the catalog came up.
    pub(super) changed: bool,
    /// When to look again.
    pub(super) next: Option<Duration>,
}

/// Times are since the start of the agent.
#[derive(Debug, Default)]
pub(super) struct State {
    node: String,
    pub(super) owned: Owned,
    sources: BTreeMap<String, Source>,
    checks: BTreeMap<String, LocalCheck>,
    pub(super) orders: ProbeOrders,
    pub(super) dirty: Dirty,
    /// The states of checks differ from those on disk.
    pub(super) unsaved: bool,
    generations: u64,
}

impl State {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    pub(super) fn service_source(&self, service_id: &str) -> Option<Source> {
        self.sources.get(service_id).copied()
    }

    pub(super) fn check(&self, check_id: &str) -> Option<&LocalCheck> {
        self.checks.get(check_id)
    }

    /// The ids of a service's checks; those of the node for the empty id.
    pub(super) fn checks_of(&self, service_id: &str) -> Vec<String> {
        let rows = self.owned.checks.values().filter(|check| check.service_id == service_id);
        rows.map(|check| check.check_id.clone()).collect()
    }

    /// What the disk has to hold about a service.
    pub(super) fn present_service_record(&self, service_id: &str) -> ServiceRecord {
        let on_disk = self.service_source(service_id) == Some(Source::Client);
        let service = self.owned.services.get(service_id).filter(|_| on_disk);
        let checks = self.checks_of(service_id);
        let checks = checks.iter().filter_map(|id| self.checks.get(id));
        let checks = checks.filter(|check| check.source == Source::Client);
        ServiceRecord {
            service_id: service_id.to_owned(),
            service: service.map(|service| Service::clone(service)),
            checks: checks.map(|check| check.origin.clone()).collect(),
        }
    }

    pub(super) fn present_check_record(&self, check_id: &str) -> Option<CheckRecord> {
        let check = self.checks.get(check_id).filter(|check| check.source == Source::Client)?;
        Some(CheckRecord { check: check.origin.clone() })
    }

    /// A service with its checks and those of `named` as they are.
    pub(super) fn capture(&self, service_id: &str, named: &BTreeSet<&str>) -> Before {
        let mut ids: BTreeSet<String> = self.checks_of(service_id).into_iter().collect();
        ids.extend(named.iter().map(|id| (*id).to_owned()));
        let check = |id: &String| Some((self.owned.checks.get(id)?.clone(), self.checks.get(id)?.clone()));
        Before {
            service: self.owned.services.get(service_id).cloned().zip(self.service_source(service_id)),
            checks: ids.iter().filter_map(check).collect(),
            named: named.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    /// Makes a service what it was.
    pub(super) fn put_back(&mut self, service_id: &str, before: Before) {
        let Before { service, checks, named } = before;
        for check_id in &named {
            self.remove_check(check_id);
        }
        self.remove_service(service_id);
        if let Some((service, source)) = service {
            self.put_service(Arc::unwrap_or_clone(service), source);
        }
        for (row, check) in checks {
            if let (Some(definition), None) = (check.definition(), &check.ttl) {
                let order =
                    ProbeOrder { generation: check.generation, definition: definition.clone(), soon: true };
                Arc::make_mut(&mut self.orders).insert(row.check_id.clone(), Arc::new(order));
            }
            self.insert(Arc::unwrap_or_clone(row), check);
        }
    }

    pub(super) fn put_service(&mut self, service: Service, source: Source) {
        let id = service.id.clone();
        for check_id in self.checks_of(&id) {
            if let Some(row) = self.owned.checks.get_mut(&check_id) {
                let row = Arc::make_mut(row);
                row.service_name.clone_from(&service.name);
                row.service_tags.clone_from(&service.tags);
            }
        }
        self.sources.insert(id.clone(), source);
        self.dirty.services.insert(id.clone());
        self.owned.services.insert(id, Arc::new(service));
    }

    pub(super) fn remove_service(&mut self, service_id: &str) {
        for check_id in self.checks_of(service_id) {
            self.remove_check(&check_id);
            // It goes from the catalog with its service.
            self.dirty.checks.remove(&check_id);
        }
        self.owned.services.remove(service_id);
        self.sources.remove(service_id);
        self.dirty.services.insert(service_id.to_owned());
    }

    pub(super) fn put_check(
        &mut self,
        registration: CheckRegistration,
        source: Source,
        soon: bool,
        now: Duration,
    ) {
        let id = registration.check_id.clone();
        let known = self.owned.checks.get(&id).cloned();
        let service = self.owned.services.get(&registration.service_id);
        let row = check_row(&registration, service.map(Arc::as_ref), &self.node, known.as_deref());
        let before = self.checks.get(&id);
        let is_same = before.and_then(LocalCheck::definition) == Some(&registration.definition);
        let generation = match before {
            Some(before) if is_same => before.generation,
            _ => {
                self.generations += 1;
                self.generations
            }
        };
        let ttl = match registration.definition.kind {
            CheckKind::Ttl { ttl } => Some(Ttl::start(ttl, row.status, now)),
            CheckKind::Http { .. } | CheckKind::Tcp { .. } => None,
        };
        let orders = Arc::make_mut(&mut self.orders);
        if ttl.is_some() {
            orders.remove(&id);
        } else if !is_same {
            let definition = registration.definition.clone();
            orders.insert(id.clone(), Arc::new(ProbeOrder { generation, definition, soon }));
        }
        let check = LocalCheck {
            critical_since: before.and_then(|before| before.critical_since),
            output_due: before.and_then(|before| before.output_due),
            origin: CheckOrigin::Registered(Box::new(registration)),
            source,
            generation,
            ttl,
        };
        self.insert(row, check);
    }

    pub(super) fn put_maintenance(&mut self, service_id: &str, reason: &str) {
        let mut row = maintenance_check(service_id, reason);
        row.node.clone_from(&self.node);
        if let Some(service) = self.owned.services.get(service_id) {
            row.service_name.clone_from(&service.name);
            row.service_tags.clone_from(&service.tags);
        }
        self.generations += 1;
        let check = LocalCheck {
            origin: CheckOrigin::Maintenance { service_id: service_id.to_owned(), reason: reason.to_owned() },
            source: Source::Client,
            generation: self.generations,
            ttl: None,
            critical_since: None,
            output_due: None,
        };
        self.insert(row, check);
    }

    fn insert(&mut self, row: Check, check: LocalCheck) {
        let id = row.check_id.clone();
        self.dirty.checks.insert(id.clone());
        self.owned.checks.insert(id.clone(), Arc::new(row));
        self.checks.insert(id, check);
        self.unsaved = true;
    }

    pub(super) fn remove_check(&mut self, check_id: &str) {
        if self.checks.remove(check_id).is_none() {
            return;
        }
        self.owned.checks.remove(check_id);
        Arc::make_mut(&mut self.orders).remove(check_id);
        self.dirty.checks.insert(check_id.to_owned());
        self.unsaved = true;
    }

    /// Sets the state of a check. `output_delay` is when a change of the output alone is told; zero is at once.
    pub(super) fn update(
        &mut self,
        check_id: &str,
        status: Status,
        output: String,
        output_delay: Duration,
        now: Duration,
    ) {
        let (Some(row), Some(check)) = (self.owned.checks.get_mut(check_id), self.checks.get_mut(check_id))
        else {
            return;
        };
        match status {
            Status::Critical => _ = check.critical_since.get_or_insert(now),
            Status::Passing | Status::Warning => check.critical_since = None,
        }
        if row.status == status && row.output == output {
            return;
        }
        let is_output_alone = row.status == status && !output_delay.is_zero();
        let row = Arc::make_mut(row);
        row.status = status;
        row.output = output;
        self.unsaved = true;
        if is_output_alone {
            check.output_due.get_or_insert(now.saturating_add(output_delay));
        } else {
            check.output_due = None;
            self.dirty.checks.insert(check_id.to_owned());
        }
    }

    /// Takes a client's report on a TTL check; `None` when there is no such check, else whether it had expired.
    pub(super) fn report_ttl(
        &mut self,
        check_id: &str,
        status: Status,
        output: &str,
        output_max: usize,
        output_delay: Duration,
        now: Duration,
    ) -> Option<bool> {
        let check = self.checks.get_mut(check_id)?;
        let output_max =
            check.definition().and_then(|definition| definition.output_max_size).unwrap_or(output_max);
        let ttl = check.ttl.as_mut()?;
        let had_expired = ttl.expires().is_none();
        let output = ttl.report(status, output, output_max, now);
        self.update(check_id, status, output, output_delay, now);
        self.unsaved = true;
        Some(had_expired)
    }

    /// Gives a check its state from before the restart.
    pub(super) fn restore(&mut self, check_id: &str, status: Status, output: &str, now: Duration) {
        let (Some(row), Some(check)) = (self.owned.checks.get_mut(check_id), self.checks.get_mut(check_id))
        else {
            return;
        };
        if matches!(check.origin, CheckOrigin::Maintenance { .. }) {
            return;
        }
        let row = Arc::make_mut(row);
        row.status = status;
        output.clone_into(&mut row.output);
        if let Some(ttl) = &mut check.ttl {
            ttl.report(status, output, usize::MAX, now);
        }
    }

    /// Replaces the tags of a service by those that the catalog has; nobody is told.
    pub(super) fn adopt_tags(&mut self, service_id: &str, tags: &[String]) {
        if let Some(service) = self.owned.services.get_mut(service_id) {
            tags.clone_into(&mut Arc::make_mut(service).tags);
        }
        for check_id in self.checks_of(service_id) {
            if let Some(row) = self.owned.checks.get_mut(&check_id) {
                tags.clone_into(&mut Arc::make_mut(row).service_tags);
            }
        }
    }

    /// Expires TTL checks and tells outputs whose time has come.
    pub(super) fn tick(&mut self, now: Duration) -> Due {
        let mut expired = Vec::new();
        let mut due = Due::default();
        let mut next = |at: Duration| due.next = Some(due.next.map_or(at, |next| next.min(at)));
        for (id, check) in &mut self.checks {
            if let Some(ttl) = &mut check.ttl {
                if let Some(output) = ttl.expire(now) {
                    expired.push((id.clone(), output));
                } else if let Some(at) = ttl.expires() {
                    next(at);
                }
            }
            match check.output_due {
                Some(at) if at <= now => {
                    check.output_due = None;
                    self.dirty.checks.insert(id.clone());
                    due.changed = true;
                }
                Some(at) => next(at),
                None => {}
            }
        }
        for (id, output) in expired {
            tracing::warn!("check {id} missed its TTL and is critical now");
            self.update(&id, Status::Critical, output, Duration::ZERO, now);
            due.changed = true;
        }
        due
    }

    /// The checks whose output alone is no reason to write yet.
    pub(super) fn output_waits(&self) -> BTreeSet<String> {
        let waiting = self.checks.iter().filter(|(_, check)| check.output_due.is_some());
        waiting.map(|(id, _)| id.clone()).collect()
    }

    /// Services with a check that was critical for longer than it allows, and that check.
    pub(super) fn overdue_services(&self, now: Duration) -> Vec<(String, String)> {
        let overdue = self.checks.iter().filter(|(_, check)| {
            let limit =
                check.definition().and_then(|definition| definition.deregister_critical_service_after);
            match (check.critical_since, limit) {
                (Some(since), Some(limit)) => now.saturating_sub(since) > limit,
                _ => false,
            }
        });
        overdue
            .filter_map(|(id, _)| {
                let row = self.owned.checks.get(id)?;
                (!row.is_node_level()).then(|| (row.service_id.clone(), id.clone()))
            })
            .collect()
    }

    /// The states of all registered checks, for the disk. `unix_now` is milliseconds since 1970.
    pub(super) fn states(&self, now: Duration, unix_now: u64) -> Vec<StateRecord> {
        let registered =
            self.checks.iter().filter(|(_, check)| matches!(check.origin, CheckOrigin::Registered(_)));
        registered
            .filter_map(|(id, check)| {
                let row = self.owned.checks.get(id)?;
                let left = check
                    .ttl
                    .as_ref()
                    .map(|ttl| ttl.expires().map_or(Duration::ZERO, |at| at.saturating_sub(now)));
                Some(StateRecord {
                    check_id: id.clone(),
                    status: row.status,
                    output: row.output.clone(),
                    expires: left.map(|left| {
                        unix_now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
                    }),
                })
            })
            .collect()
    }
}
