//! From registrations to the rows that the catalog holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::CheckRegistration;
use crate::model::catalog::{Check, NodeRegistration, Service, Status};
use crate::model::duration;
use crate::model::health::{CheckDefinition, CheckKind};

/// The metadata that every agent's node carries (Consul's network segment, always the default one here).
const SEGMENT_META: &str = "consul-network-segment";

/// The node of an agent as it registers it.
pub fn agent_node(
    id: &str,
    name: &str,
    address: IpAddr,
    datacenter: &str,
    meta: &BTreeMap<String, String>,
) -> NodeRegistration {
    let mut meta = meta.clone();
    meta.entry(SEGMENT_META.to_owned()).or_default();
    NodeRegistration {
        id: id.to_owned(),
        node: name.to_owned(),
        address: address.to_string(),
        datacenter: datacenter.to_owned(),
        tagged_addresses: Some(tagged_addresses(address)),
        meta: Some(meta),
    }
}

/// An agent's addresses by purpose: `lan` and `wan`, with and without the family.
fn tagged_addresses(address: IpAddr) -> BTreeMap<String, String> {
    let names = match address {
        IpAddr::V4(_) => ["lan", "lan_ipv4", "wan", "wan_ipv4"],
        IpAddr::V6(_) => ["lan", "lan_ipv6", "wan", "wan_ipv6"],
    };
    names.into_iter().map(|name| (name.to_owned(), address.to_string())).collect()
}

/// The row of a registered check. `known` is the row that it replaces, whose state it keeps; a new check starts as
/// registered, or critical.
pub fn check_row(
    registration: &CheckRegistration,
    service: Option<&Service>,
    node: &str,
    known: Option<&Check>,
) -> Check {
    let (status, output) = match known {
        Some(known) => (known.status, known.output.clone()),
        None => (registration.status.unwrap_or(Status::Critical), String::new()),
    };
    Check {
        node: node.to_owned(),
        check_id: registration.check_id.clone(),
        name: registration.name.clone(),
        status,
        notes: registration.notes.clone(),
        output,
        service_id: registration.service_id.clone(),
        service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
        service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
        kind: kind_text(&registration.definition).to_owned(),
        interval: time_text(registration.definition.interval),
        timeout: registration.definition.timeout.map(time_text).unwrap_or_default(),
        ..Check::default()
    }
}

fn kind_text(definition: &CheckDefinition) -> &'static str {
    match definition.kind {
        CheckKind::Ttl { .. } => "ttl",
        CheckKind::Http { .. } => "http",
        CheckKind::Tcp { .. } => "tcp",
    }
}

/// A time as the catalog's rows hold it: empty for none.
fn time_text(time: Duration) -> String {
    if time.is_zero() { String::new() } else { duration::format(time) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::{agent_node, check_row};
    use crate::model::catalog::{Check, Service, Status};
    use crate::model::health::{CheckDefinition, CheckKind};
    use crate::model::sync::CheckRegistration;

    #[test]
    fn an_agents_node_names_its_addresses_by_family() {
        let node = agent_node("id", "m1", "10.0.0.1".parse().unwrap(), "dc1", &BTreeMap::new());
        let names: Vec<String> = node.tagged_addresses.unwrap().into_keys().collect();
        assert_eq!(names, ["lan", "lan_ipv4", "wan", "wan_ipv4"]);
        assert_eq!(node.meta.unwrap()["consul-network-segment"], "");
        let node = agent_node("id", "m1", "fd00::1".parse().unwrap(), "dc1", &BTreeMap::new());
        assert_eq!(node.tagged_addresses.unwrap()["wan_ipv6"], "fd00::1");
    }

    #[test]
    fn a_new_check_starts_as_registered_and_a_known_one_keeps_its_state() {
        let mut registration = CheckRegistration {
            check_id: "service:web".to_owned(),
            name: "web alive".to_owned(),
            notes: String::new(),
            service_id: "web".to_owned(),
            status: None,
            definition: CheckDefinition {
                kind: CheckKind::Tcp { address: "127.0.0.1:80".to_owned() },
                interval: Duration::from_secs(10),
                timeout: None,
                success_before_passing: 0,
                failures_before_warning: 0,
                failures_before_critical: 0,
                deregister_critical_service_after: None,
                output_max_size: None,
            },
        };
        let service = Service { id: "web".to_owned(), name: "web".to_owned(), ..Service::default() };
        let new = check_row(&registration, Some(&service), "m1", None);
        assert_eq!((new.status, new.kind.as_str(), new.interval.as_str()), (Status::Critical, "tcp", "10s"));
        assert_eq!((new.service_name.as_str(), new.timeout.as_str()), ("web", ""));
        registration.status = Some(Status::Passing);
        assert_eq!(check_row(&registration, Some(&service), "m1", None).status, Status::Passing);
        let known = Check { status: Status::Warning, output: "slow".to_owned(), ..new };
        let kept = check_row(&registration, Some(&service), "m1", Some(&known));
        assert_eq!((kept.status, kept.output.as_str()), (Status::Warning, "slow"));
    }
}
