//! Whole clusters in one thread: the real servers, replicas, gossip, births and duties of leaders, on a fake clock, a
//! simulated network and simulated disks, while people use them and everything goes wrong.

mod machine;
mod truth;
mod workload;

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use self::machine::{End, Machine};
use self::truth::Truth;
use self::workload::{Access, Users};
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::Faults;
use crate::host::outside::random_bits;
use crate::simulation::chance::Chance;
use crate::simulation::explore::{Histories, explore, finds, replay};
use crate::simulation::mutants::Mutant;
use crate::simulation::network::{Net, Weather};
use crate::simulation::running;

/// Whole-cluster histories in `make test`.
const HISTORIES: u64 = 200;
/// Histories in which a planted fault must be found.
const PLANTED_HISTORIES_MAX: u64 = 500;
/// How long a cluster may take, once everything works again, until all is as it should be.
const CALM_MAX: Duration = Duration::from_secs(90);

/// How long people may then wait: those who asked a machine that went silent hear of it after the hold time of 7 s.
const SERVED_MAX: Duration = Duration::from_secs(10);

/// One thing that happens to a machine (the number).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// So many times ten milliseconds pass.
    Wait(u8),
    /// Its process is killed.
    Kill(u8),
    /// It loses power.
    PowerOff(u8),
    /// It comes back, if it is down.
    Start(u8),
    /// It loses power and its disk, if the others can bear it.
    Wipe(u8),
    /// What the first sends does not reach the second.
    Cut(u8, u8),
    /// It reaches nobody; nobody reaches it.
    Isolate(u8),
    /// The network is whole again.
    Heal,
    /// The longest time on the way in milliseconds, losses and doubles in a hundred.
    Weather(u8, u8, u8),
    /// Its disk takes up to so many milliseconds for a write.
    SlowDisk(u8, u8),
    /// Its disk is full.
    FullDisk(u8),
    /// The next sync of its disk fails.
    FailSync(u8),
    /// It loses power, and a byte in the older part of its log is no longer what was written.
    Rot(u8),
    /// Its disk works again.
    MendDisk(u8),
    /// All machines sleep for so many seconds.
    Sleep(u8),
}

struct Clusters;

struct Setup {
    servers: usize,
    clients: usize,
}

impl Setup {
    fn of(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        Self { servers: chance.pick(&[1, 3, 3, 3, 3, 5]), clients: chance.pick(&[1, 1, 2]) }
    }
}

impl Histories for Clusters {
    type Step = Step;

    fn name(&self) -> &'static str {
        "clusters_"
    }

    fn plan(&self, seed: u64) -> Vec<Step> {
        let setup = Setup::of(seed);
        let mut chance = Chance::new(seed);
        let count = u8::try_from(setup.servers + setup.clients).unwrap();
        let servers = u8::try_from(setup.servers).unwrap();
        let length = chance.pick(&[12, 20, 30]);
        let early = chance.one_in(3);
        let (crashing, network, disks) = (chance.one_in(3), chance.one_in(3), chance.one_in(2));
        // Most histories let the cluster be born first.
        let mut steps = if early { Vec::new() } else { vec![Step::Wait(250)] };
        for _ in 0..length {
            let machine = chance.byte() % count;
            steps.push(match chance.below(16) {
                0 => Step::Kill(machine),
                1 => Step::PowerOff(chance.byte() % servers),
                4 if !crashing => Step::PowerOff(machine),
                5 if !early && chance.one_in(4) => Step::Rot(chance.byte() % servers),
                5 if !early => Step::Wipe(chance.byte() % servers),
                6 if !network => Step::Cut(machine, chance.byte() % count),
                7 if !network => Step::Isolate(machine),
                8 if !network => Step::Heal,
                9 if !network => Step::Weather(chance.byte() % 80, chance.byte() % 30, chance.byte() % 20),
                10 if !disks => match chance.below(4) {
                    0 => Step::SlowDisk(machine, chance.byte()),
                    1 => Step::FullDisk(machine),
                    2 => Step::FailSync(machine),
                    _ => Step::MendDisk(machine),
                },
                11 if chance.one_in(4) => Step::Sleep(chance.byte() % 60),
                _ => Step::Start(machine),
            });
            steps.push(Step::Wait(if chance.one_in(3) { chance.byte() } else { chance.byte() % 50 }));
        }
        steps
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
                server: process.server.is_some(),
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
            Step::Kill(machine) => self.end(machine.into(), End::Killed),
            Step::PowerOff(machine) => self.end(machine.into(), End::PowerLost),
            Step::Start(machine) => return self.start(machine.into()).await,
            Step::Wipe(machine) => {
                let number = usize::from(machine);
                if !self.can_bear_a_loss() {
                    return Some("not now".to_owned());
                }
                self.end(number, End::PowerLost);
                self.lost.push(self.machines[number].incarnation.node_id());
                self.machines[number].wipe();
            }
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
            Step::Sleep(seconds) => tokio::time::advance(Duration::from_secs(seconds.into())).await,
        }
        None
    }

    /// Damages the log of a machine that is down; it must notice, and then its disk counts as lost.
    async fn rot(&mut self, number: usize) -> Option<String> {
        if !self.can_bear_a_loss() {
            return Some("not now".to_owned());
        }
        self.end(number, End::PowerLost);
        let machine = &mut self.machines[number];
        let files = machine.disk.list(Path::new("/raft/log")).expect("a folder");
        let path = files.first().expect("a log");
        let bytes = machine.disk.read(path).expect("a file");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        // What looks like the torn end of the last write cannot be told from one.
        let at = usize::try_from(random_bits() % (used as u128 / 2 + 1)).unwrap();
        machine.disk.rot(path, at, 0x55);
        let refused = self.start(number).await?;
        self.lost.push(self.machines[number].incarnation.node_id());
        self.machines[number].wipe();
        Some(refused)
    }

    /// Whether one disk may be lost without any acknowledged write: all servers but one that was never lost keep
    /// what is acknowledged, and no earlier loss has yet to be made good.
    fn can_bear_a_loss(&mut self) -> bool {
        if self.servers < 3 || !self.truth.is_born() {
            return false;
        }
        let views = self.machines.iter().filter_map(|machine| machine.process.as_ref()?.server.as_ref());
        let leader = views
            .map(crate::agent::consensus::Server::view)
            .filter(|view| view.leads)
            .max_by_key(|view| view.term);
        let Some(leader) = leader else { return false };
        self.lost.retain(|lost| leader.voters.contains(lost));
        let present = |machine: &Machine| leader.voters.contains(&machine.incarnation.node_id());
        self.lost.is_empty()
            && leader.voters.len() == self.servers
            && self.machines[..self.servers].iter().all(present)
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
        let begin = Instant::now();
        loop {
            for number in 0..self.machines.len() {
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
                Some(wrong) => assert!(begin.elapsed() < CALM_MAX, "after {CALM_MAX:?} of calm: {wrong}"),
            }
        }
        let before = self.users.acknowledged();
        let begin = Instant::now();
        while self.users.acknowledged() == before {
            assert!(begin.elapsed() < SERVED_MAX, "nobody is served though everything works");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.users.stop();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.look().await;
        self.users.check(&self.truth);
    }

    fn what_is_wrong(&self) -> Option<String> {
        let mut wanted: Vec<u64> =
            self.machines[..self.servers].iter().map(|machine| machine.incarnation.node_id()).collect();
        wanted.sort_unstable();
        let mut leaders = 0;
        for machine in &self.machines {
            let Some(process) = &machine.process else {
                return Some(format!("{} does not run", machine.name));
            };
            if let Some(server) = &process.server {
                let view = server.view();
                leaders += usize::from(view.leads);
                if view.voters != wanted {
                    return Some(format!("{} has voters {:x?}, not {wanted:x?}", machine.name, view.voters));
                }
            }
            let index = process.replica.load().index();
            if index + 20 < self.truth.last() {
                return Some(format!("{} is at index {index} of {}", machine.name, self.truth.last()));
            }
        }
        (leaders != 1).then(|| format!("there are {leaders} leaders"))
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

#[test]
fn planted_faults_in_clusters_are_found() {
    let faults = [
        Mutant::VoteNotPersisted,
        Mutant::AcknowledgedEntryDropped,
        Mutant::SyncSkipped,
        Mutant::UncommittedShown,
        Mutant::ReadWithoutLease,
        Mutant::WatcherNotWoken,
    ];
    let missed: Vec<Mutant> = faults
        .into_iter()
        .filter(|fault| finds(&Clusters, *fault, PLANTED_HISTORIES_MAX).is_none())
        .collect();
    assert_eq!(missed, [], "planted and not found");
}
