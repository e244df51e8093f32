//! What a server answers to the others: it accepts at most one certificate and refuses for ever.

use std::time::Duration;

use super::{BirthReply, BirthRequest, GossipAction, GossipBirth, Settling};
use crate::model::election::certificate::Certificate;
use crate::model::election::claim::Incarnation;
use crate::model::names::ClusterId;

impl GossipBirth {
    /// Answers another server's question, having written down what it promises.
    pub(super) fn answer(
        &mut self,
        now: Duration,
        random: u128,
        request: BirthRequest,
        actions: &mut Vec<GossipAction>,
    ) -> BirthReply {
        let (BirthRequest::Accept { certificate, to, .. }
        | BirthRequest::Settle { certificate, to }
        | BirthRequest::Withdraw { certificate, to }
        | BirthRequest::Proclaim { certificate, to }) = &request;
        if *to != self.me.incarnation || certificate.member(to).is_none() {
            return BirthReply::NotMe;
        }
        self.highest_number = self.highest_number.max(certificate.epoch);
        let accepted_id = self.record.accepted.as_ref().map(|accepted| accepted.cluster_id.clone());
        if accepted_id.as_ref() == Some(&certificate.cluster_id) {
            if matches!(request, BirthRequest::Withdraw { .. }) && !self.record.born {
                self.free(actions);
                self.learn_clusters(now, actions);
                return self.refuse(certificate, "its proposer has withdrawn it".to_owned(), actions);
            }
            if matches!(request, BirthRequest::Proclaim { .. }) {
                self.be_born(actions);
            }
            return BirthReply::Accepted {
                cluster_id: certificate.cluster_id.clone(),
                born: self.record.born,
            };
        }
        match request {
            BirthRequest::Accept { certificate, proposer, .. } => {
                if let Some(because) = self.objection(&certificate, &proposer) {
                    if accepted_id.is_some() && !self.record.born {
                        // Someone else tries: find out at once whether ours still lives.
                        self.settling.get_or_insert(Settling::starting(now)).urgent = true;
                    }
                    return self.refuse(&certificate, because, actions);
                }
                self.proposal = None;
                let cluster_id = certificate.cluster_id.clone();
                self.record.accepted = Some(certificate);
                self.settling = Some(Settling::starting(now));
                actions.push(GossipAction::Persist(self.record.clone()));
                BirthReply::Accepted { cluster_id, born: false }
            }
            BirthRequest::Settle { certificate, .. } => {
                if self.is_proposing(&certificate.cluster_id) {
                    self.drop_proposal(now, random, actions);
                }
                self.refuse(&certificate, "this server was asked to settle it".to_owned(), actions)
            }
            BirthRequest::Withdraw { certificate, .. } => {
                self.refuse(&certificate, "its proposer has withdrawn it".to_owned(), actions)
            }
            // Proclaimed without our acceptance: no server of this version does that.
            BirthRequest::Proclaim { .. } => BirthReply::NotMe,
        }
    }

    fn objection(&self, certificate: &Certificate, proposer: &Incarnation) -> Option<String> {
        if let Some(cluster_id) = &self.record.cluster {
            return Some(format!("it belongs to cluster {cluster_id}"));
        }
        if self.raft_state {
            return Some("it has raft state".to_owned());
        }
        if let Some(accepted) = &self.record.accepted {
            return Some(format!("it has accepted cluster {}", accepted.cluster_id));
        }
        if certificate.epoch <= self.record.refused_through {
            return Some(format!("it refuses all up to number {}", self.record.refused_through));
        }
        if let Some(expect) = self.me.expect
            && expect != certificate.expect
        {
            return Some(format!("it expects {expect} servers, not {}", certificate.expect));
        }
        if self.proposal.is_some() && self.me.node_id < proposer.node_id() {
            return Some("its own proposal goes first".to_owned());
        }
        None
    }

    /// Refuses a certificate for ever.
    fn refuse(
        &mut self,
        certificate: &Certificate,
        because: String,
        actions: &mut Vec<GossipAction>,
    ) -> BirthReply {
        if self.record.refused_through < certificate.epoch {
            self.record.refused_through = certificate.epoch;
            actions.push(GossipAction::Persist(self.record.clone()));
        }
        BirthReply::Refused {
            cluster_id: certificate.cluster_id.clone(),
            refused_through: self.record.refused_through,
            because,
        }
    }

    pub(super) fn is_proposing(&self, cluster_id: &ClusterId) -> bool {
        self.proposal.as_ref().is_some_and(|proposal| proposal.certificate.cluster_id == *cluster_id)
    }

    pub(super) fn be_born(&mut self, actions: &mut Vec<GossipAction>) {
        self.settling = None;
        if !self.record.born {
            self.record.born = true;
            actions.push(GossipAction::Persist(self.record.clone()));
        }
        self.announce(actions);
    }
}
