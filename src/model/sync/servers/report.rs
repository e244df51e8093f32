//! What the leader's steward says about the servers, for people and for `/v1/operator`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Mode;
use super::candidate::Proof;
use super::pace::Replacement;
use super::steward::{Need, Steward, View};
use crate::model::catalog::{Nomination, ServerTable, Swap};
use crate::model::names::ClusterId;

/// The servers and what is done about them, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The leader's setting.
    pub mode: Mode,
    /// How long a server must have been dead before it is replaced.
    pub replace_after_ms: u64,
    /// How many servers there should be.
    pub wanted: usize,
    /// Whether an operator said so.
    pub wanted_by_operator: bool,
    /// The servers of the raft configuration.
    pub servers: Vec<ServerReport>,
    /// The machine that is becoming a server.
    pub pending: Option<Nomination>,
    /// What would be done if it were not only to be proposed.
    pub proposal: Option<Proposal>,
    /// The last change that was carried out.
    pub last: Option<Swap>,
    /// Why nothing is done about what is missing.
    pub reason: Option<String>,
    /// How often the cluster was recovered.
    pub epoch: u64,
    /// The clusters that it is the successor of.
    pub predecessors: Vec<ClusterId>,
    /// The dead servers that were replaced lately; a leader of an earlier version does not tell.
    #[serde(default)]
    pub replacements: Vec<Replacement>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Its raft id.
    pub id: u64,
    /// Its node name.
    pub name: String,
    /// The incarnation of its disk.
    pub incarnation: String,
    /// Address of its RPC.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether gossip or raft hears it.
    pub up: bool,
    /// For how long it has been dead.
    pub dead_for_ms: Option<u64>,
    /// For how long its state has been what it is, as far as this leader knows.
    pub stable_for_ms: u64,
    /// The last entry that it is known to have.
    pub last_index: Option<u64>,
    /// How long ago it answered the leader.
    pub heard_ms: Option<u64>,
}

/// A replacement that waits for an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Node name of the dead server; `None`: one more server.
    pub old: Option<String>,
    /// Node name of the client.
    pub new: String,
}

impl Steward {
    /// What there is to say.
    pub fn report(&self, now: Duration, view: &View<'_>) -> Report {
        let table = view.catalog.servers();
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let servers = view.configured.iter().map(|server| ServerReport {
            id: server.id,
            name: server.name.clone(),
            incarnation: server.incarnation.clone(),
            address: server.address.clone(),
            voter: server.voter,
            leader: server.leader,
            up: view.is_up(server),
            dead_for_ms: self.dead_for(now, server.id).map(millis),
            stable_for_ms: self
                .state
                .get(&server.id)
                .map_or(0, |(_, since)| millis(now.saturating_sub(*since))),
            last_index: server.last_index,
            heard_ms: server.heard.map(millis),
        });
        let (proposal, reason) = self.outlook(now, view, table);
        Report {
            mode: view.mode(),
            replace_after_ms: millis(view.policy.replace_after),
            wanted: view.wanted(),
            wanted_by_operator: table.wanted.is_some(),
            servers: servers.collect(),
            pending: table.nomination.clone(),
            proposal,
            last: table.history.last().cloned(),
            reason,
            epoch: table.epoch,
            predecessors: table.predecessors.clone(),
            replacements: self.pace.tell(now),
        }
    }

    /// What waits for an operator, and why nothing is done about what is missing.
    fn outlook(
        &self,
        now: Duration,
        view: &View<'_>,
        table: &ServerTable,
    ) -> (Option<Proposal>, Option<String>) {
        if table.nomination.is_some() {
            return (None, None);
        }
        if !view.has_quorum() {
            return (None, Some("a majority of the servers is down".to_owned()));
        }
        let Some(need) = self.need(now, view) else { return (None, self.not_yet(now, view)) };
        let (old, ordered) = match &need {
            Need::Shrink(_) => return (None, None),
            Need::Replace(_, node) => (Some(node.clone()), false),
            Need::Grow => (None, table.wanted.is_some()),
        };
        let missing = match &old {
            Some(node) => format!("{node} is dead"),
            None => format!("{} of {} servers are there", view.voters().count(), view.wanted()),
        };
        let failure = table.failure.as_ref().map(|text| format!("; {text}")).unwrap_or_default();
        match self.candidate(now, view, None, Proof::Stable) {
            Err(why) => (None, Some(format!("{missing}, and {why}{failure}"))),
            Ok(_) if ordered => (None, None),
            Ok(candidate) => match view.mode() {
                Mode::Off => (None, Some(format!("{missing}, and replacement is switched off"))),
                Mode::Propose => (Some(Proposal { old, new: candidate.node }), Some(missing)),
                Mode::Auto => {
                    let hold = old.and_then(|_| self.pace.hold(now));
                    (None, hold.map(|hold| format!("{missing}; {hold}")))
                }
            },
        }
    }

    fn not_yet(&self, now: Duration, view: &View<'_>) -> Option<String> {
        let down = view.voters().filter_map(|server| Some((self.dead_for(now, server.id)?, server)));
        let (dead, server) = down.max_by_key(|(dead, _)| *dead)?;
        let after = view.policy.replace_after;
        Some(format!(
            "{} has been dead for {}s; it may be replaced after {}s",
            server.name,
            dead.as_secs(),
            after.as_secs()
        ))
    }
}
