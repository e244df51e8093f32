//! The settings of a cluster: what the user asks for, and what its members were set up with, which stays as it is.

use std::net::IpAddr;

use super::{Facts, Refusal};
use crate::model::doctor::command_line::words;
use crate::model::names::Datacenter;
use crate::model::provision::spec::{DnsPort, Domain, Servers};

/// How a setting of a member is changed by hand.
const BY_HAND: &str = "Leave the flag out; or change the setting in corediscover-agent.service and, if it is there, \
                       corediscover-resolved.service on each member, then `systemctl daemon-reload` and `systemctl restart \
                       corediscover-agent` there, one member after the other";

/// What the user asks for; `None`: what the cluster has, or what is usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many servers begin the cluster.
    pub servers: Option<Servers>,
    /// Name of the datacenter.
    pub datacenter: Option<Datacenter>,
    /// The domain that DNS serves.
    pub domain: Option<Domain>,
    /// The agents' DNS port.
    pub dns_port: Option<DnsPort>,
}

/// What machines are set up with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Name of the datacenter.
    pub datacenter: Datacenter,
    /// The domain that DNS serves.
    pub domain: Domain,
    /// The agents' DNS port.
    pub dns_port: DnsPort,
    /// What the user should know about them.
    pub notes: Vec<String>,
}

impl Asked {
    /// The settings for new machines, beside the machines that stay members.
    ///
    /// # Errors
    /// When a member has another setting than what is asked for, and it is the members' or the whole cluster's.
    pub(super) fn settle(&self, members: &[&Facts], anybody_is_new: bool) -> Result<Settings, Refusal> {
        let units: Vec<(&Facts, &str)> =
            members.iter().filter_map(|member| Some((*member, member.unit.as_deref()?))).collect();
        let datacenters = said(&units, "datacenter", None);
        let domains = said(&units, "domain", Some(Domain::default()));
        let ports = said(&units, "dns-port", Some(DnsPort::default()));
        let servers: Vec<(&Facts, Servers)> = said(&units, "bootstrap-expect", None);
        let refuse = |member: &Facts, flag, has: String, asked: String, how: String| {
            Err(Refusal::Settled { name: member.name.clone(), flag, has, asked, how })
        };
        if let Some((member, has, asked)) = other(&servers, self.servers.as_ref()) {
            let (has, asked) = (has.count().to_string(), asked.count().to_string());
            let how = format!(
                "Leave the flag out; `corediscover operator servers set {asked}` on a member says how many servers there \
                 shall be from now on"
            );
            return refuse(member, "--servers", has, asked, how);
        }
        if let Some((member, has, asked)) = other(&datacenters, self.datacenter.as_ref()) {
            let how = "Leave the flag out; another datacenter is another cluster, of other machines";
            return refuse(member, "--datacenter", has.to_string(), asked.to_string(), how.to_owned());
        }
        if let Some((member, has, asked)) = other(&domains, self.domain.as_ref()) {
            let (has, asked) = (has.as_str().to_owned(), asked.as_str().to_owned());
            return refuse(member, "--domain", has, asked, BY_HAND.to_owned());
        }
        let mut notes = Vec::new();
        if let Some((member, has, asked)) = other(&ports, self.dns_port.as_ref()) {
            let (has, asked) = (has.number().to_string(), asked.number().to_string());
            if !anybody_is_new {
                return refuse(member, "--dns-port", has, asked, BY_HAND.to_owned());
            }
            // A port is each machine's own: an old systemd may need another one than the members have.
            notes.push(format!(
                "--dns-port {asked} is for the machines that are new; members keep theirs ({}: {has})",
                member.name
            ));
        }
        Ok(Settings {
            datacenter: self.datacenter.clone().or_else(|| first(&datacenters)).unwrap_or_default(),
            domain: self.domain.clone().or_else(|| first(&domains)).unwrap_or_default(),
            dns_port: self.dns_port.or_else(|| first(&ports)).unwrap_or_default(),
            notes,
        })
    }
}

/// What the agent of a member was told that its other units have to know too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    /// The domain that DNS serves.
    pub domain: Domain,
    /// The agent's DNS port.
    pub dns_port: DnsPort,
    /// Where HTTP and DNS listen; none: loopback.
    pub client: Vec<IpAddr>,
}

impl Shared {
    /// As the agent's unit says.
    ///
    /// # Errors
    /// With the flag and its value, where that was changed by hand to something that is not understood.
    pub fn of(unit: &str) -> Result<Self, String> {
        let client = value(unit, "client").unwrap_or_default();
        let addresses: Result<_, _> = client.split_whitespace().map(str::parse).collect();
        Ok(Self {
            domain: read(unit, "domain")?,
            dns_port: read(unit, "dns-port")?,
            client: addresses.map_err(|_| format!("-client {client}"))?,
        })
    }
}

fn read<T: std::str::FromStr + Default>(unit: &str, flag: &str) -> Result<T, String> {
    let Some(text) = value(unit, flag) else { return Ok(T::default()) };
    text.parse().map_err(|_| format!("-{flag} {text}"))
}

/// The value of a flag of the agent in a unit, in any way in which it can be written: with one dash or two, behind `=` or as
/// a word of its own.
pub(super) fn value(unit: &str, flag: &str) -> Option<String> {
    let joined = unit.replace("\\\n", " ");
    let mut words = joined.lines().flat_map(words);
    loop {
        let word = words.next()?;
        let Some(rest) =
            word.strip_prefix("--").or(word.strip_prefix('-')).and_then(|word| word.strip_prefix(flag))
        else {
            continue;
        };
        match rest.strip_prefix('=') {
            Some(value) => return Some(value.to_owned()),
            None if rest.is_empty() => return Some(words.next().unwrap_or_default()),
            None => (),
        }
    }
}

/// What the units say behind `flag`; `unsaid` is what it means when they say nothing. One that is not understood was
/// changed by hand, and says nothing here.
fn said<'a, T: std::str::FromStr + Clone>(
    units: &[(&'a Facts, &str)],
    flag: &str,
    unsaid: Option<T>,
) -> Vec<(&'a Facts, T)> {
    let of = |unit: &str| match value(unit, flag) {
        Some(text) => text.parse().ok(),
        None => unsaid.clone(),
    };
    units.iter().filter_map(|(member, unit)| Some((*member, of(unit)?))).collect()
}

/// The first member that has something else than what is asked for.
fn other<'a, 'b, T: PartialEq>(
    said: &'b [(&'a Facts, T)],
    asked: Option<&'b T>,
) -> Option<(&'a Facts, &'b T, &'b T)> {
    let asked = asked?;
    said.iter().find(|(_, has)| has != asked).map(|(member, has)| (*member, has, asked))
}

fn first<T: Clone>(said: &[(&Facts, T)]) -> Option<T> {
    said.first().map(|(_, has)| has.clone())
}
