//! Probing: is this member still there? Directly, through others, by TCP; and for others.

use std::net::SocketAddr;
use std::time::Duration;

use super::departure::Departure;
use super::interface::Output;
use super::message::{Claim, Evidence, Frame, Message, State};
use super::swim::Swim;
use super::sync::Exchange;
use super::{chance::scatter, codec::encode_frame};

/// Most probes under way; reached only when half of a very large cluster dies at once.
const PROBES_MAX: usize = 256;
/// Most probes made for others under way; more means that somebody floods us.
const RELAYS_MAX: usize = 256;
/// Share of the direct timeout after which a helper says that it has no answer either, in percent: early enough
/// to be heard before the probe ends.
const NACK_AFTER_PERCENT: u32 = 80;

/// One probe under way.
#[derive(Debug)]
pub(super) struct Probe {
    target: String,
    /// Until then others are not asked; `None` when they have been.
    direct_until: Option<Duration>,
    until: Duration,
    helpers: u32,
    nacks: u32,
    evidence: Evidence,
}

impl Probe {
    pub(super) fn deadline(&self) -> Duration {
        self.direct_until.unwrap_or(self.until)
    }

    pub(super) fn prolong(&mut self, time: Duration) {
        self.until += time;
        self.direct_until = self.direct_until.map(|until| until + time);
    }
}

/// A probe made for another member.
#[derive(Debug)]
pub(super) struct Relay {
    asker: SocketAddr,
    sequence: u32,
    pub(super) until: Duration,
}

impl Swim {
    /// Starts, carries on and ends probes.
    pub(super) fn run_probes(&mut self) {
        if self.probe_at <= self.now && self.departure == Departure::Done {
            // Whoever has left listens politely until its process ends, and asks nothing.
            self.probe_at = self.now + self.config.probe_interval;
        } else if self.probe_at <= self.now {
            self.probe_at = self.now + self.awareness.scale(self.config.probe_interval / 2);
            self.probe_ring_next = !self.probe_ring_next;
            let target = if self.probe_ring_next { self.ring_neighbour() } else { self.next_in_rotation() };
            if let Some(target) = target {
                self.probe(&target);
            }
        }
        let due: Vec<u32> =
            self.probes.iter().filter(|(_, probe)| probe.deadline() <= self.now).map(|(id, _)| *id).collect();
        for sequence in due {
            self.carry_on(sequence);
        }
        let unanswered: Vec<u32> =
            self.relays.iter().filter(|(_, relay)| relay.until <= self.now).map(|(id, _)| *id).collect();
        for sequence in unanswered {
            if let Some(relay) = self.relays.remove(&sequence) {
                self.send(relay.asker, Message::Nack { sequence: relay.sequence }, None);
            }
        }
    }

    /// Probes a member unless that is under way already.
    pub(super) fn probe(&mut self, name: &str) {
        let Some(record) = self.members.get(name) else { return };
        let busy = self.probes.values().any(|probe| probe.target == name);
        if !record.is_live() || busy || self.probes.len() >= PROBES_MAX {
            return;
        }
        let (address, suspicion) = (record.address, self.accusation_of_suspect(name));
        let sequence = self.sequence();
        let probe = Probe {
            target: name.to_owned(),
            direct_until: Some(self.now + self.awareness.scale(self.config.probe_timeout)),
            until: self.now + self.awareness.scale(self.config.probe_interval),
            helpers: 0,
            nacks: 0,
            evidence: Evidence::Silent,
        };
        self.probes.insert(sequence, probe);
        self.ping(address, sequence, name.to_owned(), suspicion.as_ref());
    }

    fn carry_on(&mut self, sequence: u32) {
        let Some(probe) = self.probes.get_mut(&sequence) else { return };
        let target = probe.target.clone();
        let Some(address) = self.members.get(&target).filter(|record| record.is_live()).map(|r| r.address)
        else {
            // It left or was found dead by others meanwhile.
            self.probes.remove(&sequence);
            return;
        };
        if probe.direct_until.take().is_some() {
            self.ask_others(sequence, &target, address);
            return;
        }
        let (missing, evidence) = (probe.helpers.saturating_sub(probe.nacks), probe.evidence);
        let lonely = probe.helpers == 0;
        self.probes.remove(&sequence);
        // Helpers that say nothing either are a sign that it is we who do not hear; what TCP showed is not.
        if evidence == Evidence::Silent {
            self.awareness.worsen(if lonely { 1 } else { missing });
        }
        let incarnation = self.members.get(&target).map_or(0, |record| record.incarnation);
        let accuser = self.name.clone();
        self.suspect(&Claim::Suspect { name: target.clone(), incarnation, accuser, evidence });
        // As long as it is only suspected it is asked again, so that one lost denial does not decide.
        self.probe(&target);
    }

    fn ping(&mut self, to: SocketAddr, sequence: u32, target: String, suspicion: Option<&Claim>) {
        let digest = self.digest();
        self.send(to, Message::Ping { sequence, target, digest }, suspicion);
    }

    fn ask_others(&mut self, sequence: u32, target: &str, address: SocketAddr) {
        let others: Vec<SocketAddr> = self
            .members
            .iter()
            .filter(|(name, record)| record.state == State::Alive && name.as_str() != target)
            .map(|(_, record)| record.address)
            .collect();
        let helpers = self.chance.choose(others, self.config.indirect_probes);
        let timeout =
            self.awareness.scale(self.config.probe_interval.saturating_sub(self.config.probe_timeout));
        if let Some(probe) = self.probes.get_mut(&sequence) {
            probe.helpers = u32::try_from(helpers.len()).unwrap_or(u32::MAX);
        }
        for helper in helpers {
            self.send(helper, Message::PingRequest { sequence, target: target.to_owned(), address }, None);
        }
        let exchange = self.next_number();
        self.exchanges.insert(exchange, Exchange::Ping { sequence });
        let bytes = encode_frame(&Frame::Ping { target: target.to_owned() });
        self.outputs.push(Output::Exchange { exchange, to: address, bytes, timeout });
    }

    /// An answer to a probe, ours or one made for another.
    pub(super) fn acked(&mut self, sequence: u32) {
        if self.probes.remove(&sequence).is_some() {
            self.awareness.improve();
        } else if let Some(relay) = self.relays.remove(&sequence) {
            self.send(relay.asker, Message::Ack { sequence: relay.sequence }, None);
        }
    }

    pub(super) fn nacked(&mut self, sequence: u32) {
        if let Some(probe) = self.probes.get_mut(&sequence) {
            probe.nacks += 1;
        }
    }

    /// What TCP showed of a probe's target.
    pub(super) fn note_evidence(&mut self, sequence: u32, evidence: Evidence) {
        if let Some(probe) = self.probes.get_mut(&sequence) {
            probe.evidence = evidence;
        }
    }

    /// Probes for another member.
    pub(super) fn relay(&mut self, asker: SocketAddr, sequence: u32, target: String, address: SocketAddr) {
        if self.relays.len() >= RELAYS_MAX {
            return;
        }
        // Only members are probed, so that nobody can make us send to strangers.
        let Some(record) = self.members.get(&target).filter(|record| record.address == address) else {
            return;
        };
        let address = record.address;
        let suspicion = self.accusation_of_suspect(&target);
        let own = self.sequence();
        let until = self.now + self.config.probe_timeout * NACK_AFTER_PERCENT / 100;
        self.relays.insert(own, Relay { asker, sequence, until });
        self.ping(address, own, target, suspicion.as_ref());
    }

    /// Lifeguard's buddy system: a suspect hears of it in the first packet.
    fn accusation_of_suspect(&self, name: &str) -> Option<Claim> {
        let suspicion = self.suspicions.get(name)?;
        Some(Claim::Suspect {
            name: name.to_owned(),
            incarnation: self.members.get(name)?.incarnation,
            accuser: suspicion.accuser().to_owned(),
            evidence: suspicion.evidence(),
        })
    }

    /// The next unsuspected member on the ring of name hashes: we are its probing neighbour.
    fn ring_neighbour(&self) -> Option<String> {
        let own = scatter(&self.name);
        self.members
            .iter()
            .filter(|(_, record)| record.state == State::Alive)
            .min_by_key(|(_, record)| record.place.wrapping_sub(own))
            .map(|(name, _)| name.clone())
    }

    /// How many unsuspected members are nearer before `name` on the ring than we are.
    pub(super) fn distance_before(&self, name: &str) -> usize {
        let Some(target) = self.members.get(name) else { return usize::MAX };
        let own = target.place.wrapping_sub(scatter(&self.name));
        self.members
            .values()
            .filter(|record| record.state == State::Alive && record.place != target.place)
            .filter(|record| target.place.wrapping_sub(record.place) < own)
            .count()
    }

    /// Everybody once in random order, then again (SWIM's round robin).
    fn next_in_rotation(&mut self) -> Option<String> {
        if self.rotation.is_empty() {
            self.rotation = self
                .members
                .iter()
                .filter(|(_, record)| record.is_live())
                .map(|(name, _)| name.clone())
                .collect();
            let mut rotation = std::mem::take(&mut self.rotation);
            self.chance.shuffle(&mut rotation);
            self.rotation = rotation;
        }
        while let Some(name) = self.rotation.pop() {
            if self.members.get(&name).is_some_and(super::record::Record::is_live) {
                return Some(name);
            }
        }
        None
    }

    /// A number for a ping.
    fn sequence(&mut self) -> u32 {
        let number = self.next_number() & u64::from(u32::MAX);
        u32::try_from(number).unwrap_or_default()
    }
}
