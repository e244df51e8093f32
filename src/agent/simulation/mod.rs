//! Whole clusters in one thread: the real servers, clients, changes of roles, gossip, births and duties of leaders, on a
//! fake clock, a simulated network and simulated disks, while people use them and everything goes wrong.

mod calm;
mod copies;
mod line;
mod machine;
mod orders;
mod plan;
mod ruin;
mod slow_disks;
mod tests;
mod truth;
mod workload;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::machine::{End, Machine};
use self::plan::{Setup, Step};
use self::ruin::Ruin;
use self::truth::Truth;
use self::workload::{Access, Users};
use crate::agent::consensus::RaftView;
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::Faults;
use crate::host::outside::random_bits;
use crate::simulation::explore::Histories;
use crate::simulation::network::{Net, Weather};
use crate::simulation::running;

/// A quarter of an hour.
const CLOCK_SECONDS: i64 = 900;
/// How long a machine with a new disk may look for others.
const LOOK_MAX: Duration = Duration::from_secs(12);

/// Histories of whole clusters.
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
        let mut story = story;
        in_world(seed, async |world| {
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
        })
    }
}

/// Lets all this happen in a world of its own, and then everything works again; gives what all that happened amounts to.
fn in_world(seed: u64, happens: impl AsyncFnOnce(&mut World)) -> u64 {
    let guard = running::begin(seed);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // Tokio wakes those who watch the same value in an order of chance. See `.cargo/config.toml`.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed);
        world.begin().await;
        happens(&mut world).await;
        world.calm().await;
    });
    drop(runtime);
    let hash = running::hash();
    drop(guard);
    hash
}

struct World {
    net: Net,
    machines: Vec<Machine>,
    /// How many were told to be servers at first.
    servers: usize,
    truth: Truth,
    users: Users,
    processes: u64,
    begun: Instant,
    /// How many addresses were given out to machines that moved.
    moves: u8,
    /// Raft ids of disks that are gone and that may still be voters.
    lost: Vec<u64>,
    /// Whether any disk was full or failed: a server that moved meanwhile may not have been able to note where it is.
    had_bad_disk: bool,
    /// How many machines were started with a copy of another's disk.
    copies: u8,
    /// What was lost for good and is not recovered yet.
    ruin: Option<Ruin>,
    /// When a server's disk was lost last.
    last_loss: Option<Instant>,
    /// When an operator gave the last order.
    last_order: Option<Instant>,
    /// Orders that nobody has answered yet.
    under_way: Vec<AbortHandle>,
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
            lost: Vec::new(),
            had_bad_disk: false,
            copies: 0,
            ruin: None,
            last_loss: None,
            last_order: None,
            under_way: Vec::new(),
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
        let is_new = self.truth.is_born() && self.machines[number].would_begin_alone();
        if is_new && !self.anybody_can_tell(number) {
            // It cannot know of the cluster: whoever gives it a new disk tells it to join.
            self.machines[number].tell_to_join();
        }
        self.processes += 1;
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != number);
        let join: Vec<_> = others.map(|(_, other)| other.gossip_address()).collect();
        let started = self.machines[number].start(self.processes, &self.net, &join).await;
        self.give_access();
        if is_new {
            self.until_it_has_looked(number).await;
        }
        started.err()
    }

    /// Whether a server of the cluster would answer this machine.
    fn anybody_can_tell(&self, number: usize) -> bool {
        let here = self.machines[number].ip;
        let mut others = self.machines.iter().enumerate().filter(|(other, _)| *other != number);
        others.any(|(_, other)| {
            let Some(process) = &other.process else { return false };
            let answers = !self.net.is_cut(here, other.ip)
                && !self.net.is_cut(other.ip, here)
                && !running::is_paused(process.number)
                && !process.leave.is_cancelled();
            answers
                && process
                    .server()
                    .is_some_and(|server| server.view().cluster.as_ref() == self.truth.cluster())
        })
    }

    /// Nothing comes between a machine with a new disk and those whom it asks.
    async fn until_it_has_looked(&self, number: usize) {
        let begin = Instant::now();
        while begin.elapsed() < LOOK_MAX
            && self.machines[number].would_begin_alone()
            && self.machines[number].process.as_ref().is_some_and(|process| process.ended.borrow().is_none())
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
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
                self.had_bad_disk = true;
                let disk = &self.machines[usize::from(machine)].disk;
                let used = disk.used();
                disk.set(|faults| faults.capacity = Some(used));
            }
            Step::FailSync(machine) => {
                self.had_bad_disk = true;
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
            Step::Move(machine) => return self.move_to(machine.into(), None).await,
            Step::Swap(machine, other) => return self.move_to(machine.into(), Some(other.into())).await,
            Step::Renew(machine) => {
                let told = self.lose(machine.into());
                if told.is_none() {
                    // A cluster that was begun alone would grow by it; any other has enough.
                    let server = self.servers > 1;
                    self.machines[usize::from(machine)].rename(server);
                }
                return told;
            }
            Step::Ruin(machine, wiped) => return self.give_up_a_majority(machine.into(), wiped),
            Step::Clone(machine, namesake) => return self.start_copy(machine.into(), namesake).await,
            Step::Recover(machine) => return self.recover(machine.into(), None).await,
            Step::RecoverAll(machine, how) => return self.recover(machine.into(), Some(how)).await,
            Step::Leave(machine) => return self.leave(machine.into()),
            Step::Transfer(at, to) => return self.order_transfer(at.into(), to.into()).await,
            Step::Want(at, servers) => return self.order_servers(at.into(), servers).await,
            Step::Retire(at, server) => return self.order_retirement(at.into(), server.into()).await,
            Step::Exchange(at, old, new) => {
                return self.order_exchange(at.into(), old.into(), new.into()).await;
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
        self.wipe(number);
        None
    }

    /// The disk of a machine that is down is lost.
    fn wipe(&mut self, number: usize) {
        if let Some(id) = self.machines[number].wipe() {
            self.lost.push(id);
            self.last_loss = Some(Instant::now());
        }
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
        let written = files.first().map(|path| (path, machine.disk.read(path).expect("a file")));
        let Some((path, bytes)) = written.filter(|(_, bytes)| !bytes.is_empty()) else {
            return Some("it has written nothing".to_owned());
        };
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        // What looks like the torn end of the last write cannot be told from one.
        let at = usize::try_from(random_bits() % (used as u128 / 2 + 1)).unwrap();
        machine.disk.rot(path, at, 0x55);
        let refused = self.start(number).await?;
        self.wipe(number);
        Some(refused)
    }

    /// Whether this disk may be lost without any acknowledged write: it is no server's, or all servers are there and
    /// no earlier loss has yet to be made good.
    fn can_bear_the_loss_of(&mut self, number: usize) -> bool {
        if !self.truth.is_born() {
            return false;
        }
        self.machines.iter_mut().for_each(Machine::note_raft_id);
        self.machines[number].raft_id.is_none() || self.is_whole()
    }

    /// Whether the disks of all servers are there, as many as there shall be, and nothing that was ruined is still to be
    /// recovered.
    fn is_whole(&mut self) -> bool {
        let Some(leader) = self.leader() else { return false };
        self.lost.retain(|lost| leader.voters.contains(lost));
        let present = |id: &u64| self.machines.iter().any(|machine| machine.raft_id == Some(*id));
        let wanted = self.wanted();
        wanted >= 3
            && self.ruin.is_none()
            && self.lost.is_empty()
            && leader.voters.len() == wanted
            && leader.voters.iter().all(present)
            && self.is_settled(&leader)
    }

    /// How many servers there shall be: as an operator said last, else as many as at birth.
    fn wanted(&self) -> usize {
        let said = self.truth.catalog().and_then(|catalog| catalog.servers().wanted);
        said.map_or(self.servers, |servers| servers as usize)
    }

    /// The youngest of those who say that they lead, in the youngest cluster.
    fn leader(&self) -> Option<RaftView> {
        let servers = self.machines.iter().filter_map(|machine| machine.process.as_ref()?.server());
        let leaders = servers.map(|server| server.view()).filter(|view| view.leads);
        leaders.max_by_key(|view| (self.truth.depth(view.cluster.as_ref()), view.term))
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
        self.users.check_acknowledged(&self.truth);
        self.users.check_watchers().await;
    }
}
