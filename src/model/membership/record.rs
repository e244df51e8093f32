//! What this member keeps about each other member.

use std::net::SocketAddr;
use std::time::Duration;

use super::member::{Member, MemberStatus, Tags};
use super::message::{Claim, State};

/// One other member.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) address: SocketAddr,
    pub(super) tags: Tags,
    pub(super) incarnation: u64,
    pub(super) state: State,
    /// It said that it is leaving; its death is then no failure.
    pub(super) leaving: bool,
    /// When we learnt of its state.
    pub(super) since: Duration,
    /// How long it already was in that state when we learnt of it.
    pub(super) age_then: Duration,
    /// Place on the ring of probing neighbours.
    pub(super) place: u64,
}

impl Record {
    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since).saturating_add(self.age_then)
    }

    /// May be probed and told things.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Alive | State::Suspect)
    }

    /// What users see; a pruned member is one of which nothing is known.
    pub(super) fn status(&self) -> MemberStatus {
        match self.state {
            State::Alive | State::Suspect if self.leaving => MemberStatus::Leaving,
            State::Alive | State::Suspect => MemberStatus::Alive,
            State::Failed => MemberStatus::Failed,
            State::Left => MemberStatus::Left,
            State::Pruned => MemberStatus::None,
        }
    }

    pub(super) fn member(&self, name: &str) -> Member {
        Member {
            name: name.to_owned(),
            address: self.address.ip(),
            port: self.address.port(),
            tags: self.tags.as_map().clone(),
            status: self.status(),
            incarnation: self.incarnation,
        }
    }

    /// What to tell this member if it should hear that it is not believed to be alive.
    pub(super) fn accusation(&self, name: &str) -> Option<Claim> {
        let (name, incarnation) = (name.to_owned(), self.incarnation);
        match self.state {
            State::Alive | State::Suspect => None,
            State::Failed => Some(Claim::Failed { name, incarnation }),
            State::Left => Some(Claim::Left { name, address: self.address, incarnation }),
            State::Pruned => Some(Claim::Pruned { name, incarnation }),
        }
    }
}
