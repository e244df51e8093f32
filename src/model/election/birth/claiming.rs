//! Keeping this machine's own claim in the store, and facing another claim on its machine-id.

use std::time::Duration;

use super::{Action, Birth, Refusal};
use crate::model::election::claim::{Claim, ClaimDetails, View};
use crate::model::election::record::Record;
use crate::model::election::waiting::Waiting;

impl Birth {
    /// Keeps our claim in the store. Gives what stands in its way.
    pub(super) fn claim(&mut self, now: Duration, view: &View, actions: &mut Vec<Action>) -> Option<Waiting> {
        let replaces = match view.claim_of(&self.me.machine_id) {
            // Raft state without a record: which cluster it is, the agent has yet to say.
            _ if self.raft_state && self.local.record.is_none() => return None,
            None if view.strangers.contains(&self.me.machine_id) => {
                return Some(Waiting::Stranger { machine_id: self.me.machine_id.clone() });
            }
            None => None,
            Some(claim) if self.is_mine(claim) => {
                self.other_claim_since = None;
                if self.claim_held && claim.details == self.details() {
                    return None;
                }
                Some(claim.revision)
            }
            Some(other) => return Some(self.face_other_claim(now, &other.details, actions)),
        };
        self.other_claim_since = None;
        if !self.claim_writing {
            self.claim_writing = true;
            actions.push(Action::PutClaim { details: self.details(), replaces });
        }
        None
    }

    pub(super) fn is_mine(&self, claim: &Claim) -> bool {
        claim.machine_id == self.me.machine_id
            && claim.details.incarnation == self.me.incarnation
            && claim.details.boot_id == self.me.boot_id
            && claim.address == self.me.address
    }

    fn details(&self) -> ClaimDetails {
        ClaimDetails {
            incarnation: self.me.incarnation.clone(),
            name: self.me.name.clone(),
            boot_id: self.me.boot_id.clone(),
            version: self.me.version.clone(),
            cluster: self.local.record.as_ref().map(Record::tag),
        }
    }

    /// A claim on our machine-id that is not ours: left by our last boot, or a clone's that is alive.
    fn face_other_claim(
        &mut self,
        now: Duration,
        other: &ClaimDetails,
        actions: &mut Vec<Action>,
    ) -> Waiting {
        let since = match &self.other_claim_since {
            Some((incarnation, boot_id, since))
                if *incarnation == other.incarnation && *boot_id == other.boot_id =>
            {
                *since
            }
            _ => {
                self.other_claim_since = Some((other.incarnation.clone(), other.boot_id.clone(), now));
                now
            }
        };
        // A member of a cluster leaves only if the clone has its very disk, and so its raft node id.
        let may_end = self.local.record.is_none() || other.incarnation == self.me.incarnation;
        if may_end && now.saturating_sub(since) >= self.patience.other_claim {
            self.refused = true;
            actions.push(Action::Refuse(Refusal::ClonedMachineId {
                machine_id: self.me.machine_id.clone(),
                name: other.name.clone(),
                other_boot: other.boot_id.clone(),
                own_boot: self.me.boot_id.clone(),
            }));
        }
        Waiting::OtherClaim { machine_id: self.me.machine_id.clone(), other: other.clone() }
    }
}
