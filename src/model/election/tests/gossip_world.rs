//! Servers that see each other, and a network that loses, delays and reorders what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::Log;
use crate::model::election::certificate::Certificate;
use crate::model::election::claim::Incarnation;
use crate::model::election::gossip_birth::{
    BirthRecord, BirthReply, BirthRequest, GossipAction, GossipBirth, GossipEvent, SeenServer,
};
use crate::model::names::ClusterId;
use crate::simulation::chance::Chance;

#[derive(Clone)]
pub(super) enum Packet {
    Request { from: usize, to: usize, request: BirthRequest },
    Reply { from: usize, to: usize, process: u64, by: Incarnation, reply: BirthReply },
}

pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) incarnation: Incarnation,
    /// How far its clock is ahead.
    pub(super) ahead: Duration,
    pub(super) expect: Option<usize>,
    pub(super) alone: bool,
    pub(super) record: BirthRecord,
    pub(super) cluster: Option<ClusterId>,
    pub(super) process: Option<(u64, GossipBirth)>,
}

pub(super) struct GossipWorld {
    keep: Log,
    pub(super) now: Duration,
    pub(super) chance: Chance,
    pub(super) servers: Vec<Server>,
    pub(super) packets: Vec<Packet>,
    /// Directed: what the first says does not reach the second.
    pub(super) cuts: BTreeSet<(usize, usize)>,
    pub(super) born: BTreeMap<ClusterId, Certificate>,
    pub(super) log: Vec<(String, GossipAction)>,
    processes: u64,
}

impl GossipWorld {
    pub(super) fn new(seed: u64, keep: Log) -> Self {
        Self {
            keep,
            now: Duration::ZERO,
            chance: Chance::new(seed),
            servers: Vec::new(),
            packets: Vec::new(),
            cuts: BTreeSet::new(),
            born: BTreeMap::new(),
            log: Vec::new(),
            processes: 0,
        }
    }

    pub(super) fn add(&mut self, name: &str, expect: Option<usize>, alone: bool) {
        let incarnation = Incarnation::from_random(self.chance.bits());
        self.servers.push(Server {
            name: name.to_owned(),
            address: format!("{name}.example"),
            incarnation,
            ahead: Duration::ZERO,
            expect,
            alone,
            record: BirthRecord::default(),
            cluster: None,
            process: None,
        });
    }

    pub(super) fn seen(&self, server: usize) -> SeenServer {
        let it = &self.servers[server];
        SeenServer {
            node_id: it.incarnation.node_id(),
            name: it.name.clone(),
            incarnation: it.incarnation.clone(),
            address: it.address.clone(),
            expect: it.expect,
            cluster: it.cluster.clone(),
        }
    }

    pub(super) fn start(&mut self, server: usize) {
        self.start_blind(server);
        self.step(server, GossipEvent::Looked, None);
    }

    /// Starts it before it has looked for others.
    pub(super) fn start_blind(&mut self, server: usize) {
        self.processes += 1;
        let me = self.seen(server);
        let it = &mut self.servers[server];
        let birth = GossipBirth::new(me, it.alone, it.record.clone(), it.cluster.is_some());
        it.process = Some((self.processes, birth));
        self.step(server, GossipEvent::Started, None);
    }

    /// Everybody that runs, as `server` sees it now: of two with one name only the first, as gossip lets them in.
    pub(super) fn show(&mut self, server: usize, others: &[usize]) {
        let mut names = BTreeSet::from([self.servers[server].name.as_str()]);
        let seen = others.iter().filter(|other| {
            let it = &self.servers[**other];
            **other != server && it.process.is_some() && names.insert(it.name.as_str())
        });
        let seen = seen.map(|other| self.seen(*other)).collect();
        self.step(server, GossipEvent::Seen(seen), None);
    }

    pub(super) fn wipe(&mut self, server: usize) {
        let incarnation = Incarnation::from_random(self.chance.bits());
        let it = &mut self.servers[server];
        it.process = None;
        it.incarnation = incarnation;
        it.record = BirthRecord::default();
        it.cluster = None;
    }

    pub(super) fn step(&mut self, server: usize, event: GossipEvent, cut: Option<usize>) {
        let random = self.chance.bits();
        let asker = match &event {
            GossipEvent::Request { number, .. } => usize::try_from(*number).unwrap(),
            _ => 0,
        };
        let now = self.now + self.servers[server].ahead;
        let Some((_, birth)) = &mut self.servers[server].process else { return };
        let actions = birth.step(now, random, event);
        for (position, action) in actions.into_iter().enumerate() {
            if cut == Some(position) {
                self.servers[server].process = None;
                return;
            }
            if self.keep == Log::Actions {
                self.log.push((self.servers[server].name.clone(), action.clone()));
            }
            let incarnation = self.servers[server].incarnation.clone();
            match action {
                GossipAction::Persist(record) => self.servers[server].record = record,
                GossipAction::Reply { reply, .. } => {
                    let process = self.servers[asker].process.as_ref().map_or(0, |(number, _)| *number);
                    self.packets.push(Packet::Reply {
                        from: server,
                        to: asker,
                        process,
                        by: incarnation,
                        reply,
                    });
                }
                GossipAction::Send { to, request } => {
                    // Whoever has the address now; nobody may.
                    let Some(target) = self.servers.iter().position(|other| other.address == to.address)
                    else {
                        continue;
                    };
                    self.packets.push(Packet::Request { from: server, to: target, request });
                }
                GossipAction::Born(certificate) => {
                    assert!(certificate.member(&incarnation).is_some());
                    let cluster = &self.servers[server].cluster;
                    let other = cluster.as_ref().filter(|cluster| **cluster != certificate.cluster_id);
                    assert_eq!(other, None, "a member is born into another cluster");
                    self.born.insert(certificate.cluster_id.clone(), certificate);
                }
                GossipAction::Join(cluster) => {
                    let own = &self.servers[server].cluster;
                    assert!(own.as_ref().is_none_or(|own| *own == cluster), "a member joins another cluster");
                }
                GossipAction::Wait(_) => {}
            }
        }
    }

    /// Brings one packet to its end; replies find the asker only if its process still runs.
    pub(super) fn transport(&mut self, packet: Packet, cut: Option<usize>) {
        let (Packet::Request { from, to, .. } | Packet::Reply { from, to, .. }) = &packet;
        if self.cuts.contains(&(*from, *to)) {
            return;
        }
        match packet {
            Packet::Request { from, to, request } => {
                let number = from as u64;
                self.step(to, GossipEvent::Request { number, request }, cut);
            }
            Packet::Reply { from: _, to, process, by, reply } => {
                if self.servers[to].process.as_ref().is_some_and(|(number, _)| *number == process) {
                    self.step(to, GossipEvent::Reply { from: by, reply }, cut);
                }
            }
        }
    }

    /// Clusters form of which a majority of the list runs as born.
    pub(super) fn form(&mut self) {
        let certificates: Vec<Certificate> = self.born.values().cloned().collect();
        for certificate in certificates {
            let id = certificate.cluster_id.clone();
            let is_born = |server: &Server| {
                server.process.is_some()
                    && server.record.born
                    && server.record.accepted.as_ref().is_some_and(|accepted| accepted.cluster_id == id)
            };
            let running = self.servers.iter().filter(|server| is_born(server)).count();
            if running < certificate.majority() {
                continue;
            }
            for server in 0..self.servers.len() {
                let it = &self.servers[server];
                let joined = it.record.cluster.as_ref() == Some(&id);
                if it.cluster.is_none() && (is_born(it) || (joined && it.process.is_some())) {
                    self.servers[server].cluster = Some(id.clone());
                    self.step(server, GossipEvent::Formed(id.clone()), None);
                }
            }
        }
    }

    /// One fair round: everybody sees everybody, all packets arrive, half a second passes.
    pub(super) fn round(&mut self) {
        self.now += Duration::from_millis(500);
        let all: Vec<usize> = (0..self.servers.len()).collect();
        for server in 0..self.servers.len() {
            self.show(server, &all);
            self.step(server, GossipEvent::Timer, None);
        }
        for _ in 0..1000 {
            if self.packets.is_empty() {
                self.form();
                return;
            }
            let packet = self.packets.remove(0);
            self.transport(packet, None);
        }
        panic!("the servers never stop talking");
    }

    /// No disk is in two births.
    pub(super) fn check(&self) {
        let mut owner: BTreeMap<&Incarnation, &ClusterId> = BTreeMap::new();
        for certificate in self.born.values() {
            for member in &certificate.initial {
                let before = owner.insert(&member.incarnation, &certificate.cluster_id);
                assert!(before.is_none(), "{} is in two births", member.machine_id);
            }
        }
    }
}
