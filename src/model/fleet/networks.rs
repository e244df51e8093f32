//! The addresses at which machines reach each other, from what the kernels of all of them say.

use std::net::{IpAddr, Ipv4Addr};

/// A machine's IPv4 addresses and the networks that it is directly in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    addresses: Vec<Ipv4Addr>,
    /// Address and mask.
    networks: Vec<(u32, u32)>,
}

impl Networks {
    /// Reads `/proc/net/fib_trie` and `/proc/net/route`.
    pub fn parse(fib_trie: &str, route: &str) -> Self {
        let mut addresses = Vec::new();
        let mut leaf: Option<Ipv4Addr> = None;
        for line in fib_trie.lines() {
            let line = line.trim();
            if let Some(address) = line.strip_prefix("|-- ") {
                leaf = address.parse().ok();
            } else if line.starts_with("/32 host LOCAL")
                && let Some(address) = leaf.filter(|address| !address.is_loopback())
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
        let number = |word: &str| {
            u32::from_str_radix(word, 16).ok().map(|word| u32::from_be_bytes(word.to_ne_bytes()))
        };
        let network = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (network, gateway, mask) = (words.get(1)?, words.get(2)?, words.get(7)?);
            (*gateway == "00000000" && *mask != "00000000")
                .then(|| Some((number(network)?, number(mask)?)))?
        };
        Self { addresses, networks: route.lines().skip(1).filter_map(network).collect() }
    }

    fn address_in(&self, (network, mask): (u32, u32)) -> Option<Ipv4Addr> {
        self.addresses.iter().copied().find(|address| u32::from(*address) & mask == network & mask)
    }
}

/// The addresses of all machines in the first network that all are in, each with one of its own. Networks in which two
/// machines are called alike (Docker's bridge, the NAT of virtual machines) do not join them.
pub fn common(machines: &[Networks]) -> Option<Vec<IpAddr>> {
    let first = machines.first()?;
    first.networks.iter().find_map(|network| {
        let addresses: Option<Vec<Ipv4Addr>> =
            machines.iter().map(|machine| machine.address_in(*network)).collect();
        let addresses = addresses?;
        let alike = (1..addresses.len()).any(|number| addresses[..number].contains(&addresses[number]));
        (!alike).then(|| addresses.into_iter().map(IpAddr::V4).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::{Networks, common};

    fn machine(addresses: &[&str]) -> Networks {
        let mut trie =
            "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\nLocal:\n"
                .to_owned();
        trie.push_str("     |-- 127.0.0.1\n        /32 host LOCAL\n");
        for address in addresses {
            for part in ["     |-- ", *address, "\n        /32 host LOCAL\n"] {
                trie.push_str(part);
            }
        }
        // Little-endian words, as on every machine that this is built for.
        let route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\n\
                     eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n\
                     eth1\t00801CAC\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        Networks::parse(&trie, route)
    }

    #[test]
    fn machines_behind_a_nat_meet_in_the_network_in_which_they_differ() {
        let one = machine(&["10.0.2.15", "172.17.0.1", "172.28.128.3"]);
        let other = machine(&["10.0.2.15", "172.17.0.1", "172.28.128.4"]);
        let found: Vec<String> =
            common(&[one.clone(), other]).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["172.28.128.3", "172.28.128.4"]);
        assert_eq!(common(&[one.clone(), machine(&["10.0.2.15"])]), None);
        assert_eq!(common(&[one]).unwrap()[0].to_string(), "10.0.2.15");
        assert_eq!(common(&[]), None);
    }
}
