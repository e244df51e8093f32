//! From a question and the catalog to records. Nothing here is cut to size: that is [`super::fit`].

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::name::Name;
use super::policy::{Policy, seconds};
use super::question::{Question, Target, Zones};
use super::record::{Record, RecordData, RecordType, Soa};
use super::resolve::{Resolved, address_record, follow, host_records, node_name, node_text};
use crate::model::catalog::{CONSUL_SERVICE, Catalog, Instance, Status, key_of};
use crate::model::names::is_dns_label;

/// Most name servers that are named in one answer (Consul's number).
const NAME_SERVERS_MAX: usize = 3;

/// All that an answer depends on, besides the question.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Nodes, services, checks.
    pub catalog: &'a Catalog,
    /// Which names are ours.
    pub zones: &'a Zones,
    /// How answers are given.
    pub policy: &'a Policy,
    /// Nodes (catalog keys) that are dead though their checks do not say so yet.
    pub hidden: &'a BTreeSet<Arc<str>>,
    /// Chance, for the order of answers.
    pub seed: u64,
    /// Unix time in seconds: the zone's serial.
    pub time: u32,
}

/// How a question ended (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Answered, perhaps with "nothing of this type".
    NoError = 0,
    /// The question was not understood.
    FormErr = 1,
    /// No answer could be found out.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// This kind of request is not served.
    NotImp = 4,
    /// Not for us, or not for this client.
    Refused = 5,
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
        })
    }
}

/// What only a recursor can add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// Nothing: the answer is whole.
    Nothing,
    /// The whole question is for a recursor; without one, the answer is as it is.
    Question,
    /// The records of this name, to which a CNAME in the answer leads.
    Name(Name),
}

/// An answer, before it has an id and a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub rcode: Rcode,
    /// We speak for the zone.
    pub authoritative: bool,
    /// Something was left out, and policy says to tell.
    pub truncated: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// Who speaks for the zone.
    pub authority: Vec<Record>,
    /// What else will be needed.
    pub additional: Vec<Record>,
    /// What is missing.
    pub outside: Outside,
}

impl Answer {
    /// An answer without records.
    pub fn empty(rcode: Rcode) -> Self {
        Self {
            rcode,
            authoritative: true,
            truncated: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            outside: Outside::Nothing,
        }
    }
}

/// Answers a question.
pub fn answer(view: &View<'_>, question: &Question) -> Answer {
    answer_at_depth(view, question, 0)
}

pub(super) fn answer_at_depth(view: &View<'_>, question: &Question, depth: usize) -> Answer {
    match (&question.target, question.kind) {
        (Target::Outside, _) => {
            Answer { authoritative: false, outside: Outside::Question, ..Answer::empty(Rcode::Refused) }
        }
        (_, RecordType::AXFR | RecordType::IXFR) => Answer::empty(Rcode::NotImp),
        (Target::Reverse(address), _) => reverse(view, question, *address),
        (_, RecordType::SOA) => {
            let (servers, glue) = name_servers(view, question);
            let answers = vec![soa(view, question)];
            Answer { answers, authority: servers, additional: glue, ..Answer::empty(Rcode::NoError) }
        }
        (Target::Apex, RecordType::NS) => {
            let (servers, glue) = name_servers(view, question);
            Answer { answers: servers, additional: glue, ..Answer::empty(Rcode::NoError) }
        }
        (_, RecordType::NS) => Answer::empty(Rcode::NoError),
        (Target::Apex | Target::Nothing, _) => with_soa(view, question, Answer::empty(Rcode::NxDomain)),
        (Target::Address(address), kind) => literal(view, question, *address, kind),
        (Target::Node(name), kind) => node(view, question, name, kind, depth),
        (Target::Service { name, tag }, kind) => service(view, question, name, tag.as_deref(), kind, depth),
    }
}

fn with_soa(view: &View<'_>, question: &Question, mut answer: Answer) -> Answer {
    answer.authority = vec![soa(view, question)];
    answer
}

fn soa(view: &View<'_>, question: &Question) -> Record {
    let zone = &question.zone;
    let policy = &view.policy.soa;
    let below = |label: &str| zone.under(label).unwrap_or_else(|| zone.clone());
    let data = Soa {
        primary: below("ns"),
        mailbox: below("hostmaster"),
        serial: view.time,
        refresh: seconds(policy.refresh),
        retry: seconds(policy.retry),
        expire: seconds(policy.expire),
        minimum: seconds(policy.min_ttl),
    };
    Record { name: zone.clone(), ttl: seconds(policy.min_ttl), data: RecordData::Soa(Box::new(data)) }
}

/// Healthy servers, in random order, whose names DNS can write; and their addresses.
fn name_servers(view: &View<'_>, question: &Question) -> (Vec<Record>, Vec<Record>) {
    let ttl = seconds(view.policy.node_ttl);
    let mut servers = healthy(view, CONSUL_SERVICE, None);
    servers.retain(|instance| is_dns_label(&instance.node().node));
    servers.truncate(NAME_SERVERS_MAX);
    let (mut records, mut glue) = (Vec::new(), Vec::new());
    for instance in servers {
        let Some(name) = node_name(view, &question.zone, &instance.node().node) else { continue };
        let address = host_records(view, &name, ttl, &instance.node().address, RecordType::ANY, 0);
        glue.extend(address.records);
        records.push(Record { name: question.zone.clone(), ttl, data: RecordData::Ns(name) });
    }
    (records, glue)
}

fn literal(view: &View<'_>, question: &Question, address: IpAddr, kind: RecordType) -> Answer {
    let record = address_record(&question.name, seconds(view.policy.node_ttl), address);
    let mut answer = Answer::empty(Rcode::NoError);
    let fits = kind == RecordType::ANY || record.data.kind() == kind;
    if fits { &mut answer.answers } else { &mut answer.additional }.push(record);
    answer
}

fn reverse(view: &View<'_>, question: &Question, address: Option<IpAddr>) -> Answer {
    let pointer = address.and_then(|address| {
        let is_it = |text: &str| text.parse() == Ok(address);
        let node = view.catalog.nodes().find(|row| is_it(&row.node.address));
        if let Some(row) = node {
            return node_name(view, &view.zones.primary, &row.node.node);
        }
        let service = view
            .catalog
            .nodes()
            .flat_map(|row| row.services.values())
            .find(|service| is_it(&service.address))?;
        view.zones.primary.under(&format!("{}.service.{}", service.name, view.zones.datacenter))
    });
    match pointer {
        Some(name) => {
            let record = Record { name: question.name.clone(), ttl: 0, data: RecordData::Ptr(name) };
            Answer { answers: vec![record], ..Answer::empty(Rcode::NoError) }
        }
        None => {
            Answer { outside: Outside::Question, ..with_soa(view, question, Answer::empty(Rcode::NxDomain)) }
        }
    }
}

fn node(view: &View<'_>, question: &Question, name: &str, kind: RecordType, depth: usize) -> Answer {
    let Some(row) = view.catalog.node(name) else {
        return with_soa(view, question, Answer::empty(Rcode::NxDomain));
    };
    let mut answer = Answer::empty(Rcode::NoError);
    if !matches!(kind, RecordType::A | RecordType::AAAA | RecordType::ANY | RecordType::TXT) {
        return answer;
    }
    let ttl = seconds(view.policy.node_ttl);
    if kind != RecordType::TXT {
        let found = host_records(view, &question.name, ttl, &row.node.address, kind, depth);
        answer.answers = found.records;
        answer.outside = found.outside;
    }
    if kind == RecordType::TXT || kind == RecordType::ANY {
        answer.answers.extend(node_text(&question.name, ttl, &row.node));
    } else if view.policy.node_meta_txt {
        answer.additional.extend(node_text(&question.name, ttl, &row.node));
    }
    answer
}

/// The instances that may be given out, in random order.
fn healthy<'a>(view: &View<'a>, name: &str, tag: Option<&str>) -> Vec<Instance<'a>> {
    let worst = if view.policy.only_passing { Status::Passing } else { Status::Warning };
    let mut instances: Vec<_> = view
        .catalog
        .instances(name)
        .filter(|instance| tag.is_none_or(|tag| instance.has_tag(tag)))
        .filter(|instance| instance.status() <= worst)
        .filter(|instance| view.hidden.is_empty() || !view.hidden.contains(&key_of(&instance.node().node)))
        .collect();
    shuffle(&mut instances, view.seed);
    instances
}

fn service(
    view: &View<'_>,
    question: &Question,
    name: &str,
    tag: Option<&str>,
    kind: RecordType,
    depth: usize,
) -> Answer {
    let instances = healthy(view, name, tag);
    if instances.is_empty() {
        return with_soa(view, question, Answer::empty(Rcode::NxDomain));
    }
    let ttl = view.policy.ttl_of_service(name);
    let answer = match kind {
        RecordType::SRV => srv_records(view, question, &instances, ttl),
        RecordType::A | RecordType::AAAA | RecordType::ANY | RecordType::TXT => {
            let found = service_addresses(view, question, &instances, ttl, depth);
            Answer { answers: found.records, outside: found.outside, ..Answer::empty(Rcode::NoError) }
        }
        _ => Answer::empty(Rcode::NoError),
    };
    if answer.answers.is_empty() { with_soa(view, question, answer) } else { answer }
}

fn service_addresses(
    view: &View<'_>,
    question: &Question,
    instances: &[Instance<'_>],
    ttl: u32,
    depth: usize,
) -> Resolved {
    let mut seen = HashSet::with_capacity(instances.len());
    let mut records = Vec::with_capacity(instances.len());
    let mut host = None;
    for instance in instances {
        let Ok(address) = instance.address().parse::<IpAddr>() else {
            host = host.or(Some(instance.address()));
            continue;
        };
        let record = address_record(&question.name, ttl, address);
        let wanted =
            !matches!(question.kind, RecordType::A | RecordType::AAAA) || record.data.kind() == question.kind;
        if wanted && seen.insert(address) {
            records.push(record);
        }
    }
    match host {
        // Names are only used when there is no address at all, and only the first.
        Some(host) if records.is_empty() => {
            host_records(view, &question.name, ttl, host, question.kind, depth)
        }
        _ => Resolved { records, outside: Outside::Nothing },
    }
}

fn srv_records(view: &View<'_>, question: &Question, instances: &[Instance<'_>], ttl: u32) -> Answer {
    let mut answer = Answer::empty(Rcode::NoError);
    let (mut seen, mut added) = (HashSet::new(), HashSet::new());
    for instance in instances {
        let node = instance.node();
        if !seen.insert((node.node.as_str(), instance.address(), instance.service.port)) {
            continue;
        }
        let Some(host) = node_name(view, &question.zone, &node.node) else { continue };
        let Some((target, glue)) = srv_target(view, &question.zone, instance, &host, ttl) else { continue };
        let weights = instance.service.weights;
        let weight = if instance.status() == Status::Warning { weights.warning } else { weights.passing };
        let data = RecordData::Srv { priority: 1, weight, port: instance.service.port, target };
        answer.answers.push(Record { name: question.name.clone(), ttl, data });
        let text = if view.policy.node_meta_txt { node_text(&host, ttl, node) } else { Vec::new() };
        for record in glue.into_iter().chain(text) {
            if added.insert(record.clone()) {
                answer.additional.push(record);
            }
        }
    }
    answer
}

/// Where an instance is, as a name, and the addresses of that name.
fn srv_target(
    view: &View<'_>,
    zone: &Name,
    instance: &Instance<'_>,
    host: &Name,
    ttl: u32,
) -> Option<(Name, Vec<Record>)> {
    let own = instance.service.address.as_str();
    if own.is_empty() {
        let glue = host_records(view, host, ttl, &instance.node().address, RecordType::ANY, 0);
        return Some((host.clone(), glue.records));
    }
    if let Ok(address) = own.parse::<IpAddr>() {
        let hex = match address {
            IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
            IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
        };
        let name = zone.under(&format!("{hex}.addr.{}", view.zones.datacenter))?;
        let glue = address_record(&name, ttl, address);
        return Some((name, vec![glue]));
    }
    let name: Name = own.parse().ok()?;
    let glue = follow(view, &name, RecordType::ANY, 0).records;
    Some((name, glue))
}

/// Fisher–Yates with splitmix64: every order is as likely as any other, and the seed decides.
pub(super) fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The high half of bits × (last + 1) is a fair pick below last + 1.
        let pick = (u128::from(bits) * (last as u128 + 1)) >> 64;
        items.swap(last, usize::try_from(pick).unwrap_or(last));
    }
}
