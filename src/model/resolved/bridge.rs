//! Where the resolver may answer containers: nowhere that others reach, for whom it would be an open resolver.

use std::net::{IpAddr, Ipv4Addr};

use super::LINK_ADDRESS;
use crate::model::address::{Facts, is_container_interface};

/// Why an address is none for containers alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// All addresses of the machine.
    #[error("{0} stands for all addresses of this machine")]
    Unspecified(IpAddr),
    /// Containers have a loopback of their own.
    #[error("{0} is loopback: containers would ask themselves")]
    Loopback(IpAddr),
    /// A group.
    #[error("{0} is multicast: no bridge has it")]
    Multicast(IpAddr),
    /// An interface that is not of containers has it.
    #[error("{address} is on {interface}, which is no network of containers")]
    Outside {
        /// What was asked for.
        address: IpAddr,
        /// Who has it.
        interface: String,
    },
    /// No interface has it yet, and one that leads outside could be given it.
    #[error("{0} is on no interface, and not private")]
    Public(IpAddr),
}

/// The addresses of hosts in a bridge's network but for the bridge's own, the highest first.
pub fn highest_hosts(own: Ipv4Addr, prefix: u32) -> impl Iterator<Item = Ipv4Addr> {
    let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
    let network = own.to_bits() & !hosts;
    // Without those of the network itself and of all in it.
    (1..hosts)
        .rev()
        .map(move |host| Ipv4Addr::from_bits(network | host))
        .filter(move |address| *address != own)
}

/// Refuses what others than containers may reach. A bridge that is not there yet may have any private address (RFC 1918,
/// RFC 4193, RFC 3927).
///
/// # Errors
/// Says what the address is.
pub fn check(asked: IpAddr, facts: &Facts) -> Result<(), BridgeError> {
    // `::ffff:0.0.0.0` is `0.0.0.0`.
    let address = asked.to_canonical();
    if address.is_unspecified() {
        return Err(BridgeError::Unspecified(asked));
    }
    if address.is_loopback() {
        return Err(BridgeError::Loopback(asked));
    }
    if address.is_multicast() {
        return Err(BridgeError::Multicast(asked));
    }
    // It answers there in any case.
    if address == LINK_ADDRESS {
        return Ok(());
    }
    let mut there = facts.addresses.iter().filter(|entry| entry.address == address).peekable();
    if there.peek().is_none() {
        let is_private = match address {
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        return if is_private { Ok(()) } else { Err(BridgeError::Public(asked)) };
    }
    match there.find(|entry| !is_container_interface(&entry.interface, facts)) {
        Some(entry) => Err(BridgeError::Outside { address: asked, interface: entry.interface.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{BridgeError, check, highest_hosts};
    use crate::model::address::{Facts, InterfaceAddress};

    fn facts() -> Facts {
        let entry = |interface: &str, address: &str| InterfaceAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
            prefix: 24,
            flags: crate::model::address::Flags::default(),
        };
        Facts {
            addresses: vec![
                entry("lo", "127.0.0.1"),
                entry("eth0", "203.0.113.7"),
                entry("eth1", "10.0.0.7"),
                entry("docker0", "172.17.0.1"),
                entry("br-0123456789ab", "198.51.100.1"),
                entry("docker0", "10.5.0.1"),
                entry("eth1", "10.5.0.1"),
            ],
            default_interface: Some("eth0".to_owned()),
            ..Facts::default()
        }
    }

    #[test]
    fn nobody_but_containers_is_answered() {
        let outside = |address: IpAddr, interface: &str| BridgeError::Outside {
            address,
            interface: interface.to_owned(),
        };
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        for (address, expected) in [
            ("0.0.0.0", BridgeError::Unspecified(at("0.0.0.0"))),
            ("::", BridgeError::Unspecified(at("::"))),
            ("::ffff:0.0.0.0", BridgeError::Unspecified(at("::ffff:0.0.0.0"))),
            ("127.0.0.53", BridgeError::Loopback(at("127.0.0.53"))),
            ("::1", BridgeError::Loopback(at("::1"))),
            ("224.0.0.251", BridgeError::Multicast(at("224.0.0.251"))),
            ("ff02::fb", BridgeError::Multicast(at("ff02::fb"))),
            ("203.0.113.7", outside(at("203.0.113.7"), "eth0")),
            ("10.0.0.7", outside(at("10.0.0.7"), "eth1")),
            ("::ffff:10.0.0.7", outside(at("::ffff:10.0.0.7"), "eth1")),
            ("10.5.0.1", outside(at("10.5.0.1"), "eth1")),
            ("203.0.113.8", BridgeError::Public(at("203.0.113.8"))),
            ("255.255.255.255", BridgeError::Public(at("255.255.255.255"))),
            ("2001:db8::1", BridgeError::Public(at("2001:db8::1"))),
        ] {
            assert_eq!(check(at(address), &facts()), Err(expected), "{address}");
        }
    }

    #[test]
    fn networks_of_containers_and_private_ones_that_may_become_theirs_are_allowed() {
        for address in ["172.17.0.1", "198.51.100.1", "172.17.42.1", "192.168.9.1", "169.254.53.1", "fd00::1"]
        {
            assert_eq!(check(address.parse().unwrap(), &facts()), Ok(()), "{address}");
        }
    }

    #[test]
    fn hosts_of_a_network_are_counted_down_without_the_bridges_own_address() {
        let hosts = |own: &str, prefix: u32| {
            let found = highest_hosts(own.parse().unwrap(), prefix).take(3);
            found.map(|address: Ipv4Addr| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(hosts("172.17.0.1", 16), ["172.17.255.254", "172.17.255.253", "172.17.255.252"]);
        assert_eq!(hosts("10.0.0.6", 29), ["10.0.0.5", "10.0.0.4", "10.0.0.3"]);
        assert_eq!(hosts("169.254.53.5", 30), ["169.254.53.6"]);
        for whole in [31, 32] {
            assert_eq!(hosts("10.0.0.1", whole), [""; 0], "/{whole}");
        }
    }
}
