//! What a name asks for: Consul's grammar of service, node and address names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::Name;
use super::record::RecordType;

/// The names that are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    /// The zone (`consul.`); also that of reverse answers.
    pub primary: Name,
    /// A second name of the same zone.
    pub alternative: Option<Name>,
    /// Our datacenter.
    pub datacenter: String,
}

impl Zones {
    /// The longest of our zones that `name` is in.
    pub fn of(&self, name: &Name) -> Option<&Name> {
        let zones = std::iter::once(&self.primary).chain(&self.alternative);
        zones.filter(|zone| name.is_in(zone)).max_by_key(|zone| zone.label_count())
    }
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The zone itself.
    Apex,
    /// The instances of a service, those with a tag.
    Service {
        /// Lower case.
        name: String,
        /// Lower case.
        tag: Option<String>,
    },
    /// One node, by its name in lower case.
    Node(String),
    /// An address that is written in the name.
    Address(IpAddr),
    /// The name of an address; `None` when the name is not a whole address.
    Reverse(Option<IpAddr>),
    /// In our zone, but nothing that can be: also prepared queries and foreign datacenters.
    Nothing,
    /// Not in our zone.
    Outside,
}

/// A question with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// As the client spelled it.
    pub name: Name,
    /// The type asked for.
    pub kind: RecordType,
    /// What it means.
    pub target: Target,
    /// The zone it is in; the primary one for names outside.
    pub zone: Name,
}

impl Question {
    /// Reads a question.
    pub fn parse(name: &Name, kind: RecordType, zones: &Zones) -> Self {
        let (zone, target) = match zones.of(name) {
            Some(zone) => (zone, in_zone(name, kind, zone, &zones.datacenter)),
            None => (&zones.primary, outside(name, kind)),
        };
        Self { name: name.clone(), kind, target, zone: zone.clone() }
    }
}

fn in_zone(name: &Name, kind: RecordType, zone: &Name, datacenter: &str) -> Target {
    let count = name.label_count() - zone.label_count();
    if count == 0 {
        return Target::Apex;
    }
    let labels: Option<Vec<String>> = name
        .labels()
        .take(count)
        .map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase))
        .collect();
    labels.and_then(|labels| meaning(&labels, kind, datacenter)).unwrap_or(Target::Nothing)
}

/// Searches the kind of name from the right, so that a service may be called `node`.
fn meaning(labels: &[String], kind: RecordType, datacenter: &str) -> Option<Target> {
    let (at, word) = labels.iter().enumerate().rev().find_map(|(at, label)| match label.as_str() {
        "service" | "connect" | "virtual" | "ingress" | "node" | "query" | "addr" => {
            Some((at, label.as_str()))
        }
        other if kind == RecordType::SRV && other.starts_with('_') => Some((at + 1, "service")),
        _ => None,
    })?;
    let parts = &labels[..at];
    // The label `service` may be missing in SRV questions; nothing is skipped then.
    let suffix =
        if labels.get(at).is_some_and(|label| label == word) { &labels[at + 1..] } else { &labels[at..] };
    let here = match suffix {
        [] => true,
        [wanted] => wanted.eq_ignore_ascii_case(datacenter),
        [wanted, word] => word == "dc" && wanted.eq_ignore_ascii_case(datacenter),
        _ => false,
    };
    let (last, first) = parts.split_last().filter(|_| here)?;
    match word {
        "service" => Some(service(first, last)),
        "node" => Some(Target::Node(parts.join("."))),
        "addr" if first.is_empty() => address(last).map(Target::Address),
        _ => None,
    }
}

fn service(first: &[String], last: &str) -> Target {
    if let [name] = first
        && let (Some(name), Some(tag)) = (name.strip_prefix('_'), last.strip_prefix('_'))
    {
        // RFC 2782: `_tcp` is the transport, and anything else is a tag.
        let tag = (tag != "tcp").then(|| tag.to_owned());
        return Target::Service { name: name.to_owned(), tag };
    }
    let tag = (!first.is_empty()).then(|| first.join("."));
    Target::Service { name: last.to_owned(), tag }
}

fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        _ => None,
    }
}

fn outside(name: &Name, kind: RecordType) -> Target {
    if kind != RecordType::PTR && kind != RecordType::ANY {
        return Target::Outside;
    }
    let labels: Vec<&[u8]> = name.labels().collect();
    match labels.as_slice() {
        [parts @ .., zone, arpa] if arpa.eq_ignore_ascii_case(b"arpa") => {
            if zone.eq_ignore_ascii_case(b"in-addr") {
                Target::Reverse(reverse_v4(parts))
            } else if zone.eq_ignore_ascii_case(b"ip6") {
                Target::Reverse(reverse_v6(parts))
            } else {
                Target::Outside
            }
        }
        _ => Target::Outside,
    }
}

fn reverse_v4(labels: &[&[u8]]) -> Option<IpAddr> {
    let [d, c, b, a] = labels else { return None };
    let mut octets = [0; 4];
    for (octet, label) in octets.iter_mut().zip([a, b, c, d]) {
        *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
    }
    Some(IpAddr::V4(octets.into()))
}

fn reverse_v6(labels: &[&[u8]]) -> Option<IpAddr> {
    if labels.len() != 32 {
        return None;
    }
    let mut bits = 0_u128;
    for label in labels.iter().rev() {
        let [digit] = label else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}
