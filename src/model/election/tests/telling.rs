//! What machines do, in words: for the transcripts and for histories that fail.

use std::collections::BTreeMap;

use crate::model::election::birth::Action;
use crate::model::election::certificate::Certificate;
use crate::model::election::gossip_birth::{BirthReply, BirthRequest, GossipAction};
use crate::model::election::record::Role;
use crate::model::names::is_uuid;

/// Short names for UUIDs: `m1#1` for the first life of m1's disk, `C1` for the first cluster.
#[derive(Default)]
pub(super) struct Names {
    known: BTreeMap<String, String>,
    lives: BTreeMap<String, usize>,
    clusters: usize,
}

impl Names {
    pub(super) fn know(&mut self, uuid: &str, machine: &str) {
        if !self.known.contains_key(uuid) {
            let life = self.lives.entry(machine.to_owned()).or_default();
            *life += 1;
            self.known.insert(uuid.to_owned(), format!("{machine}#{life}"));
        }
    }

    pub(super) fn replace(&mut self, text: &str) -> String {
        let mut replaced = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let length = 36.min(rest.len());
            if rest.is_char_boundary(length) && is_uuid(&rest[..length]) {
                let clusters = &mut self.clusters;
                replaced += self.known.entry(rest[..length].to_owned()).or_insert_with(|| {
                    *clusters += 1;
                    format!("C{clusters}")
                });
                rest = &rest[length..];
            } else {
                let first = rest.chars().next().unwrap();
                replaced.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        replaced
    }
}

pub(super) fn describe(certificate: &Certificate) -> String {
    let members: Vec<&str> = certificate.initial.iter().map(|member| member.machine_id.as_str()).collect();
    let bound = certificate.initial.iter().filter(|member| certificate.bound.contains(&member.incarnation));
    let bound: Vec<&str> = bound.map(|member| member.machine_id.as_str()).collect();
    let formed = if certificate.formed { ", formed" } else { "" };
    format!(
        "{} epoch {} of {}; bound: {}{formed}",
        certificate.cluster_id,
        certificate.epoch,
        members.join(" "),
        if bound.is_empty() { "none".to_owned() } else { bound.join(" ") }
    )
}

/// What a machine does with a store; nothing for what is not worth telling.
pub(super) fn tell_action(action: &Action) -> Option<String> {
    Some(match action {
        Action::PutClaim { replaces: None, .. } => "claims".to_owned(),
        Action::PutClaim { details, .. } => match &details.cluster {
            None => "takes its own claim over".to_owned(),
            Some(tag) if tag.formed => format!("claims as a member of {}", tag.id),
            Some(tag) => format!("claims as bound to {}", tag.id),
        },
        Action::CreateCertificate(certificate) => format!("creates {}", describe(certificate)),
        Action::SwapCertificate { certificate, .. } => format!("swaps to {}", describe(certificate)),
        Action::Persist(local) => {
            let record = local.record.as_ref().map_or("nothing".to_owned(), |record| {
                let formed = if record.formed { "formed" } else { "not formed" };
                format!("{:?} of {}, {formed}", record.role, record.cluster_id)
            });
            format!("remembers: {record}")
        }
        Action::BecomeIncarnation(incarnation) => format!("becomes {incarnation}"),
        Action::StartAgent(plan) => {
            let role = match &plan.role {
                Role::Server { initial: Some(certificate) } => {
                    format!("server that may initialise, {}", describe(certificate))
                }
                Role::Server { initial: None } => "server".to_owned(),
                Role::Client => "client".to_owned(),
            };
            let cluster = plan.cluster_id.as_ref().map_or("any cluster".to_owned(), ToString::to_string);
            format!("starts in {cluster} as {role}; joins {}", plan.join.join(" "))
        }
        Action::StopAgentAndArchive { cluster_id } => {
            format!("stops its agent, puts the raft state of {cluster_id} away")
        }
        Action::Probe(peers) => format!("probes {}", peers.join(" ")),
        Action::Wait(waiting) => format!("waits: {waiting}"),
        Action::Settled => return None,
        Action::Refuse(refusal) => format!("refuses: {refusal}"),
    })
}

/// What a server does without a store.
pub(super) fn tell_gossip_action(action: &GossipAction) -> String {
    match action {
        GossipAction::Persist(record) => {
            let accepted = record.accepted.as_ref().map_or("nothing accepted".to_owned(), |accepted| {
                let born = if record.born { " (born)" } else { "" };
                format!("accepted {}{born}", accepted.cluster_id)
            });
            let cluster = record.cluster.as_ref().map_or(String::new(), |id| format!(", member of {id}"));
            format!("remembers: {accepted}, refuses through {}{cluster}", record.refused_through)
        }
        GossipAction::Reply { reply, .. } => match reply {
            BirthReply::Accepted { cluster_id, born: false } => format!("answers: {cluster_id} accepted"),
            BirthReply::Accepted { cluster_id, born: true } => {
                format!("answers: {cluster_id} accepted and born")
            }
            BirthReply::Refused { cluster_id, because, .. } => {
                format!("answers: {cluster_id} refused, {because}")
            }
            BirthReply::NotMe => "answers: not me".to_owned(),
        },
        GossipAction::Send { to, request } => {
            let (verb, certificate) = match request {
                BirthRequest::Accept { certificate, .. } => ("accept", certificate),
                BirthRequest::Settle { certificate, .. } => ("settle", certificate),
                BirthRequest::Withdraw { certificate, .. } => ("withdraw", certificate),
                BirthRequest::Proclaim { certificate, .. } => ("proclaim", certificate),
            };
            format!("asks {} to {verb} {}", to.machine_id, certificate.cluster_id)
        }
        GossipAction::Born(certificate) => format!("is born: {}", describe(certificate)),
        GossipAction::Join(cluster_id) => format!("joins {cluster_id}"),
        GossipAction::Wait(text) => format!("waits: {text}"),
    }
}
