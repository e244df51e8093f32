//! Addresses, filtered, sorted and printed.

use std::cmp::Ordering;
use std::net::IpAddr;

use regex::Regex;

use super::TemplateError;
use crate::model::address::networks::{Network, is_forwarded, is_link_local, is_of_rfc, is_private};
use crate::model::address::{Facts, InterfaceAddress};

/// Where the addresses come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// All interfaces.
    All,
    /// The interface of the default route.
    Default,
}

/// What is done with them, one after the other.
#[derive(Debug)]
pub(super) enum Step {
    /// Keeps those that the filter matches; or, with `false`, the others.
    Keep(Filter, bool),
    /// Sorts by the keys; equal ones keep their order.
    Sort(Vec<(Key, Order)>),
    /// Leaves out what is like the one before.
    Unique(Attribute),
    /// Keeps so many of the first.
    Limit(usize),
    /// Leaves out so many of the first; a negative number keeps so many of the last.
    Offset(i64),
}

/// What `include` and `exclude` look at.
#[derive(Debug)]
pub(super) enum Filter {
    Name(Regex),
    Address(Regex),
    Networks(Vec<Network>),
    Flags(Vec<String>),
    Rfcs(Vec<u32>),
    Bits(u8),
    Family {
        v4: bool,
        v6: bool,
    },
    /// RFC 6890, which is what go-sockaddr calls private.
    Special,
    /// What routers forward.
    Forwarded,
}

/// What `sort` compares.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key {
    Address,
    Default,
    Name,
    Private,
    Size,
    Type,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Up,
    Down,
}

/// What is printed of an address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute {
    Address,
    /// With the bits of its network, if those are not all.
    Full,
    Name,
    Type,
    Network,
    Bits,
}

/// How the result is printed.
#[derive(Debug)]
pub(super) enum Print {
    /// The first; nothing of an empty list.
    First(Attribute),
    /// All, with a text between two.
    Joined(Attribute, String),
}

/// A list of addresses, and how it is printed once that is known.
#[derive(Debug)]
pub(super) struct List {
    origin: Origin,
    steps: Vec<Step>,
    pub(super) print: Option<Print>,
}

impl List {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, steps: Vec::new(), print: None }
    }

    /// `GetPrivateInterfaces` and `GetPublicInterfaces`, as go-sockaddr writes them out.
    pub(super) fn routed(private: bool) -> Self {
        let keys = vec![(Key::Default, Order::Up), (Key::Type, Order::Up), (Key::Size, Order::Up)];
        Self::new(Origin::All)
            .then(Step::Keep(Filter::Forwarded, true))
            .then(Step::Keep(Filter::Flags(vec!["up".to_owned()]), true))
            .then(Step::Sort(keys))
            .then(Step::Keep(Filter::Special, private))
    }

    pub(super) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(super) fn print(mut self, print: Print) -> Self {
        self.print = Some(print);
        self
    }

    /// What it prints on a machine.
    pub(super) fn text(&self, facts: &Facts) -> Result<String, TemplateError> {
        let mut addresses: Vec<&InterfaceAddress> = facts.addresses.iter().collect();
        if matches!(self.origin, Origin::Default) {
            let name = facts.default_interface.as_deref().ok_or(TemplateError::NoDefaultRoute)?;
            addresses.retain(|entry| entry.interface == name);
        }
        for step in &self.steps {
            match step {
                Step::Keep(filter, wanted) => addresses.retain(|entry| filter.matches(entry) == *wanted),
                Step::Sort(keys) => {
                    addresses.sort_by(|a, b| {
                        let compared = keys.iter().map(|(key, order)| match order {
                            Order::Up => key.compare(a, b, facts),
                            Order::Down => key.compare(b, a, facts),
                        });
                        compared.fold(Ordering::Equal, Ordering::then)
                    });
                }
                Step::Unique(attribute) => {
                    addresses.dedup_by_key(|entry| attribute.of(entry));
                }
                Step::Limit(count) => addresses.truncate(*count),
                Step::Offset(offset) => {
                    let count = addresses.len();
                    let skipped = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
                    if skipped > count {
                        return Err(TemplateError::Offset { offset: *offset, count });
                    }
                    let start = if *offset < 0 { count - skipped } else { skipped };
                    addresses.drain(..start);
                }
            }
        }
        Ok(match &self.print {
            None => return Err(TemplateError::NoText),
            Some(Print::First(attribute)) => {
                addresses.first().map(|entry| attribute.of(entry)).unwrap_or_default()
            }
            Some(Print::Joined(attribute, between)) => {
                addresses.iter().map(|entry| attribute.of(entry)).collect::<Vec<_>>().join(between)
            }
        })
    }
}

impl Filter {
    fn matches(&self, entry: &InterfaceAddress) -> bool {
        let address = entry.address;
        match self {
            Self::Name(pattern) => pattern.is_match(&entry.interface),
            Self::Address(pattern) => pattern.is_match(&Attribute::Full.of(entry)),
            Self::Networks(networks) => networks.iter().any(|network| network.contains(address)),
            Self::Flags(flags) => has_flags(entry, flags),
            Self::Rfcs(numbers) => numbers.iter().any(|number| is_of_rfc(*number, address) == Some(true)),
            Self::Bits(bits) => entry.prefix == *bits,
            Self::Family { v4, v6 } => {
                if address.is_ipv4() {
                    *v4
                } else {
                    *v6
                }
            }
            Self::Special => is_private(address),
            Self::Forwarded => is_forwarded(address),
        }
    }
}

/// As go-sockaddr: all of the interface's flags, or any of the address's.
fn has_flags(entry: &InterfaceAddress, flags: &[String]) -> bool {
    let (of, address) = (entry.flags, entry.address);
    let of_interface = |flag: &str| match flag {
        "up" => Some(of.up),
        "down" => Some(!of.up),
        "broadcast" => Some(of.broadcast),
        "loopback" => Some(of.loopback),
        "multicast" => Some(of.multicast),
        "point-to-point" => Some(of.point_to_point),
        _ => None,
    };
    let of_address = |flag: &str| match (flag, address) {
        ("forwardable", _) => is_forwarded(address),
        ("global unicast", _) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || is_link_local(address))
        }
        ("link-local unicast", _) => is_link_local(address),
        ("loopback", _) => address.is_loopback(),
        ("multicast", _) => address.is_multicast(),
        ("unspecified", _) => address.is_unspecified(),
        ("interface-local multicast", IpAddr::V6(v6)) => v6.octets()[..2] == [0xff, 0x01],
        ("link-local multicast", IpAddr::V6(v6)) => v6.octets()[..2] == [0xff, 0x02],
        ("link-local multicast", IpAddr::V4(v4)) => v4.octets()[..3] == [224, 0, 0],
        _ => false,
    };
    let mut asked = flags.iter().filter_map(|flag| of_interface(flag)).peekable();
    (asked.peek().is_some() && asked.all(|set| set)) || flags.iter().any(|flag| of_address(flag))
}

impl Key {
    /// IPv4 before IPv6 where the two cannot be compared: a sort needs a whole order.
    fn compare(self, a: &InterfaceAddress, b: &InterfaceAddress, facts: &Facts) -> Ordering {
        let family = a.address.is_ipv6().cmp(&b.address.is_ipv6());
        let is_default =
            |entry: &InterfaceAddress| facts.default_interface.as_ref() == Some(&entry.interface);
        match self {
            Self::Address => a.address.cmp(&b.address),
            // What comes first is `true`.
            Self::Default => is_default(b).cmp(&is_default(a)),
            Self::Name => a.interface.cmp(&b.interface),
            Self::Private => is_private(b.address).cmp(&is_private(a.address)),
            // Few bits make a large network, which comes first.
            Self::Size => family.then(a.prefix.cmp(&b.prefix)),
            Self::Type => family,
        }
    }
}

impl Attribute {
    fn of(self, entry: &InterfaceAddress) -> String {
        let address = entry.address;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        match self {
            Self::Full if entry.prefix < bits_max => format!("{address}/{}", entry.prefix),
            Self::Address | Self::Full => address.to_string(),
            Self::Name => entry.interface.clone(),
            Self::Type => if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
            Self::Network => Network::of(address, entry.prefix).base().to_string(),
            Self::Bits => entry.prefix.to_string(),
        }
    }
}
