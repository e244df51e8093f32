//! Which addresses this machine has, and which of them others can reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context as _;

use crate::hint::WithHint as _;

/// The address this machine uses towards its default route.
///
/// No packet is sent: a UDP socket is only connected, which makes the kernel choose the source address.
///
/// # Errors
/// When there is no default route.
pub fn default_route_address() -> anyhow::Result<IpAddr> {
    let probe = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        // TEST-NET-1 (RFC 5737): never routed anywhere real.
        socket.connect(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)))?;
        Ok(socket.local_addr()?.ip())
    };
    probe()
        .context("this machine has no default route to take an address from")
        .hint("give the address with -advertise, for example `-advertise 10.0.0.1`")
}

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
    use super::{addresses, parse_default_gateway};

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
    }
}
