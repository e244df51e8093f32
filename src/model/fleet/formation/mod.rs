//! `fleet up`: what each of the machines is to be, so that they become one cluster with a named initial set of servers.
//!
//! The first machines of the list are the servers, and only they may begin the cluster. Once it has formed, machines that
//! are new in the list join it as clients, and those that were there stay as they are.

mod facts;
mod refusal;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use facts::{Facts, HEAD, SCRIPT};
pub use refusal::Refusal;
pub use settings::{Asked, Settings, Shared};

use super::networks::{Networks, common};
use crate::model::names::ClusterId;
use crate::model::provision::spec::{SERVERS_DEFAULT, Servers};

/// What becomes of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The address at which the others reach it.
    pub address: IpAddr,
    /// What it becomes; `None`: it is in the cluster, and stays what it is.
    pub becomes: Option<Role>,
}

/// What a machine is set up as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of the named servers.
    Server,
    /// A client; it may be nominated for a server that dies.
    Client,
}

/// What becomes of all, in the order of the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Each machine.
    pub parts: Vec<Part>,
    /// Where all join: the servers.
    pub join: Vec<IpAddr>,
    /// How many servers begin the cluster.
    pub servers: Servers,
    /// What machines are set up with.
    pub settings: Settings,
}

/// The kind of processor that a binary is for, as uname(1) says it; `None`: it is no program for a kind that is known.
pub fn architecture_of(binary: &[u8]) -> Option<&'static str> {
    // ELF, and the field `e_machine` of its header (elf(5)).
    let machine = binary.strip_prefix(b"\x7fELF")?.get(14..16)?;
    match u16::from_le_bytes(machine.try_into().ok()?) {
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        _ => None,
    }
}

/// Decides. `asked`: what the user wants.
///
/// # Errors
/// Names the machines that do not fit; nothing may be done then.
pub fn plan(facts: &[Facts], asked: &Asked) -> Result<Plan, Refusal> {
    let servers = match asked.servers {
        Some(servers) if usize::from(servers.count()) > facts.len() => {
            return Err(Refusal::FewMachines { machines: facts.len(), servers: servers.count() });
        }
        Some(servers) => servers,
        None => usual_servers(facts.len()),
    };
    tell_apart(facts)?;
    let cluster = one_cluster(facts)?;
    let addresses = addresses(facts)?;
    if let Some((one, other)) = twice(&addresses) {
        let (one, other) = (facts[one].name.clone(), facts[other].name.clone());
        let how = "say it in the file of --machines, as in `host-1 advertise=10.0.0.1`";
        return Err(Refusal::Alike { one, other, what: "address", how });
    }
    know_each_other(facts, &addresses)?;
    let count = usize::from(servers.count());
    let part = |(number, (facts, address)): (usize, (&Facts, &IpAddr))| {
        let role = if cluster.is_none() && number < count { Role::Server } else { Role::Client };
        // A client whose agent never met the others was interrupted before it had all its units; servers had theirs
        // before the cluster could begin.
        let was_there = facts.cluster.is_some() || facts.is_server() || !facts.remembers.is_empty();
        let stays = cluster.is_some() && facts.is_ours() && was_there;
        Part { address: *address, becomes: (!stays).then_some(role) }
    };
    let parts: Vec<Part> = facts.iter().zip(&addresses).enumerate().map(part).collect();
    let staying = facts.iter().zip(&parts).filter(|(_, part)| part.becomes.is_none());
    let members: Vec<&Facts> = staying.map(|(facts, _)| facts).collect();
    let settings = asked.settle(&members, members.len() < facts.len())?;
    let join = |wanted: &dyn Fn(&Facts, &Part) -> bool| -> Vec<IpAddr> {
        let fits = facts.iter().zip(&parts).filter(|(facts, part)| wanted(facts, part));
        fits.map(|(_, part)| part.address).collect()
    };
    let there = |facts: &Facts, part: &Part| part.becomes.is_none() && facts.is_server();
    let mut named = match &cluster {
        None => join(&|_, part| part.becomes == Some(Role::Server)),
        Some(_) => join(&there),
    };
    if named.is_empty() {
        named = join(&|_, part| part.becomes.is_none());
    }
    Ok(Plan { parts, join: named, servers, settings })
}

/// Which machines are not in one cluster with the others: those that do not know the leader, or that one of the others
/// does not see alive. `statuses`: what `status --json` says on each of them, in the order of `hostnames`.
pub fn outsiders(statuses: &[serde_json::Value], hostnames: &[&str]) -> Vec<usize> {
    let leader_of = |status: &serde_json::Value| status["leader"].as_str().unwrap_or_default().to_owned();
    let leader = statuses.iter().map(leader_of).find(|leader| !leader.is_empty());
    let inside: Vec<bool> =
        statuses.iter().map(|status| leader.as_ref() == Some(&leader_of(status))).collect();
    let sees = |status: &serde_json::Value, hostname: &str| {
        let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.iter().any(|member| member["name"] == hostname && member["status"] == "alive")
    };
    let seen_by_all = |hostname: &str| {
        statuses.iter().zip(&inside).all(|(status, inside)| !inside || sees(status, hostname))
    };
    (0..hostnames.len()).filter(|number| !inside[*number] || !seen_by_all(hostnames[*number])).collect()
}

/// As many as usual, if there are as many machines: an odd number.
fn usual_servers(machines: usize) -> Servers {
    if machines < usize::from(SERVERS_DEFAULT) { Servers::one() } else { Servers::default() }
}

fn tell_apart(facts: &[Facts]) -> Result<(), Refusal> {
    let ids: Vec<&str> = facts.iter().map(|facts| facts.machine_id.as_str()).collect();
    let names: Vec<String> = facts.iter().map(|facts| facts.hostname.to_ascii_lowercase()).collect();
    let alike = |found: Option<(usize, usize)>, what, how| match found {
        Some((one, other)) => {
            Err(Refusal::Alike { one: facts[one].name.clone(), other: facts[other].name.clone(), what, how })
        }
        None => Ok(()),
    };
    alike(twice(&ids), "machine-id", "rm /etc/machine-id; systemd-machine-id-setup; reboot")?;
    alike(twice(&names), "host name", "hostnamectl set-hostname NAME")
}

fn twice<T: PartialEq>(values: &[T]) -> Option<(usize, usize)> {
    values.iter().enumerate().find_map(|(number, value)| {
        values[..number].iter().position(|other| other == value).map(|other| (other, number))
    })
}

fn one_cluster(facts: &[Facts]) -> Result<Option<ClusterId>, Refusal> {
    let mut found: Option<(&Facts, &ClusterId)> = None;
    for machine in facts {
        if machine.unit.is_some() && !machine.is_ours() {
            return Err(Refusal::Foreign(machine.name.clone()));
        }
        let Some(cluster) = &machine.cluster else { continue };
        if machine.unit.is_none() {
            return Err(Refusal::Data { name: machine.name.clone(), cluster: cluster.clone() });
        }
        match found {
            Some((other, theirs)) if theirs != cluster => {
                return Err(Refusal::Clusters {
                    one: other.name.clone(),
                    first: theirs.clone(),
                    other: machine.name.clone(),
                    second: cluster.clone(),
                });
            }
            _ => found = Some((machine, cluster)),
        }
    }
    Ok(found.map(|(_, cluster)| cluster.clone()))
}

/// Refuses a machine whose agent remembers others, and none of these: it would bring two clusters together.
fn know_each_other(facts: &[Facts], addresses: &[IpAddr]) -> Result<(), Refusal> {
    for (number, machine) in facts.iter().enumerate() {
        // Where its cluster is known, that was compared.
        if machine.cluster.is_some() || machine.remembers.is_empty() {
            continue;
        }
        let is_other = |other: &usize| *other != number;
        let mut others = (0..facts.len())
            .filter(is_other)
            .flat_map(|other| facts[other].advertised().into_iter().chain(std::iter::once(addresses[other])));
        if !others.any(|address| machine.remembers.contains(&address)) {
            return Err(Refusal::Strangers { name: machine.name.clone(), others: machine.remembers.clone() });
        }
    }
    Ok(())
}

/// For each machine: what the user says; else where it was reached, if that is an address of its own; else the address
/// in a network that all of them are in; else where it saw us come in.
fn addresses(facts: &[Facts]) -> Result<Vec<IpAddr>, Refusal> {
    let direct = |facts: &Facts| {
        let own = facts.connected_to.filter(|address| Some(*address) == facts.reached_at);
        facts.advertise.or(own).filter(|address| !address.is_loopback() && !address.is_unspecified())
    };
    let direct: Vec<Option<IpAddr>> = facts.iter().map(direct).collect();
    if let Some(all) = direct.iter().copied().collect::<Option<Vec<_>>>() {
        return Ok(all);
    }
    let networks: Vec<Networks> = facts.iter().map(|facts| facts.networks.clone()).collect();
    let shared = common(&networks);
    let seen: BTreeSet<IpAddr> = facts.iter().filter_map(|facts| facts.reached_at).collect();
    let told_apart = seen.len() == facts.len() && seen.iter().all(|address| !address.is_loopback());
    let address = |(number, facts): (usize, &Facts)| {
        facts
            .advertise
            .or_else(|| shared.as_ref().map(|shared| shared[number]))
            .or(direct[number])
            .or(facts.reached_at.filter(|_| told_apart))
            .ok_or_else(|| Refusal::Address(facts.name.clone()))
    };
    facts.iter().enumerate().map(address).collect()
}
