//! Resource records, as few kinds as discovery needs, and their text as in zone files.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::Name;

/// Type of a record or question, by its number (IANA "DNS Parameters").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server of a zone.
    pub const NS: Self = Self(2);
    /// Another name.
    pub const CNAME: Self = Self(5);
    /// Start of a zone.
    pub const SOA: Self = Self(6);
    /// Name of an address.
    pub const PTR: Self = Self(12);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Host and port of a service (RFC 2782).
    pub const SRV: Self = Self(33);
    /// Not a record: EDNS (RFC 6891).
    pub const OPT: Self = Self(41);
    /// Question only: transfer of changes of a zone.
    pub const IXFR: Self = Self(251);
    /// Question only: transfer of a zone.
    pub const AXFR: Self = Self(252);
    /// Question only: whatever there is.
    pub const ANY: Self = Self(255);

    const NAMED: [(Self, &'static str); 12] = [
        (Self::A, "A"),
        (Self::NS, "NS"),
        (Self::CNAME, "CNAME"),
        (Self::SOA, "SOA"),
        (Self::PTR, "PTR"),
        (Self::TXT, "TXT"),
        (Self::AAAA, "AAAA"),
        (Self::SRV, "SRV"),
        (Self::OPT, "OPT"),
        (Self::IXFR, "IXFR"),
        (Self::AXFR, "AXFR"),
        (Self::ANY, "ANY"),
    ];

    /// Reads `A`, `srv`, `TYPE65`; `None` for a type that has no name here.
    pub fn parse(text: &str) -> Option<Self> {
        let named = Self::NAMED.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        named
            .map(|(kind, _)| *kind)
            .or_else(|| text.strip_prefix("TYPE").and_then(|number| number.parse().ok()).map(Self))
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(kind, _)| kind == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// Start of authority (RFC 1035 §3.3.13). Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Soa {
    /// Primary name server.
    pub primary: Name,
    /// Mailbox of who is responsible.
    pub mailbox: Name,
    /// Version of the zone: Unix time of the answer.
    pub serial: u32,
    /// How often secondaries ask.
    pub refresh: u32,
    /// How often they try again.
    pub retry: u32,
    /// When they give up.
    pub expire: u32,
    /// How long a "no" may be kept.
    pub minimum: u32,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RecordData {
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// Host and port.
    Srv {
        /// Lower is tried first.
        priority: u16,
        /// Share among those of equal priority.
        weight: u16,
        /// Port.
        port: u16,
        /// Name of the host.
        target: Name,
    },
    /// Another name.
    Cname(Name),
    /// Text, in pieces of at most 255 bytes.
    Txt(Vec<u8>),
    /// Name server.
    Ns(Name),
    /// Start of authority.
    Soa(Box<Soa>),
    /// Name of an address.
    Ptr(Name),
}

impl RecordData {
    /// The record's type.
    pub fn kind(&self) -> RecordType {
        match self {
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
            Self::Srv { .. } => RecordType::SRV,
            Self::Cname(_) => RecordType::CNAME,
            Self::Txt(_) => RecordType::TXT,
            Self::Ns(_) => RecordType::NS,
            Self::Soa(_) => RecordType::SOA,
            Self::Ptr(_) => RecordType::PTR,
        }
    }

    /// The name that this record sends its reader to.
    pub fn target(&self) -> Option<&Name> {
        match self {
            Self::Srv { target, .. } => Some(target),
            Self::Cname(name) | Self::Ns(name) | Self::Ptr(name) => Some(name),
            _ => None,
        }
    }

    /// Whether it is an address or leads to one: what `a_record_limit` counts.
    pub fn is_address_like(&self) -> bool {
        matches!(self, Self::A(_) | Self::Aaaa(_) | Self::Cname(_))
    }
}

/// One record of class IN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Owner.
    pub name: Name,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: RecordData,
}

impl fmt::Display for RecordData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => write!(f, "{address}"),
            Self::Aaaa(address) => write!(f, "{address}"),
            Self::Srv { priority, weight, port, target } => write!(f, "{priority} {weight} {port} {target}"),
            Self::Cname(name) | Self::Ns(name) | Self::Ptr(name) => write!(f, "{name}"),
            Self::Txt(text) => write!(f, "\"{}\"", text.escape_ascii()),
            Self::Soa(soa) => write!(
                f,
                "{} {} {} {} {} {} {}",
                soa.primary, soa.mailbox, soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum
            ),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} IN {} {}", self.name, self.ttl, self.data.kind(), self.data)
    }
}
