//! Addresses, host names and metadata of nodes as records.

use std::net::IpAddr;

use super::answer::{Outside, Rcode, View, answer_at_depth};
use super::name::Name;
use super::question::Question;
use super::record::{Record, RecordData, RecordType};
use crate::model::catalog::Node;

/// How many names of our own zone are followed from one to the next (Consul's number).
const NAMES_FOLLOWED_MAX: usize = 3;

/// The records of a host, and what a recursor could add.
pub(super) struct Resolved {
    pub(super) records: Vec<Record>,
    pub(super) outside: Outside,
}

/// `<node>.node.<datacenter>.<zone>`, if the node's name can be written in DNS.
pub(super) fn node_name(view: &View<'_>, zone: &Name, node: &str) -> Option<Name> {
    zone.under(&format!("{node}.node.{}", view.zones.datacenter))
}

pub(super) fn address_record(name: &Name, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RecordData::A(address),
        IpAddr::V6(address) => RecordData::Aaaa(address),
    };
    Record { name: name.clone(), ttl, data }
}

/// The records of an address that may be a host name: A, AAAA, or a CNAME and what it leads to.
pub(super) fn host_records(
    view: &View<'_>,
    owner: &Name,
    ttl: u32,
    address: &str,
    kind: RecordType,
    depth: usize,
) -> Resolved {
    if let Ok(address) = address.parse::<IpAddr>() {
        let record = address_record(owner, ttl, address);
        let wanted = !matches!(kind, RecordType::A | RecordType::AAAA) || record.data.kind() == kind;
        let records = if wanted { vec![record] } else { Vec::new() };
        return Resolved { records, outside: Outside::Nothing };
    }
    let Ok(target) = address.parse::<Name>() else {
        return Resolved { records: Vec::new(), outside: Outside::Nothing };
    };
    let mut found = follow(view, &target, kind, depth);
    found.records.insert(0, Record { name: owner.clone(), ttl, data: RecordData::Cname(target) });
    found
}

/// What is behind a name: records of our own zone, or a question for a recursor.
pub(super) fn follow(view: &View<'_>, target: &Name, kind: RecordType, depth: usize) -> Resolved {
    let nothing = |outside| Resolved { records: Vec::new(), outside };
    if depth >= NAMES_FOLLOWED_MAX {
        return nothing(Outside::Nothing);
    }
    if view.zones.of(target).is_none() {
        return nothing(Outside::Name(target.clone()));
    }
    let question = Question::parse(target, kind, view.zones);
    let answer = answer_at_depth(view, &question, depth + 1);
    if answer.rcode != Rcode::NoError {
        return nothing(Outside::Nothing);
    }
    let records = answer.answers.into_iter().filter(|record| record.data.is_address_like()).collect();
    Resolved { records, outside: answer.outside }
}

/// A node's metadata: `key=value` (RFC 1464), or the value alone under a key that begins with `rfc1035-`.
pub(super) fn node_text(owner: &Name, ttl: u32, node: &Node) -> Vec<Record> {
    let pairs = node.meta.iter().flatten();
    let texts = pairs.map(|(key, value)| {
        if key.to_ascii_lowercase().starts_with("rfc1035-") {
            value.clone().into_bytes()
        } else {
            format!("{}={value}", escape_key(key)).into_bytes()
        }
    });
    texts.map(|text| Record { name: owner.clone(), ttl, data: RecordData::Txt(text) }).collect()
}

/// RFC 1464: a backquote goes before a backquote, `=`, and blanks at either end.
fn escape_key(key: &str) -> String {
    let start = key.len() - key.trim_start_matches([' ', '\t']).len();
    let end = key.trim_end_matches([' ', '\t']).len();
    let mut escaped = String::with_capacity(key.len());
    for (at, letter) in key.char_indices() {
        let is_outer_blank = at < start || at >= end;
        if is_outer_blank || letter == '`' || letter == '=' {
            escaped.push('`');
        }
        escaped.push(letter);
    }
    escaped
}
