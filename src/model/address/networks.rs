//! Blocks of addresses, and which of them are private or never forwarded.
//!
//! The blocks are those of RFC 6890 as hashicorp/go-sockaddr lists them, because Consul's users filter by its words.

use std::net::IpAddr;
use std::str::FromStr;

/// A block of addresses: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of `prefix` bits that `address` is in.
    pub fn of(address: IpAddr, prefix: u8) -> Self {
        let base = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Self { base, prefix }
    }

    /// Its first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// Whether it has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && Self::of(address, self.prefix).base == self.base
    }
}

/// Not a block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network: write it like 10.0.0.0/8")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parse = || {
            let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
            let address: IpAddr = address.parse().ok()?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
            (prefix <= bits).then(|| Self::of(address, prefix))
        };
        parse().ok_or_else(|| NetworkError(text.to_owned()))
    }
}

/// Blocks by the number of the RFC that reserves them, as far as people filter by them.
const RFCS: [(u32, &[&str]); 12] = [
    (1112, &["224.0.0.0/4"]),
    (1122, &["0.0.0.0/8", "127.0.0.0/8"]),
    (1918, &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]),
    (2544, &["198.18.0.0/15"]),
    (3849, &["2001:db8::/32"]),
    (3927, &["169.254.0.0/16"]),
    (4193, &["fc00::/7"]),
    (4291, &["::/128", "::1/128", "::/96", "::ffff:0:0/96", "fe80::/10", "fec0::/10", "ff00::/8"]),
    (5737, &["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]),
    (6598, &["100.64.0.0/10"]),
    (6666, &["100::/64"]),
    (6890, SPECIAL),
];
/// RFC 6890, with `2001::/16` as wide as go-sockaddr has it.
const SPECIAL: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "::1/128",
    "::/128",
    "64:ff9b::/96",
    "::ffff:0:0/96",
    "100::/64",
    "2001::/16",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
];
/// What no router forwards.
const NOT_FORWARDED: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "::1/128",
    "::/128",
    "::ffff:0:0/96",
    "2001:db8::/32",
    "2001:10::/28",
    "fe80::/10",
];

fn is_in(address: IpAddr, blocks: &[&str]) -> bool {
    blocks.iter().filter_map(|block| block.parse::<Network>().ok()).any(|block| block.contains(address))
}

/// Whether an RFC's blocks have this address; `None` for an RFC that is not in the table.
pub fn is_of_rfc(number: u32, address: IpAddr) -> Option<bool> {
    let (_, blocks) = RFCS.iter().find(|(rfc, _)| *rfc == number)?;
    Some(is_in(address, blocks))
}

/// The numbers that [`is_of_rfc`] knows.
pub fn known_rfcs() -> impl Iterator<Item = u32> {
    RFCS.iter().map(|(number, _)| *number)
}

/// Whether an address is set aside by RFC 6890: what go-sockaddr calls private.
pub fn is_private(address: IpAddr) -> bool {
    is_in(address, SPECIAL)
}

/// Whether routers forward packets to this address.
pub fn is_forwarded(address: IpAddr) -> bool {
    !is_in(address, NOT_FORWARDED)
}

/// Whether an address has a meaning on one link only.
pub fn is_link_local(address: IpAddr) -> bool {
    is_in(address, &["169.254.0.0/16", "fe80::/10"])
}

#[cfg(test)]
mod tests {
    use super::{NOT_FORWARDED, Network, RFCS, is_forwarded, is_of_rfc, is_private};

    #[test]
    fn every_block_of_the_tables_is_a_network() {
        let blocks = RFCS.iter().flat_map(|(_, blocks)| *blocks).chain(NOT_FORWARDED);
        for block in blocks {
            let network: Network = block.parse().unwrap();
            let (base, _) = block.split_once('/').unwrap();
            assert_eq!(network.base(), base.parse::<std::net::IpAddr>().unwrap());
        }
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_alike() {
        let network: Network = "10.1.2.3/8".parse().unwrap();
        assert_eq!(network.base().to_string(), "10.0.0.0");
        assert!(network.contains("10.255.0.1".parse().unwrap()));
        assert!(!network.contains("11.0.0.1".parse().unwrap()));
        assert!(!network.contains("a00::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("::1".parse().unwrap()));
        assert!("fd00::1".parse::<Network>().unwrap().contains("fd00::1".parse().unwrap()));
        for wrong in ["", "10.0.0.0/33", "10/8", "::/129", "10.0.0.0/", "eth0"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn private_and_forwarded_are_what_rfc_6890_says() {
        for (address, private, forwarded) in [
            ("10.0.0.1", true, true),
            ("100.64.0.1", true, true),
            ("8.8.8.8", false, true),
            ("127.0.0.1", true, false),
            ("169.254.1.1", true, false),
            ("192.0.2.1", true, false),
            ("fd00::1", true, true),
            ("fe80::1", true, false),
            ("2a00::1", false, true),
        ] {
            let parsed = address.parse().unwrap();
            assert_eq!((is_private(parsed), is_forwarded(parsed)), (private, forwarded), "{address}");
        }
        assert_eq!(is_of_rfc(1918, "172.31.0.1".parse().unwrap()), Some(true));
        assert_eq!(is_of_rfc(1, "172.31.0.1".parse().unwrap()), None);
    }
}
