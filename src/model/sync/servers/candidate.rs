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
