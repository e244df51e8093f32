//! Where agent, gossip and raft say different things. `status` and `doctor` share what is found here.

use std::collections::BTreeSet;
use std::fmt;

use super::{Check, Finding};

/// The check's name.
pub const NAME: &str = "cluster";
/// How old, in milliseconds, what this machine knows may be: the leader is heard many times a second.
const LAG_MILLIS_MAX: u64 = 10_000;

/// A member of the gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its node name.
    pub name: String,
    /// Where its RPC would be: `10.0.0.1:8300`.
    pub rpc: String,
    /// Gossip sees it alive.
    pub alive: bool,
    /// Its cluster, as its tag says.
    pub cluster: Option<String>,
}

/// Something that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disagreement {
    /// Nobody leads.
    NoLeader,
    /// Raft counts a server that gossip does not see alive.
    Voter {
        /// Its RPC address.
        address: String,
        /// Its node name, if gossip knows it.
        name: Option<String>,
    },
    /// Members of this many clusters see each other.
    Clusters(usize),
    /// What a server says whose disk is full.
    Disk(String),
    /// The leader does not tell how the servers are, and why.
    NoReport(String),
}

/// As a warning of `status`.
impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeader => f.write_str("there is no leader: writes and fresh reads fail"),
            Self::Voter { address, .. } => {
                write!(f, "raft counts {address} as a voter, gossip does not see it alive")
            }
            Self::Clusters(count) => {
                write!(f, "members of {count} clusters see each other; they do not mix")
            }
            Self::Disk(text) => f.write_str(text),
            Self::NoReport(why) => write!(f, "the leader says nothing about the servers: {why}"),
        }
    }
}

/// Compares what raft says with what gossip says.
pub fn disagreements(leader: &str, voters: &[String], peers: &[Peer]) -> Vec<Disagreement> {
    let mut found = Vec::new();
    if leader.is_empty() {
        found.push(Disagreement::NoLeader);
    }
    for voter in voters {
        let known: Vec<&Peer> = peers.iter().filter(|peer| peer.rpc == *voter).collect();
        if !known.iter().any(|peer| peer.alive) {
            let name = known.first().map(|peer| peer.name.clone());
            found.push(Disagreement::Voter { address: voter.clone(), name });
        }
    }
    let alive = peers.iter().filter(|peer| peer.alive);
    let clusters: BTreeSet<&String> = alive.filter_map(|peer| peer.cluster.as_ref()).collect();
    if clusters.len() > 1 {
        found.push(Disagreement::Clusters(clusters.len()));
    }
    found
}

/// What one agent tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What does not fit together.
    pub disagreements: Vec<Disagreement>,
    /// How many voters there are.
    pub voters: usize,
    /// The cluster that the agent is in.
    pub cluster: Option<String>,
    /// The members, as gossip has them.
    pub peers: Vec<Peer>,
    /// How long ago the leader was heard, in milliseconds; `None` when none ever was.
    pub heard_millis_ago: Option<u64>,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where the agent is asked.
    pub agent: String,
    /// What it tells, or why it does not.
    pub told: Result<Told, String>,
    /// Its unit is said to run, so that it should.
    pub should_answer: bool,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let told = match &facts.told {
        Ok(told) => told,
        Err(why) if facts.should_answer => {
            let finding = Finding::error(
                format!("the agent does not answer at {}: {why}", facts.agent),
                "its unit runs: it still waits for other machines (`systemctl status` says it), or hangs",
                "systemctl restart corediscover-agent.service",
            );
            return Check::of(NAME, vec![finding]);
        }
        Err(why) => return Check::not_checked(NAME, format!("no agent answers at {}: {why}", facts.agent)),
    };
    let mut findings: Vec<Finding> =
        told.disagreements.iter().map(|disagreement| finding(disagreement, told)).collect();
    let lags = told.heard_millis_ago.filter(|millis| *millis > LAG_MILLIS_MAX);
    if let Some(millis) = lags {
        findings.push(Finding::error(
            format!("what this machine knows is {} s old", millis / 1000),
            "its agent does not hear the leader: the network between them is cut, or port 8300 is closed",
            "systemctl restart corediscover-agent.service",
        ));
    }
    Check::of(NAME, findings)
}

fn finding(disagreement: &Disagreement, told: &Told) -> Finding {
    let start = "systemctl start corediscover-agent.service";
    let symptom = disagreement.to_string();
    match disagreement {
        Disagreement::NoLeader => {
            let dead = told.disagreements.iter().filter_map(|other| match other {
                Disagreement::Voter { address, name } => Some(host(address, name.as_deref())),
                _ => None,
            });
            let dead: Vec<String> = dead.collect();
            let quorum = told.voters / 2 + 1;
            if told.voters > 0 && told.voters - dead.len().min(told.voters) < quorum {
                let cause = format!(
                    "{} of {} voters are away; if they never come back, `corediscover operator recover` tells more",
                    dead.len(),
                    told.voters
                );
                Finding::error(symptom, cause, format!("{start} # on {}", dead.join(", ")))
            } else {
                let cause = "the servers do not reach each other at port 8300, or elect one just now";
                Finding::error(
                    symptom,
                    cause,
                    "systemctl restart corediscover-agent.service # on each server",
                )
            }
        }
        Disagreement::Voter { address, name } => {
            let cause = match name {
                Some(name) => format!("the agent of {name} does not run, or cannot be reached by gossip (port 8301)"),
                None => "gossip does not know it: it changed its address, or was never reached by gossip (port 8301)".to_owned(),
            };
            Finding::error(symptom, cause, format!("{start} # on {}", host(address, name.as_deref())))
        }
        Disagreement::Clusters(_) => {
            let own = told.cluster.as_ref();
            let foreign = told
                .peers
                .iter()
                .filter(|peer| peer.alive && peer.cluster.is_some() && peer.cluster.as_ref() != own);
            let names: Vec<&str> = foreign.map(|peer| peer.name.as_str()).collect();
            Finding::error(
                symptom,
                "two groups of servers each began a cluster before they saw each other",
                format!(
                    "systemctl stop corediscover-agent.service && rm -rf /var/lib/corediscover/* && {start} # on {}",
                    names.join(", ")
                ),
            )
        }
        Disagreement::Disk(_) => Finding::error(
            symptom,
            "a server with a full disk writes nothing and cannot lead",
            "df -h; du -xsh /var/* # on that server",
        ),
        Disagreement::NoReport(_) => Finding::warning(
            symptom,
            "it changes just now, or cannot be reached at port 8300",
            "corediscover status",
        ),
    }
}

fn host(address: &str, name: Option<&str>) -> String {
    let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
    name.map_or_else(|| ip.to_owned(), |name| format!("{name} ({ip})"))
}

#[cfg(test)]
mod tests {
    use super::{Disagreement, Facts, Peer, Told, disagreements, judge};

    fn peer(name: &str, rpc: &str, alive: bool, cluster: &str) -> Peer {
        Peer { name: name.to_owned(), rpc: rpc.to_owned(), alive, cluster: Some(cluster.to_owned()) }
    }

    fn peers() -> Vec<Peer> {
        vec![peer("a", "10.0.0.1:8300", true, "x"), peer("b", "10.0.0.2:8300", true, "x")]
    }

    fn told(leader: &str, voters: &[&str], peers: Vec<Peer>) -> Facts {
        let voters: Vec<String> = voters.iter().map(|voter| (*voter).to_owned()).collect();
        let told = Told {
            disagreements: disagreements(leader, &voters, &peers),
            voters: voters.len(),
            cluster: Some("x".to_owned()),
            peers,
            heard_millis_ago: Some(0),
        };
        Facts { agent: "http://127.0.0.1:8500".to_owned(), told: Ok(told), should_answer: true }
    }

    #[test]
    fn raft_and_gossip_that_agree_are_fine() {
        assert!(judge(&told("10.0.0.1:8300", &["10.0.0.1:8300", "10.0.0.2:8300"], peers())).is_fine());
    }

    #[test]
    fn a_voter_that_gossip_has_dead_or_does_not_know_is_named_with_where_to_start_it() {
        let mut dead = peers();
        dead[1].alive = false;
        let found = judge(&told("10.0.0.1:8300", &["10.0.0.1:8300", "10.0.0.2:8300"], dead));
        assert_eq!(
            found.findings[0].symptom,
            "raft counts 10.0.0.2:8300 as a voter, gossip does not see it alive"
        );
        assert_eq!(found.findings[0].fix, "systemctl start corediscover-agent.service # on b (10.0.0.2)");
        let found = judge(&told("10.0.0.1:8300", &["10.0.0.9:8300"], peers()));
        assert!(found.findings[0].cause.contains("gossip does not know it"));
    }

    #[test]
    fn no_leader_is_explained_by_the_voters_that_are_away() {
        let mut dead = peers();
        dead[1].alive = false;
        let found = judge(&told("", &["10.0.0.1:8300", "10.0.0.2:8300"], dead));
        assert!(found.findings[0].cause.starts_with("1 of 2 voters are away"), "{found:?}");
        let found = judge(&told("", &["10.0.0.1:8300", "10.0.0.2:8300"], peers()));
        assert!(found.findings[0].cause.contains("8300"), "{found:?}");
    }

    #[test]
    fn members_of_another_cluster_are_named() {
        let mut two = peers();
        two[1].cluster = Some("y".to_owned());
        let found = judge(&told("10.0.0.1:8300", &["10.0.0.1:8300"], two));
        assert_eq!(found.findings[0].symptom, "members of 2 clusters see each other; they do not mix");
        assert!(found.findings[0].fix.ends_with("# on b"), "{found:?}");
    }

    #[test]
    fn a_replica_that_lags_and_a_full_disk_are_found() {
        let mut facts = told("10.0.0.1:8300", &["10.0.0.1:8300"], peers());
        let Ok(told) = &mut facts.told else { panic!() };
        told.heard_millis_ago = Some(31_000);
        told.disagreements.push(Disagreement::Disk("the disk of a is full".to_owned()));
        let found = judge(&facts);
        assert_eq!(found.findings[0].symptom, "the disk of a is full");
        assert_eq!(found.findings[1].symptom, "what this machine knows is 31 s old");
    }

    #[test]
    fn an_agent_that_should_answer_and_does_not_is_an_error_and_none_is_not_checked() {
        let facts = told("", &[], Vec::new());
        let silent = Facts { told: Err("refused".to_owned()), ..facts };
        assert!(judge(&silent).findings[0].symptom.contains("does not answer"));
        assert!(judge(&Facts { should_answer: false, ..silent }).findings.is_empty());
    }
}
