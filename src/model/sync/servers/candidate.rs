//! Which client becomes a server: the best of those that can, the same for everyone who looks at the same facts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ConfiguredServer, ROLE_CLIENT, TAG_CLUSTER, TAG_DATACENTER, TAG_NODE_ID, TAG_ROLE, TAG_SPARE};
use crate::model::catalog::{Catalog, SERF_HEALTH, Status};
use crate::model::membership::{Member, MemberStatus};
use crate::model::names::ClusterId;

/// How long a client must have been there without a break, unless servers are replaced even sooner.
const STABLE_FOR: Duration = Duration::from_secs(10);
/// How long a client that was nominated and did not make it is left alone.
const FAILED_REST: Duration = Duration::from_mins(10);
/// Clients whose shortcomings are named; the others are counted.
const NAMED_MAX: usize = 3;

/// A client that can become a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) node: String,
    pub(super) incarnation: String,
}

/// What is known of the clients besides the catalog.
pub(super) struct Facts<'a> {
    pub(super) configured: &'a [ConfiguredServer],
    pub(super) members: &'a [Member],
    pub(super) catalog: &'a Catalog,
    pub(super) cluster: &'a ClusterId,
    pub(super) datacenter: Option<&'a str>,
    /// Since when each incarnation has been alive without a break.
    pub(super) alive: &'a BTreeMap<String, Duration>,
    /// When a nomination of it failed last.
    pub(super) failed: &'a BTreeMap<String, Duration>,
    pub(super) replace_after: Duration,
}

/// How much a candidate must have proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It has been there for a while, and has not failed lately: nobody waits for it.
    Stable,
    /// It is alive and well: a server that leaves, or a person, is waiting.
    Alive,
}

/// The best candidate, or why there is none. The oldest node of the catalog is the best: what has run for long goes
/// on running. `only` restricts the choice to one name.
pub(super) fn choose(
    now: Duration,
    facts: &Facts<'_>,
    only: Option<&str>,
    proof: Proof,
) -> Result<Candidate, String> {
    let mut unfit = Vec::new();
    let mut best: Option<(u64, Candidate)> = None;
    for member in facts.members {
        if only.is_some_and(|name| name != member.name) || tag(member, TAG_ROLE) != ROLE_CLIENT {
            continue;
        }
        if matches!(member.status, MemberStatus::Left | MemberStatus::Leaving) {
            continue;
        }
        match judge(now, facts, member, proof) {
            Ok(age) => {
                let candidate =
                    Candidate { node: member.name.clone(), incarnation: tag(member, TAG_NODE_ID).to_owned() };
                let better =
                    best.as_ref().is_none_or(|(other, held)| (age, &candidate.node) < (*other, &held.node));
                if better {
                    best = Some((age, candidate));
                }
            }
            Err(why) => unfit.push(format!("{}: {why}", member.name)),
        }
    }
    best.map(|(_, candidate)| candidate).ok_or_else(|| none(only, &unfit))
}

fn none(only: Option<&str>, unfit: &[String]) -> String {
    if unfit.is_empty() {
        return only.map_or_else(
            || "there is no client that could become a server".to_owned(),
            |name| format!("{name} is no client of this cluster"),
        );
    }
    let more = unfit.len().saturating_sub(NAMED_MAX);
    let named = unfit[..unfit.len().min(NAMED_MAX)].join("; ");
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("no client can become a server now ({named}{rest})")
}

/// Its age (the log index at which it came into the catalog), or why it cannot be one.
fn judge(now: Duration, facts: &Facts<'_>, member: &Member, proof: Proof) -> Result<u64, String> {
    if member.status != MemberStatus::Alive {
        return Err("it is dead".to_owned());
    }
    if tag(member, TAG_CLUSTER) != facts.cluster.as_str() {
        return Err("it is not in this cluster".to_owned());
    }
    if facts.datacenter.is_some_and(|ours| ours != tag(member, TAG_DATACENTER)) {
        return Err("it is in another datacenter".to_owned());
    }
    let incarnation = tag(member, TAG_NODE_ID);
    if tag(member, TAG_SPARE).is_empty() || incarnation.is_empty() {
        return Err("it keeps nothing on disk, or was told not to become one".to_owned());
    }
    // Gossip may show a machine as the client that it was a moment ago.
    if facts.configured.iter().any(|server| server.incarnation == incarnation) {
        return Err("it is a server already".to_owned());
    }
    let row = facts.catalog.node(&member.name).ok_or("the catalog does not have it yet")?;
    if row.checks.get(SERF_HEALTH).is_none_or(|check| check.status != Status::Passing) {
        return Err("its serfHealth does not pass".to_owned());
    }
    let ill = row.checks.iter().find(|check| check.is_node_level() && check.status == Status::Critical);
    if let Some(check) = ill {
        return Err(format!("its check {} is critical", check.check_id));
    }
    if proof == Proof::Alive {
        return Ok(row.node.create_index);
    }
    let stable = STABLE_FOR.min(facts.replace_after);
    let since = facts.alive.get(incarnation).copied().unwrap_or(now);
    if now.saturating_sub(since) < stable {
        return Err(format!("it has not been seen alive for {}s yet", stable.as_secs()));
    }
    if facts.failed.get(incarnation).is_some_and(|at| now.saturating_sub(*at) < FAILED_REST) {
        return Err("it was nominated a short while ago and did not become one".to_owned());
    }
    Ok(row.node.create_index)
}

fn tag<'a>(member: &'a Member, name: &str) -> &'a str {
    member.tags.get(name).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::{Candidate, Facts, Proof, choose};
    use crate::model::catalog::{
        Catalog, Check, Command, NodeRegistration, Registration, SERF_HEALTH, Status,
    };
    use crate::model::membership::{Member, MemberStatus};
    use crate::model::names::ClusterId;
    use crate::model::sync::servers::ConfiguredServer;

    const NOW: Duration = Duration::from_hours(1);

    /// Three clients that can all become servers: `b` came first, then `a`, then `c`.
    struct World {
        members: Vec<Member>,
        catalog: Catalog,
        configured: Vec<ConfiguredServer>,
        datacenter: Option<&'static str>,
        alive: BTreeMap<String, Duration>,
        failed: BTreeMap<String, Duration>,
        replace_after: Duration,
    }

    fn member(name: &str) -> Member {
        let tags =
            [("role", "node"), ("cluster", cluster().as_str()), ("id", name), ("spare", "1"), ("dc", "dc1")]
                .map(|(tag, value)| (tag.to_owned(), value.to_owned()));
        Member {
            name: name.to_owned(),
            address: [10, 0, 0, 1].into(),
            port: 8301,
            tags: tags.into(),
            status: MemberStatus::Alive,
            incarnation: 0,
        }
    }

    fn cluster() -> ClusterId {
        ClusterId::from_random(1)
    }

    impl World {
        fn new() -> Self {
            let members = ["a", "b", "c"].map(member).to_vec();
            let mut world = Self {
                alive: members.iter().map(|member| (member.name.clone(), Duration::ZERO)).collect(),
                members,
                catalog: Catalog::default(),
                configured: Vec::new(),
                datacenter: Some("dc1"),
                failed: BTreeMap::new(),
                replace_after: Duration::from_secs(30),
            };
            for (index, node) in [(1, "b"), (2, "a"), (3, "c")] {
                world.check(index, node, SERF_HEALTH, Status::Passing);
            }
            world
        }

        fn check(&mut self, index: u64, node: &str, id: &str, status: Status) {
            let check = Check { check_id: id.into(), status, ..Check::default() };
            let node =
                NodeRegistration { node: node.into(), address: "10.0.0.1".into(), ..Default::default() };
            let registration = Registration { node, checks: vec![check], ..Registration::default() };
            self.catalog.apply(index, &Command::Register(Box::new(registration))).result.unwrap();
        }

        fn tag(&mut self, node: usize, tag: &str, value: &str) {
            self.members[node].tags.insert(tag.to_owned(), value.to_owned());
        }

        fn choose(&self, only: Option<&str>, proof: Proof) -> Result<String, String> {
            let cluster = cluster();
            let facts = Facts {
                configured: &self.configured,
                members: &self.members,
                catalog: &self.catalog,
                cluster: &cluster,
                datacenter: self.datacenter,
                alive: &self.alive,
                failed: &self.failed,
                replace_after: self.replace_after,
            };
            choose(NOW, &facts, only, proof).map(|Candidate { node, .. }| node)
        }
    }

    #[test]
    fn the_client_that_has_been_in_the_catalog_longest_is_the_best() {
        let mut world = World::new();
        assert_eq!(world.choose(None, Proof::Stable).as_deref(), Ok("b"));
        world.members.reverse();
        world.members[1].status = MemberStatus::Failed;
        assert_eq!(
            world.choose(None, Proof::Stable).as_deref(),
            Ok("a"),
            "whatever the order of the members is"
        );
        assert_eq!(world.choose(Some("c"), Proof::Stable).as_deref(), Ok("c"), "who is named is taken");
    }

    #[test]
    fn a_client_that_cannot_become_a_server_is_passed_over_and_says_why() {
        type Shortcoming = fn(&mut World);
        let shortcomings: [(Shortcoming, &str); 11] = [
            (|world| world.members[1].status = MemberStatus::Failed, "it is dead"),
            (|world| world.tag(1, "cluster", "other"), "it is not in this cluster"),
            (|world| world.tag(1, "dc", "dc2"), "it is in another datacenter"),
            (|world| world.tag(1, "spare", ""), "it keeps nothing on disk, or was told not to become one"),
            (|world| world.tag(1, "id", ""), "it keeps nothing on disk, or was told not to become one"),
            (
                |world| {
                    world.configured.push(ConfiguredServer {
                        id: 7,
                        name: "b".to_owned(),
                        address: "10.0.0.1:8300".to_owned(),
                        incarnation: "b".to_owned(),
                        voter: false,
                        caught_up: false,
                        leader: false,
                        last_index: None,
                        heard: None,
                    });
                },
                "it is a server already",
            ),
            (|world| world.members[1].name = "new".to_owned(), "the catalog does not have it yet"),
            (|world| world.check(9, "b", SERF_HEALTH, Status::Critical), "its serfHealth does not pass"),
            (|world| world.check(9, "b", "disk", Status::Critical), "its check disk is critical"),
            (
                |world| _ = world.alive.insert("b".to_owned(), NOW.saturating_sub(Duration::from_secs(9))),
                "it has not been seen alive for 10s yet",
            ),
            (
                |world| _ = world.failed.insert("b".to_owned(), NOW.saturating_sub(Duration::from_secs(599))),
                "it was nominated a short while ago and did not become one",
            ),
        ];
        for (change, why) in shortcomings {
            let mut world = World::new();
            change(&mut world);
            let name = world.members[1].name.clone();
            assert_eq!(world.choose(None, Proof::Stable).as_deref(), Ok("a"), "{why}");
            let refused = world.choose(Some(&name), Proof::Stable).unwrap_err();
            assert_eq!(refused, format!("no client can become a server now ({name}: {why})"));
        }
    }

    #[test]
    fn somebody_who_waits_is_given_a_client_that_has_only_just_come_and_impatient_clusters_wait_less() {
        let mut world = World::new();
        world.alive.insert("b".to_owned(), NOW.saturating_sub(Duration::from_secs(4)));
        assert_eq!(world.choose(None, Proof::Alive).as_deref(), Ok("b"));
        assert_eq!(world.choose(None, Proof::Stable).as_deref(), Ok("a"));
        world.replace_after = Duration::from_secs(4);
        assert_eq!(world.choose(None, Proof::Stable).as_deref(), Ok("b"));
        world.failed.insert("b".to_owned(), NOW.saturating_sub(Duration::from_mins(10)));
        assert_eq!(world.choose(None, Proof::Stable).as_deref(), Ok("b"), "long ago");
    }

    #[test]
    fn where_nobody_can_the_first_few_are_told_and_servers_and_those_who_leave_are_no_candidates() {
        let mut world = World::new();
        for (node, status) in [(0, MemberStatus::Left), (1, MemberStatus::Leaving)] {
            world.members[node].status = status;
        }
        world.tag(2, "role", "consul");
        let none = "there is no client that could become a server";
        assert_eq!(world.choose(None, Proof::Alive), Err(none.to_owned()));
        assert_eq!(world.choose(Some("c"), Proof::Alive), Err("c is no client of this cluster".to_owned()));
        world.members = ["p", "q", "r", "s", "t"].map(member).to_vec();
        let lacks = "the catalog does not have it yet";
        assert_eq!(
            world.choose(None, Proof::Alive),
            Err(format!(
                "no client can become a server now (p: {lacks}; q: {lacks}; r: {lacks}; and 2 more)"
            ))
        );
    }
}
