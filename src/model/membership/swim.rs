//! The state machine: what comes in, what goes out, and when it wants to be woken.
//!
//! The rules are beside it: probing in `probe`, what others claim in `claims`, full exchanges in `sync`,
//! leaving and forgetting in `departure`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::awareness::Awareness;
use super::broadcast::Broadcasts;
use super::chance::Chance;
use super::codec::{Datagram, decode_datagram, encode_claim};
use super::config::Config;
use super::departure::Departure;
use super::interface::{Change, Event, Input, Output, Refusal};
use super::member::{Member, MemberStatus, Tags};
use super::message::{Claim, Head, Message};
use super::probe::{Probe, Relay};
use super::record::Record;
use super::suspicion::Suspicion;
use super::sync::Exchange;

/// Lateness of our own timers, up to which nothing is done: a timer's normal imprecision.
const LATENESS_TOLERATED: Duration = Duration::from_millis(20);
/// Between two looks for members to forget.
const REAP_INTERVAL: Duration = Duration::from_mins(1);
/// Between two reports of refused members, so that a wrong machine does not fill the log.
const REFUSAL_REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// One member's view of the cluster, and its part in it.
#[derive(Debug)]
pub struct Swim {
    pub(super) config: Config,
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) tags: Tags,
    pub(super) incarnation: u64,
    pub(super) departure: Departure,
    pub(super) now: Duration,
    pub(super) chance: Chance,
    pub(super) awareness: Awareness,
    /// All others, also the dead ones that are still remembered.
    pub(super) members: BTreeMap<String, Record>,
    pub(super) suspicions: BTreeMap<String, Suspicion>,
    pub(super) news: Broadcasts,
    pub(super) probes: BTreeMap<u32, Probe>,
    pub(super) relays: BTreeMap<u32, Relay>,
    pub(super) exchanges: BTreeMap<u64, Exchange>,
    pub(super) rotation: Vec<String>,
    pub(super) probe_ring_next: bool,
    pub(super) probe_at: Duration,
    pub(super) sync_at: Duration,
    pub(super) reconnect_at: Duration,
    pub(super) stranger_at: Duration,
    pub(super) repair_at: Duration,
    /// The first cluster that we meet is being merged: whoever told us knows it already, and so do the others.
    pub(super) first_contact: bool,
    pub(super) outputs: Vec<Output>,
    /// Whoever sent the current input has not heard what this member says about itself.
    pub(super) misjudged: bool,
    gossip_at: Duration,
    reap_at: Duration,
    refusal_report_at: Duration,
    last_number: u64,
    woken_by: Duration,
}

impl Swim {
    /// A cluster of one. `address` is where others reach it; `seed` decides all chances.
    pub fn new(config: Config, name: String, address: SocketAddr, tags: Tags, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let probe_at = (config.probe_interval / 2).mul_f64(chance.fraction());
        let sync_at = config.sync_interval.mul_f64(0.5 + chance.fraction());
        let reconnect_at = config.reconnect_interval.mul_f64(0.5 + chance.fraction());
        Self {
            config,
            name,
            address,
            tags,
            incarnation: 1,
            departure: Departure::No,
            now: Duration::ZERO,
            last_number: chance.next() >> 34,
            chance,
            awareness: Awareness::default(),
            members: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            news: Broadcasts::default(),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            rotation: Vec::new(),
            probe_ring_next: true,
            probe_at,
            sync_at,
            reconnect_at,
            stranger_at: Duration::ZERO,
            outputs: Vec::new(),
            misjudged: false,
            repair_at: Duration::ZERO,
            first_contact: false,
            gossip_at: Duration::ZERO,
            reap_at: REAP_INTERVAL,
            refusal_report_at: Duration::ZERO,
            woken_by: probe_at,
        }
    }

    /// Takes in what happened at `now` (since any fixed moment before the start) and says what to do.
    ///
    /// Also does everything that was due by `now`, so a late [`Input::Tick`] is not needed after other inputs.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        self.forgive_our_own_lateness();
        match input {
            Input::Tick => {}
            Input::Datagram { from, bytes } => self.datagram(from, &bytes),
            Input::StreamRequest { stream, bytes } => self.stream_request(stream, &bytes),
            Input::StreamConnected { exchange } => self.stream_connected(exchange),
            Input::StreamReply { exchange, bytes } => self.stream_reply(exchange, &bytes),
            Input::StreamFailed { exchange, failure } => self.stream_failed(exchange, failure),
            Input::Join { request, to } => self.join(request, to),
            Input::Leave => self.leave(),
            Input::ForceLeave { name, prune } => self.force_leave(&name, prune),
            Input::SetTags(tags) => self.set_tags(tags),
        }
        self.run_due();
        self.woken_by = self.next_deadline();
        std::mem::take(&mut self.outputs)
    }

    /// When [`Input::Tick`] is wanted next.
    pub fn next_deadline(&self) -> Duration {
        let periodic = [self.probe_at, self.sync_at, self.reconnect_at, self.reap_at];
        let gossip = (!self.news.is_empty()).then_some(self.gossip_at);
        let others = if self.suspicions.is_empty() { 0 } else { self.unsuspected() };
        let suspicions = self.suspicions.values().map(|suspicion| suspicion.deadline(others, &self.config));
        periodic
            .into_iter()
            .chain(gossip)
            .chain(self.departure.deadline())
            .chain(self.probes.values().map(Probe::deadline))
            .chain(self.relays.values().map(|relay| relay.until))
            .chain(suspicions)
            .min()
            .unwrap_or(self.reap_at)
    }

    /// All members by name, this one included.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self
            .members
            .iter()
            .filter(|(_, record)| record.status() != MemberStatus::None)
            .map(|(name, record)| record.member(name))
            .collect();
        let place = members.partition_point(|member| member.name < self.name);
        members.insert(place, self.me());
        members
    }

    /// This member.
    pub fn me(&self) -> Member {
        Member {
            name: self.name.clone(),
            address: self.address.ip(),
            port: self.address.port(),
            tags: self.tags.as_map().clone(),
            status: self.departure.status(),
            incarnation: self.incarnation,
        }
    }

    /// Lifeguard's score of this member's own health: 0 is healthy, 8 the worst.
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// When we were stopped or starved, answers wait unread: all who owe us one get the time that we missed.
    fn forgive_our_own_lateness(&mut self) {
        let late = self.now.saturating_sub(self.woken_by);
        if late <= LATENESS_TOLERATED {
            return;
        }
        for probe in self.probes.values_mut() {
            probe.prolong(late);
        }
        for relay in self.relays.values_mut() {
            relay.until += late;
        }
        for suspicion in self.suspicions.values_mut() {
            suspicion.prolong(late);
        }
        if late >= self.config.probe_timeout / 2 {
            self.awareness.worsen(1);
        }
    }

    fn run_due(&mut self) {
        self.run_probes();
        self.run_suspicions();
        self.run_syncs();
        self.run_departure();
        if self.reap_at <= self.now {
            self.reap_at = self.now + REAP_INTERVAL;
            self.reap();
        }
        if self.gossip_at <= self.now && !self.news.is_empty() {
            self.gossip();
        }
    }

    fn set_tags(&mut self, tags: Tags) {
        if tags == self.tags {
            return;
        }
        self.tags = tags;
        self.incarnation += 1;
        self.announce_self();
        self.emit(Event::Member { change: Change::Updated, member: self.me() });
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        // Anybody can send anything to an open port, so what is no message of ours is not worth a word.
        let Ok((head, claims)) = decode_datagram(bytes) else { return };
        if head.from == self.name && from != self.address && from.ip() != self.address.ip() {
            self.refuse(&head.from, from, Refusal::OwnName);
            return;
        }
        self.misjudged = false;
        for claim in claims {
            self.hear(claim);
        }
        let answered = self.message(from, head);
        if self.misjudged && !answered {
            let denial = self.own_claim();
            self.send(from, Message::Gossip, Some(&denial));
        }
    }

    /// Works on what the datagram is for. True when the sender got an answer.
    fn message(&mut self, from: SocketAddr, head: Head) -> bool {
        match head.message {
            Message::Gossip => return false,
            Message::Ping { sequence, target, digest } => {
                if target != self.name {
                    return false;
                }
                // Who pings us may have been given up by us: then it must know.
                let accusation =
                    self.members.get(&head.from).and_then(|sender| sender.accusation(&head.from));
                let first = accusation.or_else(|| self.misjudged.then(|| self.own_claim()));
                self.send(from, Message::Ack { sequence }, first.as_ref());
                self.compare(&head.from, from, digest);
                return true;
            }
            Message::Ack { sequence } => self.acked(sequence),
            Message::PingRequest { sequence, target, address } => {
                self.relay(from, sequence, target, address);
            }
            Message::Nack { sequence } => self.nacked(sequence),
        }
        false
    }

    /// Sends a message with `first` and as much news as fits.
    pub(super) fn send(&mut self, to: SocketAddr, message: Message, first: Option<&Claim>) {
        let mut datagram = Datagram::new(&self.name, message);
        if let Some(claim) = first {
            datagram.add(&encode_claim(claim));
        }
        let limit = self.retransmit_limit();
        self.news.fill(&mut datagram, limit);
        self.outputs.push(Output::Datagram { to, bytes: datagram.into_bytes() });
    }

    fn gossip(&mut self) {
        self.gossip_at = self.now + self.config.gossip_interval;
        let live: Vec<SocketAddr> =
            self.members.values().filter(|record| record.is_live()).map(|record| record.address).collect();
        if live.is_empty() {
            // Nobody to tell; whoever comes gets everything by a full exchange.
            self.news = Broadcasts::default();
            return;
        }
        for to in self.chance.choose(live, self.config.gossip_fanout) {
            if self.news.is_empty() {
                break;
            }
            self.send(to, Message::Gossip, None);
        }
    }

    fn retransmit_limit(&self) -> u32 {
        let doublings = (self.members.len() + 1).checked_ilog2().unwrap_or(0) + 1;
        self.config.retransmit_factor * doublings
    }

    /// Makes everybody hear `claim`.
    pub(super) fn tell(&mut self, claim: &Claim) {
        self.news.add(claim);
    }

    /// Makes everybody hear what this member says about itself.
    pub(super) fn announce_self(&mut self) {
        let claim = self.own_claim();
        self.tell(&claim);
    }

    fn own_claim(&self) -> Claim {
        if self.departure.status() == MemberStatus::Left {
            let (name, address) = (self.name.clone(), self.address);
            return Claim::Left { name, address, incarnation: self.incarnation };
        }
        Claim::Alive {
            name: self.name.clone(),
            address: self.address,
            incarnation: self.incarnation,
            tags: self.tags.clone(),
            leaving: self.departure.status() == MemberStatus::Leaving,
        }
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    pub(super) fn emit_change(&mut self, change: Change, name: &str) {
        if let Some(record) = self.members.get(name) {
            let member = record.member(name);
            self.emit(Event::Member { change, member });
        }
    }

    pub(super) fn refuse(&mut self, name: &str, address: SocketAddr, refusal: Refusal) {
        if self.refusal_report_at <= self.now {
            self.refusal_report_at = self.now + REFUSAL_REPORT_INTERVAL;
            self.emit(Event::Refused { name: name.to_owned(), address, refusal });
        }
    }

    /// A number not used before by this member.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
