//! Full exchanges of state over TCP: at a join, now and then with anybody, and to reach failed members again.

use std::net::SocketAddr;
use std::time::Duration;

use super::chance::{fingerprint, scatter};
use super::codec::{MEMBERS_MAX, decode_frame, encode_frame};
use super::departure::Departure;
use super::interface::{Change, Event, JoinFailure, Output, StreamFailure};
use super::message::{Claim, Entry, Evidence, Frame, State};
use super::record::Record;
use super::swim::Swim;

/// Least time between two exchanges with strangers who ping us.
const STRANGER_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two exchanges because of different digests: two members that cannot agree (two machines with
/// one name) must not do nothing else.
const REPAIR_INTERVAL: Duration = Duration::from_secs(2);
/// Most exchanges under way that were not asked for by a user; more means that nothing answers any more.
const EXCHANGES_MAX: usize = 512;

/// What an exchange under way is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// Part of the probe with this number.
    Ping { sequence: u32 },
    /// Asked for by a user.
    Join { request: u64 },
    /// Our own idea.
    Sync,
}

impl Swim {
    pub(super) fn join(&mut self, request: u64, to: SocketAddr) {
        if self.departure == Departure::No {
            self.start_sync(to, Exchange::Join { request });
        } else {
            self.emit(Event::JoinEnded { request, result: Err(JoinFailure::Leaving) });
        }
    }

    /// Compares whom the sender of a ping knows to live with whom we do, and repairs the difference.
    ///
    /// Gossip reaches everybody only almost surely; without this the rest would wait for the periodic exchange.
    pub(super) fn compare(&mut self, name: &str, address: SocketAddr, digest: u64) {
        if self.departure != Departure::No {
            return;
        }
        match self.members.get(name) {
            // It knew us in an earlier life.
            None if self.stranger_at <= self.now => {
                self.stranger_at = self.now + STRANGER_INTERVAL;
                self.start_sync(address, Exchange::Sync);
            }
            // While there is news to tell, differences are normal.
            Some(known)
                if known.is_live()
                    && self.repair_at <= self.now
                    && self.news.is_empty()
                    && digest != self.digest() =>
            {
                let to = known.address;
                self.repair_at = self.now + REPAIR_INTERVAL;
                self.start_sync(to, Exchange::Sync);
            }
            _ => {}
        }
    }

    /// A number that two members have in common when they know the same living members and incarnations.
    pub(super) fn digest(&self) -> u64 {
        let others = self.members.values().filter(|record| record.is_live());
        let others = others.map(|record| fingerprint(record.place, record.incarnation));
        others.fold(fingerprint(scatter(&self.name), self.incarnation), std::ops::BitXor::bitxor)
    }

    fn start_sync(&mut self, to: SocketAddr, purpose: Exchange) {
        if self.exchanges.len() >= EXCHANGES_MAX && purpose == Exchange::Sync {
            return;
        }
        let exchange = self.next_number();
        self.exchanges.insert(exchange, purpose);
        let bytes = encode_frame(&self.everything());
        self.outputs.push(Output::Exchange { exchange, to, bytes, timeout: self.config.exchange_timeout });
    }

    /// Starts the periodic exchanges that are due.
    pub(super) fn run_syncs(&mut self) {
        if self.sync_at <= self.now {
            self.sync_at = self.now + self.config.sync_interval.mul_f64(0.75 + self.chance.fraction() / 2.0);
            self.sync_with_one(|record| record.state == State::Alive);
        }
        if self.reconnect_at <= self.now {
            self.reconnect_at =
                self.now + self.config.reconnect_interval.mul_f64(0.75 + self.chance.fraction() / 2.0);
            // On average one attempt per interval and failed member in the whole cluster, as Serf does.
            let failed = self.count(|record| record.state == State::Failed);
            let living = self.count(Record::is_live) + 1;
            if self.chance.below(living) < failed {
                self.sync_with_one(|record| record.state == State::Failed);
            }
        }
    }

    fn sync_with_one(&mut self, wanted: impl Fn(&Record) -> bool) {
        let candidates: Vec<SocketAddr> =
            self.members.values().filter(|record| wanted(record)).map(|record| record.address).collect();
        if let Some(to) = self.chance.choose(candidates, 1).pop() {
            self.start_sync(to, Exchange::Sync);
        }
    }

    fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        self.members.values().filter(|record| wanted(record)).count()
    }

    /// Answers a conversation that somebody else began.
    pub(super) fn stream_request(&mut self, stream: u64, bytes: &[u8]) {
        let reply = match decode_frame(bytes) {
            Ok(Frame::Ping { target }) => Some(Frame::Pong { right_name: target == self.name }),
            Ok(Frame::Sync { from, entries }) => {
                self.merge(&from, entries);
                Some(self.everything())
            }
            // A reply without a question, or no message of ours.
            Ok(Frame::Pong { .. }) | Err(_) => None,
        };
        let bytes = reply.as_ref().map(encode_frame);
        self.outputs.push(Output::Reply { stream, bytes });
    }

    /// The connection stands: whatever follows, a process is there.
    pub(super) fn stream_connected(&mut self, exchange: u64) {
        if let Some(Exchange::Ping { sequence }) = self.exchanges.get(&exchange) {
            self.note_evidence(*sequence, Evidence::Stalled);
        }
    }

    pub(super) fn stream_reply(&mut self, exchange: u64, bytes: &[u8]) {
        let Some(purpose) = self.exchanges.remove(&exchange) else { return };
        match (purpose, decode_frame(bytes)) {
            (Exchange::Ping { sequence }, Ok(Frame::Pong { right_name: true })) => self.acked(sequence),
            // Another process has the address now, so the one that we knew is gone.
            (Exchange::Ping { sequence }, _) => self.note_evidence(sequence, Evidence::Refused),
            (Exchange::Join { request }, Ok(Frame::Sync { from, entries })) => {
                self.merge(&from, entries);
                self.emit(Event::JoinEnded { request, result: Ok(()) });
            }
            (Exchange::Join { request }, Ok(_)) => {
                let result = Err(JoinFailure::NoAgent("unexpected reply".to_owned()));
                self.emit(Event::JoinEnded { request, result });
            }
            (Exchange::Join { request }, Err(error)) => {
                self.emit(Event::JoinEnded { request, result: Err(JoinFailure::NoAgent(error.to_string())) });
            }
            (Exchange::Sync, Ok(Frame::Sync { from, entries })) => self.merge(&from, entries),
            (Exchange::Sync, _) => {}
        }
    }

    pub(super) fn stream_failed(&mut self, exchange: u64, failure: StreamFailure) {
        match self.exchanges.remove(&exchange) {
            Some(Exchange::Join { request }) => {
                self.emit(Event::JoinEnded { request, result: Err(failure.into()) });
            }
            Some(Exchange::Ping { sequence }) if failure == StreamFailure::Refused => {
                self.note_evidence(sequence, Evidence::Refused);
            }
            // The probe ends by its own deadline; a failed exchange is tried again with somebody else.
            _ => {}
        }
    }

    /// All that we know, ourselves first.
    fn everything(&self) -> Frame {
        let left = matches!(self.departure, Departure::Parting(_) | Departure::Done);
        let own = Entry {
            name: self.name.clone(),
            address: self.address,
            incarnation: self.incarnation,
            tags: self.tags.clone(),
            state: if left { State::Left } else { State::Alive },
            leaving: self.departure != Departure::No,
            age: 0,
        };
        let others = self.members.iter().map(|(name, record)| Entry {
            name: name.clone(),
            address: record.address,
            incarnation: record.incarnation,
            tags: record.tags.clone(),
            state: record.state,
            leaving: record.leaving,
            age: record.age(self.now).as_secs(),
        });
        Frame::Sync { from: self.name.clone(), entries: std::iter::once(own).chain(others).collect() }
    }

    fn merge(&mut self, from: &str, entries: Vec<Entry>) {
        if self.departure == Departure::Done {
            return;
        }
        self.first_contact = self.members.is_empty();
        for entry in entries {
            self.merge_entry(from, entry);
        }
        self.first_contact = false;
    }

    fn merge_entry(&mut self, from: &str, entry: Entry) {
        if entry.name == self.name {
            self.merge_self(entry);
            return;
        }
        match entry.state {
            State::Alive => {
                self.alive(&entry.name, entry.address, entry.incarnation, entry.tags, entry.leaving);
            }
            State::Suspect => {
                let (name, address, incarnation) = (entry.name.clone(), entry.address, entry.incarnation);
                if self.members.get(&name).is_none_or(|known| known.incarnation < incarnation) {
                    self.alive(&name, address, incarnation, entry.tags, entry.leaving);
                    self.doubt_living(&name, address, incarnation);
                }
            }
            // The member itself says that it left.
            State::Left if entry.name == from => {
                let Entry { name, address, incarnation, .. } = entry;
                self.hear(Claim::Left { name, address, incarnation });
            }
            State::Failed | State::Left | State::Pruned => self.merge_dead(entry),
        }
    }

    /// What others remember of us. A dead entry at another address is a namesake's, whose name we take over.
    fn merge_self(&mut self, entry: Entry) {
        match entry.state {
            State::Alive | State::Suspect if entry.address != self.address => {
                self.alive(&entry.name, entry.address, entry.incarnation, entry.tags, entry.leaving);
            }
            State::Alive if !entry.leaving => {
                self.alive(&entry.name, entry.address, entry.incarnation, entry.tags, entry.leaving);
            }
            _ => self.deny(entry.incarnation),
        }
    }

    fn merge_dead(&mut self, entry: Entry) {
        let Some(known) = self.members.get_mut(&entry.name) else {
            self.remember_dead(entry);
            return;
        };
        let (live, same) = (known.is_live(), known.address == entry.address);
        if live {
            self.doubt_living(&entry.name, entry.address, entry.incarnation);
            return;
        }
        // Both know it as dead: the later word wins.
        let rank = |state: State| match state {
            State::Alive | State::Suspect => 0,
            State::Failed => 1,
            State::Left => 2,
            State::Pruned => 3,
        };
        let later = entry.incarnation > known.incarnation
            || (same && entry.incarnation == known.incarnation && rank(entry.state) > rank(known.state));
        if !later {
            return;
        }
        known.address = entry.address;
        known.incarnation = entry.incarnation;
        known.tags = entry.tags;
        if known.state != entry.state {
            let change = match entry.state {
                State::Failed => Change::Failed,
                State::Pruned => Change::Reaped,
                _ => Change::Left,
            };
            self.bury(&entry.name, entry.state, change);
        }
    }

    /// Others have given up whom we know as alive: suspect it, at the address in question only.
    fn doubt_living(&mut self, name: &str, address: SocketAddr, incarnation: u64) {
        let Some(known) = self.members.get(name) else { return };
        if known.address == address && incarnation >= known.incarnation && known.is_live() {
            self.doubt(name, incarnation);
        }
    }

    /// A newcomer learns of the dead too: it may be the next leader, who must know whom the catalog still lists.
    fn remember_dead(&mut self, entry: Entry) {
        let age_then = Duration::from_secs(entry.age);
        let record = Record {
            address: entry.address,
            tags: entry.tags,
            incarnation: entry.incarnation,
            state: entry.state,
            leaving: entry.leaving,
            since: self.now,
            age_then,
            place: scatter(&entry.name),
        };
        let forgotten = age_then >= self.kept(entry.state);
        if forgotten || self.members.len() >= MEMBERS_MAX || entry.address.ip().is_unspecified() {
            return;
        }
        self.members.insert(entry.name.clone(), record);
        match entry.state {
            State::Failed => self.emit_change(Change::Failed, &entry.name),
            State::Left => self.emit_change(Change::Left, &entry.name),
            State::Alive | State::Suspect | State::Pruned => {}
        }
    }
}
