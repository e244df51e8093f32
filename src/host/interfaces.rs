//! Which addresses this machine has, and its gateway. What of them others are told is `host::address`'s.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;

/// All addresses of this machine's interfaces that are up, with the interface's name, loopback included.
///
/// # Errors
/// As the operating system says.
pub fn addresses() -> anyhow::Result<Vec<(String, IpAddr)>> {
    let found = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    let mut addresses = Vec::new();
    for interface in found {
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => continue,
        };
        addresses.push((interface.interface_name, ip));
    }
    Ok(addresses)
}

/// The first IPv4 address of an interface that is up, and the length of its network's prefix.
///
/// # Errors
/// As the operating system says.
pub fn network(interface: &str) -> anyhow::Result<Option<(Ipv4Addr, u32)>> {
    let found = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    let mut own = found.filter(|found| found.interface_name == interface);
    Ok(own.find_map(|found| {
        let address = found.address?.as_sockaddr_in()?.ip();
        let mask = found.netmask?.as_sockaddr_in()?.ip();
        Some((address, mask.to_bits().leading_ones()))
    }))
}

/// The default gateway of IPv4, from the kernel's routing table; inside a container this is the host's bridge.
///
/// # Errors
/// When the routing table cannot be read.
pub fn default_gateway() -> anyhow::Result<Option<Ipv4Addr>> {
    let table = std::fs::read_to_string("/proc/net/route").context("cannot read /proc/net/route")?;
    Ok(parse_default_gateway(&table))
}

fn parse_default_gateway(table: &str) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        // The kernel prints the address as a native-endian word.
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::{addresses, network, parse_default_gateway};

    #[test]
    fn the_default_gateway_is_read_from_the_kernels_table() {
        let table =
            "Iface\tDestination\tGateway \tFlags\neth0\t0000A8C0\t00000000\t1\neth0\t00000000\t010011AC\t3\n";
        assert_eq!(parse_default_gateway(table).unwrap().to_string(), "172.17.0.1");
        assert_eq!(parse_default_gateway("Iface\n"), None);
    }

    #[test]
    fn the_loopback_address_is_among_the_addresses() {
        assert!(addresses().unwrap().iter().any(|(_, ip)| ip.is_loopback()));
        let (address, prefix) = network("lo").unwrap().unwrap();
        assert!(address.is_loopback() && prefix == 8, "{address}/{prefix}");
        assert_eq!(network("no such interface").unwrap(), None);
    }
}
