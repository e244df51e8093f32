//! `fleet up`: what each of the machines is to be, so that they become one cluster with a named initial set of servers.
//!
//! The first machines of the list are the servers, and only they may begin the cluster. Once it has formed, machines that
//! are new in the list join it as clients, and those that were there stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::networks::{Networks, common};
use crate::model::names::ClusterId;
use crate::model::provision::spec::{SERVERS_DEFAULT, Servers};

/// How a unit begins that `fleet up` wrote.
pub const HEAD: &str = "Written by corediscover fleet up for this machine.";

/// Asks a machine, as root, what is on it already. No word of a user is in it.
pub const SCRIPT: &str = r#"export LC_ALL=C
echo 'file /proc/net/fib_trie'; cat /proc/net/fib_trie
echo 'file /proc/net/route'; cat /proc/net/route
echo 'file unit'; cat /etc/systemd/system/corediscover-agent.service 2>/dev/null
echo 'file birth'
cat /var/lib/private/corediscover/gossip-birth.json 2>/dev/null || cat /var/lib/corediscover/gossip-birth.json 2>/dev/null
echo; echo 'file members'; /opt/bin/corediscover members --json 2>/dev/null
echo; echo 'file parts'
[ -S /var/run/docker.sock ] && echo docker
systemctl is-active --quiet systemd-resolved.service && echo resolved
systemctl is-active --quiet corediscover-agent.service && echo agent
pid=$(systemctl show --property=MainPID --value corediscover-agent.service)
[ "${pid:-0}" -gt 0 ] && ! [ "/proc/$pid/exe" -ef /opt/bin/corediscover ] && echo stale
exit 0"#;

/// What is on a machine before anything is done.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What the user calls it.
    pub name: String,
    /// What it calls itself.
    pub hostname: String,
    /// Its machine-id.
    pub machine_id: String,
    /// The address that the user says it has.
    pub advertise: Option<IpAddr>,
    /// The address that we connected to.
    pub connected_to: Option<IpAddr>,
    /// The address at which it saw us come in: one of its own.
    pub reached_at: Option<IpAddr>,
    /// Its networks.
    pub networks: Networks,
    /// The text of the agent's unit.
    pub unit: Option<String>,
    /// The cluster that it belongs to, as the agent or its disk says.
    pub cluster: Option<ClusterId>,
    /// Whether its agent runs.
    pub runs: bool,
    /// Whether its agent runs another binary than the one that is there: it was not restarted since that came.
    pub stale: bool,
    /// Whether Docker is there.
    pub docker: bool,
    /// Whether systemd-resolved runs.
    pub resolved: bool,
}

impl Facts {
    /// Adds what the machine answers to [`SCRIPT`].
    pub fn read(&mut self, answer: &str) {
        let mut files: BTreeMap<&str, String> = BTreeMap::new();
        let mut at = "";
        for line in answer.lines() {
            if let Some(name) = line.strip_prefix("file ") {
                at = name;
            } else {
                let file = files.entry(at).or_default();
                file.push_str(line);
                file.push('\n');
            }
        }
        let text = |name: &str| files.get(name).map(String::as_str).unwrap_or_default();
        self.networks = Networks::parse(text("/proc/net/fib_trie"), text("/proc/net/route"));
        self.unit = Some(text("unit").to_owned()).filter(|unit| !unit.trim().is_empty());
        self.cluster =
            own_cluster(text("members"), &self.hostname).or_else(|| remembered_cluster(text("birth")));
        let has = |part: &str| text("parts").lines().any(|line| line == part);
        self.docker = has("docker");
        self.resolved = has("resolved");
        self.runs = has("agent");
        self.stale = has("stale");
    }

    fn is_ours(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.contains(HEAD))
    }

    fn is_server(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.contains("-bootstrap-expect"))
    }
}

fn own_cluster(members: &str, hostname: &str) -> Option<ClusterId> {
    let members: Vec<serde_json::Value> = serde_json::from_str(members).ok()?;
    let own = members.iter().find(|member| member["name"] == hostname)?;
    own["tags"]["cluster"].as_str()?.parse().ok()
}

fn remembered_cluster(birth: &str) -> Option<ClusterId> {
    let record: serde_json::Value = serde_json::from_str(birth).ok()?;
    let born = record["born"].as_bool().unwrap_or(false).then(|| record["accepted"]["cluster_id"].as_str());
    record["cluster"].as_str().or(born.flatten())?.parse().ok()
}

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
}

/// Why nothing is done to any machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// They would wait for each other for ever.
    #[error("{machines} machines cannot hold {servers} servers: name more machines, or give fewer --servers")]
    FewMachines {
        /// How many there are.
        machines: usize,
        /// How many of them were to be servers.
        servers: u8,
    },
    /// One cannot be told from the other.
    #[error("{one} and {other} have the same {what}: give each machine its own ({how})")]
    Alike {
        /// One machine.
        one: String,
        /// The other.
        other: String,
        /// What is the same.
        what: &'static str,
        /// How that is changed.
        how: &'static str,
    },
    /// No address at which all others could reach it is known.
    #[error(
        "it is not clear at which address the other machines reach {0}: say it in the file of --machines, \
         as in `{0} advertise=10.0.0.1`"
    )]
    Address(String),
    /// Somebody else's.
    #[error(
        "{0} has an agent that `fleet up` did not set up: leave that machine out, or remove its \
         corediscover-agent.service first"
    )]
    Foreign(String),
    /// They cannot be one.
    #[error("{one} belongs to cluster {first}, {other} to cluster {second}: clusters cannot be merged")]
    Clusters {
        /// One machine.
        one: String,
        /// Its cluster.
        first: ClusterId,
        /// The other.
        other: String,
        /// Its cluster.
        second: ClusterId,
    },
    /// Its data directory is of a cluster, but no unit is there.
    #[error(
        "{name} has data of cluster {cluster} and no agent: leave that machine out, or remove \
         /var/lib/private/corediscover on it if nobody needs what it holds"
    )]
    Data {
        /// The machine.
        name: String,
        /// The cluster.
        cluster: ClusterId,
    },
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

/// Decides. `servers`: how many the user wants.
///
/// # Errors
/// Names the machines that do not fit; nothing may be done then.
pub fn plan(facts: &[Facts], servers: Option<Servers>) -> Result<Plan, Refusal> {
    let servers = match servers {
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
    let count = usize::from(servers.count());
    let part = |(number, (facts, address)): (usize, (&Facts, &IpAddr))| {
        let role = if cluster.is_none() && number < count { Role::Server } else { Role::Client };
        // A client that is of no cluster yet was interrupted before it had all its units; servers had theirs before the
        // cluster could begin.
        let stays = cluster.is_some() && facts.is_ours() && (facts.cluster.is_some() || facts.is_server());
        Part { address: *address, becomes: (!stays).then_some(role) }
    };
    let parts: Vec<Part> = facts.iter().zip(&addresses).enumerate().map(part).collect();
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
    Ok(Plan { parts, join: named, servers })
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

#[cfg(test)]
mod tests {
    use super::{Facts, HEAD, Plan, Role, outsiders, plan};
    use crate::model::names::ClusterId;

    fn blank(number: u8) -> Facts {
        let address = Some([10, 0, 0, number].into());
        Facts {
            name: format!("host-{number}"),
            hostname: format!("host-{number}"),
            machine_id: format!("{number:032}"),
            connected_to: address,
            reached_at: address,
            ..Facts::default()
        }
    }

    fn member(number: u8, server: bool, cluster: u128) -> Facts {
        let unit = format!("# {HEAD}\n{}", if server { "-server -bootstrap-expect 3" } else { "-join" });
        Facts {
            unit: Some(unit),
            cluster: Some(ClusterId::from_random(cluster)),
            runs: true,
            ..blank(number)
        }
    }

    fn told(plan: &Plan) -> String {
        let parts = plan.parts.iter().map(|part| match part.becomes {
            Some(Role::Server) => "server",
            Some(Role::Client) => "client",
            None => "stays",
        });
        let join: Vec<String> = plan.join.iter().map(ToString::to_string).collect();
        format!("{} join {}", parts.collect::<Vec<_>>().join(" "), join.join(" "))
    }

    #[track_caller]
    fn check(facts: &[Facts], servers: Option<&str>, want: &str) {
        let servers = servers.map(|count| count.parse().unwrap());
        let got = plan(facts, servers).map_or_else(|error| error.to_string(), |plan| told(&plan));
        assert_eq!(got, want);
    }

    #[test]
    fn the_first_machines_of_blank_ones_are_the_servers() {
        let blanks: Vec<Facts> = (1..=5).map(blank).collect();
        check(&blanks[..3], None, "server server server join 10.0.0.1 10.0.0.2 10.0.0.3");
        check(&blanks, None, "server server server client client join 10.0.0.1 10.0.0.2 10.0.0.3");
        check(&blanks[..2], None, "server client join 10.0.0.1");
        check(&blanks[..4], Some("1"), "server client client client join 10.0.0.1");
        check(
            &blanks[..4],
            Some("5"),
            "4 machines cannot hold 5 servers: name more machines, or give fewer --servers",
        );
    }

    #[test]
    fn a_formed_cluster_stays_as_it_is_and_a_new_machine_joins_as_a_client() {
        let members = [member(1, true, 7), member(2, true, 7), member(3, true, 7), member(4, false, 7)];
        check(&members, None, "stays stays stays stays join 10.0.0.1 10.0.0.2 10.0.0.3");
        let more = [blank(9), member(1, true, 7), member(4, false, 7), blank(5)];
        check(&more, Some("3"), "client stays stays client join 10.0.0.1");
        check(&[member(4, false, 7), blank(5)], None, "stays client join 10.0.0.4");
        // Its agent's unit was written, and nothing after it.
        let begun = Facts { cluster: None, runs: false, ..member(5, false, 7) };
        check(&[member(1, true, 7), begun], None, "stays client join 10.0.0.1");
        let silent = Facts { cluster: None, runs: false, ..member(2, true, 7) };
        check(&[member(1, true, 7), silent], None, "stays stays join 10.0.0.1 10.0.0.2");
    }

    #[test]
    fn what_was_interrupted_before_the_birth_is_done_again() {
        let begun = Facts { cluster: None, ..member(1, true, 7) };
        check(&[begun, blank(2), blank(3)], None, "server server server join 10.0.0.1 10.0.0.2 10.0.0.3");
    }

    #[test]
    fn machines_of_other_clusters_are_refused() {
        let foreign = Facts { unit: Some("[Service]\n".to_owned()), ..member(1, true, 7) };
        check(
            &[foreign, blank(2)],
            None,
            "host-1 has an agent that `fleet up` did not set up: leave that machine out, or remove its \
             corediscover-agent.service first",
        );
        let (one, other) = (ClusterId::from_random(7), ClusterId::from_random(8));
        check(
            &[member(1, true, 7), blank(2), member(3, true, 8)],
            None,
            &format!("host-1 belongs to cluster {one}, host-3 to cluster {other}: clusters cannot be merged"),
        );
        let left = Facts { unit: None, ..member(2, true, 7) };
        check(
            &[blank(1), left],
            None,
            &format!(
                "host-2 has data of cluster {one} and no agent: leave that machine out, or remove \
                 /var/lib/private/corediscover on it if nobody needs what it holds"
            ),
        );
    }

    #[test]
    fn machines_that_cannot_be_told_apart_are_refused() {
        let clone = Facts { machine_id: blank(1).machine_id, ..blank(2) };
        check(
            &[blank(1), clone],
            None,
            "host-1 and host-2 have the same machine-id: give each machine its own (rm /etc/machine-id; \
             systemd-machine-id-setup; reboot)",
        );
        let namesake = Facts { hostname: "HOST-1".to_owned(), ..blank(2) };
        check(
            &[blank(1), namesake],
            None,
            "host-1 and host-2 have the same host name: give each machine its own (hostnamectl set-hostname NAME)",
        );
    }

    #[test]
    fn a_machine_behind_a_forwarded_port_is_asked_for_its_address() {
        let behind = |number: u8| Facts {
            connected_to: Some([127, 0, 0, 1].into()),
            reached_at: Some([10, 0, 2, 15].into()),
            ..blank(number)
        };
        check(
            &[behind(1), behind(2)],
            None,
            "it is not clear at which address the other machines reach host-1: say it in the file of --machines, \
             as in `host-1 advertise=10.0.0.1`",
        );
        let said = |number: u8| Facts { advertise: Some([172, 28, 128, number].into()), ..behind(number) };
        check(&[said(3), said(4)], None, "server client join 172.28.128.3");
    }

    #[test]
    fn machines_that_know_no_leader_or_are_not_seen_by_all_are_outside() {
        let status = |leader: &str, alive: &[&str]| {
            let members = ["a", "b", "c"].map(|name| {
                let status = if alive.contains(&name) { "alive" } else { "failed" };
                serde_json::json!({"name": name, "status": status})
            });
            serde_json::json!({"leader": leader, "members": members})
        };
        let all = status("10.0.0.1:8300", &["a", "b", "c"]);
        let check = |statuses: &[serde_json::Value], want: &[usize]| {
            assert_eq!(outsiders(statuses, &["a", "b", "c"]), want, "{statuses:?}");
        };
        check(&[all.clone(), all.clone(), all.clone()], &[]);
        check(&[all.clone(), all.clone(), serde_json::Value::Null], &[2]);
        check(&[all.clone(), status("", &["a", "b", "c"]), all.clone()], &[1]);
        check(&[all.clone(), all.clone(), status("10.0.0.3:8300", &["c"])], &[2]);
        check(&[all.clone(), status("10.0.0.1:8300", &["a", "b"]), all], &[2]);
        check(&[status("", &["a"]), status("", &["b"]), status("", &["c"])], &[0, 1, 2]);
    }

    #[test]
    fn an_answer_tells_what_is_on_a_machine() {
        let cluster = ClusterId::from_random(7);
        let mut facts = blank(1);
        facts.read(&format!(
            "file unit\n# {HEAD}\nfile birth\n{{\"cluster\":\"{cluster}\"}}\n\nfile members\n\nfile parts\ndocker\nagent\nstale\n"
        ));
        assert!(facts.is_ours() && facts.docker && !facts.resolved && facts.runs && facts.stale);
        assert_eq!(facts.cluster, Some(cluster.clone()));
        let mut facts = blank(1);
        facts.read(&format!(
            "file unit\nfile birth\n\nfile members\n[{{\"name\":\"host-1\",\"tags\":{{\"cluster\":\"{cluster}\"}}}}]\n"
        ));
        assert_eq!((facts.cluster, facts.unit), (Some(cluster.clone()), None));
        let mut facts = blank(1);
        facts.read(&format!("file birth\n{{\"born\":true,\"accepted\":{{\"cluster_id\":\"{cluster}\"}}}}\n"));
        assert_eq!(facts.cluster, Some(cluster));
    }
}
