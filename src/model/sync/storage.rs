//! The check that says in the catalog that a server's disk is full.
//!
//! It belongs to the service `consul` of the server's node, not to the node: what else runs there is not to be taken
//! for unhealthy.

use crate::model::catalog::{CONSUL_SERVICE, Check, Command, Deregistration, NodeRow, Registration, Status};

/// The id of the check.
pub const STORAGE_CHECK: &str = "serverStorage";
const STORAGE_CHECK_NAME: &str = "Server Storage";

/// The command that makes the catalog's row of a server's node say `full`, or nothing; none when it does, or when the
/// node is not known as a server yet.
pub fn plan_storage(row: &NodeRow, full: Option<&str>) -> Option<Command> {
    let present = row.checks.get(STORAGE_CHECK);
    let Some(output) = full else {
        return present.is_some().then(|| {
            Command::Deregister(Deregistration {
                node: row.node.node.clone(),
                service_id: None,
                check_id: Some(STORAGE_CHECK.to_owned()),
            })
        });
    };
    let is_known = row.services.contains_key(CONSUL_SERVICE);
    if !is_known || present.is_some_and(|check| check.output == output) {
        return None;
    }
    let check = Check {
        check_id: STORAGE_CHECK.to_owned(),
        name: STORAGE_CHECK_NAME.to_owned(),
        status: Status::Warning,
        output: output.to_owned(),
        service_id: CONSUL_SERVICE.to_owned(),
        ..Check::default()
    };
    Some(Command::Register(Box::new(Registration {
        node: super::members::present(row),
        skip_node_update: true,
        service: None,
        checks: vec![check],
    })))
}

#[cfg(test)]
mod tests {
    use super::{STORAGE_CHECK, plan_storage};
    use crate::model::catalog::{
        CONSUL_SERVICE, Catalog, Command, NodeRegistration, Registration, Service, Status,
    };
    use crate::model::sync::{Owned, Scope, plan};

    #[test]
    fn a_full_disk_is_a_warning_at_the_service_consul_until_it_is_not_full_any_more() {
        let mut catalog = Catalog::default();
        let node = NodeRegistration { node: "m1".into(), address: "10.0.0.1".into(), ..Default::default() };
        let mut register = |index, name: &str| {
            let service = Service { id: name.into(), name: name.into(), ..Service::default() };
            let registration =
                Registration { node: node.clone(), service: Some(service), ..Registration::default() };
            catalog.apply(index, &Command::Register(Box::new(registration))).result.unwrap();
            catalog.clone()
        };
        let before = register(1, "web");
        assert_eq!(plan_storage(before.node("m1").unwrap(), Some("full")), None, "no server yet");
        let mut catalog = register(2, CONSUL_SERVICE);
        assert_eq!(plan_storage(catalog.node("m1").unwrap(), None), None);
        let command = plan_storage(catalog.node("m1").unwrap(), Some("full")).unwrap();
        catalog.apply(3, &command).result.unwrap();
        let row = catalog.node("m1").unwrap();
        let check = row.checks.get(STORAGE_CHECK).unwrap();
        assert_eq!((check.status, check.output.as_str()), (Status::Warning, "full"));
        assert_eq!(check.service_name, CONSUL_SERVICE);
        assert!(!check.is_node_level(), "other services of the machine stay healthy");
        assert_eq!(plan_storage(row, Some("full")), None, "nothing is written twice");
        assert!(plan_storage(row, Some("fuller")).is_some());
        let owned = plan(&Owned::default(), &node, Some(row), Scope::All, &std::collections::BTreeSet::new());
        let touched = owned.iter().any(|command| format!("{command:?}").contains(STORAGE_CHECK));
        assert!(!touched, "anti-entropy leaves it alone: {owned:?}");
        let command = plan_storage(row, None).unwrap();
        catalog.apply(4, &command).result.unwrap();
        assert!(catalog.node("m1").unwrap().checks.get(STORAGE_CHECK).is_none());
    }
}
