//! The steward of the servers: what the leader does next, and what it says about it.
//!
//! Everything that must outlive a leader is in the log ([`ServerTable`]); here is only what one leader has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::candidate::{self, Candidate, Facts, Proof};
use super::change::next_change;
use super::pace::{Pace, Replacement};
use super::{ConfiguredServer, Mode, Policy, ServerChange, ServerMember, TAG_DATACENTER, TAG_NODE_ID};
use crate::model::catalog::{
    Catalog, Departure, Nomination, Purpose, ServerTable, ServersCommand, Settlement,
};
use crate::model::membership::{Member, MemberStatus};
use crate::model::names::ClusterId;

/// How long a nominated machine may take to appear as a server: it binds one port and opens an empty log.
const APPEAR_WAIT: Duration = Duration::from_secs(15);
/// How long it may take to catch up: gigabytes over a slow network.
const CATCH_UP_WAIT: Duration = Duration::from_mins(10);

/// What the leader sees.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Raft's configuration.
    pub configured: &'a [ConfiguredServer],
    /// Whether a joint change is under way.
    pub joint: bool,
    /// The members as gossip has them.
    pub members: &'a [Member],
    /// Our cluster.
    pub cluster: &'a ClusterId,
    /// The catalog, with the table of servers.
    pub catalog: &'a Catalog,
    /// The leader's settings.
    pub policy: Policy,
    /// Seconds since 1970.
    pub wall: u64,
}

/// What the leader does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Change raft's configuration.
    Change(ServerChange),
    /// Write to the log.
    Write(ServersCommand),
}

/// What is missing.
pub(super) enum Need {
    Replace(u64, String),
    Grow,
    Shrink(u64),
}

/// What one server has seen: since it leads, and of the replacements since it is a server.
#[derive(Debug, Default)]
pub struct Steward {
    /// Since when each configured server has been up or down.
    pub(super) state: BTreeMap<u64, (bool, Duration)>,
    alive: BTreeMap<String, Duration>,
    failed: BTreeMap<String, Duration>,
    nominated: Option<(u64, Duration)>,
    pub(super) pace: Pace,
}

impl Steward {
    /// Takes note of what the log says while another leads. Forgets what was seen when this one led: too much may have
    /// happened since.
    pub fn follow(&mut self, now: Duration, table: &ServerTable) {
        *self = Self { pace: std::mem::take(&mut self.pace), ..Self::default() };
        self.pace.observe(now, table);
    }

    /// Takes over what a leader has just said of the replacements; false while our log does not have them all.
    pub fn learn(&mut self, now: Duration, told: &[Replacement]) -> bool {
        self.pace.learn(now, told)
    }

    /// Takes note of `view`, and gives what is to be done now. Call it again after it was done, and every now and then.
    pub fn step(&mut self, now: Duration, view: &View<'_>) -> Option<Action> {
        self.observe(now, view);
        let table = view.catalog.servers();
        if view.joint {
            return Some(Action::Change(ServerChange::Finish));
        }
        let voters = view.voters().count();
        if table.born == 0 && voters > 0 {
            return Some(Action::Write(ServersCommand::Born { servers: u32::try_from(voters).unwrap_or(1) }));
        }
        if let Some(nomination) = &table.nomination
            && let Some(command) = self.settle(now, view, nomination)
        {
            return Some(Action::Write(command));
        }
        if let Some(change) = next_change(view.configured, view.members, view.cluster, table) {
            return Some(Action::Change(change));
        }
        if table.nomination.is_some() || !view.has_quorum() {
            return None;
        }
        match self.need(now, view)? {
            Need::Shrink(id) => Some(Action::Write(ServersCommand::Retire { id })),
            Need::Replace(id, node) if self.may_replace(now, view) => {
                let candidate = self.candidate(now, view, None, Proof::Stable).ok()?;
                let purpose = Purpose::Replace { id, node, why: Departure::Dead };
                Some(nominate(candidate, purpose))
            }
            Need::Grow if table.wanted.is_some() || view.mode() == Mode::Auto => {
                Some(nominate(self.candidate(now, view, None, Proof::Stable).ok()?, Purpose::Grow))
            }
            Need::Replace(..) | Need::Grow => None,
        }
    }

    fn observe(&mut self, now: Duration, view: &View<'_>) {
        self.pace.observe(now, view.catalog.servers());
        for server in view.configured {
            let up = view.is_up(server);
            let state = self.state.entry(server.id).or_insert((up, now));
            if state.0 != up {
                *state = (up, now);
            }
        }
        self.state.retain(|id, _| view.configured.iter().any(|server| server.id == *id));
        let alive: BTreeSet<&str> = view
            .members
            .iter()
            .filter(|member| member.status == MemberStatus::Alive)
            .filter_map(|member| member.tags.get(TAG_NODE_ID).map(String::as_str))
            .collect();
        self.alive.retain(|incarnation, _| alive.contains(incarnation.as_str()));
        for incarnation in alive {
            self.alive.entry(incarnation.to_owned()).or_insert(now);
        }
        let serial = view.catalog.servers().nomination.as_ref().map(|nomination| nomination.serial);
        if self.nominated.map(|(known, _)| known) != serial {
            self.nominated = serial.map(|serial| (serial, now));
        }
    }

    /// Ends a nomination that is fulfilled or has come to nothing.
    fn settle(&mut self, now: Duration, view: &View<'_>, nomination: &Nomination) -> Option<ServersCommand> {
        let serial = nomination.serial;
        let nominee = view.nominee(nomination);
        let configured = nominee
            .as_ref()
            .and_then(|nominee| view.configured.iter().find(|server| server.id == nominee.id));
        if configured.is_some_and(|server| server.voter) {
            // Its vote is no proof where whom it was to replace votes too and does not lead: it voted before.
            let called = nominee.as_ref().is_some_and(|nominee| nominee.nomination == Some(serial));
            let stays = match &nomination.purpose {
                Purpose::Replace { why: Departure::Leaving, .. } | Purpose::Grow => false,
                Purpose::Replace { id, .. } => view.voters().any(|voter| voter.id == *id && !voter.leader),
            };
            if !called && stays {
                let why = "it is a server already".to_owned();
                let outcome = Settlement::Withdrawn { why };
                return Some(ServersCommand::Settle { serial, retire: Vec::new(), outcome });
            }
            let retire = match nomination.purpose {
                Purpose::Replace { id, .. } => vec![id],
                Purpose::Grow => Vec::new(),
            };
            let outcome = Settlement::Fulfilled { at: view.wall };
            return Some(ServersCommand::Settle { serial, retire, outcome });
        }
        let (why, failed) = self.void(now, view, nomination, nominee.as_ref(), configured)?;
        if failed {
            self.failed.insert(nomination.incarnation.clone(), now);
        }
        let retire = nominee.map(|nominee| nominee.id).into_iter().collect();
        Some(ServersCommand::Settle { serial, retire, outcome: Settlement::Withdrawn { why } })
    }

    /// Why a nomination has come to nothing, and whether that speaks against the machine.
    fn void(
        &self,
        now: Duration,
        view: &View<'_>,
        nomination: &Nomination,
        nominee: Option<&ServerMember>,
        configured: Option<&ConfiguredServer>,
    ) -> Option<(String, bool)> {
        let since = self.nominated.map_or(Duration::ZERO, |(_, at)| now.saturating_sub(at));
        let full = view.voters().count() >= view.wanted();
        match &nomination.purpose {
            Purpose::Replace { id, node, why } => match view.voters().find(|server| server.id == *id) {
                Some(old) if *why == Departure::Dead && view.is_up(old) => {
                    return Some((format!("{node} is back"), false));
                }
                None if full => return Some((format!("{node} is no server any more"), false)),
                _ => {}
            },
            Purpose::Grow if full => return Some(("there are enough servers".to_owned(), false)),
            Purpose::Grow => {}
        }
        let member = view.members.iter().find(|member| {
            member.name == nomination.node
                && member.tags.get(TAG_NODE_ID).is_some_and(|id| *id == nomination.incarnation)
        });
        if nominee.is_some_and(|nominee| view.catalog.servers().retired.contains(&nominee.id)) {
            return Some(("it was removed before it voted".to_owned(), false));
        }
        let gone = match member.map(|member| member.status) {
            Some(MemberStatus::Alive) => false,
            // It may come back and do better.
            Some(MemberStatus::Leaving | MemberStatus::Left) => {
                return Some(("it left".to_owned(), false));
            }
            Some(_) => true,
            None => since >= APPEAR_WAIT,
        };
        if gone {
            return Some(("it went away".to_owned(), true));
        }
        if nominee.is_none() && since >= APPEAR_WAIT {
            return Some((format!("it did not start as a server within {}s", APPEAR_WAIT.as_secs()), true));
        }
        let behind = configured.is_none_or(|server| !server.caught_up);
        (behind && since >= CATCH_UP_WAIT)
            .then(|| (format!("it did not catch up within {}s", CATCH_UP_WAIT.as_secs()), true))
    }

    fn is_dead(&self, now: Duration, view: &View<'_>, server: &ConfiguredServer) -> bool {
        self.dead_for(now, server.id).is_some_and(|dead| dead >= view.policy.replace_after)
    }

    pub(super) fn dead_for(&self, now: Duration, id: u64) -> Option<Duration> {
        self.state.get(&id).filter(|(up, _)| !up).map(|(_, since)| now.saturating_sub(*since))
    }

    /// The voter that has been dead for longest, if that is long enough.
    fn due<'a>(&self, now: Duration, view: &View<'a>) -> Option<&'a ConfiguredServer> {
        view.voters()
            .filter(|server| !server.leader && self.is_dead(now, view, server))
            .max_by_key(|server| (self.dead_for(now, server.id), std::cmp::Reverse(server.id)))
    }

    fn may_replace(&self, now: Duration, view: &View<'_>) -> bool {
        view.mode() == Mode::Auto && view.has_quorum() && self.pace.hold(now).is_none()
    }

    pub(super) fn need(&self, now: Duration, view: &View<'_>) -> Option<Need> {
        let voters = view.voters().count();
        if let Some(wanted) = view.catalog.servers().wanted
            && voters > wanted as usize
        {
            return surplus(view).map(Need::Shrink);
        }
        if let Some(dead) = self.due(now, view) {
            return Some(Need::Replace(dead.id, dead.name.clone()));
        }
        (voters < view.wanted()).then_some(Need::Grow)
    }

    pub(super) fn candidate(
        &self,
        now: Duration,
        view: &View<'_>,
        only: Option<&str>,
        proof: Proof,
    ) -> Result<Candidate, String> {
        let leader = view.configured.iter().find(|server| server.leader);
        let own = leader.and_then(|leader| view.members.iter().find(|member| member.name == leader.name));
        let facts = Facts {
            configured: view.configured,
            members: view.members,
            catalog: view.catalog,
            cluster: view.cluster,
            datacenter: own.and_then(|member| member.tags.get(TAG_DATACENTER)).map(String::as_str),
            alive: &self.alive,
            failed: &self.failed,
            replace_after: view.policy.replace_after,
        };
        candidate::choose(now, &facts, only, proof)
    }
}

/// The voter that goes when there are too many: a dead one first, then the youngest; never the leader.
fn surplus(view: &View<'_>) -> Option<u64> {
    let voters = view.voters().count();
    let up = view.voters().filter(|server| view.is_up(server)).count();
    let age = |server: &ConfiguredServer| {
        view.catalog.node(&server.name).map_or(u64::MAX, |row| row.node.create_index)
    };
    let going = view
        .voters()
        .filter(|server| !server.leader)
        .max_by_key(|server| (!view.is_up(server), age(server), server.id))?;
    let left = up - usize::from(view.is_up(going));
    let minimum = usize::try_from(view.catalog.servers().autopilot.min_quorum).unwrap_or(usize::MAX);
    // Those that stay must be able to go on without the one that goes.
    (left * 2 > voters - 1 && voters > minimum).then_some(going.id)
}

pub(super) fn nominate(candidate: Candidate, purpose: Purpose) -> Action {
    Action::Write(ServersCommand::Nominate {
        node: candidate.node,
        incarnation: candidate.incarnation,
        purpose,
    })
}

impl<'a> View<'a> {
    pub(super) fn voters(&self) -> impl Iterator<Item = &'a ConfiguredServer> + use<'a> {
        self.configured.iter().filter(|server| server.voter)
    }

    /// Whether a majority of the voters is up: raft would refuse without, and this says it before.
    pub(super) fn has_quorum(&self) -> bool {
        let up = self.voters().filter(|server| self.is_up(server)).count();
        up * 2 > self.voters().count()
    }

    /// How many servers there should be: what an operator said, else as many as at birth, or as there are.
    pub(super) fn wanted(&self) -> usize {
        let table = self.catalog.servers();
        match table.wanted {
            Some(wanted) => wanted as usize,
            None => self.voters().count().max(table.born as usize),
        }
    }

    /// The setting; Consul's switch turns replacement into proposals.
    pub(super) fn mode(&self) -> Mode {
        match self.policy.mode {
            Mode::Auto if !self.catalog.servers().autopilot.cleanup_dead_servers => Mode::Propose,
            mode => mode,
        }
    }

    pub(super) fn is_up(&self, server: &ConfiguredServer) -> bool {
        super::is_up(server, self.members)
    }

    /// The nominated machine, once it shows itself as a server. One that was restarted does not know by which nomination
    /// it is one, but if it votes already, it was this.
    fn nominee(&self, nomination: &Nomination) -> Option<ServerMember> {
        let ours = |server: &ServerMember| server.incarnation == nomination.incarnation;
        let votes = |server: &ServerMember| self.voters().any(|voter| voter.id == server.id);
        let servers = || self.members.iter().filter_map(ServerMember::of).filter(ours);
        servers()
            .find(|server| server.nomination == Some(nomination.serial))
            .or_else(|| servers().find(votes))
    }
}
