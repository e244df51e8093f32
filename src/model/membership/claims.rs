//! What others say about members, and what of it is believed.
//!
//! About one member at one address, the higher incarnation wins, and at equal incarnations the later of
//! alive, suspect, failed, left, pruned; so all members agree in the end, in whatever order they hear.
//! Two exceptions protect the living: only a member itself can raise its incarnation, and who is known to be alive
//! is at most suspected when somebody says otherwise out of the blue.

use std::net::SocketAddr;
use std::time::Duration;

use super::chance::scatter;
use super::codec::MEMBERS_MAX;
use super::departure::Departure;
use super::interface::{Change, Event, Refusal};
use super::member::Tags;
use super::message::{Claim, Evidence, Message, State};
use super::record::Record;
use super::suspicion::Suspicion;
use super::swim::Swim;

impl Swim {
    /// Takes in one claim from gossip.
    pub(super) fn hear(&mut self, claim: Claim) {
        match claim {
            Claim::Alive { name, address, incarnation, tags, leaving } => {
                self.alive(&name, address, incarnation, tags, leaving);
            }
            Claim::Suspect { .. } => self.suspect(&claim),
            Claim::Failed { name, incarnation } => self.hear_of_death(&name, incarnation),
            Claim::Left { name, address, incarnation } => self.left(&name, address, incarnation),
            Claim::Pruned { name, incarnation } => self.pruned(&name, incarnation),
        }
    }

    /// Says again that this member is alive, above the incarnation at which others doubt it.
    pub(super) fn deny(&mut self, incarnation: u64) {
        self.misjudged = true;
        if incarnation < self.incarnation || self.departure == Departure::Done {
            return;
        }
        // A member that has left denies nothing, but its "left" must outbid what others say.
        self.incarnation = incarnation + 1;
        self.announce_self();
    }

    pub(super) fn alive(&mut self, name: &str, at: SocketAddr, incarnation: u64, tags: Tags, leaving: bool) {
        if name == self.name {
            self.alive_self(at, incarnation, &tags);
            return;
        }
        if at.ip().is_unspecified() || at.port() == 0 {
            self.refuse(name, at, Refusal::Address);
            return;
        }
        let Some(known) = self.members.get(name) else {
            self.newcomer(name, at, incarnation, tags, leaving);
            return;
        };
        let moved = known.address != at;
        if moved && !self.may_take_over(known, &tags) {
            let holder = known.address;
            self.refuse(name, at, Refusal::NameTaken(holder));
            return;
        }
        if incarnation <= known.incarnation {
            return;
        }
        let change = match known.state {
            State::Failed | State::Left | State::Pruned => Some(Change::Joined),
            _ if leaving && !known.leaving => Some(Change::Leaving),
            // It went down while it was leaving, and is back.
            _ if known.leaving && !leaving => Some(Change::Updated),
            _ if known.tags != tags => Some(Change::Updated),
            State::Suspect => Some(Change::Cleared),
            State::Alive => None,
        };
        self.suspicions.remove(name);
        self.put(name, at, incarnation, tags, leaving);
        if let Some(change) = change {
            self.emit_change(change, name);
        }
    }

    /// Somebody says that we are alive: right, unless it is an earlier life of ours, or somebody else.
    fn alive_self(&mut self, at: SocketAddr, incarnation: u64, tags: &Tags) {
        if at != self.address {
            self.refuse(&self.name.clone(), at, Refusal::OwnName);
        } else if incarnation > self.incarnation || (incarnation == self.incarnation && *tags != self.tags) {
            self.deny(incarnation);
        }
    }

    fn newcomer(&mut self, name: &str, at: SocketAddr, incarnation: u64, tags: Tags, leaving: bool) {
        if self.members.len() >= MEMBERS_MAX {
            self.refuse(name, at, Refusal::Full);
            return;
        }
        self.put(name, at, incarnation, tags, leaving);
        let place = self.chance.below(self.rotation.len() + 1);
        self.rotation.insert(place, name.to_owned());
        self.emit_change(Change::Joined, name);
    }

    fn put(&mut self, name: &str, at: SocketAddr, incarnation: u64, tags: Tags, leaving: bool) {
        let claim =
            Claim::Alive { name: name.to_owned(), address: at, incarnation, tags: tags.clone(), leaving };
        let record = Record {
            address: at,
            tags,
            incarnation,
            state: State::Alive,
            leaving,
            since: self.now,
            age_then: Duration::ZERO,
            place: scatter(name),
        };
        self.members.insert(name.to_owned(), record);
        if !self.first_contact {
            self.tell(&claim);
        }
    }

    /// A name is free for another address when its holder left, or failed long enough ago. A machine that failed and is
    /// back at another address is let in at once.
    fn may_take_over(&self, holder: &Record, tags: &Tags) -> bool {
        match holder.state {
            State::Alive | State::Suspect => false,
            State::Failed => {
                tags.are_of_the_same_machine(&holder.tags) || holder.age(self.now) >= self.config.name_kept
            }
            State::Left | State::Pruned => true,
        }
    }

    /// An accusation, our own or another's.
    pub(super) fn suspect(&mut self, claim: &Claim) {
        let Claim::Suspect { name, incarnation, accuser, evidence } = claim else { return };
        if *name == self.name {
            // To be suspected is a sign of being slow.
            if *incarnation >= self.incarnation && *accuser != self.name {
                self.awareness.worsen(1);
            }
            self.deny(*incarnation);
            return;
        }
        let Some(known) = self.members.get_mut(name) else { return };
        if *incarnation < known.incarnation || !known.is_live() {
            return;
        }
        known.incarnation = *incarnation;
        if let Some(suspicion) = self.suspicions.get_mut(name) {
            if suspicion.accuse(accuser, *evidence, &self.config) {
                self.tell(claim);
            }
            return;
        }
        known.state = State::Suspect;
        known.since = self.now;
        self.suspicions.insert(name.clone(), Suspicion::new(self.now, accuser.clone(), *evidence));
        self.tell(claim);
        if *accuser == self.name {
            self.ask_to_confirm(name);
        } else if self.distance_before(name) < self.config.confirming_neighbours {
            self.probe(name);
        }
        self.emit_change(Change::Suspected, name);
    }

    /// Tells the suspect's neighbours at once, so that they probe it too.
    fn ask_to_confirm(&mut self, name: &str) {
        let Some(place) = self.members.get(name).map(|record| record.place) else { return };
        let mut neighbours: Vec<(u64, SocketAddr)> = self
            .members
            .values()
            .filter(|record| record.state == State::Alive)
            .map(|record| (place.wrapping_sub(record.place), record.address))
            .collect();
        neighbours.sort_unstable_by_key(|(distance, _)| *distance);
        let wanted = usize::try_from(self.config.confirmations).unwrap_or(usize::MAX).saturating_add(1);
        for (_, to) in neighbours.into_iter().take(wanted) {
            self.send(to, Message::Gossip, None);
        }
    }

    /// How many could confirm a suspicion now.
    pub(super) fn unsuspected(&self) -> usize {
        self.members.values().filter(|record| record.state == State::Alive).count()
    }

    /// Declares dead who did not deny a suspicion in time.
    pub(super) fn run_suspicions(&mut self) {
        if self.suspicions.is_empty() {
            return;
        }
        let others = self.unsuspected();
        let due: Vec<String> = self
            .suspicions
            .iter()
            .filter(|(_, suspicion)| suspicion.deadline(others, &self.config) <= self.now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.suspicions.remove(&name);
            self.declare_dead(&name);
        }
    }

    /// Somebody waited in vain for a denial. Believed if we have suspected it too for as long as a denial takes;
    /// else the bringer of the news may itself have been cut off, and the member gets its chance with us.
    fn hear_of_death(&mut self, name: &str, incarnation: u64) {
        if name == self.name {
            self.deny(incarnation);
            return;
        }
        let Some(known) = self.members.get_mut(name) else { return };
        if incarnation < known.incarnation || !known.is_live() {
            return;
        }
        let suspected = known.state == State::Suspect
            && self.now.saturating_sub(known.since) >= self.config.probe_timeout;
        if suspected || known.leaving {
            known.incarnation = incarnation;
            self.declare_dead(name);
        } else {
            self.doubt(name, incarnation);
        }
    }

    fn declare_dead(&mut self, name: &str) {
        let Some(known) = self.members.get(name) else { return };
        if known.leaving {
            self.bury(name, State::Left, Change::Left);
        } else {
            self.bury(name, State::Failed, Change::Failed);
        }
    }

    fn left(&mut self, name: &str, at: SocketAddr, incarnation: u64) {
        if name == self.name {
            self.deny(incarnation);
            return;
        }
        let Some(known) = self.members.get_mut(name) else { return };
        if at != known.address || incarnation < known.incarnation {
            return;
        }
        let by_itself = incarnation > known.incarnation || known.leaving;
        match known.state {
            State::Left | State::Pruned => {}
            State::Failed => {
                known.incarnation = incarnation;
                self.bury(name, State::Left, Change::Left);
            }
            State::Alive | State::Suspect if by_itself => {
                known.incarnation = incarnation;
                self.bury(name, State::Left, Change::Left);
            }
            // Forced out by somebody who could not reach it; we could. It may deny.
            State::Alive | State::Suspect => self.doubt(name, incarnation),
        }
    }

    fn pruned(&mut self, name: &str, incarnation: u64) {
        if name == self.name {
            self.deny(incarnation);
            return;
        }
        let Some(known) = self.members.get_mut(name) else { return };
        if incarnation >= known.incarnation && matches!(known.state, State::Failed | State::Left) {
            known.incarnation = incarnation;
            self.bury(name, State::Pruned, Change::Reaped);
        }
    }

    /// Suspects a member because somebody else has given it up already.
    pub(super) fn doubt(&mut self, name: &str, incarnation: u64) {
        let claim = Claim::Suspect {
            name: name.to_owned(),
            incarnation,
            accuser: self.name.clone(),
            evidence: Evidence::Silent,
        };
        self.suspect(&claim);
        self.probe(name);
    }

    /// Changes a member to a state of the dead and tells everybody.
    pub(super) fn bury(&mut self, name: &str, state: State, change: Change) {
        let Some(known) = self.members.get_mut(name) else { return };
        known.state = state;
        known.since = self.now;
        known.age_then = Duration::ZERO;
        let mut member = known.member(name);
        let claim = known.accusation(name);
        self.suspicions.remove(name);
        if let Some(claim) = claim {
            self.tell(&claim);
        }
        if state == State::Pruned {
            member.status = super::member::MemberStatus::Left;
        }
        self.emit(Event::Member { change, member });
    }
}
