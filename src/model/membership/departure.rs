//! Leaving, declaring others gone, and forgetting the dead.

use std::time::Duration;

use super::interface::{Change, Event};
use super::member::MemberStatus;
use super::message::State;
use super::swim::Swim;

/// Longest time spent on telling everybody that we have left: under loss the last packets may find nobody.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);
/// Longest time that any member is remembered, against ages that were made up.
const KEPT_MAX: Duration = Duration::from_hours(365 * 24);

/// How far this member is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// Not leaving.
    No,
    /// Saying "leaving" until then.
    Leaving(Duration),
    /// Saying "left" until then at the latest.
    Parting(Duration),
    /// Gone.
    Done,
}

impl Departure {
    pub(super) fn deadline(self) -> Option<Duration> {
        match self {
            Self::Leaving(until) | Self::Parting(until) => Some(until),
            Self::No | Self::Done => None,
        }
    }

    pub(super) fn status(self) -> MemberStatus {
        match self {
            Self::No => MemberStatus::Alive,
            Self::Leaving(_) => MemberStatus::Leaving,
            Self::Parting(_) | Self::Done => MemberStatus::Left,
        }
    }
}

impl Swim {
    pub(super) fn leave(&mut self) {
        match self.departure {
            Departure::No => {
                self.departure = Departure::Leaving(self.now + self.config.leaving_time);
                self.incarnation += 1;
                self.announce_self();
                self.emit(Event::Member { change: Change::Leaving, member: self.me() });
            }
            Departure::Leaving(_) | Departure::Parting(_) => {}
            Departure::Done => self.emit(Event::LeaveEnded),
        }
    }

    pub(super) fn run_departure(&mut self) {
        match self.departure {
            Departure::Leaving(until) if until <= self.now || self.is_alone() => {
                self.departure = Departure::Parting(self.now + LEAVE_TIME_MAX);
                self.announce_self();
                self.emit(Event::Member { change: Change::Left, member: self.me() });
                if self.is_alone() {
                    self.finish_leave();
                }
            }
            Departure::Parting(until) if until <= self.now || !self.news.mentions(&self.name) => {
                self.finish_leave();
            }
            _ => {}
        }
    }

    fn finish_leave(&mut self) {
        self.departure = Departure::Done;
        self.emit(Event::LeaveEnded);
    }

    fn is_alone(&self) -> bool {
        !self.members.values().any(super::record::Record::is_live)
    }

    /// Only the dead can be declared gone: the living would deny it.
    pub(super) fn force_leave(&mut self, name: &str, prune: bool) {
        let Some(record) = self.members.get(name) else { return };
        match record.state {
            State::Failed | State::Left if prune => self.bury(name, State::Pruned, Change::Reaped),
            State::Failed => self.bury(name, State::Left, Change::Left),
            State::Alive | State::Suspect | State::Left | State::Pruned => {}
        }
    }

    /// How long a member in `state` is remembered.
    pub(super) fn kept(&self, state: State) -> Duration {
        match state {
            State::Failed => self.config.failed_kept,
            State::Left => self.config.left_kept,
            State::Pruned => self.config.pruned_kept,
            State::Alive | State::Suspect => KEPT_MAX,
        }
    }

    /// Forgets the dead whose time is over.
    pub(super) fn reap(&mut self) {
        let over: Vec<String> = self
            .members
            .iter()
            .filter(|(_, record)| !record.is_live() && record.age(self.now) >= self.kept(record.state))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            if let Some(record) = self.members.remove(&name)
                && record.state != State::Pruned
            {
                self.emit(Event::Member { change: Change::Reaped, member: record.member(&name) });
            }
        }
    }
}
