//! What one machine does next in its birth: events in, actions out.
//!
//! The shell (`bootstrap`) carries out the actions in their order and reports what came of them. Nothing here waits,
//! reads a clock or draws a number; every decision can be repeated, because each looks at a complete [`View`].

mod blank;
mod claiming;
mod events;
mod recorded;

use std::collections::BTreeSet;
use std::time::Duration;

use super::certificate::Certificate;
use super::claim::{Claim, Incarnation, Revision, View};
use super::record::{JOIN_ADDRESSES_MAX, LocalState, Plan, Record, RecordedRole, Role};
use super::waiting::Waiting;
use crate::model::names::ClusterId;

pub use events::{Action, Event, Machine, Patience, Refusal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Idle,
    Running,
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    NotYet,
    Running,
    Nobody,
}

/// The birth of one machine.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent facts, not one state")]
pub struct Birth {
    me: Machine,
    patience: Patience,
    local: LocalState,
    raft_state: bool,
    /// What the store held when it was last read.
    view: Option<View>,
    /// Whether the view is newer than our last write.
    fresh: bool,
    claim_writing: bool,
    claim_held: bool,
    certificate_writing: bool,
    other_claim_since: Option<(Incarnation, String, Duration)>,
    stalled_since: Option<(u64, Duration)>,
    agent: Agent,
    leader: bool,
    probe: Probe,
    waiting: Option<Waiting>,
    refused: bool,
}

impl Birth {
    /// `local` is what the disk remembers; `raft_state` whether the agent has a raft log.
    pub fn new(me: Machine, patience: Patience, local: LocalState, raft_state: bool) -> Self {
        Self {
            me,
            patience,
            local,
            raft_state,
            view: None,
            fresh: false,
            claim_writing: false,
            claim_held: false,
            certificate_writing: false,
            other_claim_since: None,
            stalled_since: None,
            agent: Agent::Idle,
            leader: false,
            probe: Probe::NotYet,
            waiting: None,
            refused: false,
        }
    }

    /// What the disk remembers.
    pub fn local(&self) -> &LocalState {
        &self.local
    }

    /// Takes one event in and says what to do. `now` is any steady clock; `random` 128 bits never used before.
    pub fn step(&mut self, now: Duration, random: u128, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.refused {
            return actions;
        }
        let lost = self.take_in(event, random, &mut actions);
        let waiting = match self.view.take() {
            Some(view) if self.fresh && self.agent != Agent::Stopping => {
                let waiting = self.act(now, random, &view, &mut actions);
                self.view = Some(view);
                waiting
            }
            view => {
                self.view = view;
                lost.or_else(|| self.waiting.clone())
            }
        };
        if waiting != self.waiting {
            actions.push(waiting.clone().map_or(Action::Settled, Action::Wait));
            self.waiting = waiting;
        }
        actions
    }

    /// Records the event; gives what is being waited for if nothing can be decided on it.
    fn take_in(&mut self, event: Event, random: u128, actions: &mut Vec<Action>) -> Option<Waiting> {
        match event {
            Event::Started => self.start_from_disk(random, actions),
            Event::StoreChanged(view) => {
                self.view = Some(view);
                self.fresh = true;
            }
            Event::StoreLost { reason } => {
                self.fresh = false;
                return Some(Waiting::Store { reason });
            }
            Event::ClaimWritten { won } => {
                self.claim_writing = false;
                self.claim_held = won;
                self.fresh = false;
            }
            Event::CertificateWritten { won: _ } => {
                self.certificate_writing = false;
                self.fresh = false;
            }
            Event::LeaseLost => {
                self.claim_held = false;
                self.fresh = false;
            }
            Event::Agent { formed, leader } => {
                self.leader = leader;
                if let Some(cluster_id) = formed {
                    self.remember_formed(cluster_id, actions);
                }
            }
            Event::Succeeded { cluster_id, predecessors } => {
                self.follow_succession(cluster_id, &predecessors, actions);
            }
            Event::AgentStopped => {
                self.agent = Agent::Idle;
                self.raft_state = false;
                self.leader = false;
                self.local.record = None;
                actions.push(Action::Persist(self.local.clone()));
            }
            Event::Probed { cluster: None } => self.probe = Probe::Nobody,
            Event::Probed { cluster: Some(cluster_id) } => {
                self.probe = Probe::Nobody;
                if self.local.record.is_none() && self.agent == Agent::Idle {
                    self.enter(
                        Record { cluster_id, role: RecordedRole::Client, formed: true, certificate: None },
                        actions,
                    );
                }
            }
            Event::Timer => {}
        }
        None
    }

    /// A machine that remembers a cluster goes on at once, store or not (I3).
    fn start_from_disk(&mut self, random: u128, actions: &mut Vec<Action>) {
        let Some(record) = &self.local.record else {
            if self.raft_state {
                self.start_agent(Role::Server { initial: None }, None, actions);
            }
            return;
        };
        if record.formed && record.role == RecordedRole::Server && !self.raft_state {
            // It may have voted, and does not remember: that node must never speak again.
            self.me.incarnation = Incarnation::from_random(random);
            self.local.record = None;
            actions.push(Action::BecomeIncarnation(self.me.incarnation.clone()));
            actions.push(Action::Persist(self.local.clone()));
            return;
        }
        let role = match record.role {
            RecordedRole::Client => Role::Client,
            RecordedRole::Server if record.formed => Role::Server { initial: None },
            RecordedRole::Server => Role::Server { initial: record.certificate.clone() },
        };
        let cluster_id = Some(record.cluster_id.clone());
        self.start_agent(role, cluster_id, actions);
    }

    fn start_agent(&mut self, role: Role, cluster_id: Option<ClusterId>, actions: &mut Vec<Action>) {
        self.agent = Agent::Running;
        actions.push(Action::StartAgent(Plan {
            role,
            join: self.local.peers.clone(),
            cluster_id,
            incarnation: self.me.incarnation.clone(),
        }));
    }

    /// Ties this disk to a cluster, durably, and only then starts the agent.
    fn enter(&mut self, record: Record, actions: &mut Vec<Action>) {
        let role = match record.role {
            RecordedRole::Client => Role::Client,
            RecordedRole::Server if record.formed => Role::Server { initial: None },
            RecordedRole::Server => Role::Server { initial: record.certificate.clone() },
        };
        let cluster_id = Some(record.cluster_id.clone());
        self.local.record = Some(record);
        actions.push(Action::Persist(self.local.clone()));
        self.start_agent(role, cluster_id, actions);
    }

    fn remember_formed(&mut self, cluster_id: ClusterId, actions: &mut Vec<Action>) {
        match &mut self.local.record {
            Some(record) if record.cluster_id == cluster_id && !record.formed => record.formed = true,
            // An agent that runs on raft state alone has told which cluster it is.
            None if self.agent == Agent::Running => {
                self.local.record =
                    Some(Record { cluster_id, role: RecordedRole::Server, formed: true, certificate: None });
            }
            Some(_) | None => return,
        }
        actions.push(Action::Persist(self.local.clone()));
    }

    fn act(
        &mut self,
        now: Duration,
        random: u128,
        view: &View,
        actions: &mut Vec<Action>,
    ) -> Option<Waiting> {
        let blocked = self.claim(now, view, actions);
        if self.refused {
            return None;
        }
        self.remember_peers(view, actions);
        if let Some(record) = self.local.record.clone() {
            return self.act_as_recorded(now, random, view, &record, actions).or(blocked);
        }
        if self.agent != Agent::Idle {
            return blocked;
        }
        if blocked.is_some() {
            return blocked;
        }
        let claimed =
            self.claim_held && view.claim_of(&self.me.machine_id).is_some_and(|claim| self.is_mine(claim));
        match &view.certificate {
            None => self.act_on_empty_store(random, view, claimed, actions),
            Some((certificate, _)) if certificate.formed => {
                if !claimed {
                    return self.waiting.clone();
                }
                let role = if certificate.member(&self.me.incarnation).is_some() {
                    RecordedRole::Server
                } else {
                    RecordedRole::Client
                };
                self.enter_certificate(view, certificate, role, actions);
                None
            }
            Some((certificate, revision)) => {
                self.act_on_birth(now, random, view, (certificate, *revision), claimed, actions)
            }
        }
    }

    fn remember_peers(&mut self, view: &View, actions: &mut Vec<Action>) {
        if self.local.record.is_none() {
            return;
        }
        let peers = self.addresses(view, view.certificate.as_ref().map(|(certificate, _)| certificate));
        if !peers.is_empty() && peers != self.local.peers {
            self.local.peers = peers;
            actions.push(Action::Persist(self.local.clone()));
        }
    }

    /// The other machines: first servers first, then by name of the machine, each address once.
    fn addresses(&self, view: &View, certificate: Option<&Certificate>) -> Vec<String> {
        let mut claims: Vec<&Claim> = view.claims.iter().collect();
        claims.sort_by(|one, other| one.machine_id.cmp(&other.machine_id));
        let initial = certificate.into_iter().flat_map(|certificate| &certificate.initial);
        let mut seen = BTreeSet::from([self.me.address.as_str()]);
        initial
            .map(|member| member.address.as_str())
            .chain(claims.into_iter().map(|claim| claim.address.as_str()))
            .filter(|address| seen.insert(address))
            .take(JOIN_ADDRESSES_MAX)
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn enter_certificate(
        &mut self,
        view: &View,
        certificate: &Certificate,
        role: RecordedRole,
        actions: &mut Vec<Action>,
    ) {
        self.local.peers = self.addresses(view, Some(certificate));
        let record = Record {
            cluster_id: certificate.cluster_id.clone(),
            role,
            formed: certificate.formed,
            certificate: Some(certificate.clone()),
        };
        self.enter(record, actions);
    }

    pub(super) fn create(&mut self, certificate: Certificate, actions: &mut Vec<Action>) {
        if !self.certificate_writing {
            self.certificate_writing = true;
            actions.push(Action::CreateCertificate(certificate));
        }
    }

    pub(super) fn swap(&mut self, revision: Revision, certificate: Certificate, actions: &mut Vec<Action>) {
        if !self.certificate_writing {
            self.certificate_writing = true;
            actions.push(Action::SwapCertificate { revision, certificate });
        }
    }
}
