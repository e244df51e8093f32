//! The steward against a small random world: machines die and return, leaders change, operators want other numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Action, ConfiguredServer, Mode, Policy, ServerChange, Steward, View};
use crate::model::catalog::{
    Catalog, Check, Command, NodeRegistration, Purpose, Registration, SERF_HEALTH, ServersCommand, Status,
};
use crate::model::membership::{Member, MemberStatus};
use crate::model::names::ClusterId;

/// Length of one step of the world.
const TICK: Duration = Duration::from_millis(500);
const REPLACE_AFTER: Duration = Duration::from_secs(5);
/// By how many seconds each server's clock is ahead of the one before.
const CLOCK_STEP: u64 = 5000;
/// Histories that are played through.
const SEEDS: u64 = 40;

struct Machine {
    up: bool,
    /// Raft id and nomination while it is a server; ids are never used twice.
    server: Option<(u64, Option<u64>)>,
}

struct World {
    random: u64,
    now: Duration,
    machines: Vec<Machine>,
    voters: BTreeSet<u64>,
    learners: BTreeMap<u64, usize>,
    owner: BTreeMap<u64, usize>,
    leader: Option<u64>,
    /// By raft id: those of the servers that run.
    stewards: BTreeMap<u64, Steward>,
    catalog: Catalog,
    cluster: ClusterId,
    next_id: u64,
    swaps: usize,
    mode: Mode,
}

fn name(machine: usize) -> String {
    format!("m{machine:02}")
}

impl World {
    fn new(seed: u64, servers: usize, clients: usize, mode: Mode) -> Self {
        let mut world = Self {
            random: seed.wrapping_mul(2).wrapping_add(1),
            now: Duration::from_secs(100),
            machines: Vec::new(),
            voters: BTreeSet::new(),
            learners: BTreeMap::new(),
            owner: BTreeMap::new(),
            leader: None,
            stewards: BTreeMap::new(),
            catalog: Catalog::default(),
            cluster: ClusterId::from_random(seed.into()),
            next_id: 1,
            swaps: 0,
            mode,
        };
        world.write(&Command::ClusterBorn { cluster_id: world.cluster.clone() });
        for number in 0..servers + clients {
            let server = (number < servers).then(|| world.fresh_id(number));
            if let Some(id) = server {
                world.voters.insert(id);
            }
            world.machines.push(Machine { up: true, server: server.map(|id| (id, None)) });
        }
        world
    }

    fn fresh_id(&mut self, machine: usize) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.owner.insert(id, machine);
        id
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.draw(one_in) == 0
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn write(&mut self, command: &Command) {
        let index = self.catalog.index() + 1;
        self.catalog.apply(index, command).result.unwrap();
    }

    fn is_up(&self, id: u64) -> bool {
        let machine = &self.machines[self.owner[&id]];
        machine.up && machine.server.is_some_and(|(now, _)| now == id)
    }

    fn up_voters(&self) -> usize {
        self.voters.iter().filter(|id| self.is_up(**id)).count()
    }

    fn members(&self) -> Vec<Member> {
        let of = |(number, machine): (usize, &Machine)| {
            let mut tags = BTreeMap::from([
                ("dc".to_owned(), "dc1".to_owned()),
                ("id".to_owned(), format!("i{number}")),
                ("cluster".to_owned(), self.cluster.to_string()),
            ]);
            if let Some((id, nomination)) = machine.server {
                tags.insert("role".to_owned(), "consul".to_owned());
                tags.insert("rid".to_owned(), id.to_string());
                tags.insert("port".to_owned(), "8300".to_owned());
                tags.extend(nomination.map(|serial| ("nom".to_owned(), serial.to_string())));
            } else {
                tags.insert("role".to_owned(), "node".to_owned());
                tags.insert("spare".to_owned(), "1".to_owned());
            }
            let status = if machine.up { MemberStatus::Alive } else { MemberStatus::Failed };
            let address = [10, 0, 0, u8::try_from(number).unwrap()].into();
            Member { name: name(number), address, port: 8301, tags, status, incarnation: 0 }
        };
        self.machines.iter().enumerate().map(of).collect()
    }

    /// What the leader's other duties do: `serfHealth`.
    fn reconcile(&mut self) {
        for number in 0..self.machines.len() {
            let status = if self.machines[number].up { Status::Passing } else { Status::Critical };
            let known = self.catalog.node(&name(number)).and_then(|row| row.checks.get(SERF_HEALTH).cloned());
            if known.is_none_or(|check| check.status != status) {
                let node = NodeRegistration { node: name(number), address: "a".into(), ..Default::default() };
                let check = Check { check_id: SERF_HEALTH.into(), status, ..Check::default() };
                let registration = Registration { node, checks: vec![check], ..Registration::default() };
                self.write(&Command::Register(Box::new(registration)));
            }
        }
    }

    fn configured(&self) -> Vec<ConfiguredServer> {
        let all = self.voters.iter().map(|id| (*id, true)).chain(self.learners.keys().map(|id| (*id, false)));
        all.map(|(id, voter)| {
            let number = self.owner[&id];
            ConfiguredServer {
                id,
                name: name(number),
                address: format!("10.0.0.{number}:8300"),
                incarnation: format!("i{number}"),
                voter,
                caught_up: voter || self.learners[&id] > 3,
                leader: self.leader == Some(id),
                last_index: None,
                heard: self.is_up(id).then_some(Duration::ZERO),
            }
        })
        .collect()
    }

    /// One tick: faults, elections, what the machines do for themselves, what the leader does.
    fn tick(&mut self, faults: bool) {
        self.now += TICK;
        if faults {
            self.strike();
        }
        let majority = self.up_voters() * 2 > self.voters.len();
        let leads = self.leader.filter(|id| majority && self.is_up(*id) && self.voters.contains(id));
        let changes = leads.is_none() || (faults && self.chance(60));
        if changes {
            self.leader = None;
            if self.up_voters() * 2 > self.voters.len() {
                let up: Vec<u64> = self.voters.iter().copied().filter(|id| self.is_up(*id)).collect();
                let drawn = usize::try_from(self.draw(up.len() as u64)).unwrap();
                self.leader = Some(up[drawn]);
            }
        }
        self.follow(changes);
        if self.leader.is_none() {
            return;
        }
        self.reconcile();
        self.follow_nomination();
        for (id, progress) in &mut self.learners {
            *progress += usize::from(self.machines[self.owner[id]].up);
        }
        for _ in 0..3 {
            self.lead();
        }
    }

    /// The servers read the log, except the leader that stays one. A process that ends forgets what it has seen.
    fn follow(&mut self, changes: bool) {
        let all = self.voters.iter().chain(self.learners.keys()).copied();
        let running: BTreeSet<u64> = all.filter(|id| self.is_up(*id)).collect();
        self.stewards.retain(|id, _| running.contains(id));
        for id in running.into_iter().filter(|id| changes || self.leader != Some(*id)) {
            self.stewards.entry(id).or_default().follow(self.now, self.catalog.servers());
        }
    }

    fn strike(&mut self) {
        for number in 0..self.machines.len() {
            let up = self.machines[number].up;
            if up && self.chance(150) {
                self.machines[number].up = false;
            } else if !up && self.chance(40) {
                self.machines[number].up = true;
            }
        }
        if self.chance(400) {
            let servers = [3, 5][usize::try_from(self.draw(2)).unwrap()];
            if self.leader.is_some() {
                self.write(&Command::Servers(ServersCommand::Want { servers }));
            }
        }
    }

    /// A nominated client becomes a server; a server that the cluster does not know becomes a client.
    fn follow_nomination(&mut self) {
        let table = self.catalog.servers().clone();
        for number in 0..self.machines.len() {
            if !self.machines[number].up {
                continue;
            }
            match self.machines[number].server {
                None => {
                    let mine = table.nomination.as_ref().filter(|nomination| nomination.node == name(number));
                    if let Some(nomination) = mine {
                        let id = self.fresh_id(number);
                        self.machines[number].server = Some((id, Some(nomination.serial)));
                    }
                }
                Some((id, serial)) => {
                    let configured = self.voters.contains(&id) || self.learners.contains_key(&id);
                    let present = table.nomination.as_ref().map(|nomination| nomination.serial);
                    let expected = serial.is_none() || serial == present;
                    if !configured && (table.retired.contains(&id) || !expected) {
                        self.machines[number].server = None;
                    }
                }
            }
        }
    }

    fn lead(&mut self) {
        let (configured, members, catalog) = (self.configured(), self.members(), self.catalog.clone());
        let view = View {
            configured: &configured,
            joint: false,
            members: &members,
            cluster: &self.cluster,
            catalog: &catalog,
            policy: Policy { mode: self.mode, replace_after: REPLACE_AFTER },
            // Every server's clock is another.
            wall: self.now.as_secs() + self.leader.unwrap_or_default() * CLOCK_STEP,
        };
        let steward = self.leader.and_then(|id| self.stewards.get_mut(&id)).expect("a leader runs");
        let Some(action) = steward.step(self.now, &view) else { return };
        let (up, voters) = (self.up_voters(), self.voters.len());
        assert!(up * 2 > voters, "a leader has a majority");
        match action {
            Action::Write(command) => {
                if let ServersCommand::Nominate { node, purpose: Purpose::Replace { id, .. }, .. } = &command
                {
                    assert!(!self.is_up(*id), "who lives is not replaced");
                    assert!(self.machines.iter().enumerate().any(|(number, machine)| {
                        name(number) == *node && machine.up && machine.server.is_none()
                    }));
                    self.swaps += 1;
                }
                self.write(&Command::Servers(command));
            }
            Action::Change(change) => self.change(&change),
        }
        // What is done to the voters never makes a living majority smaller than one.
        assert!(self.up_voters() * 2 > self.voters.len(), "the majority lives on");
    }

    fn change(&mut self, change: &ServerChange) {
        match change {
            ServerChange::AddLearner(member) => {
                self.learners.insert(member.id, 0);
            }
            ServerChange::Promote(id) => {
                assert!(self.learners.remove(id).is_some() && self.is_up(*id));
                self.voters.insert(*id);
            }
            ServerChange::Replace { old, new } => {
                assert!(self.learners.remove(new).is_some() && self.is_up(*new) && self.leader != Some(*old));
                assert!(self.voters.remove(old));
                self.voters.insert(*new);
            }
            ServerChange::Remove(id) => {
                assert_ne!(self.leader, Some(*id), "the leader does not remove itself");
                self.learners.remove(id);
                self.voters.remove(id);
            }
            ServerChange::HandOver => self.leader = None,
            ServerChange::Update(_) | ServerChange::Finish => {}
        }
    }

    fn is_settled(&self) -> bool {
        let quiet = self.learners.is_empty() && self.catalog.servers().nomination.is_none();
        quiet && self.voters.len() == self.wanted() && self.up_voters() == self.wanted()
    }

    fn wanted(&self) -> usize {
        self.catalog.servers().wanted.unwrap_or(self.catalog.servers().born) as usize
    }
}

#[test]
fn whatever_dies_and_returns_there_are_as_many_living_servers_as_wanted_in_the_end() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 3, 4, Mode::Auto);
        for _ in 0..600 {
            world.tick(true);
        }
        let lost = world.up_voters() * 2 <= world.voters.len();
        if lost {
            // A quorum that is lost is lost until its machines return.
            for machine in &mut world.machines {
                machine.up = true;
            }
        }
        // The hourly limit may have to pass twice.
        for round in 0..15_000 {
            let alive = world.machines.iter().filter(|machine| machine.up).count();
            if world.is_settled() || (round > 200 && alive < world.wanted()) {
                break;
            }
            world.tick(false);
        }
        let alive = world.machines.iter().filter(|machine| machine.up).count();
        let wanted = world.wanted().min(alive);
        assert!(world.up_voters() >= wanted.min(world.voters.len()), "seed {seed}");
        if alive >= world.wanted() {
            assert_eq!(
                (world.voters.len(), world.up_voters()),
                (world.wanted(), world.wanted()),
                "seed {seed}"
            );
        }
        assert!(world.learners.is_empty() && world.catalog.servers().nomination.is_none(), "seed {seed}");
    }
}

#[test]
fn nobody_is_replaced_when_it_is_only_to_be_proposed_or_switched_off() {
    for mode in [Mode::Propose, Mode::Off] {
        for seed in 0..SEEDS / 4 {
            let mut world = World::new(seed, 3, 4, mode);
            for _ in 0..600 {
                world.tick(true);
            }
            assert_eq!(world.swaps, 0, "seed {seed}");
        }
    }
}

#[test]
fn replacements_keep_their_pace() {
    let mut world = World::new(7, 5, 20, Mode::Auto);
    let mut last = Vec::new();
    for _ in 0..20_000 {
        // Servers die as soon as they are ones, leaders as well, but never the majority.
        let leads = world.swaps.is_multiple_of(2);
        let dies = |id: &u64| world.is_up(*id) && leads == (world.leader == Some(*id));
        let victim = world.voters.iter().copied().find(dies);
        if let Some(id) = victim.filter(|_| world.up_voters() == world.voters.len()) {
            let machine = world.owner[&id];
            world.machines[machine].up = false;
        }
        let before = world.swaps;
        world.tick(false);
        if world.swaps > before {
            last.push(world.now);
        }
    }
    assert!(last.len() > 6, "replacement goes on hour after hour: {}", last.len());
    for pair in last.windows(2) {
        assert!(pair[1].saturating_sub(pair[0]) >= super::COOL_DOWN);
    }
    for window in last.windows(super::REPLACEMENTS_PER_HOUR_MAX + 1) {
        assert!(
            window[window.len() - 1].saturating_sub(window[0]) >= Duration::from_secs(3590),
            "the hourly limit holds"
        );
    }
}
