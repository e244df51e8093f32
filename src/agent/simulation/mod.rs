//! Whole clusters in one thread: the real servers, clients, changes of roles, gossip, births and duties of leaders, on a
//! fake clock, a simulated network and simulated disks, while people use them and everything goes wrong.

mod machine;
mod plan;
mod truth;
mod workload;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use self::machine::{End, Machine};
use self::plan::{Setup, Step};
use self::truth::Truth;
use self::workload::{Access, Users};
use crate::agent::consensus::RaftView;
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::Faults;
use crate::host::outside::random_bits;
use crate::model::sync::servers::REPLACEMENTS_PER_HOUR_MAX;
use crate::simulation::explore::{Histories, explore, finds, replay};
use crate::simulation::mutants::Mutant;
use crate::simulation::network::{Net, Weather};
use crate::simulation::running;

/// Whole-cluster histories in `make test`.
const HISTORIES: u64 = 2_000;
/// Histories in which a planted fault must be found.
const PLANTED_HISTORIES_MAX: u64 = 500;
/// How long a cluster may take, once everything works again, until all is as it should be.
const CALM_MAX: Duration = Duration::from_secs(90);

/// How long replacements may be held back: the hour of their limit.
const HELD_BACK_MAX: Duration = Duration::from_mins(61);
/// A quarter of an hour.
const CLOCK_SECONDS: i64 = 900;
/// How long people may then wait: those who asked a machine that went silent hear of it after the hold time of 7 s.
const SERVED_MAX: Duration = Duration::from_secs(10);
/// The same where machines changed their addresses: who asks at an old one, which nobody refuses, hears of it when the
/// time for a write is over, which is 20 s for a client, and then perhaps once more.
const SERVED_AFTER_MOVES_MAX: Duration = Duration::from_mins(1);

struct Clusters;

impl Histories for Clusters {
    type Step = Step;

    fn name(&self) -> &'static str {
        "clusters_"
    }

    fn fresh_one_in(&self) -> u64 {
        20
    }

    fn plan(&self, seed: u64) -> Vec<Step> {
        plan::plan(seed)
    }

    fn play(&self, seed: u64, steps: &[Step], story: Option<&mut Vec<String>>) -> u64 {
        let guard = running::begin(seed);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        // Tokio wakes those who watch the same value in an order of chance. See `.cargo/config.toml`.
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
        let runtime = builder.build().expect("a runtime");
        let mut story = story;
        runtime.block_on(async {
            let mut world = World::new(seed);
            world.begin().await;
            for step in steps {
                if let Some(story) = &mut story {
                    story.push(format!("{:>7.2} s  {step:?}", world.begun.elapsed().as_secs_f64()));
                }
                let happened = world.take(*step).await;
                if let (Some(story), Some(happened)) = (&mut story, happened) {
                    story.push(format!("           {happened}"));
                }
                world.look().await;
            }
            if let Some(story) = &mut story {
                story.push("everything works again".to_owned());
            }
            world.calm().await;
        });
        drop(runtime);
        let hash = running::hash();
        drop(guard);
        hash
    }
}

struct World {
    net: Net,
    machines: Vec<Machine>,
    servers: usize,
    truth: Truth,
    users: Users,
    processes: u64,
    begun: Instant,
    /// How many addresses were given out to machines that moved.
    moves: u8,
    /// Whether any machine has changed its address.
    moved: bool,
    /// Raft ids of disks that are gone and that may still be voters.
    lost: Vec<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let setup = Setup::of(seed);
        let machines = (0..setup.servers + setup.clients)
            .map(|number| Machine::new(number, (number < setup.servers).then_some(setup.servers)))
            .collect();
        let users = Users::default();
        users.start(2, 2, seed);
        Self {
            net: Net::new(seed.rotate_left(17)),
            machines,
            servers: setup.servers,
            truth: Truth::default(),
            users,
            processes: 0,
            begun: Instant::now(),
            moves: 0,
            moved: false,
            lost: Vec::new(),
        }
    }

    async fn begin(&mut self) {
        for machine in 0..self.machines.len() {
            if let Some(error) = self.start(machine).await {
                panic!("a blank machine does not start: {error}");
            }
        }
    }

    async fn start(&mut self, number: usize) -> Option<String> {
        if self.machines[number].process.is_some() {
            return None;
        }
        self.processes += 1;
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != number);
        let join: Vec<_> = others.map(|(_, other)| other.gossip_address()).collect();
        let started = self.machines[number].start(self.processes, &self.net, &join).await;
        self.give_access();
        started.err()
    }

    fn end(&mut self, number: usize, how: End) {
        self.machines[number].end(&self.net, how);
        self.give_access();
    }

    fn give_access(&self) {
        let access = self.machines.iter().map(|machine| {
            machine.process.as_ref().map(|process| Access {
                process: process.number,
                roles: process.roles(),
                consensus: process.consensus.clone(),
                gone: process.gone.clone(),
                replica: process.replica.clone(),
            })
        });
        self.users.set_access(access.collect());
    }

    /// Lets it happen; tells what came of it if that is not plain.
    async fn take(&mut self, step: Step) -> Option<String> {
        match step {
            Step::Wait(time) => tokio::time::sleep(Duration::from_millis(10) * u32::from(time)).await,
            Step::Linger(time) => tokio::time::sleep(Duration::from_millis(100) * u32::from(time)).await,
            Step::Kill(machine) => self.end(machine.into(), End::Killed),
            Step::PowerOff(machine) => self.end(machine.into(), End::PowerLost),
            Step::Start(machine) => return self.start(machine.into()).await,
            Step::Wipe(machine) => return self.lose(machine.into()),
            Step::Cut(from, to) => {
                let (from, to) = (&self.machines[usize::from(from)], &self.machines[usize::from(to)]);
                self.net.cut(from.ip, to.ip);
            }
            Step::Isolate(machine) => {
                let ip = self.machines[usize::from(machine)].ip;
                for other in &self.machines {
                    self.net.cut(ip, other.ip);
                    self.net.cut(other.ip, ip);
                }
            }
            Step::Heal => self.net.heal(),
            Step::Weather(delay, lost, doubled) => self.net.weather(Weather {
                delay_max: Duration::from_millis(delay.into()),
                lost: lost.into(),
                doubled: doubled.into(),
            }),
            Step::SlowDisk(machine, millis) => {
                let slowest = Duration::from_millis(millis.into());
                let disk = &self.machines[usize::from(machine)].disk;
                disk.set(|faults| faults.delay = Some(Duration::ZERO..slowest));
            }
            Step::FullDisk(machine) => {
                let disk = &self.machines[usize::from(machine)].disk;
                let used = disk.used();
                disk.set(|faults| faults.capacity = Some(used));
            }
            Step::FailSync(machine) => {
                self.machines[usize::from(machine)].disk.set(|faults| faults.fail_sync = true);
            }
            Step::Rot(machine) => return self.rot(machine.into()).await,
            Step::MendDisk(machine) => {
                self.machines[usize::from(machine)].disk.set(|faults| *faults = Faults::default());
            }
            Step::Freeze(machine) => self.each_process(machine, |_, process| running::pause(process)),
            Step::Thaw(machine) => self.each_process(machine, |_, process| running::resume(process)),
            Step::Clock(machine, error) => {
                self.each_process(machine, |machine, process| {
                    machine.wall_error = i64::from(error) * CLOCK_SECONDS;
                    running::set_wall_error(process, machine.wall_error);
                });
            }
            Step::Move(machine) => {
                self.moved = true;
                return self.move_to(machine.into(), None).await;
            }
            Step::Swap(machine, other) => {
                self.moved = true;
                return self.move_to(machine.into(), Some(other.into())).await;
            }
            Step::Renew(machine) => {
                let told = self.lose(machine.into());
                if told.is_none() {
                    self.machines[usize::from(machine)].rename();
                }
                return told;
            }
            Step::Sleep(seconds) => tokio::time::advance(Duration::from_secs(seconds.into())).await,
        }
        None
    }

    fn each_process(&mut self, machine: u8, act: impl FnOnce(&mut Machine, u64)) {
        let machine = &mut self.machines[usize::from(machine)];
        if let Some(process) = machine.process.as_ref().map(|process| process.number) {
            act(machine, process);
        }
    }

    /// A machine loses power and its disk, if that can be borne.
    fn lose(&mut self, number: usize) -> Option<String> {
        if !self.can_bear_the_loss_of(number) {
            return Some("not now".to_owned());
        }
        self.end(number, End::PowerLost);
        self.lost.extend(self.machines[number].wipe());
        None
    }

    /// A machine is restarted at an address that nobody had, or changes its address with another one. The birth of a
    /// cluster names addresses, so they stay until it is born.
    async fn move_to(&mut self, number: usize, other: Option<usize>) -> Option<String> {
        if !self.truth.is_born() {
            return Some("not now".to_owned());
        }
        self.end(number, End::PowerLost);
        let Some(other) = other else {
            self.moves += 1;
            self.machines[number].ip = IpAddr::from([10, 0, 1, self.moves]);
            return self.start(number).await;
        };
        self.end(other, End::PowerLost);
        let (one, two) = (self.machines[number].ip, self.machines[other].ip);
        (self.machines[number].ip, self.machines[other].ip) = (two, one);
        let first = self.start(number).await;
        first.or(self.start(other).await)
    }

    /// Damages the log of a machine that is down; it must notice, and then its disk counts as lost.
    async fn rot(&mut self, number: usize) -> Option<String> {
        if !self.can_bear_the_loss_of(number) {
            return Some("not now".to_owned());
        }
        self.end(number, End::PowerLost);
        let machine = &mut self.machines[number];
        let Ok(files) = machine.disk.list(Path::new("/data/raft/log")) else {
            return Some("it is no server".to_owned());
        };
        let path = files.first().expect("a log");
        let bytes = machine.disk.read(path).expect("a file");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        // What looks like the torn end of the last write cannot be told from one.
        let at = usize::try_from(random_bits() % (used as u128 / 2 + 1)).unwrap();
        machine.disk.rot(path, at, 0x55);
        let refused = self.start(number).await?;
        self.lost.extend(self.machines[number].wipe());
        Some(refused)
    }

    /// Whether this disk may be lost without any acknowledged write: it is no server's, or all servers are there and
    /// no earlier loss has yet to be made good.
    fn can_bear_the_loss_of(&mut self, number: usize) -> bool {
        if !self.truth.is_born() {
            return false;
        }
        self.machines.iter_mut().for_each(Machine::note_raft_id);
        if self.machines[number].raft_id.is_none() {
            return true;
        }
        let Some(leader) = self.leader() else { return false };
        self.lost.retain(|lost| leader.voters.contains(lost));
        let present = |id: &u64| self.machines.iter().any(|machine| machine.raft_id == Some(*id));
        self.servers >= 3
            && self.lost.is_empty()
            && leader.voters.len() == self.servers
            && leader.voters.iter().all(present)
    }

    /// The youngest of those who say that they lead.
    fn leader(&self) -> Option<RaftView> {
        let servers = self.machines.iter().filter_map(|machine| machine.process.as_ref()?.server());
        servers.map(|server| server.view()).filter(|view| view.leads).max_by_key(|view| view.term)
    }

    /// Looks whether everything is as promised.
    async fn look(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        for number in 0..self.machines.len() {
            let ended =
                self.machines[number].process.as_ref().and_then(|process| process.ended.borrow().clone());
            if ended.is_some() {
                // As a service manager would; its disk may be what made it end.
                self.end(number, End::Killed);
            }
        }
        self.truth.absorb();
        self.truth.compare(&self.machines);
        self.users.check_watchers().await;
    }

    /// Everything works again: then there is a leader, exactly the servers vote, everybody shows the same, and people
    /// are served.
    async fn calm(&mut self) {
        self.net.heal();
        self.net.weather(Weather::default());
        let (mut begin, mut waited) = (Instant::now(), false);
        loop {
            for number in 0..self.machines.len() {
                if let Some(process) = &self.machines[number].process {
                    running::resume(process.number);
                }
                self.machines[number].disk.set(|faults| *faults = Faults::default());
                if self.machines[number].process.is_none()
                    && let Some(error) = self.start(number).await
                {
                    panic!("{} does not start on a disk that works: {error}", self.machines[number].name);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.look().await;
            match self.what_is_wrong() {
                None => break,
                Some(_) if begin.elapsed() < CALM_MAX => {}
                Some(_) if !waited && self.is_held_back() => {
                    (waited, begin) = (true, Instant::now());
                    tokio::time::advance(HELD_BACK_MAX).await;
                }
                Some(wrong) => panic!("after {CALM_MAX:?} of calm: {wrong}"),
            }
        }
        let before = self.users.acknowledged();
        let begin = Instant::now();
        let patience = if self.moved { SERVED_AFTER_MOVES_MAX } else { SERVED_MAX };
        while self.users.acknowledged() == before {
            assert!(begin.elapsed() < patience, "nobody is served though everything works");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.users.stop();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.look().await;
        self.users.check(&self.truth);
    }

    /// Whether the pace of replacements may be what everybody waits for.
    fn is_held_back(&self) -> bool {
        self.truth.catalog().is_some_and(|catalog| {
            let table = catalog.servers();
            table.failure.is_some() || table.history.len() >= REPLACEMENTS_PER_HOUR_MAX
        })
    }

    /// What is not as it shall be when everything works: as many servers vote as at birth, all of them alive, all
    /// others are clients, one leads, and everybody has the same.
    fn what_is_wrong(&self) -> Option<String> {
        let mut leaders = 0;
        let mut servers = BTreeSet::new();
        for machine in &self.machines {
            let Some(process) = &machine.process else {
                return Some(format!("{} does not run", machine.name));
            };
            if let Some(server) = process.server() {
                let view = server.view();
                leaders += usize::from(view.leads);
                servers.insert(view.id);
            }
            let index = process.replica.load().index();
            if index + 20 < self.truth.last() {
                return Some(format!("{} is at index {index} of {}", machine.name, self.truth.last()));
            }
        }
        if leaders != 1 {
            return Some(format!("there are {leaders} leaders"));
        }
        for (machine, server) in
            self.machines.iter().filter_map(|machine| Some((machine, machine.process.as_ref()?.server()?)))
        {
            let voters: BTreeSet<u64> = server.view().voters.into_iter().collect();
            if voters != servers {
                let name = &machine.name;
                return Some(format!("{name} has voters {voters:x?}, and servers are {servers:x?}"));
            }
        }
        if servers.len() != self.servers {
            return Some(format!("{} servers vote, not {}", servers.len(), self.servers));
        }
        let nomination = self.truth.catalog().and_then(|catalog| catalog.servers().nomination.clone());
        nomination.map(|nomination| format!("{} is still nominated", nomination.node))
    }
}

#[test]
fn clusters_keep_every_promise_whatever_happens() {
    explore(&Clusters, HISTORIES);
}

/// Found by simulation: the leader, killed before its own slow disk had what a follower had already, came back as the
/// leader of the same term and put other entries in the same places.
#[test]
fn clusters_do_not_let_a_killed_leader_lead_on_in_its_term() {
    let (before, slow) = ([Step::Wait(206), Step::PowerOff(1), Step::Wait(47)], [Step::SlowDisk(2, 152)]);
    replay(&Clusters, 242, &[&before[..], &slow, &[Step::Wait(23), Step::Wait(3), Step::Kill(2)]].concat());
}

/// Found by simulation: a server that lost its disk and was replaced came back blank, and its flags made it one server
/// too many for good.
#[test]
fn clusters_do_not_grow_when_a_machine_that_was_replaced_comes_back_blank() {
    replay(&Clusters, 2, &[Step::Wait(24), Step::Wait(12), Step::Wipe(2), Step::Linger(90)]);
}

/// Found by simulation: a nominated server was killed when it voted and nobody had settled its nomination. Restarted, it
/// no longer knew of it; so the nomination came to nothing, and the one that it had replaced came back as one too many.
#[test]
fn clusters_do_not_grow_when_a_nominated_server_is_killed_as_soon_as_it_votes() {
    let before = [Step::Wait(213), Step::Isolate(1), Step::Wait(45), Step::Weather(74, 8, 4), Step::Wait(31)];
    let after = [169, 210, 30, 177, 41].map(Step::Wait);
    replay(&Clusters, 702, &[&before[..], &after, &[Step::Kill(3)]].concat());
}

#[test]
fn planted_faults_in_clusters_are_found() {
    let faults = [
        Mutant::VoteNotPersisted,
        Mutant::AcknowledgedEntryDropped,
        Mutant::SyncSkipped,
        Mutant::UncommittedShown,
        Mutant::ReadWithoutLease,
        Mutant::WatcherNotWoken,
        Mutant::RetiredTakenIn,
        Mutant::AddedInsteadOfReplaced,
        Mutant::AddressesNotFollowed,
    ];
    let missed: Vec<Mutant> = faults
        .into_iter()
        .filter(|fault| finds(&Clusters, *fault, PLANTED_HISTORIES_MAX).is_none())
        .collect();
    assert_eq!(missed, [], "planted and not found");
}
