//! A machine whose disk remembers a cluster: it keeps the store in step with that, and leaves only a closed list.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Action, Agent, Birth};
use crate::model::election::certificate::{self, Certificate};
use crate::model::election::claim::{Claim, Revision, View};
use crate::model::election::record::Record;
use crate::model::election::waiting::Waiting;
use crate::model::names::ClusterId;

impl Birth {
    /// The machine belongs to a cluster: it keeps the store in step with that, and leaves only a closed list.
    pub(super) fn act_as_recorded(
        &mut self,
        now: Duration,
        random: u128,
        view: &View,
        record: &Record,
        actions: &mut Vec<Action>,
    ) -> Option<Waiting> {
        let Some((stored, revision)) = &view.certificate else {
            if !record.formed {
                return self.reopen_lost_birth(now, view, record, actions);
            }
            if self.leader {
                self.write_restored(None, record, actions);
            }
            return None;
        };
        let revision = *revision;
        if stored.cluster_id == record.cluster_id {
            if stored.formed {
                self.remember_certificate(stored, actions);
                return None;
            }
            if record.formed {
                self.swap(revision, certificate::form(stored), actions);
                return None;
            }
            return Some(self.watch_birth(now, random, view, (stored, revision), actions));
        }
        if !record.formed && stored.closed.contains(&record.cluster_id) {
            self.agent = Agent::Stopping;
            self.stalled_since = None;
            actions.push(Action::StopAgentAndArchive { cluster_id: record.cluster_id.clone() });
            return None;
        }
        if record.formed && self.leader && stored.can_be_closed().is_ok() {
            self.write_restored(Some((stored, revision)), record, actions);
            return None;
        }
        let outdated = |own: &Certificate| own.closed.contains(&stored.cluster_id);
        if record.formed && record.certificate.as_ref().is_some_and(outdated) {
            if self.leader {
                self.swap(revision, certificate::succeed(stored, &record.cluster_id), actions);
            }
            return None;
        }
        Some(Waiting::Conflict {
            own: record.cluster_id.clone(),
            stored: stored.cluster_id.clone(),
            formed: record.formed,
        })
    }

    /// The store was emptied in the middle of our birth. The others wait for us: they must not begin another one as
    /// long as ours may go on. Members of a cluster that formed meanwhile get the time to say so first.
    fn reopen_lost_birth(
        &mut self,
        now: Duration,
        view: &View,
        record: &Record,
        actions: &mut Vec<Action>,
    ) -> Option<Waiting> {
        let own = record.certificate.as_ref()?;
        let alive = own.alive(view).count();
        let waiting = Some(Waiting::Birth { certificate: own.clone(), alive });
        if alive < own.majority() || view.claims.iter().any(Claim::is_member) {
            self.stalled_since = None;
            return waiting;
        }
        let (_, since) = *self.stalled_since.get_or_insert((own.epoch, now));
        if now.saturating_sub(since) >= self.patience.stall {
            self.create(certificate::reopen(own, view), actions);
        }
        waiting
    }

    /// Our cluster was recovered: this disk belongs to its successor from now on.
    pub(super) fn follow_succession(
        &mut self,
        successor: ClusterId,
        predecessors: &[ClusterId],
        actions: &mut Vec<Action>,
    ) {
        let own = self.own_certificate();
        let Some(record) = &mut self.local.record else { return };
        let twin = |own: &Certificate| certificate::has_twin(own, &successor, predecessors);
        let ours = predecessors.contains(&record.cluster_id) || record.certificate.as_ref().is_some_and(twin);
        if record.cluster_id == successor || !ours {
            return;
        }
        let mut certificate = record.certificate.clone().unwrap_or(own);
        certificate.cluster_id = record.cluster_id.clone();
        certificate = certificate::succeed(&certificate, &successor);
        certificate.closed.extend(predecessors.iter().cloned());
        certificate.closed.sort();
        certificate.closed.dedup();
        record.cluster_id = successor;
        record.formed = true;
        record.certificate = Some(certificate);
        actions.push(Action::Persist(self.local.clone()));
    }

    fn remember_certificate(&mut self, stored: &Certificate, actions: &mut Vec<Action>) {
        let Some(record) = &mut self.local.record else { return };
        if !record.formed || record.certificate.as_ref() != Some(stored) {
            record.formed = true;
            record.certificate = Some(stored.clone());
            actions.push(Action::Persist(self.local.clone()));
        }
    }

    /// What is known of the certificate when none was seen; its cluster is filled in.
    fn own_certificate(&self) -> Certificate {
        Certificate {
            cluster_id: ClusterId::from_random(0),
            epoch: 1,
            expect: self.me.expect,
            initial: Vec::new(),
            bound: BTreeSet::new(),
            formed: true,
            closed: Vec::new(),
        }
    }

    fn write_restored(
        &mut self,
        stored: Option<(&Certificate, Revision)>,
        record: &Record,
        actions: &mut Vec<Action>,
    ) {
        let own = record.certificate.clone().unwrap_or_else(|| Certificate {
            cluster_id: record.cluster_id.clone(),
            ..self.own_certificate()
        });
        let Ok(restored) = certificate::restore(stored.map(|(certificate, _)| certificate), &own) else {
            return;
        };
        match stored {
            Some((_, revision)) => self.swap(revision, restored, actions),
            None => self.create(restored, actions),
        }
    }
}
