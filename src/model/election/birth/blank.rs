//! A machine whose disk remembers no cluster: freeze, bind, and replace a birth that stalled.

use std::time::Duration;

use super::{Action, Birth, Probe};
use crate::model::election::certificate::{self, Certificate};
use crate::model::election::claim::{Claim, Revision, View};
use crate::model::election::record::RecordedRole;
use crate::model::election::waiting::Waiting;
use crate::model::names::ClusterId;

impl Birth {
    /// No certificate, and this disk remembers no cluster.
    pub(super) fn act_on_empty_store(
        &mut self,
        random: u128,
        view: &View,
        claimed: bool,
        actions: &mut Vec<Action>,
    ) -> Option<Waiting> {
        let peers = self.local.peers.len();
        match self.probe {
            Probe::NotYet if peers > 0 => {
                self.probe = Probe::Running;
                actions.push(Action::Probe(self.local.peers.clone()));
                return Some(Waiting::Probe { peers });
            }
            Probe::Running => return Some(Waiting::Probe { peers }),
            Probe::NotYet | Probe::Nobody => {}
        }
        if let Some(member) = view.claims.iter().find(|claim| !claim.is_blank()) {
            return Some(Waiting::Restore { member: member.clone() });
        }
        if !claimed {
            return self.waiting.clone();
        }
        if let Ok(certificate) =
            certificate::freeze(&view.claims, self.me.expect, ClusterId::from_random(random))
        {
            self.create(certificate, actions);
            return self.waiting.clone();
        }
        Some(Waiting::Machines { have: view.claims.len(), expect: self.me.expect })
    }

    /// A list is frozen and has not formed; this disk is tied to nothing.
    pub(super) fn act_on_birth(
        &mut self,
        now: Duration,
        random: u128,
        view: &View,
        (stored, revision): (&Certificate, Revision),
        claimed: bool,
        actions: &mut Vec<Action>,
    ) -> Option<Waiting> {
        if stored.member(&self.me.incarnation).is_some() {
            #[cfg(test)]
            let bound = crate::simulation::mutants::is(crate::simulation::mutants::Mutant::StaleBirthList)
                || stored.bound.contains(&self.me.incarnation);
            #[cfg(not(test))]
            let bound = stored.bound.contains(&self.me.incarnation);
            if bound {
                self.stalled_since = None;
                self.enter_certificate(view, stored, RecordedRole::Server, actions);
                return None;
            }
            // Binding to a list whose majority is gone would only make it harder to replace.
            if claimed && stored.alive(view).count() >= stored.majority() {
                self.stalled_since = None;
                if let Ok(bound) = certificate::bind(stored, &self.me.incarnation) {
                    self.swap(revision, bound, actions);
                }
                return Some(birth(stored, view));
            }
        }
        if !claimed {
            return Some(birth(stored, view));
        }
        Some(self.watch_birth(now, random, view, (stored, revision), actions))
    }

    /// Replaces a birth that cannot go on, once it has not gone on for long enough.
    pub(super) fn watch_birth(
        &mut self,
        now: Duration,
        random: u128,
        view: &View,
        (stored, revision): (&Certificate, Revision),
        actions: &mut Vec<Action>,
    ) -> Waiting {
        if stored.alive(view).count() >= stored.majority() {
            self.stalled_since = None;
            return birth(stored, view);
        }
        if stored.can_be_closed().is_err() {
            let missing = stored.initial.iter().filter(|member| !view.is_alive(&member.incarnation));
            let missing = missing.map(|member| member.machine_id.clone()).collect();
            return Waiting::Stuck { certificate: stored.clone(), missing };
        }
        let since = match self.stalled_since {
            Some((epoch, since)) if epoch == stored.epoch => since,
            _ => {
                self.stalled_since = Some((stored.epoch, now));
                now
            }
        };
        let foreign_member = view.claims.iter().any(Claim::is_member);
        if !foreign_member
            && now.saturating_sub(since) >= self.patience.stall
            && let Ok(next) = certificate::replace(stored, &view.claims, ClusterId::from_random(random))
        {
            self.swap(revision, next, actions);
        }
        birth(stored, view)
    }
}

fn birth(certificate: &Certificate, view: &View) -> Waiting {
    Waiting::Birth { certificate: certificate.clone(), alive: certificate.alive(view).count() }
}
