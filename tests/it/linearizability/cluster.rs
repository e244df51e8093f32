//! Real servers in namespaces of their own, and what happens to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use super::workload::Load;
use crate::support::Link;
use crate::support::chance::Chance;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::netns::Network;

/// How long a server may take to say who leads, when the nemesis asks.
const ASK_WAIT: Duration = Duration::from_millis(300);
/// Shortest and longest time that a fault lasts: below and well above an election.
const FAULT_LASTS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(2500));
/// Time of health between two faults: enough for an election and some work.
const HEALTH_LASTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(1500));
/// How far clocks jump, in seconds, either way.
const CLOCK_JUMP_MAX: usize = 7200;
/// A jump that is looked for in a log is longer than anything that keeps a line from being written.
const CLOCK_JUMP_SEEN: i64 = 60;
/// How often the log is looked at; a changed file is noticed by the preloaded library within a second.
const CLOCK_LOOK: Duration = Duration::from_millis(200);

/// The servers of one test.
pub(super) struct Cluster {
    machines: Vec<Machine>,
    clocks: tempfile::TempDir,
    /// How wrong each clock is, in seconds.
    wrong: Vec<i64>,
    network: Arc<Network>,
}

impl Cluster {
    /// Servers that have formed one cluster, each with a clock of its own that can be set.
    pub(super) fn formed(servers: usize, seed: u64) -> Self {
        let network = Arc::new(Network::new(servers, seed));
        let clocks = tempfile::tempdir().unwrap();
        let expect = servers.to_string();
        let first = network.address(0).to_string();
        let mut machines = Vec::new();
        for number in 0..servers {
            set_clock(&clocks.path().join(number.to_string()), 0);
            let mut launcher = network.launcher(number);
            launcher.extend(wrong_clock(&clocks.path().join(number.to_string())));
            let flags = ["-server", "-bootstrap-expect", &expect, "-retry-join", &first];
            let name = format!("s{number}");
            machines.push(Machine::agent_at(&name, network.address(number), launcher, &flags).started());
        }
        let cluster = Self { machines, clocks, wrong: vec![0; servers], network };
        let _inside = cluster.network.enter();
        formed(&cluster.machines.iter().collect::<Vec<_>>(), servers);
        cluster
    }

    pub(super) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    pub(super) fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.machines.iter().map(|machine| machine.socket(8500)).collect()
    }

    /// Waits until all servers agree on a leader again; gives the leader's number. All faults must be over.
    pub(super) fn recovered(&self) -> usize {
        let _inside = self.network.enter();
        let leader = formed(&self.machines.iter().collect::<Vec<_>>(), self.machines.len());
        self.number_of(&leader).unwrap()
    }

    /// What each server said last, for a failure.
    pub(super) fn log_ends(&self) -> String {
        let end = |machine: &Machine| {
            let log = machine.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {}\n{}\n", machine.name, lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        self.machines.iter().map(end).collect()
    }

    fn number_of(&self, rpc_address: &str) -> Option<usize> {
        let ip = rpc_address.split(':').next()?;
        self.machines.iter().position(|machine| machine.address.to_string() == ip)
    }

    /// The server that most others call leader now, else any.
    fn leader(&self, chance: &mut Chance) -> usize {
        let _inside = self.network.enter();
        let mut votes = vec![0; self.machines.len()];
        for machine in &self.machines {
            let mut client = Client::new(machine.socket(8500), ASK_WAIT);
            let answer = client.call("GET", "/v1/status/leader", b"").ok();
            let named = answer.and_then(|answer| self.number_of(answer.json().as_str()?));
            if let Some(leader) = named {
                votes[leader] += 1;
            }
        }
        let most = votes.iter().max().copied().unwrap_or(0);
        if most == 0 {
            chance.below(votes.len())
        } else {
            votes.iter().position(|count| *count == most).unwrap()
        }
    }

    /// Does one thing to the cluster, waits, undoes it, and waits again. Gives a line for the record.
    pub(super) fn disturb(&mut self, chance: &mut Chance, load: &Load) -> String {
        let leader = self.leader(chance);
        let count = self.machines.len();
        let other = (leader + 1 + chance.below(count - 1)) % count;
        let target = if chance.percent(60) { leader } else { other };
        let lasts = chance.between(FAULT_LASTS.0, FAULT_LASTS.1);
        let what = match chance.below(12) {
            0 => self.isolate(target, true, true),
            1 => self.isolate(target, true, false),
            2 => self.isolate(target, false, true),
            3 => self.split(chance),
            4 => self.cut_pair(leader, other, chance),
            5 => self.disturb_packets(chance),
            6 | 7 => self.pause(target, chance, lasts),
            8 | 9 => self.kill(target, chance, load, lasts),
            10 => self.set_a_clock(target, chance),
            _ => self.restart_a_voter_of_a_cut_off_leader(leader, other, load),
        };
        pass(lasts);
        self.undo(load);
        pass(chance.between(HEALTH_LASTS.0, HEALTH_LASTS.1));
        format!("{what} for {lasts:?} (leader: s{leader})")
    }

    /// Ends all faults.
    pub(super) fn undo(&mut self, load: &Load) {
        self.network.links().heal();
        for number in 0..self.machines.len() {
            if self.machines[number].is_alive() {
                self.machines[number].signal(Signal::SIGCONT);
            } else {
                self.start(number, load);
            }
        }
    }

    fn start(&mut self, number: usize, load: &Load) {
        load.lives[number].fetch_add(1, Ordering::Release);
        self.machines[number].start();
    }

    /// A kill counts as the end of a life at once: whoever asks from now on may get an answer of the next one.
    fn end(&mut self, number: usize, load: &Load) {
        self.machines[number].kill();
        load.lives[number].fetch_add(1, Ordering::Release);
    }

    fn isolate(&self, target: usize, from: bool, to: bool) -> String {
        let cut = Link { cut: true, ..Link::default() };
        for other in (0..self.machines.len()).filter(|other| *other != target) {
            if from {
                self.network.links().set(target, other, cut);
            }
            if to {
                self.network.links().set(other, target, cut);
            }
        }
        format!("s{target} cut off (what it sends: {from}, what it hears: {to})")
    }

    fn split(&self, chance: &mut Chance) -> String {
        let sides: Vec<bool> = self.machines.iter().map(|_| chance.percent(50)).collect();
        for (one, left) in sides.iter().enumerate() {
            for (other, right) in sides.iter().enumerate() {
                if left != right {
                    self.network.links().set(one, other, Link { cut: true, ..Link::default() });
                }
            }
        }
        format!("split {sides:?}")
    }

    /// Two servers do not reach each other, while everybody else reaches both.
    fn cut_pair(&self, one: usize, other: usize, chance: &mut Chance) -> String {
        let cut = Link { cut: true, ..Link::default() };
        self.network.links().set(one, other, cut);
        let both = chance.percent(60);
        if both {
            self.network.links().set(other, one, cut);
        }
        format!("s{one} cannot reach s{other} (nor back: {both})")
    }

    fn disturb_packets(&self, chance: &mut Chance) -> String {
        let link = Link {
            cut: false,
            loss: [0.0, 0.05, 0.3][chance.below(3)],
            double: [0.0, 0.2][chance.below(2)],
            delay: Duration::from_millis([0, 5, 60][chance.below(3)]),
            jitter: Duration::from_millis([1, 20, 150][chance.below(3)]),
        };
        for one in 0..self.machines.len() {
            for other in 0..self.machines.len() {
                self.network.links().set(one, other, link);
            }
        }
        format!("{link:?}")
    }

    /// Stops one or most servers in short or long turns.
    fn pause(&self, target: usize, chance: &mut Chance, lasts: Duration) -> String {
        let all: Vec<usize> = (0..self.machines.len()).collect();
        let targets = if chance.percent(25) { all[..=all.len() / 2].to_vec() } else { vec![target] };
        let stutter = chance.percent(40);
        let tell = |signal| {
            for number in &targets {
                self.machines[*number].signal(signal);
            }
        };
        tell(Signal::SIGSTOP);
        if stutter {
            for _ in 0..lasts.as_millis() / 200 {
                pass(Duration::from_millis(170));
                tell(Signal::SIGCONT);
                pass(Duration::from_millis(30));
                tell(Signal::SIGSTOP);
            }
        }
        format!("SIGSTOP for {targets:?} (stuttering: {stutter})")
    }

    /// SIGKILL of one, most or all servers; those may be back at once, or only when the fault ends.
    fn kill(&mut self, target: usize, chance: &mut Chance, load: &Load, lasts: Duration) -> String {
        let count = self.machines.len();
        let targets: Vec<usize> = match chance.below(10) {
            0..6 => vec![target],
            6..8 => (0..=count / 2).map(|step| (target + step) % count).collect(),
            _ => (0..count).collect(),
        };
        for number in &targets {
            self.end(*number, load);
        }
        let quick = chance.percent(50);
        if quick {
            pass(lasts.mul_f64(chance.fraction() / 5.0));
            for number in &targets {
                self.start(*number, load);
            }
        }
        format!("SIGKILL for {targets:?} (back at once: {quick})")
    }

    fn set_a_clock(&mut self, target: usize, chance: &mut Chance) -> String {
        let seconds =
            i64::try_from(chance.below(2 * CLOCK_JUMP_MAX)).unwrap() - i64::try_from(CLOCK_JUMP_MAX).unwrap();
        self.set_clock_of(target, seconds);
        format!("the clock of s{target} is {seconds:+} s wrong from now on")
    }

    fn set_clock_of(&mut self, target: usize, seconds: i64) {
        set_clock(&self.clocks.path().join(target.to_string()), seconds);
        self.wrong[target] = seconds;
    }

    /// A clock that was only said to be wrong would make every run pass: each server tells the time in its log, and if
    /// chance has set none of the clocks, one is set now.
    pub(super) fn assert_clocks_jumped(&mut self) {
        if self.wrong.iter().all(|wrong| wrong.abs() <= CLOCK_JUMP_SEEN) {
            self.set_clock_of(0, -i64::try_from(CLOCK_JUMP_MAX).unwrap());
        }
        for (machine, wrong) in self.machines.iter().zip(&self.wrong) {
            let name = &machine.name;
            let before = machine.log().len();
            eventually(PATIENCE, &format!("{name} logs a time that is {wrong:+} s wrong"), || {
                // What it is to read again does not matter: it says that it did.
                machine.signal(Signal::SIGHUP);
                pass(CLOCK_LOOK);
                let log = machine.log();
                let mut errors = log.get(before..)?.lines().filter_map(error_of);
                errors.any(|error| (error - wrong).abs() <= CLOCK_JUMP_SEEN).then_some(())
            });
        }
    }

    /// Leaves the leader alone with one voter, whose restart must not forget that it follows somebody: the leader may
    /// still answer reads because that voter was there a moment ago.
    fn restart_a_voter_of_a_cut_off_leader(&mut self, leader: usize, other: usize, load: &Load) -> String {
        let cut = Link { cut: true, ..Link::default() };
        let count = self.machines.len();
        // The smallest majority stays with the leader.
        let kept: Vec<usize> =
            (0..count / 2).map(|step| (other + step) % count).filter(|n| *n != leader).collect();
        for far in (0..count).filter(|number| *number != leader && !kept.contains(number)) {
            self.network.links().set_both(leader, far, cut);
        }
        // Now the others' patience with the leader is over, and only the kept ones hold them back.
        pass(Duration::from_millis(900));
        for number in &kept {
            self.network.links().set_both(leader, *number, cut);
            self.end(*number, load);
            self.start(*number, load);
        }
        format!("s{leader} kept {kept:?} only, which were killed, restarted and cut off from it")
    }
}

/// Time in which things happen by themselves.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}

/// The words that give a command a wall clock which follows a file; its monotonic clock stays true, as on real machines.
fn wrong_clock(file: &Path) -> Vec<String> {
    let library = faketime_library();
    vec![
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_CACHE_DURATION=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
    ]
}

fn faketime_library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("libfaketime is installed (Debian package `faketime`)")
}

/// How many seconds the time at the beginning of a line of a log, just written, is ahead of ours.
fn error_of(line: &str) -> Option<i64> {
    let told = humantime::parse_rfc3339(line.split(' ').next()?).ok()?;
    let seconds =
        |time: SystemTime| i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    Some(seconds(told) - seconds(SystemTime::now()))
}

fn set_clock(file: &Path, seconds: i64) {
    let text = format!("{seconds:+}\n");
    corediscover::host::files::write_atomic(file, text.as_bytes(), 0o644).unwrap();
}
