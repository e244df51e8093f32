//! The birth certificate and its transitions. Each is a pure function from what is to what shall be;
//! `bootstrap` writes the result by one compare-and-swap, and whoever loses the race looks again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::claim::{Claim, Incarnation, View};
use crate::model::names::{ClusterId, MachineId};

/// How often one birth may be replaced; each needs a stall of seconds, so this many mean that something else is
/// wrong. It bounds the certificate's list of closed clusters (36 bytes each).
pub const EPOCHS_MAX: u64 = 1000;

/// One of the first servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialMember {
    /// Which machine.
    pub machine_id: MachineId,
    /// Which life of its disk; the raft node id derives from it.
    pub incarnation: Incarnation,
    /// Where it said that it can be reached.
    pub address: String,
}

impl InitialMember {
    fn of(claim: &Claim) -> Self {
        Self {
            machine_id: claim.machine_id.clone(),
            incarnation: claim.details.incarnation.clone(),
            address: claim.address.clone(),
        }
    }
}

/// The birth certificate: the JSON value of `<prefix>/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The cluster that is being born, or was.
    pub cluster_id: ClusterId,
    /// 1 for the first list; each replacement of a stalled birth adds one.
    pub epoch: u64,
    /// How many first servers were asked for.
    pub expect: usize,
    /// The first servers. Only they may initialise raft, all with this same list.
    pub initial: Vec<InitialMember>,
    /// Which of them have promised to. Only these run raft before the cluster has formed.
    pub bound: BTreeSet<Incarnation>,
    /// Whether an entry was committed. From then on this is history.
    pub formed: bool,
    /// Clusters of earlier epochs: their lists can never commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<ClusterId>,
}

/// Why a transition is not possible now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Fewer blank machines claim than are needed.
    #[error("{have} of {expect} machines claim")]
    TooFewClaims {
        /// How many there are.
        have: usize,
        /// How many are needed.
        expect: usize,
    },
    /// The incarnation is not on the list.
    #[error("not on the birth list")]
    NotInitial,
    /// The certificate is history.
    #[error("the cluster has formed")]
    Formed,
    /// A majority of the list is bound: it may commit at any time, so it cannot be closed.
    #[error("{bound} of {members} machines of the birth list are bound, which is a majority")]
    MayCommit {
        /// How many are bound.
        bound: usize,
        /// How many are on the list.
        members: usize,
    },
    /// See [`EPOCHS_MAX`].
    #[error("the birth was replaced {EPOCHS_MAX} times")]
    TooManyEpochs,
}

impl Certificate {
    /// How many first servers make a majority.
    pub fn majority(&self) -> usize {
        self.initial.len() / 2 + 1
    }

    /// The first server of this incarnation.
    pub fn member(&self, incarnation: &Incarnation) -> Option<&InitialMember> {
        self.initial.iter().find(|member| member.incarnation == *incarnation)
    }

    /// The first servers that claim now.
    pub fn alive<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a InitialMember> {
        self.initial.iter().filter(|member| view.is_alive(&member.incarnation))
    }

    /// Whether this list can still be closed: not formed, and no majority is bound.
    pub fn can_be_closed(&self) -> Result<(), Impossible> {
        if self.formed {
            return Err(Impossible::Formed);
        }
        if self.bound.len() >= self.majority() {
            return Err(Impossible::MayCommit { bound: self.bound.len(), members: self.initial.len() });
        }
        Ok(())
    }

    fn closed_with_this(&self) -> Vec<ClusterId> {
        let mut closed = self.closed.clone();
        closed.push(self.cluster_id.clone());
        closed
    }
}

/// *freeze*: the first `expect` blank machines, in order of creation, become the list of epoch 1.
///
/// # Errors
/// [`Impossible::TooFewClaims`].
pub fn freeze(claims: &[Claim], expect: usize, fresh: ClusterId) -> Result<Certificate, Impossible> {
    let initial = first(claims.iter().filter(|claim| claim.is_blank()), expect)?;
    Ok(Certificate {
        cluster_id: fresh,
        epoch: 1,
        expect,
        initial,
        bound: BTreeSet::new(),
        formed: false,
        closed: Vec::new(),
    })
}

/// *bind*: a machine of the list promises to serve this list and no other.
///
/// # Errors
/// When the machine is not on the list, or the cluster has formed without it: then it may not initialise any more.
pub fn bind(certificate: &Certificate, incarnation: &Incarnation) -> Result<Certificate, Impossible> {
    if certificate.formed {
        return Err(Impossible::Formed);
    }
    if certificate.member(incarnation).is_none() {
        return Err(Impossible::NotInitial);
    }
    let mut certificate = certificate.clone();
    certificate.bound.insert(incarnation.clone());
    Ok(certificate)
}

/// *form*: the cluster has committed an entry.
pub fn form(certificate: &Certificate) -> Certificate {
    Certificate { formed: true, ..certificate.clone() }
}

/// *replace*: closes a list that stalled and opens the next one, with a new cluster id.
///
/// Safe because a list with less than a majority bound never commits: unbound machines do not run raft for it, and
/// after this compare-and-swap none can bind to it.
///
/// # Errors
/// When the list may commit, or too few machines claim for another.
pub fn replace(
    certificate: &Certificate,
    claims: &[Claim],
    fresh: ClusterId,
) -> Result<Certificate, Impossible> {
    certificate.can_be_closed()?;
    if certificate.epoch >= EPOCHS_MAX {
        return Err(Impossible::TooManyEpochs);
    }
    let candidates = claims.iter().filter(|claim| match &claim.details.cluster {
        None => true,
        // Bound to a list that this very change closes, or that an earlier one closed.
        Some(tag) => {
            !tag.formed && (tag.id == certificate.cluster_id || certificate.closed.contains(&tag.id))
        }
    });
    Ok(Certificate {
        cluster_id: fresh,
        epoch: certificate.epoch + 1,
        expect: certificate.expect,
        initial: first(candidates, certificate.expect)?,
        bound: BTreeSet::new(),
        formed: false,
        closed: certificate.closed_with_this(),
    })
}

/// *restore*: the leader of a formed cluster writes the certificate that the store has lost.
///
/// `stored` is what the store holds instead, if anything; it gives way only if it can be closed.
///
/// # Errors
/// When the stored certificate has formed or may: there are two clusters then, and they must not mix.
pub fn restore(stored: Option<&Certificate>, own: &Certificate) -> Result<Certificate, Impossible> {
    let mut restored = form(own);
    if let Some(stored) = stored {
        stored.can_be_closed()?;
        restored.epoch = restored.epoch.max(stored.epoch) + 1;
        restored.closed.extend(stored.closed_with_this());
    }
    Ok(restored)
}

/// *reopen*: a machine that is bound to a list writes it again, because the store has lost it before it formed.
///
/// Who had promised is lost with it. All count as bound but those that claim with a blank disk: they have not begun,
/// and may still promise. So a list that may have committed is not closed.
pub fn reopen(own: &Certificate, view: &View) -> Certificate {
    let is_blank = |member: &&InitialMember| {
        let mut claims = view.claims.iter().filter(|claim| claim.details.incarnation == member.incarnation);
        claims.any(Claim::is_blank)
    };
    let bound = own.initial.iter().filter(|member| !is_blank(member));
    Certificate { bound: bound.map(|member| member.incarnation.clone()).collect(), ..own.clone() }
}

/// *succeed*: the cluster lost its quorum for good, and an operator let a survivor found its successor. The epoch rises
/// and the old id is closed for ever: whoever comes back as the old cluster finds itself outdated.
pub fn succeed(stored: &Certificate, successor: &ClusterId) -> Certificate {
    Certificate {
        cluster_id: successor.clone(),
        epoch: stored.epoch.saturating_add(1),
        closed: stored.closed_with_this(),
        ..form(stored)
    }
}

/// Whether the cluster `successor` came of one that `own` came of too: two survivors founded one each, and the agent says
/// that it has joined the other. A cluster that `own` has closed is none: it is remembered from before.
pub fn has_twin(own: &Certificate, successor: &ClusterId, predecessors: &[ClusterId]) -> bool {
    !own.closed.contains(successor) && own.closed.iter().any(|closed| predecessors.contains(closed))
}

fn first<'a>(
    claims: impl Iterator<Item = &'a Claim>,
    expect: usize,
) -> Result<Vec<InitialMember>, Impossible> {
    let mut claims: Vec<&Claim> = claims.collect();
    claims.sort_by(|one, other| (one.created, &one.machine_id).cmp(&(other.created, &other.machine_id)));
    if claims.len() < expect || expect == 0 {
        return Err(Impossible::TooFewClaims { have: claims.len(), expect });
    }
    Ok(claims.into_iter().take(expect).map(InitialMember::of).collect())
}

#[cfg(test)]
mod tests {
    use super::{Certificate, has_twin, succeed};
    use crate::model::names::ClusterId;

    #[test]
    fn a_certificate_follows_the_twin_of_its_cluster_and_no_cluster_that_it_has_closed() {
        let [first, ours, twin, stranger] = [1, 2, 3, 4].map(ClusterId::from_random);
        let born = Certificate {
            cluster_id: first.clone(),
            epoch: 1,
            expect: 3,
            initial: Vec::new(),
            bound: std::collections::BTreeSet::new(),
            formed: true,
            closed: Vec::new(),
        };
        let own = succeed(&born, &ours);
        assert!(has_twin(&own, &twin, std::slice::from_ref(&first)));
        assert!(!has_twin(&own, &twin, std::slice::from_ref(&stranger)));
        let healed = succeed(&own, &twin);
        assert!(!has_twin(&healed, &ours, std::slice::from_ref(&first)), "it was given up");
    }
}
