//! What a registration does to disk and memory, so that a refused one leaves nothing behind.
//!
//! Services are in memory (and on their way to the catalog) while the disk writes, and are taken back if it cannot:
//! a new service is found sooner by two fsyncs. All else is on disk first.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::Source;
use super::store::{CheckOrigin, CheckRecord, ServiceRecord};
use super::{Shared, check_id_of};
use crate::agent::handle::{LocalError, Maintenance};
use crate::model::catalog::Check;
use crate::model::health::maintenance_id;
use crate::model::sync::{CheckRegistration, ServiceRegistration};

impl Shared {
    pub(super) fn register_service(&self, registration: ServiceRegistration) -> Result<(), LocalError> {
        let ServiceRegistration { service, mut checks, replace_existing_checks } = registration;
        for check in &mut checks {
            check.service_id.clone_from(&service.id);
        }
        let listed: BTreeSet<&str> = checks.iter().map(|check| check.check_id.as_str()).collect();
        let moved = self.checks_elsewhere(&service.id, &checks);
        let service_id = service.id.clone();
        let now = self.now();
        let (before, record_before, record) = {
            let mut state = self.state.lock();
            let before = state.capture(&service_id, &listed);
            let record_before = state.present_service_record(&service_id);
            let mut surplus = state.checks_of(&service_id);
            // Maintenance ends only by request.
            surplus.retain(|id| {
                replace_existing_checks && !listed.contains(id.as_str()) && *id != maintenance_id(&service_id)
            });
            for check_id in surplus.iter().chain(moved.iter().map(|row| &row.check_id)) {
                state.remove_check(check_id);
            }
            state.put_service(service, Source::Client);
            for check in checks {
                state.put_check(check, Source::Client, false, now);
            }
            (before, record_before, state.present_service_record(&service_id))
        };
        // The catalog is told while the disk writes: both take their time, and a refusal is rare.
        self.publish();
        if record != record_before
            && let Err(error) = self.write_service_record(&record)
        {
            self.state.lock().put_back(&service_id, before);
            self.publish();
            self.undo_service_record(&service_id);
            return Err(error);
        }
        for row in &moved {
            self.forget_elsewhere(row);
        }
        Ok(())
    }

    /// Checks of these ids that belong to another service or to the node so far.
    fn checks_elsewhere(&self, service_id: &str, checks: &[CheckRegistration]) -> Vec<Arc<Check>> {
        let state = self.state.lock();
        let present = checks.iter().filter_map(|check| state.owned.checks.get(&check.check_id));
        present.filter(|row| row.service_id != service_id).cloned().collect()
    }

    /// Takes a check that has moved out of the file where it was. When this fails, the check is in two files, and
    /// the next start has it once all the same.
    fn forget_elsewhere(&self, row: &Check) {
        if let Err(error) = self.put_without(row) {
            tracing::warn!("check {} has moved, but {error}", row.check_id);
        }
    }

    pub(super) fn deregister_service(&self, service_id: &str) -> Result<(), LocalError> {
        if !self.state.lock().owned.services.contains_key(service_id) {
            return Err(LocalError::UnknownService(service_id.to_owned()));
        }
        let nothing = ServiceRecord { service_id: service_id.to_owned(), service: None, checks: Vec::new() };
        self.put_service_record(&nothing)?;
        self.state.lock().remove_service(service_id);
        Ok(())
    }

    pub(super) fn register_check(&self, check: CheckRegistration) -> Result<(), LocalError> {
        let has_home =
            check.service_id.is_empty() || self.state.lock().owned.services.contains_key(&check.service_id);
        if !has_home {
            return Err(LocalError::UnknownServiceOfCheck(check.service_id));
        }
        let moved = self.checks_elsewhere(&check.service_id, std::slice::from_ref(&check));
        self.put_origin(
            &check.check_id,
            &check.service_id,
            CheckOrigin::Registered(Box::new(check.clone())),
        )?;
        for row in &moved {
            self.forget_elsewhere(row);
        }
        let now = self.now();
        let mut state = self.state.lock();
        for row in &moved {
            state.remove_check(&row.check_id);
        }
        state.put_check(check, Source::Client, false, now);
        Ok(())
    }

    pub(super) fn deregister_check(&self, check_id: &str) -> Result<(), LocalError> {
        let row = self.state.lock().owned.checks.get(check_id).cloned();
        let Some(row) = row else { return Err(LocalError::UnknownCheck(check_id.to_owned())) };
        self.put_without(&row)?;
        self.state.lock().remove_check(check_id);
        Ok(())
    }

    pub(super) fn maintain(&self, maintenance: &Maintenance) -> Result<(), LocalError> {
        let service_id = maintenance.service_id.as_deref().unwrap_or_default();
        let check_id = maintenance_id(service_id);
        let is_on = {
            let state = self.state.lock();
            if maintenance.service_id.is_some() && !state.owned.services.contains_key(service_id) {
                return Err(LocalError::UnknownService(service_id.to_owned()));
            }
            state.owned.checks.contains_key(&check_id)
        };
        if is_on == maintenance.enable {
            return Ok(());
        }
        if !maintenance.enable {
            return self.deregister_check(&check_id);
        }
        let reason = maintenance.reason.clone();
        let origin = CheckOrigin::Maintenance { service_id: service_id.to_owned(), reason };
        self.put_origin(&check_id, service_id, origin)?;
        self.state.lock().put_maintenance(service_id, &maintenance.reason);
        Ok(())
    }

    /// Writes a check into the file of its service, or into its own.
    fn put_origin(&self, check_id: &str, service_id: &str, origin: CheckOrigin) -> Result<(), LocalError> {
        if service_id.is_empty() {
            return self.put_check_record(check_id, Some(&CheckRecord { check: origin }));
        }
        let record = {
            let mut record = self.state.lock().present_service_record(service_id);
            record.checks.retain(|check| check_id_of(check) != check_id);
            record.checks.push(origin);
            record
        };
        self.put_service_record(&record)
    }

    /// Takes a check out of the file of its service, or removes its own.
    fn put_without(&self, row: &Check) -> Result<(), LocalError> {
        if row.is_node_level() {
            return self.put_check_record(&row.check_id, None);
        }
        let mut record = self.state.lock().present_service_record(&row.service_id);
        record.checks.retain(|check| check_id_of(check) != row.check_id);
        self.put_service_record(&record)
    }

    fn put_service_record(&self, record: &ServiceRecord) -> Result<(), LocalError> {
        self.write_service_record(record).inspect_err(|_| self.undo_service_record(&record.service_id))
    }

    fn write_service_record(&self, record: &ServiceRecord) -> Result<(), LocalError> {
        let Some(store) = &self.store else { return Ok(()) };
        store.put_service(record).map_err(|error| LocalError::Persist(format!("{error:#}")))
    }

    /// A write may fail after the new file was in place: what memory has is written again.
    fn undo_service_record(&self, service_id: &str) {
        let Some(store) = &self.store else { return };
        let present = self.state.lock().present_service_record(service_id);
        undo(store.put_service(&present), service_id);
    }

    fn put_check_record(&self, check_id: &str, record: Option<&CheckRecord>) -> Result<(), LocalError> {
        let Some(store) = &self.store else { return Ok(()) };
        store.put_check(check_id, record).map_err(|error| {
            let present = self.state.lock().present_check_record(check_id);
            undo(store.put_check(check_id, present.as_ref()), check_id);
            LocalError::Persist(format!("{error:#}"))
        })
    }
}

fn undo(undone: anyhow::Result<()>, id: &str) {
    if let Err(error) = undone {
        tracing::error!("the file of {id} may hold a registration that was refused: {error:#}");
    }
}
