//! What is on a machine before `fleet up` does anything: the script that asks, and the reading of its answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::settings::value;
use crate::model::fleet::networks::Networks;
use crate::model::names::ClusterId;
use crate::model::provision::units::{self, REGISTRATOR, RESOLVED};

/// How a unit begins that `fleet up` wrote.
pub const HEAD: &str = "Written by corediscover fleet up for this machine.";

/// Asks a machine, as root, what is on it already. No word of a user is in it.
pub const SCRIPT: &str = r#"export LC_ALL=C
data=/var/lib/private/corediscover
[ -d "$data" ] || data=/var/lib/corediscover
echo 'file /proc/net/fib_trie'; cat /proc/net/fib_trie
echo 'file /proc/net/route'; cat /proc/net/route
echo 'file unit'; cat /etc/systemd/system/corediscover-agent.service 2>/dev/null
echo 'file birth'; cat "$data/gossip-birth.json" 2>/dev/null
echo; echo 'file peers'; cat "$data/peers.json" 2>/dev/null
echo; echo 'file members'; /opt/bin/corediscover members --json 2>/dev/null
echo; echo 'file parts'
[ -S /var/run/docker.sock ] && echo docker
systemctl is-active --quiet systemd-resolved.service && echo resolved
systemctl is-active --quiet corediscover-agent.service && echo agent
pid=$(systemctl show --property=MainPID --value corediscover-agent.service)
[ "${pid:-0}" -gt 0 ] && ! [ "/proc/$pid/exe" -ef /opt/bin/corediscover ] && echo stale
for file in /etc/systemd/system/corediscover-*.service; do
  if [ -e "$file" ] || [ -L "$file" ]; then echo "unit ${file##*/}"; fi
done
for link in /etc/systemd/system/multi-user.target.wants/corediscover-*.service; do
  if [ -L "$link" ]; then echo "enabled ${link##*/}"; fi
done
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
    /// Those of our units that are there.
    pub units: Vec<&'static str>,
    /// Those of our units that start at boot.
    pub enabled: Vec<&'static str>,
    /// The cluster that it belongs to, as the agent or its disk says.
    pub cluster: Option<ClusterId>,
    /// The other machines that its agent's data remembers: the only thing that a client's disk says about its cluster.
    pub remembers: Vec<IpAddr>,
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
        self.remembers = remembered_peers(text("peers"));
        let has = |part: &str| text("parts").lines().any(|line| line == part);
        self.docker = has("docker");
        self.resolved = has("resolved");
        self.runs = has("agent");
        self.stale = has("stale");
        let those =
            |word: &str| units::ALL.into_iter().filter(|unit| has(&format!("{word} {unit}"))).collect();
        self.units = those("unit");
        self.enabled = those("enabled");
    }

    pub(super) fn is_ours(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.contains(HEAD))
    }

    /// The address that its agent was told to tell the others.
    pub fn advertised(&self) -> Option<IpAddr> {
        value(self.unit.as_deref()?, "advertise")?.parse().ok()
    }

    /// What the machine does without, because what it is for is not there; a sentence each.
    pub fn left_out(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut lacks = |is_there: bool, unit: &str, text: &str| {
            if !is_there && !self.units.contains(&unit) {
                notes.push(format!("{}: {text} and run this again", self.name));
            }
        };
        lacks(self.docker, REGISTRATOR, "no Docker: its containers are not registered; install it");
        let resolved = "systemd-resolved does not run: its programs do not find names of the domain; install or start it";
        lacks(self.resolved, RESOLVED, resolved);
        notes
    }

    pub(super) fn is_server(&self) -> bool {
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

/// A file that is none remembers nobody: the agent itself does without a damaged one.
fn remembered_peers(peers: &str) -> Vec<IpAddr> {
    let record: serde_json::Value = serde_json::from_str(peers).unwrap_or_default();
    let list = record["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |entry: &serde_json::Value| entry.as_str()?.parse::<SocketAddr>().ok();
    list.iter().filter_map(address).map(|address| address.ip()).collect()
}
