//! A store, machines with disks, a network between them, and agents that form as soon as a majority of a list runs
//! and hears each other: all in memory, moved by hand. Checks what must hold whenever something happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::election::birth::{Action, Birth, Event, Machine, Patience};
use crate::model::election::certificate::Certificate;
use crate::model::election::claim::{Claim, ClaimDetails, Incarnation, Revision, View};
use crate::model::election::record::{LocalState, Plan, Role};
use crate::model::names::{ClusterId, MachineId};
use crate::simulation::chance::Chance;

/// What outlives a crash.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) incarnation: Incarnation,
    pub(super) local: LocalState,
    pub(super) raft: Option<ClusterId>,
    /// The formed cluster that it was part of: it may never serve another.
    pub(super) served: Option<ClusterId>,
}

#[derive(Clone)]
pub(super) enum Write {
    Claim { address: String, details: ClaimDetails, replaces: Option<Revision> },
    Create(Certificate),
    Swap(Revision, Certificate),
}

pub(super) struct Process {
    pub(super) number: u64,
    pub(super) birth: Birth,
    pub(super) plan: Option<Plan>,
    /// Whether the agent knows that its cluster has formed.
    pub(super) formed: bool,
    pub(super) writes: VecDeque<Write>,
    pub(super) events: VecDeque<Event>,
    pub(super) probes: VecDeque<Vec<String>>,
    /// The claims of the last view that it was given, of members of a formed cluster.
    members_in_view: usize,
    started: u64,
}

pub(super) struct Host {
    pub(super) name: String,
    pub(super) machine_id: MachineId,
    pub(super) address: String,
    pub(super) boot: u64,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    /// How far its clock is ahead.
    pub(super) ahead: Duration,
    /// What it says does not reach the store.
    pub(super) mute: bool,
    /// What the store says does not reach it.
    pub(super) deaf: bool,
    /// When it last came or went, became a member, or moved.
    changed: u64,
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) down: bool,
    pub(super) revision: Revision,
    pub(super) claims: BTreeMap<MachineId, (Claim, u64)>,
    pub(super) certificate: Option<(Certificate, Revision)>,
}

/// Whether to keep what was done.
#[derive(PartialEq, Eq)]
pub(super) enum Log {
    Nothing,
    Actions,
}

pub(super) struct World {
    keep: Log,
    pub(super) now: Duration,
    pub(super) chance: Chance,
    pub(super) expect: usize,
    pub(super) store: Store,
    pub(super) hosts: Vec<Host>,
    /// Requests that nobody waits for any more and that may still arrive.
    pub(super) late: Vec<(usize, u64, Write)>,
    /// Directed: what the first says does not reach the second. With the time since when.
    cuts: BTreeSet<(usize, usize)>,
    cuts_changed: u64,
    /// Which incarnations ever ran raft for a cluster with the right to initialise.
    pub(super) started: BTreeMap<ClusterId, BTreeSet<Incarnation>>,
    pub(super) certificates: BTreeMap<ClusterId, Certificate>,
    pub(super) formed: BTreeSet<ClusterId>,
    processes: u64,
    addresses: u64,
    /// Counts what happens.
    pub(super) moves: u64,
    /// What was done, for transcripts.
    pub(super) log: Vec<(String, Action)>,
}

impl World {
    pub(super) fn new(seed: u64, expect: usize, keep: Log) -> Self {
        Self {
            keep,
            now: Duration::ZERO,
            chance: Chance::new(seed),
            expect,
            store: Store::default(),
            hosts: Vec::new(),
            late: Vec::new(),
            cuts: BTreeSet::new(),
            cuts_changed: 0,
            started: BTreeMap::new(),
            certificates: BTreeMap::new(),
            formed: BTreeSet::new(),
            processes: 0,
            addresses: 0,
            moves: 0,
            log: Vec::new(),
        }
    }

    pub(super) fn add_host(&mut self, name: &str, machine_id: &str) {
        let disk = self.blank_disk();
        self.hosts.push(Host {
            name: name.to_owned(),
            machine_id: machine_id.parse().unwrap(),
            address: format!("{name}.example"),
            boot: self.hosts.len() as u64 * 100 + 1,
            disk,
            process: None,
            ahead: Duration::ZERO,
            mute: false,
            deaf: false,
            changed: 0,
        });
    }

    pub(super) fn blank_disk(&mut self) -> Disk {
        Disk {
            incarnation: Incarnation::from_random(self.chance.bits()),
            local: LocalState::default(),
            raft: None,
            served: None,
        }
    }

    pub(super) fn start(&mut self, host: usize) {
        let taken = |world: &Self, address: &str| {
            world.hosts.iter().enumerate().any(|(other, it)| other != host && it.address == address)
        };
        if taken(self, &self.hosts[host].address) {
            // Somebody else has it now: the machine gets another.
            self.addresses += 1;
            self.hosts[host].address = format!("{}-{}.example", self.hosts[host].name, self.addresses);
        }
        self.processes += 1;
        let (number, expect, moves) = (self.processes, self.expect, self.moves);
        let it = &mut self.hosts[host];
        let machine = Machine {
            machine_id: it.machine_id.clone(),
            address: it.address.clone(),
            incarnation: it.disk.incarnation.clone(),
            boot_id: format!("{}-boot-{}", it.name, it.boot),
            name: it.name.clone(),
            version: "1".to_owned(),
            expect,
        };
        let birth = Birth::new(machine, Patience::default(), it.disk.local.clone(), it.disk.raft.is_some());
        it.changed = moves;
        it.process = Some(Process {
            number,
            birth,
            plan: None,
            formed: false,
            writes: VecDeque::new(),
            events: VecDeque::from([Event::Started]),
            probes: VecDeque::new(),
            members_in_view: 0,
            started: moves,
        });
    }

    pub(super) fn crash(&mut self, host: usize) {
        self.hosts[host].process = None;
        self.hosts[host].changed = self.moves;
    }

    pub(super) fn wipe(&mut self, host: usize) {
        self.crash(host);
        self.hosts[host].disk = self.blank_disk();
    }

    /// The machine comes back elsewhere: at an address of its own, or at one that was another machine's.
    pub(super) fn move_to(&mut self, host: usize, from: usize) {
        self.crash(host);
        if self.hosts[from].process.is_none() && from != host {
            self.hosts[host].address = self.hosts[from].address.clone();
        } else {
            self.addresses += 1;
            self.hosts[host].address = format!("{}-{}.example", self.hosts[host].name, self.addresses);
        }
        self.hosts[host].boot += 1;
    }

    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
        self.cuts_changed = self.moves;
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.cuts_changed = self.moves;
        for host in &mut self.hosts {
            (host.mute, host.deaf) = (false, false);
        }
    }

    fn hear_each_other(&self, one: usize, other: usize) -> bool {
        !self.cuts.contains(&(one, other)) && !self.cuts.contains(&(other, one))
    }

    pub(super) fn view(&self) -> View {
        let mut claims: Vec<Claim> = self.store.claims.values().map(|(claim, _)| claim.clone()).collect();
        claims.sort_by_key(|claim| claim.created);
        View { claims, strangers: Vec::new(), certificate: self.store.certificate.clone() }
    }

    /// Gives the next waiting event to the machine; `cut` stops (crashes) it after that many actions.
    pub(super) fn deliver(&mut self, host: usize, cut: Option<usize>) {
        let random = self.chance.bits();
        let now = self.now + self.hosts[host].ahead;
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(event) = process.events.pop_front() else { return };
        if let Event::StoreChanged(view) = &event {
            let members = view
                .claims
                .iter()
                .filter(|claim| claim.details.cluster.as_ref().is_some_and(|tag| tag.formed));
            process.members_in_view = members.count();
        }
        if matches!(event, Event::Agent { formed: Some(_), .. }) {
            process.formed = true;
        }
        let actions = process.birth.step(now, random, event);
        for (position, action) in actions.into_iter().enumerate() {
            if cut == Some(position) {
                self.crash(host);
                return;
            }
            self.act(host, action);
        }
    }

    fn act(&mut self, host: usize, action: Action) {
        if self.keep == Log::Actions {
            self.log.push((self.hosts[host].name.clone(), action.clone()));
        }
        self.check_no_member_is_near(host, &action);
        let it = &mut self.hosts[host];
        let Some(process) = &mut it.process else { return };
        match action {
            Action::PutClaim { details, replaces } => {
                process.writes.push_back(Write::Claim { address: it.address.clone(), details, replaces });
            }
            Action::CreateCertificate(certificate) => process.writes.push_back(Write::Create(certificate)),
            Action::SwapCertificate { revision, certificate } => {
                process.writes.push_back(Write::Swap(revision, certificate));
            }
            Action::Persist(local) => it.disk.local = local,
            Action::BecomeIncarnation(incarnation) => {
                it.disk = Disk { incarnation, local: it.disk.local.clone(), raft: None, served: None };
            }
            Action::StartAgent(plan) => {
                assert!(process.plan.is_none(), "{} started its agent twice", it.name);
                if let (Some(served), Some(cluster)) = (&it.disk.served, &plan.cluster_id) {
                    assert_eq!(served, cluster, "{} was in another cluster before", it.name);
                }
                if let Role::Server { initial: Some(certificate) } = &plan.role {
                    assert!(certificate.member(&plan.incarnation).is_some(), "not a first server");
                    assert_eq!(plan.cluster_id.as_ref(), Some(&certificate.cluster_id));
                    let id = certificate.cluster_id.clone();
                    assert!(it.disk.raft.is_none() || it.disk.raft.as_ref() == Some(&id), "mixed raft state");
                    it.disk.raft = Some(id.clone());
                    self.started.entry(id.clone()).or_default().insert(plan.incarnation.clone());
                    self.certificates.insert(id, certificate.clone());
                }
                process.plan = Some(plan);
            }
            Action::StopAgentAndArchive { cluster_id } => {
                assert!(!self.formed.contains(&cluster_id), "a formed cluster's raft state was put away");
                process.plan = None;
                process.formed = false;
                it.disk.raft = None;
                process.events.push_back(Event::AgentStopped);
            }
            Action::Probe(peers) => process.probes.push_back(peers),
            Action::Wait(_) | Action::Settled => {}
            Action::Refuse(_) => self.crash(host),
        }
    }

    /// Nobody begins a cluster while a member of another one could be reached: its claim is in the store, or it
    /// answers at an address that was known from the start.
    fn check_no_member_is_near(&self, host: usize, action: &Action) {
        let (Action::CreateCertificate(certificate) | Action::SwapCertificate { certificate, .. }) = action
        else {
            return;
        };
        if certificate.formed || !certificate.bound.is_empty() {
            return;
        }
        let it = &self.hosts[host];
        let Some(process) = &it.process else { return };
        assert_eq!(process.members_in_view, 0, "{} begins a cluster beside a member's claim", it.name);
        if !matches!(action, Action::CreateCertificate(_)) {
            return;
        }
        for (number, other) in self.hosts.iter().enumerate() {
            let answers = other.process.as_ref().is_some_and(|theirs| theirs.formed)
                && it.disk.local.peers.contains(&other.address)
                && self.hear_each_other(host, number);
            let all_the_time = other.changed.max(self.cuts_changed) < process.started;
            assert!(
                number == host || !answers || !all_the_time,
                "{} begins a cluster though it knows the member {}",
                it.name,
                other.name
            );
        }
    }

    /// Executes the oldest write of the machine, if the store can be asked; else its outcome is unknown.
    pub(super) fn write(&mut self, host: usize) {
        let it = &mut self.hosts[host];
        let Some(process) = &mut it.process else { return };
        let Some(write) = process.writes.pop_front() else { return };
        let (number, lost) = (process.number, self.store.down || it.mute);
        let won = !lost && self.execute(host, number, &write);
        let it = &mut self.hosts[host];
        let heard = !lost && !it.deaf;
        let Some(process) = &mut it.process else { return };
        process.events.push_back(match write {
            Write::Claim { .. } => Event::ClaimWritten { won: won && heard },
            Write::Create(_) | Write::Swap(..) => Event::CertificateWritten { won: won && heard },
        });
        if !heard {
            process.events.push_back(Event::StoreLost { reason: "no answer".to_owned() });
        }
    }

    /// The machine gives its oldest write up; it travels on.
    pub(super) fn give_up(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(write) = process.writes.pop_front() else { return };
        process.events.push_back(match write {
            Write::Claim { .. } => Event::ClaimWritten { won: false },
            Write::Create(_) | Write::Swap(..) => Event::CertificateWritten { won: false },
        });
        process.events.push_back(Event::StoreLost { reason: "no answer in time".to_owned() });
        let number = process.number;
        self.late.push((host, number, write));
    }

    /// The network makes two of the machine's oldest write.
    pub(super) fn double(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        let Some(write) = process.writes.front() else { return };
        self.late.push((host, process.number, write.clone()));
    }

    /// A request arrives that nobody waits for any more.
    pub(super) fn arrive_late(&mut self, pick: usize) {
        if !self.late.is_empty() {
            let (host, number, write) = self.late.swap_remove(pick % self.late.len());
            self.execute(host, number, &write);
        }
    }

    fn execute(&mut self, host: usize, number: u64, write: &Write) -> bool {
        let machine_id = &self.hosts[host].machine_id;
        let store = &mut self.store;
        store.revision += 1;
        match write {
            Write::Claim { address, details, replaces } => {
                let stored = store.claims.get(machine_id).map(|(claim, _)| (claim.revision, claim.created));
                let won = stored.map(|(revision, _)| revision) == *replaces;
                if won {
                    let claim = Claim {
                        machine_id: machine_id.clone(),
                        address: address.clone(),
                        details: details.clone(),
                        created: stored.map_or(store.revision, |(_, created)| created),
                        revision: store.revision,
                    };
                    store.claims.insert(machine_id.clone(), (claim, number));
                }
                won
            }
            Write::Create(certificate) => {
                let won = store.certificate.is_none();
                if won {
                    store.certificate = Some((certificate.clone(), store.revision));
                }
                won
            }
            Write::Swap(revision, certificate) => {
                let won = store.certificate.as_ref().is_some_and(|(_, stored)| stored == revision);
                if won {
                    store.certificate = Some((certificate.clone(), store.revision));
                }
                won
            }
        }
    }

    /// Reads the store for the machine; what it read arrives later.
    pub(super) fn read(&mut self, host: usize) {
        let it = &self.hosts[host];
        if it.process.is_none() {
            return;
        }
        let event = if self.store.down || it.mute || it.deaf {
            Event::StoreLost { reason: "connection refused".to_owned() }
        } else {
            Event::StoreChanged(self.view())
        };
        self.tell(host, event);
    }

    pub(super) fn tell(&mut self, host: usize, event: Event) {
        if let Some(process) = &mut self.hosts[host].process {
            process.events.push_back(event);
        }
    }

    pub(super) fn expire(&mut self, machine_id: &MachineId) {
        let Some((_, owner)) = self.store.claims.remove(machine_id) else { return };
        self.store.revision += 1;
        for host in &mut self.hosts {
            if let Some(process) = &mut host.process
                && process.number == owner
            {
                process.events.push_back(Event::LeaseLost);
            }
        }
    }

    /// Lets the leases of machines that are down expire.
    pub(super) fn expire_dead(&mut self) {
        let alive: BTreeSet<u64> = self
            .hosts
            .iter()
            .filter_map(|host| host.process.as_ref().map(|process| process.number))
            .collect();
        self.store.claims.retain(|_, (_, owner)| alive.contains(owner));
    }

    /// Asks whom the machine wanted to ask.
    pub(super) fn probe(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(peers) = process.probes.pop_front() else { return };
        let found = peers.iter().find_map(|address| {
            let number = self.hosts.iter().position(|other| other.address == *address)?;
            let theirs = self.hosts[number].process.as_ref().filter(|theirs| theirs.formed)?;
            let cluster = theirs.plan.as_ref()?.cluster_id.clone()?;
            (number != host && self.hear_each_other(host, number)).then_some(cluster)
        });
        self.tell(host, Event::Probed { cluster: found });
    }

    /// Clusters form whose lists have a majority running that hears one of it, who leads; every running member hears
    /// of it.
    pub(super) fn form(&mut self, pick: usize) {
        let ids: Vec<ClusterId> = self.certificates.keys().cloned().collect();
        for id in ids {
            let runs = |host: &Host| {
                let plan = host.process.as_ref().and_then(|process| process.plan.as_ref());
                let server = plan.is_some_and(|plan| matches!(plan.role, Role::Server { .. }));
                server && host.disk.raft.as_ref() == Some(&id)
            };
            let running: Vec<usize> = (0..self.hosts.len()).filter(|host| runs(&self.hosts[*host])).collect();
            if running.is_empty() {
                continue;
            }
            let leader = running[pick % running.len()];
            // Two machines with one incarnation are one node.
            let heard = running.iter().filter(|host| self.hear_each_other(**host, leader));
            let nodes: BTreeSet<_> = heard.map(|host| &self.hosts[*host].disk.incarnation).collect();
            if nodes.len() < self.certificates[&id].majority() {
                continue;
            }
            self.formed.insert(id.clone());
            for number in 0..self.hosts.len() {
                if !self.hear_each_other(number, leader) {
                    continue;
                }
                let moves = self.moves;
                let host = &mut self.hosts[number];
                let joined = host.process.as_ref().is_some_and(|process| {
                    process.plan.as_ref().is_some_and(|plan| plan.cluster_id.as_ref() == Some(&id))
                });
                if joined && let Some(process) = &mut host.process {
                    host.disk.raft = Some(id.clone());
                    host.disk.served = Some(id.clone());
                    if !process.formed {
                        host.changed = moves;
                    }
                    process.formed = true;
                    let event = Event::Agent { formed: Some(id.clone()), leader: number == leader };
                    process.events.push_back(event);
                }
            }
        }
    }

    /// One fair round: everything that waits happens, time moves on by a second.
    pub(super) fn round(&mut self) {
        self.now += Duration::from_secs(1);
        self.expire_dead();
        self.form(0);
        for host in 0..self.hosts.len() {
            self.quiet(host);
            self.read(host);
            self.tell(host, Event::Timer);
            self.quiet(host);
        }
    }

    /// Lets one machine do all that it has to do on what it knows.
    pub(super) fn quiet(&mut self, host: usize) {
        for _ in 0..100 {
            let Some(process) = &self.hosts[host].process else { return };
            if !process.events.is_empty() {
                self.deliver(host, None);
            } else if !process.probes.is_empty() {
                self.probe(host);
            } else if !process.writes.is_empty() {
                self.write(host);
                self.read(host);
            } else {
                return;
            }
        }
        panic!("{} never comes to rest", self.hosts[host].name);
    }

    /// The clusters whose list was ever run by a majority of its members: these can commit.
    fn can_commit(&self) -> impl Iterator<Item = (&ClusterId, &BTreeSet<Incarnation>)> {
        self.started.iter().filter(|(id, started)| started.len() >= self.certificates[*id].majority())
    }

    /// I1: at most one list was ever run by a majority of its members.
    pub(super) fn check_one_cluster(&self) {
        if self.started.len() > 1 {
            let can_commit: Vec<_> = self.can_commit().map(|(id, _)| id).collect();
            assert!(can_commit.len() <= 1, "two clusters can commit: {can_commit:?}");
        }
    }

    /// What is left of I1 when the store is emptied: no disk serves two clusters that can commit.
    pub(super) fn check_no_disk_serves_two(&self) {
        if self.started.len() > 1 {
            let mut served = BTreeSet::new();
            for (id, started) in self.can_commit() {
                for incarnation in started {
                    assert!(served.insert(incarnation), "disk {incarnation} serves {id} and another cluster");
                }
            }
        }
    }
}
