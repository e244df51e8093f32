//! Many members in virtual time: a network with delay, loss and cuts; machines that stop, pause and come back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::chance::Chance;
use super::{Change, Config, Event, Input, Member, MemberStatus, Output, StreamFailure, Swim, Tags};

/// First retransmission of a lost SYN in Linux.
const SYN_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// SIGSTOP: the kernel goes on.
    Paused,
    /// The process is gone, the machine refuses connections.
    Crashed,
    /// The machine is gone.
    Off,
}

struct Machine {
    swim: Swim,
    power: Power,
    address: SocketAddr,
    started: Duration,
    waiting: Vec<Input>,
    wake: Duration,
    group: u8,
}

enum Happening {
    Wake,
    Deliver { from: SocketAddr, input: Input },
    Connect { from: String, exchange: u64, bytes: Vec<u8> },
}

/// An event as one member saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at: Duration,
    pub(super) by: String,
    pub(super) change: Change,
    pub(super) name: String,
}

/// The simulated cluster.
pub(super) struct Simulation {
    pub(super) now: Duration,
    pub(super) seen: Vec<Seen>,
    pub(super) events: Vec<(String, Event)>,
    /// Share of the datagrams that are lost.
    pub(super) loss: f64,
    pub(super) datagrams: usize,
    pub(super) config: Config,
    machines: BTreeMap<String, Machine>,
    addresses: BTreeMap<SocketAddr, String>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    happenings: Vec<Option<(String, Happening)>>,
    streams: BTreeMap<u64, (String, u64)>,
    chance: Chance,
    order: u64,
}

impl Simulation {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            seen: Vec::new(),
            events: Vec::new(),
            loss: 0.0,
            datagrams: 0,
            config: Config::default(),
            machines: BTreeMap::new(),
            addresses: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            streams: BTreeMap::new(),
            chance: Chance::new(seed),
            order: 0,
        }
    }

    /// `count` machines n1, n2, … that all join n1, and time to settle.
    pub(super) fn cluster(seed: u64, count: usize) -> Self {
        let mut simulation = Self::new(seed);
        for number in 1..=count {
            simulation.start(&format!("n{number}"), number);
        }
        for number in 2..=count {
            simulation.join(&format!("n{number}"), "n1");
        }
        simulation.run(Duration::from_secs(5));
        simulation.assert_all_alive();
        simulation.seen.clear();
        simulation
    }

    /// The address that a machine's number gives.
    pub(super) fn address(number: usize) -> SocketAddr {
        let [high, low] = u16::try_from(number).expect("few machines").to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 8301))
    }

    /// Starts (or restarts, with nothing remembered) a machine.
    pub(super) fn start(&mut self, name: &str, number: usize) {
        let address = Self::address(number);
        let seed = self.chance.next();
        let swim = Swim::new(self.config.clone(), name.to_owned(), address, Tags::default(), seed);
        let machine = Machine {
            swim,
            power: Power::On,
            address,
            started: self.now,
            waiting: Vec::new(),
            wake: Duration::MAX,
            group: 0,
        };
        self.machines.insert(name.to_owned(), machine);
        self.addresses.insert(address, name.to_owned());
        self.schedule_wake(name);
    }

    /// Puts another member into a machine.
    pub(super) fn replace_core(&mut self, name: &str, swim: Swim) {
        self.machine(name).swim = swim;
        self.schedule_wake(name);
    }

    pub(super) fn join(&mut self, name: &str, to: &str) {
        let to = self.machines[to].address;
        self.input(name, Input::Join { request: 1, to });
    }

    pub(super) fn power_off(&mut self, name: &str) {
        self.machine(name).power = Power::Off;
    }

    pub(super) fn crash(&mut self, name: &str) {
        self.machine(name).power = Power::Crashed;
    }

    pub(super) fn pause(&mut self, name: &str) {
        self.machine(name).power = Power::Paused;
    }

    /// What waited is worked on after the timers, which is the worst order.
    pub(super) fn resume(&mut self, name: &str) {
        let machine = self.machine(name);
        machine.power = Power::On;
        let waiting = std::mem::take(&mut machine.waiting);
        self.input(name, Input::Tick);
        for input in waiting {
            self.input(name, input);
        }
    }

    /// Members of different groups do not reach each other.
    pub(super) fn cut(&mut self, name: &str, group: u8) {
        self.machine(name).group = group;
    }

    pub(super) fn heal(&mut self) {
        self.machines.values_mut().for_each(|machine| machine.group = 0);
    }

    pub(super) fn input(&mut self, name: &str, input: Input) {
        let now = self.now;
        let machine = self.machine(name);
        if machine.power != Power::On {
            if machine.power == Power::Paused && !matches!(input, Input::Tick) {
                machine.waiting.push(input);
            }
            return;
        }
        let outputs = machine.swim.step(now.saturating_sub(machine.started), input);
        for output in outputs {
            self.output(name, output);
        }
        self.schedule_wake(name);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, _, index))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            let (name, happening) = self.happenings[index].take().expect("happens once");
            self.happen(&name, happening);
        }
        self.now = end;
    }

    /// Runs until `done` or fails after `limit`; gives the time that it took.
    #[track_caller]
    pub(super) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(self.now.saturating_sub(start) < limit, "not within {limit:?}");
            self.run(Duration::from_millis(10));
        }
        self.now.saturating_sub(start)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.machines.keys().cloned().collect()
    }

    pub(super) fn running(&self) -> Vec<String> {
        let on = self.machines.iter().filter(|(_, machine)| machine.power == Power::On);
        on.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn members(&self, by: &str) -> Vec<Member> {
        self.machines[by].swim.members()
    }

    pub(super) fn status(&self, by: &str, name: &str) -> Option<MemberStatus> {
        self.members(by).into_iter().find(|member| member.name == name).map(|member| member.status)
    }

    /// All running members but `name` itself believe this of `name`.
    pub(super) fn agreed(&self, name: &str, status: MemberStatus) -> bool {
        self.running().iter().filter(|by| *by != name).all(|by| self.status(by, name) == Some(status))
    }

    pub(super) fn all_alive(&self) -> bool {
        let running: BTreeSet<String> = self.running().into_iter().collect();
        running.iter().all(|by| {
            let alive = self.members(by).into_iter().filter(|member| member.status == MemberStatus::Alive);
            alive.map(|member| member.name).collect::<BTreeSet<_>>() == running
        })
    }

    #[track_caller]
    pub(super) fn assert_all_alive(&self) {
        assert!(self.all_alive(), "all running members know exactly each other as alive");
    }

    fn machine(&mut self, name: &str) -> &mut Machine {
        self.machines.get_mut(name).unwrap_or_else(|| panic!("no machine {name}"))
    }

    fn schedule(&mut self, at: Duration, name: &str, happening: Happening) {
        self.order += 1;
        self.happenings.push(Some((name.to_owned(), happening)));
        self.queue.push(Reverse((at, self.order, self.happenings.len() - 1)));
    }

    fn schedule_wake(&mut self, name: &str) {
        let machine = self.machine(name);
        let wake = machine.started + machine.swim.next_deadline();
        if wake != machine.wake {
            machine.wake = wake;
            self.schedule(wake.max(self.now), name, Happening::Wake);
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(200) + Duration::from_millis(2).mul_f64(self.chance.fraction())
    }

    fn happen(&mut self, name: &str, happening: Happening) {
        match happening {
            Happening::Wake => {
                // Only the latest wish counts.
                let now = self.now;
                let machine = self.machine(name);
                if machine.wake <= now {
                    machine.wake = Duration::MAX;
                    self.input(name, Input::Tick);
                }
            }
            Happening::Deliver { from, input } => {
                if self.reaches(from, name) {
                    self.input(name, input);
                }
            }
            Happening::Connect { from, exchange, bytes } => self.connect(&from, name, exchange, bytes),
        }
    }

    fn reaches(&self, from: SocketAddr, to: &str) -> bool {
        let group = self.addresses.get(&from).and_then(|name| self.machines.get(name)).map(|m| m.group);
        group == Some(self.machines[to].group)
    }

    fn connect(&mut self, from: &str, to: &str, exchange: u64, bytes: Vec<u8>) {
        let (source, address) = (self.machines[from].address, self.machines[to].address);
        if !self.reaches(source, to) || self.machines[to].power == Power::Off {
            return;
        }
        let back = self.now + self.delay();
        if self.machines[to].power == Power::Crashed {
            let input = Input::StreamFailed { exchange, failure: StreamFailure::Refused };
            self.schedule(back, from, Happening::Deliver { from: address, input });
            return;
        }
        let input = Input::StreamConnected { exchange };
        self.schedule(back, from, Happening::Deliver { from: address, input });
        self.order += 1;
        let stream = self.order;
        self.streams.insert(stream, (from.to_owned(), exchange));
        self.input(to, Input::StreamRequest { stream, bytes });
    }

    fn output(&mut self, name: &str, output: Output) {
        let from = self.machines[name].address;
        match output {
            Output::Datagram { to, bytes } => {
                assert!(bytes.len() <= super::DATAGRAM_BYTES_MAX, "datagrams fit");
                self.datagrams += 1;
                let lost = self.chance.fraction() < self.loss;
                if let (Some(target), false) = (self.addresses.get(&to).cloned(), lost) {
                    let at = self.now + self.delay();
                    let input = Input::Datagram { from, bytes };
                    self.schedule(at, &target, Happening::Deliver { from, input });
                }
            }
            Output::Exchange { exchange, to, bytes, timeout } => {
                let lost = self.chance.fraction() < self.loss * 2.0;
                let at = self.now + self.delay() + if lost { SYN_RETRY } else { Duration::ZERO };
                if let Some(target) = self.addresses.get(&to).cloned() {
                    let happening = Happening::Connect { from: name.to_owned(), exchange, bytes };
                    self.schedule(at, &target, happening);
                }
                let input = Input::StreamFailed { exchange, failure: StreamFailure::Unreachable };
                self.schedule(self.now + timeout, name, Happening::Deliver { from, input });
            }
            Output::Reply { stream, bytes } => {
                let (Some((asker, exchange)), Some(bytes)) = (self.streams.remove(&stream), bytes) else {
                    return;
                };
                let at = self.now + self.delay();
                let input = Input::StreamReply { exchange, bytes };
                self.schedule(at, &asker, Happening::Deliver { from, input });
            }
            Output::Event(event) => {
                if let Event::Member { change, member } = &event {
                    let (by, name) = (name.to_owned(), member.name.clone());
                    self.seen.push(Seen { at: self.now, by, change: *change, name });
                }
                self.events.push((name.to_owned(), event));
            }
        }
    }
}
