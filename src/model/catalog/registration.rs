//! Nodes, services and checks: how registrations change them.
//!
//! Rules and error texts are Consul's (`PUT /v1/catalog/register`, `…/deregister`, measured on 1.10 and 1.21).

use std::sync::Arc;

use imbl::OrdMap;

use super::change::Changes;
use super::command::{CatalogError, Deregistration, NodeRegistration, Registration, Reply};
use super::rows::{Check, Node, Service, Status};
use super::{Catalog, CheckRows, Key, NodeRow, SERF_HEALTH, ServiceRow, key_of};

impl Catalog {
    pub(super) fn register(
        &mut self,
        registration: &Registration,
        changes: &mut Changes,
    ) -> Result<Reply, CatalogError> {
        let key = key_of(&registration.node.node);
        // All that can be refused is looked at before anything changes.
        let exists = self.nodes.contains_key(&key);
        if !(registration.skip_node_update && exists) {
            self.check_node_name(&key, &registration.node)?;
        }
        self.check_services_of_checks(&key, registration)?;

        if !(registration.skip_node_update && exists) {
            self.put_node(&key, &registration.node, changes);
        }
        if let Some(service) = &registration.service {
            self.put_service(&key, service, changes)?;
        }
        for check in &registration.checks {
            self.put_check(&key, check, changes)?;
        }
        Ok(Reply::Done)
    }

    pub(super) fn deregister(&mut self, deregistration: &Deregistration, changes: &mut Changes) {
        let key = key_of(&deregistration.node);
        match (&deregistration.service_id, &deregistration.check_id) {
            (Some(service_id), _) => self.remove_service(&key, service_id, changes),
            (None, Some(check_id)) => self.remove_check(&key, check_id, changes),
            (None, None) => self.remove_node(&key, changes),
        }
    }

    /// A name belongs to the id that has it, as long as its agent is not known to be dead.
    fn check_node_name(&self, key: &Key, wanted: &NodeRegistration) -> Result<(), CatalogError> {
        let Some(row) = self.nodes.get(key) else { return Ok(()) };
        let holder = &row.node;
        if wanted.id.is_empty() || holder.id.is_empty() || holder.id == wanted.id {
            return Ok(());
        }
        let alive = row.checks.get(SERF_HEALTH).is_some_and(|check| check.status != Status::Critical);
        if !alive {
            return Ok(());
        }
        Err(CatalogError::NodeNameReserved {
            id: wanted.id.clone(),
            name: wanted.node.clone(),
            holder: holder.id.clone(),
            address: holder.address.clone(),
        })
    }

    fn check_services_of_checks(&self, key: &Key, registration: &Registration) -> Result<(), CatalogError> {
        for check in registration.checks.iter().filter(|check| !check.is_node_level()) {
            let id = check.service_id.as_str();
            let comes = registration.service.as_ref().is_some_and(|service| service.id == id);
            let is_there = self.nodes.get(key).is_some_and(|row| row.services.contains_key(id));
            if !comes && !is_there {
                return Err(CatalogError::MissingService { node: registration.node.node.clone() });
            }
        }
        Ok(())
    }

    fn put_node(&mut self, key: &Key, wanted: &NodeRegistration, changes: &mut Changes) {
        // An agent that changed its name takes its id along; the old name goes.
        let has_id = self.nodes.get(key).is_some_and(|row| row.node.id == wanted.id);
        if !wanted.id.is_empty() && !has_id {
            let renamed = self.nodes.iter().find(|(other, row)| *other != key && row.node.id == wanted.id);
            if let Some(old) = renamed.map(|(other, _)| other.clone()) {
                self.remove_node(&old, changes);
            }
        }
        let index = self.index;
        let old = self.nodes.get(key).map(|row| row.node.clone());
        let id = match &old {
            Some(old) if wanted.id.is_empty() => old.id.clone(),
            _ => wanted.id.clone(),
        };
        let mut node = Node {
            id,
            node: wanted.node.clone(),
            address: wanted.address.clone(),
            datacenter: wanted.datacenter.clone(),
            tagged_addresses: wanted.tagged_addresses.clone(),
            meta: wanted.meta.clone(),
            create_index: index,
            modify_index: index,
        };
        if let Some(old) = &old {
            node.create_index = old.create_index;
            node.modify_index = old.modify_index;
            if node == **old {
                return;
            }
            node.modify_index = index;
        }
        let node = Arc::new(node);
        if let Some(row) = self.nodes.get_mut(key) {
            let row = Arc::make_mut(row);
            row.node = node;
            row.index = index;
        } else {
            let row = NodeRow { node, services: OrdMap::new(), checks: CheckRows::default(), index };
            self.nodes.insert(key.clone(), Arc::new(row));
        }
        self.indexes.nodes = index;
        changes.node_table = true;
        changes.nodes.insert(key.clone());
        self.touch_services_of(key, changes);
    }

    fn put_service(
        &mut self,
        key: &Key,
        wanted: &Service,
        changes: &mut Changes,
    ) -> Result<(), CatalogError> {
        let index = self.index;
        let row = Arc::make_mut(self.nodes.get_mut(key).ok_or(CatalogError::MissingNode)?);
        let mut service = Service { create_index: index, modify_index: index, ..wanted.clone() };
        let mut renamed_from = None;
        if let Some(old) = row.services.get(wanted.id.as_str()) {
            service.create_index = old.create_index;
            service.modify_index = old.modify_index;
            if service == **old {
                return Ok(());
            }
            service.modify_index = index;
            if key_of(&old.name) != key_of(&service.name) {
                renamed_from = Some(key_of(&old.name));
            }
        }
        let id: Arc<str> = Arc::from(service.id.as_str());
        let (name, tags) = (service.name.clone(), service.tags.clone());
        row.services.insert(id.clone(), Arc::new(service));
        row.index = index;
        let stale: Vec<Check> = row
            .checks
            .of_service(&id)
            .filter(|check| check.service_name != name || check.service_tags != tags)
            .map(|check| Check { modify_index: index, ..Check::clone(check) })
            .collect();
        let check_changed = !stale.is_empty();
        for check in stale {
            row.checks.insert(Check { service_name: name.clone(), service_tags: tags.clone(), ..check });
        }
        if check_changed {
            self.indexes.checks = index;
            changes.check_table = true;
        }
        if let Some(old_name) = renamed_from {
            self.drop_instance(&old_name, key, &id, changes);
        }
        let service_key = key_of(&name);
        let entry = self.services.entry(service_key.clone()).or_insert_with(|| {
            Arc::new(ServiceRow { name: Arc::from(name.as_str()), instances: OrdMap::new(), index })
        });
        let entry = Arc::make_mut(entry);
        entry.instances.insert((key.clone(), id), ());
        entry.index = index;
        self.indexes.services = index;
        changes.service_table = true;
        changes.services.insert(service_key);
        changes.nodes.insert(key.clone());
        Ok(())
    }

    fn put_check(&mut self, key: &Key, wanted: &Check, changes: &mut Changes) -> Result<(), CatalogError> {
        let index = self.index;
        let row = Arc::make_mut(self.nodes.get_mut(key).ok_or(CatalogError::MissingNode)?);
        let mut check = Check { create_index: index, modify_index: index, ..wanted.clone() };
        check.node.clone_from(&row.node.node);
        if check.is_node_level() {
            check.service_name = String::new();
            check.service_tags = Vec::new();
        } else {
            let service = row
                .services
                .get(check.service_id.as_str())
                .ok_or_else(|| CatalogError::MissingService { node: check.node.clone() })?;
            check.service_name.clone_from(&service.name);
            check.service_tags.clone_from(&service.tags);
        }
        if let Some(old) = row.checks.get(wanted.check_id.as_str()) {
            check.create_index = old.create_index;
            check.modify_index = old.modify_index;
            if check == **old {
                return Ok(());
            }
            check.modify_index = index;
        }
        let service = (!check.is_node_level()).then(|| key_of(&check.service_name));
        row.checks.insert(check);
        self.check_changed(key, service, changes);
        Ok(())
    }

    fn check_changed(&mut self, key: &Key, service: Option<Key>, changes: &mut Changes) {
        self.indexes.checks = self.index;
        changes.check_table = true;
        match service {
            Some(service) => self.touch_service(service, changes),
            None => self.touch_services_of(key, changes),
        }
    }

    fn remove_check(&mut self, key: &Key, check_id: &str, changes: &mut Changes) {
        let Some(row) = self.nodes.get_mut(key) else { return };
        if row.checks.get(check_id).is_none() {
            return;
        }
        let Some(check) = Arc::make_mut(row).checks.remove(check_id) else { return };
        let service = (!check.is_node_level()).then(|| key_of(&check.service_name));
        self.check_changed(key, service, changes);
    }

    fn remove_service(&mut self, key: &Key, service_id: &str, changes: &mut Changes) {
        let index = self.index;
        let Some(row) = self.nodes.get_mut(key) else { return };
        if !row.services.contains_key(service_id) {
            return;
        }
        let row = Arc::make_mut(row);
        let Some(service) = row.services.remove(service_id) else { return };
        row.index = index;
        let checks: Vec<String> =
            row.checks.of_service(service_id).map(|check| check.check_id.clone()).collect();
        for check_id in &checks {
            row.checks.remove(check_id);
        }
        if !checks.is_empty() {
            self.indexes.checks = index;
            changes.check_table = true;
        }
        changes.nodes.insert(key.clone());
        self.drop_instance(&key_of(&service.name), key, service_id, changes);
    }

    fn remove_node(&mut self, key: &Key, changes: &mut Changes) {
        let index = self.index;
        let Some(row) = self.nodes.remove(key) else { return };
        for service in row.services.values() {
            self.drop_instance(&key_of(&service.name), key, &service.id, changes);
        }
        if !row.checks.is_empty() {
            self.indexes.checks = index;
            changes.check_table = true;
        }
        self.indexes.nodes = index;
        changes.node_table = true;
        changes.nodes.insert(key.clone());
    }

    fn drop_instance(&mut self, service: &Key, node: &Key, id: &str, changes: &mut Changes) {
        let index = self.index;
        if let Some(entry) = self.services.get_mut(service) {
            let entry = Arc::make_mut(entry);
            entry.instances.remove(&(node.clone(), Arc::from(id)));
            entry.index = index;
            if entry.instances.is_empty() {
                self.services.remove(service);
                self.indexes.service_extinction = index;
            }
        }
        self.indexes.services = index;
        changes.service_table = true;
        changes.services.insert(service.clone());
    }

    fn touch_service(&mut self, service: Key, changes: &mut Changes) {
        if let Some(entry) = self.services.get_mut(&service) {
            Arc::make_mut(entry).index = self.index;
        }
        changes.services.insert(service);
    }

    /// A node-level change moves the index of every service on the node: load balancers must hear of it.
    fn touch_services_of(&mut self, key: &Key, changes: &mut Changes) {
        let Some(row) = self.nodes.get(key) else { return };
        let services: Vec<Key> = row.services.values().map(|service| key_of(&service.name)).collect();
        for service in services {
            self.touch_service(service, changes);
        }
    }
}
