//! Birth without etcd: servers that see each other by gossip agree on one certificate.
//!
//! A server that was told how many to expect proposes a certificate that names that many servers. Each named server
//! accepts at most one, durably. The proposer accepts last, so its acceptance is the birth; whoever sees that all have
//! accepted may proclaim it. A durable refusal kills a certificate for ever: birth needs every acceptance. So an
//! acceptor that hears no more asks the other named servers to settle: each has accepted, or refuses for ever.
//!
//! Nobody proposes before it has looked whether a cluster lives where it was told to join: its disk may be a new one.
//!
//! This cannot stop two groups that never saw each other (nothing can); with etcd the guarantee is stronger.
//! Pure: requests and replies are values that the agent's RPC carries; [`BirthRecord`] is written by the shell before
//! the reply that follows it leaves.

mod answering;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::certificate::{Certificate, InitialMember};
use super::claim::Incarnation;
use crate::model::names::ClusterId;
#[cfg(test)]
use crate::simulation::mutants::{self, Mutant};

pub use messages::{BirthRecord, BirthReply, BirthRequest, GossipAction, GossipEvent, SeenServer};

/// How long a proposal may lack acceptances before it is dropped: several round trips of a slow network.
const PROPOSAL_PATIENCE: Duration = Duration::from_secs(5);
/// How long an acceptor waits for the proclamation before it asks the others.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// How often an unanswered request is sent again.
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
/// After a failed proposal the next one waits this long, and up to as much again by chance, so that two proposers
/// do not meet again and again.
const PROPOSAL_PAUSE: Duration = Duration::from_secs(1);
/// How long a server that was told to begin alone waits for those that it has found to show their cluster: longer than an
/// agent reads its log for when it starts. Nobody else is asked to accept such a cluster, who could refuse.
const SHOW_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Proposal {
    certificate: Certificate,
    accepted: BTreeSet<Incarnation>,
    since: Duration,
    sent: Duration,
}

#[derive(Debug)]
struct Settling {
    since: Duration,
    /// Ask without patience: somebody else proposes, or a cluster exists.
    urgent: bool,
    sent: Option<Duration>,
    accepted: BTreeSet<Incarnation>,
}

/// The birth of one server without a store.
#[derive(Debug)]
pub struct GossipBirth {
    me: SeenServer,
    /// `-bootstrap`: be born alone, whomever the others expect.
    alone: bool,
    raft_state: bool,
    record: BirthRecord,
    seen: BTreeMap<u64, SeenServer>,
    /// Since when it has looked for others.
    looked: Option<Duration>,
    highest_number: u64,
    proposal: Option<Proposal>,
    next_proposal: Duration,
    settling: Option<Settling>,
    announced: bool,
    waiting: Option<String>,
}

impl GossipBirth {
    /// `me` says in `expect` what `-bootstrap-expect` said; `alone` is `-bootstrap`; `raft_state`: a log exists.
    pub fn new(me: SeenServer, alone: bool, record: BirthRecord, raft_state: bool) -> Self {
        Self {
            me,
            alone,
            raft_state,
            record,
            seen: BTreeMap::new(),
            looked: None,
            highest_number: 0,
            proposal: None,
            next_proposal: Duration::ZERO,
            settling: None,
            announced: false,
            waiting: None,
        }
    }

    /// What the disk must hold.
    pub fn record(&self) -> &BirthRecord {
        &self.record
    }

    /// Takes one event in and says what to do. `now` is any steady clock; `random` 128 bits never used before.
    pub fn step(&mut self, now: Duration, random: u128, event: GossipEvent) -> Vec<GossipAction> {
        let mut actions = Vec::new();
        match event {
            GossipEvent::Started => self.announce(&mut actions),
            GossipEvent::Looked => self.looked = Some(now),
            GossipEvent::Seen(servers) => {
                self.seen = servers
                    .into_iter()
                    .filter(|server| server.incarnation != self.me.incarnation)
                    .map(|server| (server.node_id, server))
                    .collect();
                self.learn_clusters(now, &mut actions);
            }
            GossipEvent::Request { number, request } => {
                let reply = self.answer(now, random, request, &mut actions);
                actions.push(GossipAction::Reply { number, reply });
                self.announce(&mut actions);
            }
            GossipEvent::Reply { from, reply } => self.take_reply(now, random, &from, reply, &mut actions),
            GossipEvent::Formed(cluster_id) => self.remember_cluster(cluster_id, &mut actions),
            GossipEvent::Timer => {}
        }
        self.settle_if_stuck(now, &mut actions);
        self.propose_if_due(now, random, &mut actions);
        let waiting = self.what_is_missing();
        if waiting != self.waiting {
            actions.extend(waiting.clone().map(GossipAction::Wait));
            self.waiting = waiting;
        }
        actions
    }

    /// Says once what this server is to be, when it is decided.
    fn announce(&mut self, actions: &mut Vec<GossipAction>) {
        if self.announced {
            return;
        }
        let action = match (&self.record.accepted, &self.record.cluster) {
            (Some(certificate), _) if self.record.born => GossipAction::Born(certificate.clone()),
            (_, Some(cluster_id)) => GossipAction::Join(cluster_id.clone()),
            _ => return,
        };
        self.announced = true;
        actions.push(action);
    }

    fn is_free(&self) -> bool {
        self.record.accepted.is_none() && self.record.cluster.is_none() && !self.raft_state
    }

    /// A certificate with a number above all that were seen; `None` when numbers have run out.
    fn certificate(&self, random: u128, servers: &[SeenServer]) -> Option<Certificate> {
        Some(Certificate {
            cluster_id: ClusterId::from_random(random),
            epoch: self.highest_number.max(self.record.refused_through).checked_add(1)?,
            expect: servers.len(),
            initial: servers.iter().map(SeenServer::member).collect::<Option<Vec<_>>>()?,
            bound: BTreeSet::new(),
            formed: false,
            closed: Vec::new(),
        })
    }

    fn take_reply(
        &mut self,
        now: Duration,
        random: u128,
        from: &Incarnation,
        reply: BirthReply,
        actions: &mut Vec<GossipAction>,
    ) {
        match reply {
            BirthReply::Accepted { cluster_id, .. } if self.is_proposing(&cluster_id) => {
                if let Some(proposal) = &mut self.proposal {
                    proposal.accepted.insert(from.clone());
                }
                self.accept_own_if_last(actions);
            }
            BirthReply::Accepted { cluster_id, born } if self.has_accepted(&cluster_id) => {
                self.take_settled(from, born, actions);
            }
            BirthReply::Refused { cluster_id, refused_through, .. } => {
                self.highest_number = self.highest_number.max(refused_through);
                if self.is_proposing(&cluster_id) {
                    self.drop_proposal(now, random, actions);
                } else if self.has_accepted(&cluster_id) && !self.record.born {
                    self.free(actions);
                    self.learn_clusters(now, actions);
                }
            }
            BirthReply::Accepted { .. } | BirthReply::NotMe => {}
        }
    }

    fn has_accepted(&self, cluster_id: &ClusterId) -> bool {
        self.record.accepted.as_ref().is_some_and(|accepted| accepted.cluster_id == *cluster_id)
    }

    /// The proposer accepts last: with that the certificate is born.
    fn accept_own_if_last(&mut self, actions: &mut Vec<GossipAction>) {
        let Some(proposal) = &self.proposal else { return };
        let all = proposal.certificate.initial.iter().all(|member| {
            member.incarnation == self.me.incarnation || proposal.accepted.contains(&member.incarnation)
        });
        if !all || !self.is_free() || proposal.certificate.epoch <= self.record.refused_through {
            return;
        }
        let Some(proposal) = self.proposal.take() else { return };
        self.record.accepted = Some(proposal.certificate.clone());
        self.be_born(actions);
        self.proclaim(&proposal.certificate, actions);
    }

    fn proclaim(&self, certificate: &Certificate, actions: &mut Vec<GossipAction>) {
        for to in self.others(certificate) {
            let request =
                BirthRequest::Proclaim { certificate: certificate.clone(), to: to.incarnation.clone() };
            actions.push(GossipAction::Send { to, request });
        }
    }

    /// The other named servers, where they are now: one that has moved since is still to be asked and told.
    fn others(&self, certificate: &Certificate) -> Vec<InitialMember> {
        let not_me = |member: &&InitialMember| member.incarnation != self.me.incarnation;
        let mut others: Vec<InitialMember> = certificate.initial.iter().filter(not_me).cloned().collect();
        for other in &mut others {
            if let Some(seen) = self.seen.get(&other.incarnation.node_id()) {
                other.address.clone_from(&seen.address);
            }
        }
        others
    }

    fn take_settled(&mut self, from: &Incarnation, born: bool, actions: &mut Vec<GossipAction>) {
        if self.record.born {
            return;
        }
        let Some(certificate) = self.record.accepted.clone() else { return };
        let Some(settling) = &mut self.settling else { return };
        settling.accepted.insert(from.clone());
        let accepted = settling.accepted.clone();
        let others = self.others(&certificate);
        if born || others.iter().all(|other| accepted.contains(&other.incarnation)) {
            self.be_born(actions);
            self.proclaim(&certificate, actions);
        }
    }

    /// The accepted certificate is dead: another named server has refused it for ever.
    fn free(&mut self, actions: &mut Vec<GossipAction>) {
        if let Some(dead) = self.record.accepted.take() {
            self.record.refused_through = self.record.refused_through.max(dead.epoch);
            self.settling = None;
            actions.push(GossipAction::Persist(self.record.clone()));
        }
    }

    /// Gives up a proposal that cannot be born any more, and tells those who may have accepted it.
    pub(super) fn drop_proposal(&mut self, now: Duration, random: u128, actions: &mut Vec<GossipAction>) {
        if let Some(proposal) = self.proposal.take() {
            for to in self.others(&proposal.certificate) {
                let request = BirthRequest::Withdraw {
                    certificate: proposal.certificate.clone(),
                    to: to.incarnation.clone(),
                };
                actions.push(GossipAction::Send { to, request });
            }
        }
        let chance = u32::try_from(random % 1000).unwrap_or(0);
        self.next_proposal = now + PROPOSAL_PAUSE + PROPOSAL_PAUSE * chance / 1000;
    }

    fn settle_if_stuck(&mut self, now: Duration, actions: &mut Vec<GossipAction>) {
        if self.record.born {
            return;
        }
        let Some(certificate) = self.record.accepted.clone() else { return };
        let settling = self.settling.get_or_insert(Settling::starting(now));
        let due = now.saturating_sub(settling.since) >= SETTLE_PATIENCE || settling.urgent;
        let again = settling.sent.is_none_or(|sent| now.saturating_sub(sent) >= RESEND_INTERVAL);
        if !due || !again {
            return;
        }
        settling.sent = Some(now);
        let known = settling.accepted.clone();
        for to in self.others(&certificate) {
            if !known.contains(&to.incarnation) {
                let request =
                    BirthRequest::Settle { certificate: certificate.clone(), to: to.incarnation.clone() };
                actions.push(GossipAction::Send { to, request });
            }
        }
    }

    fn propose_if_due(&mut self, now: Duration, random: u128, actions: &mut Vec<GossipAction>) {
        if let Some(proposal) = &mut self.proposal {
            if now.saturating_sub(proposal.since) >= PROPOSAL_PATIENCE {
                self.drop_proposal(now, random, actions);
                return;
            }
            if now.saturating_sub(proposal.sent) < RESEND_INTERVAL {
                return;
            }
            proposal.sent = now;
            self.ask_for_acceptance(actions);
            return;
        }
        if !self.is_free() || now < self.next_proposal || self.what_is_missing().is_some() {
            return;
        }
        let Some(expect) = self.expect().filter(|expect| self.has_looked(now, *expect)) else { return };
        let servers: Vec<SeenServer> =
            std::iter::once(&self.me).chain(self.seen.values()).take(expect).cloned().collect();
        let Some(certificate) = self.certificate(random, &servers) else { return };
        self.proposal = Some(Proposal { certificate, accepted: BTreeSet::new(), since: now, sent: now });
        self.ask_for_acceptance(actions);
        self.accept_own_if_last(actions);
    }

    /// How many first servers there shall be.
    fn expect(&self) -> Option<usize> {
        if self.alone { Some(1) } else { self.me.expect }
    }

    /// Whether there is no cluster, as far as others can tell.
    fn has_looked(&self, now: Duration, expect: usize) -> bool {
        #[cfg(test)]
        if mutants::is(Mutant::BornUnseeing) {
            return true;
        }
        let nobody_can_refuse = expect == 1 && !self.seen.is_empty();
        let patience = if nobody_can_refuse { SHOW_PATIENCE } else { Duration::ZERO };
        self.looked.is_some_and(|since| now.saturating_sub(since) >= patience)
    }

    fn ask_for_acceptance(&self, actions: &mut Vec<GossipAction>) {
        let Some(proposal) = &self.proposal else { return };
        for to in self.others(&proposal.certificate) {
            if !proposal.accepted.contains(&to.incarnation) {
                let request = BirthRequest::Accept {
                    certificate: proposal.certificate.clone(),
                    proposer: self.me.incarnation.clone(),
                    to: to.incarnation.clone(),
                };
                actions.push(GossipAction::Send { to, request });
            }
        }
    }

    /// Why this server does not propose now; `None`: it may, or there is nothing to propose.
    fn what_is_missing(&self) -> Option<String> {
        if !self.is_free() {
            let accepted = self.record.accepted.as_ref().filter(|_| !self.record.born)?;
            return Some(format!("accepted cluster {}, waiting for its birth", accepted.cluster_id));
        }
        let clusters: BTreeSet<&ClusterId> =
            self.seen.values().filter_map(|server| server.cluster.as_ref()).collect();
        if clusters.len() > 1 {
            let clusters: Vec<&str> = clusters.into_iter().map(ClusterId::as_str).collect();
            return Some(format!("members of several clusters are here: {}", clusters.join(", ")));
        }
        if self.alone {
            return None;
        }
        let Some(expect) = self.me.expect else {
            return Some("waiting for a server that was told how many to expect, or a cluster".to_owned());
        };
        if let Some((other, theirs)) = self.seen.values().find_map(|server| {
            server.expect.filter(|theirs| *theirs != expect).map(|theirs| (server, theirs))
        }) {
            return Some(format!(
                "server {} expects {theirs} servers, this one {expect}: give all the same number",
                other.name
            ));
        }
        let have = self.seen.len() + 1;
        if have < expect {
            return Some(format!("have {have} of {expect} servers, waiting for {}", expect - have));
        }
        let first = self.seen.values().find(|server| server.expect.is_some());
        if let Some(first) = first.filter(|first| first.node_id < self.me.node_id) {
            return Some(format!("waiting for {} to propose", first.name));
        }
        None
    }

    fn learn_clusters(&mut self, now: Duration, actions: &mut Vec<GossipAction>) {
        if self.record.born || self.record.cluster.is_some() || self.raft_state {
            return;
        }
        let clusters: BTreeSet<ClusterId> =
            self.seen.values().filter_map(|server| server.cluster.clone()).collect();
        if let Some(accepted) = &self.record.accepted {
            if clusters.contains(&accepted.cluster_id) {
                self.be_born(actions);
            } else if !clusters.is_empty() {
                self.settling.get_or_insert(Settling::starting(now)).urgent = true;
            }
            return;
        }
        let mut clusters = clusters.into_iter();
        if let (Some(cluster_id), None) = (clusters.next(), clusters.next()) {
            self.proposal = None;
            self.record.cluster = Some(cluster_id);
            actions.push(GossipAction::Persist(self.record.clone()));
            self.announce(actions);
        }
    }

    fn remember_cluster(&mut self, cluster_id: ClusterId, actions: &mut Vec<GossipAction>) {
        if self.record.cluster.is_none() {
            self.record.cluster = Some(cluster_id);
            actions.push(GossipAction::Persist(self.record.clone()));
        }
    }
}

impl Settling {
    fn starting(now: Duration) -> Self {
        Self { since: now, urgent: false, sent: None, accepted: BTreeSet::new() }
    }
}
