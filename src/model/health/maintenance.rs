//! Maintenance: a critical check that takes a node or a service out of service until it is removed.

use crate::model::catalog::{Check, Status};

/// The id of the check that puts a node into maintenance.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";
/// The id of the check that puts a service into maintenance, up to the service's id.
pub const SERVICE_MAINTENANCE_PREFIX: &str = "_service_maintenance:";
/// The type of both, as Consul shows it.
pub const MAINTENANCE_KIND: &str = "maintenance";

const NODE_NAME: &str = "Node Maintenance Mode";
const SERVICE_NAME: &str = "Service Maintenance Mode";
const NODE_NOTES: &str =
    "Maintenance mode is enabled for this node, but no reason was provided. This is a default message.";
const SERVICE_NOTES: &str =
    "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";

/// The id of the check for a service, or for the node when `service_id` is empty.
pub fn maintenance_id(service_id: &str) -> String {
    if service_id.is_empty() {
        NODE_MAINTENANCE.to_owned()
    } else {
        format!("{SERVICE_MAINTENANCE_PREFIX}{service_id}")
    }
}

/// The check for a service, or for the node when `service_id` is empty. The service's name and tags, and the
/// node, are for the caller to fill in.
pub fn maintenance_check(service_id: &str, reason: &str) -> Check {
    let (name, default_notes) =
        if service_id.is_empty() { (NODE_NAME, NODE_NOTES) } else { (SERVICE_NAME, SERVICE_NOTES) };
    Check {
        check_id: maintenance_id(service_id),
        name: name.to_owned(),
        status: Status::Critical,
        notes: if reason.is_empty() { default_notes } else { reason }.to_owned(),
        service_id: service_id.to_owned(),
        kind: MAINTENANCE_KIND.to_owned(),
        ..Check::default()
    }
}

#[cfg(test)]
mod tests {
    use super::maintenance_check;

    #[test]
    fn ids_names_and_notes_are_those_of_consul() {
        let node = maintenance_check("", "");
        assert_eq!(
            (node.check_id.as_str(), node.name.as_str()),
            ("_node_maintenance", "Node Maintenance Mode")
        );
        assert!(node.notes.starts_with("Maintenance mode is enabled for this node, but"), "{}", node.notes);
        let service = maintenance_check("web-1", "disk swap");
        assert_eq!(service.check_id, "_service_maintenance:web-1");
        assert_eq!(service.name, "Service Maintenance Mode");
        assert_eq!((service.notes.as_str(), service.service_id.as_str()), ("disk swap", "web-1"));
    }
}
