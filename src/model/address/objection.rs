//! What speaks against telling others an address.

use std::fmt;
use std::net::IpAddr;

use super::Facts;
use super::networks::is_link_local;

/// Why other machines cannot use an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objection {
    /// Not an address at all.
    NoAddress,
    /// `0.0.0.0` or `::`.
    Wildcard,
    /// The machine itself.
    Loopback,
    /// Means nothing on another link.
    LinkLocal,
    /// A group, or everybody.
    Multicast,
    /// Reserved blocks: `0.0.0.0/8` and `240.0.0.0/4`.
    Reserved,
    /// On an interface of containers.
    Containers(String),
    /// On an interface that is switched off.
    Down(String),
    /// On none of the machine's interfaces: the text was written for another machine, or before a move.
    Elsewhere,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("not an IP address"),
            Self::Wildcard => f.write_str("stands for all addresses, so nobody can send to it"),
            Self::Loopback => f.write_str("loopback: other machines would reach themselves"),
            Self::LinkLocal => f.write_str("link-local: it has a meaning on one link only"),
            Self::Multicast => f.write_str("multicast: no machine's own address"),
            Self::Reserved => f.write_str("reserved: no machine can have it"),
            Self::Containers(interface) => {
                write!(f, "{interface} is a network of containers inside this machine")
            }
            Self::Down(interface) => write!(f, "{interface} is down"),
            Self::Elsewhere => f.write_str("no interface of this machine has it"),
        }
    }
}

/// What the address itself, or the interface that has it, says against it.
pub fn objection(address: IpAddr, facts: &Facts) -> Option<Objection> {
    let reserved = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    if address.is_unspecified() {
        return Some(Objection::Wildcard);
    }
    if address.is_loopback() {
        return Some(Objection::Loopback);
    }
    if address.is_multicast() {
        return Some(Objection::Multicast);
    }
    if is_link_local(address) {
        return Some(Objection::LinkLocal);
    }
    if reserved {
        return Some(Objection::Reserved);
    }
    let entry = facts.interface_of(address)?;
    if is_container_interface(&entry.interface, facts) {
        return Some(Objection::Containers(entry.interface.clone()));
    }
    (!entry.flags.up).then(|| Objection::Down(entry.interface.clone()))
}

/// Whether an interface belongs to containers of this machine: by the names that Docker, Podman, CNI, LXC and libvirt give,
/// or because the kernel lists no outside device on that bridge. Who carries the default route leads outside, whatever it
/// is called: inside a container, `docker0` may be the name of a tunnel.
pub fn is_container_interface(name: &str, facts: &Facts) -> bool {
    if facts.default_interface.as_deref() == Some(name) {
        return false;
    }
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // Docker's own networks: `br-` and 12 digits of their id. An OpenStack host has its address on `br-ex`.
    let of_docker = name
        .strip_prefix("br-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    of_docker
        || name == "docker_gwbridge"
        || name.starts_with("veth")
        || ["docker", "podman", "cni", "cni-podman", "lxcbr", "lxdbr", "virbr"].into_iter().any(numbered)
        || facts.inner_bridges.contains(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Objection, is_container_interface, objection};
    use crate::model::address::tests::{entry, facts};

    #[test]
    fn addresses_that_others_cannot_use_are_objected_to() {
        let facts = facts(&["eth0 10.0.0.1/24", "docker0 172.17.0.1/16", "br-0123456789ab 172.18.0.1/16"]);
        for (address, expected) in [
            ("0.0.0.0", Objection::Wildcard),
            ("::", Objection::Wildcard),
            ("127.0.1.1", Objection::Loopback),
            ("::1", Objection::Loopback),
            ("169.254.1.1", Objection::LinkLocal),
            ("fe80::1", Objection::LinkLocal),
            ("224.0.0.1", Objection::Multicast),
            ("ff02::1", Objection::Multicast),
            ("0.0.0.7", Objection::Reserved),
            ("255.255.255.255", Objection::Reserved),
            ("172.17.0.1", Objection::Containers("docker0".to_owned())),
            ("172.18.0.1", Objection::Containers("br-0123456789ab".to_owned())),
        ] {
            assert_eq!(objection(address.parse().unwrap(), &facts), Some(expected), "{address}");
        }
        for address in ["10.0.0.1", "192.0.2.7", "fd00::1"] {
            assert_eq!(objection(address.parse().unwrap(), &facts), None, "{address}");
        }
    }

    #[test]
    fn an_interface_that_is_down_reaches_nobody() {
        let mut facts = facts(&["eth1 10.1.0.1/24"]);
        facts.addresses[0] = entry("eth1 10.1.0.1/24 down");
        let found = objection("10.1.0.1".parse().unwrap(), &facts);
        assert_eq!(found, Some(Objection::Down("eth1".to_owned())));
    }

    #[test]
    fn a_bridge_to_the_outside_is_no_network_of_containers() {
        let mut facts = facts(&[]);
        facts.inner_bridges = BTreeSet::from(["apps".to_owned()]);
        for name in ["docker0", "docker_gwbridge", "veth12ab", "cni0", "virbr0", "apps", "br-0123456789ab"] {
            assert!(is_container_interface(name, &facts), "{name}");
        }
        for name in ["br-ex", "br0", "br-lan", "bond0", "eth0", "dockerlan", "br-0123456789AB"] {
            assert!(!is_container_interface(name, &facts), "{name}");
        }
        facts.default_interface = Some("apps".to_owned());
        assert!(!is_container_interface("apps", &facts), "the default route leads through it");
    }
}
