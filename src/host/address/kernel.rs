//! The kernel's lists of interfaces, bridges and routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use nix::net::if_::InterfaceFlags;

use crate::model::address::{Flags, InterfaceAddress};

/// Where the kernel shows its interfaces, one folder each.
const INTERFACES: &str = "/sys/class/net";
/// The routes of IPv4, one a line.
const ROUTES_V4: &str = "/proc/net/route";
/// The routes of IPv6; not there where IPv6 is off.
const ROUTES_V6: &str = "/proc/net/ipv6_route";
/// What the flags of a route say: it is in use (`RTF_UP`).
const ROUTE_UP: u32 = 1;
/// It refuses packets (`RTF_REJECT`).
const ROUTE_REJECTS: u32 = 0x200;

/// Addresses of all interfaces.
pub(super) fn addresses() -> anyhow::Result<Vec<InterfaceAddress>> {
    let found = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    let mut addresses = Vec::new();
    // The kernel lists interfaces, then IPv4, then IPv6; go-sockaddr lists interface by interface.
    let mut order: Vec<String> = Vec::new();
    for interface in found {
        if !order.contains(&interface.interface_name) {
            order.push(interface.interface_name.clone());
        }
        let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| {
            let storage = storage?;
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        };
        let Some(address) = ip(interface.address) else { continue };
        let prefix = match ip(interface.netmask) {
            Some(IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
            Some(IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
            None => {
                if address.is_ipv4() {
                    32
                } else {
                    128
                }
            }
        };
        let has = |flag| interface.flags.contains(flag);
        addresses.push(InterfaceAddress {
            flags: Flags {
                up: has(InterfaceFlags::IFF_UP),
                broadcast: has(InterfaceFlags::IFF_BROADCAST),
                loopback: has(InterfaceFlags::IFF_LOOPBACK),
                point_to_point: has(InterfaceFlags::IFF_POINTOPOINT),
                multicast: has(InterfaceFlags::IFF_MULTICAST),
            },
            interface: interface.interface_name,
            address,
            prefix: u8::try_from(prefix).unwrap_or(u8::MAX),
        });
    }
    addresses.sort_by_key(|entry| order.iter().position(|name| *name == entry.interface));
    Ok(addresses)
}

/// The interface of the default route.
pub(super) fn default_interface() -> anyhow::Result<Option<String>> {
    let v4 = std::fs::read_to_string(ROUTES_V4).with_context(|| format!("cannot read {ROUTES_V4}"))?;
    if let Some(name) = default_of_v4(&v4) {
        return Ok(Some(name));
    }
    // A kernel without IPv6 has no such file.
    let v6 = std::fs::read_to_string(ROUTES_V6).unwrap_or_default();
    Ok(default_of_v6(&v6))
}

/// The interface of the default route with the lowest metric: `Iface Destination Gateway Flags RefCnt Use Metric Mask …`.
fn default_of_v4(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let is_default = *fields.get(1)? == "00000000" && *fields.get(7)? == "00000000";
        let usable = flags & ROUTE_UP != 0 && flags & ROUTE_REJECTS == 0;
        let metric: u32 = fields.get(6)?.parse().ok()?;
        (is_default && usable).then(|| (metric, (*fields[0]).to_owned()))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, name)| name)
}

/// The same of IPv6: destination, its bits, source, its bits, next hop, metric, references, uses, flags, interface.
fn default_of_v6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, bits, _, _, _, metric, _, _, flags, name] = fields[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = bits == "00" && destination.bytes().all(|digit| digit == b'0');
        let usable = flags & ROUTE_UP != 0 && flags & ROUTE_REJECTS == 0 && name != "lo";
        let metric = u32::from_str_radix(metric, 16).ok()?;
        (is_default && usable).then(|| (metric, name.to_owned()))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, name)| name)
}

/// Bridges that have no port but the ends of pairs that lead into containers. A kernel that does not show its bridges (a
/// container without `/sys`) has none: names decide alone then.
pub(super) fn inner_bridges() -> BTreeSet<String> {
    let list = |path: &Path| -> Option<Vec<String>> {
        let entries = std::fs::read_dir(path).ok()?;
        Some(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    let names = list(Path::new(INTERFACES)).unwrap_or_default();
    let is_inner = |name: &String| {
        let ports = list(&Path::new(INTERFACES).join(name).join("brif"));
        ports.is_some_and(|ports| ports.iter().all(|port| port.starts_with("veth")))
    };
    names.into_iter().filter(is_inner).collect()
}

#[cfg(test)]
mod tests {
    use super::{default_of_v4, default_of_v6};

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth1\t00000000\t0180A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0200000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth2\t00000000\t0200000A\t0203\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth3\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_of_v4(table).as_deref(), Some("eth0"));
        assert_eq!(default_of_v4("Iface\n"), None);
    }

    #[test]
    fn a_default_route_of_ipv6_that_refuses_is_none() {
        let zeros = "0".repeat(32);
        let line = |metric: &str, flags: &str, name: &str| {
            format!("{zeros} 00 {zeros} 00 {zeros} {metric} 00000001 00000000 {flags} {name}\n")
        };
        let refusing = line("ffffffff", "00200200", "lo");
        assert_eq!(default_of_v6(&refusing), None);
        let table = format!(
            "{refusing}{}{}{}",
            line("00000001", "00000201", "eth0"),
            line("00000400", "00000003", "eth1"),
            line("00000100", "00000003", "eth2")
        );
        assert_eq!(default_of_v6(&table).as_deref(), Some("eth2"));
    }
}
