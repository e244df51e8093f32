//! A machine that gets too little of the processor is slow, not dead.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::tell;
use crate::support::chance::{Chance, fresh_seed, soak};
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, deaths, formed};
use crate::support::netns::turn;

/// How long the starved machine is watched, in the short and in the long form; half of it with each kind of starvation.
const WATCHED_SHORT: Duration = Duration::from_secs(30);
const WATCHED_LONG: Duration = Duration::from_mins(10);
/// Longest time for which the machine is stopped altogether, and the least that it runs in between.
const BURST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
const RUN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(400));
/// What its control group gets of a processor: 4 ms of each 100 ms.
const QUOTA: (u32, u32) = (4_000, 100_000);

#[test]
fn a_machine_starved_of_the_processor_is_not_declared_dead() {
    let _turn = turn();
    let watched = soak().map_or(WATCHED_SHORT, |_| WATCHED_LONG);
    let mut chance = Chance::new(fresh_seed());
    let first = Machine::agent("m0", &["-server", "-bootstrap-expect", "3"]).started();
    let join = first.address.to_string();
    let mut machines = vec![first];
    for number in 1..5 {
        let server: &[&str] = if number < 3 { &["-server", "-bootstrap-expect", "3"] } else { &[] };
        let flags = [&["-retry-join", &join], server].concat();
        machines.push(Machine::agent(&format!("m{number}"), &flags).started());
    }
    formed(&machines.iter().collect::<Vec<_>>(), 5);
    // A server suffers once, a client once.
    let mut stopped = Duration::ZERO;
    for victim in [1, 4] {
        let end = Instant::now() + watched / 4;
        while Instant::now() < end {
            let (burst, run) = (chance.between(BURST.0, BURST.1), chance.between(RUN.0, RUN.1));
            machines[victim].signal(Signal::SIGSTOP);
            std::thread::park_timeout(burst);
            machines[victim].signal(Signal::SIGCONT);
            std::thread::park_timeout(run);
            stopped += burst;
        }
        let quota = Quota::new(machines[victim].id());
        std::thread::park_timeout(watched / 4);
        drop(quota);
    }
    assert_eq!(deaths(&machines), Vec::<String>::new(), "nobody died");
    formed(&machines.iter().collect::<Vec<_>>(), 5);
    tell(&format!("no false death in {watched:?}, of which one machine was stopped for {stopped:.0?}"));
    // A real death is seen where a false one was looked for: on every machine.
    let mut dead = machines.remove(3);
    dead.kill();
    eventually(PATIENCE, "all others say that it is dead", || {
        let (deaths, subject) = (deaths(&machines), format!("member=\"{}\"", dead.name));
        let says = |machine: &Machine| {
            let teller = format!("{}: ", machine.name);
            deaths.iter().any(|line| line.starts_with(&teller) && line.contains(&subject))
        };
        machines.iter().all(says).then_some(())
    });
}

/// A control group with little processor time, for one process; removed when dropped.
struct Quota {
    folder: PathBuf,
    home: PathBuf,
    process: u32,
}

impl Quota {
    fn new(process: u32) -> Self {
        let name = format!("cd-test-{process}");
        let (first, second) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let quota = if first.join("cpu.cfs_quota_us").exists() || first.join("cgroup.procs").exists() {
            let quota = Self { folder: first.join(name), home: first.to_owned(), process };
            fs::create_dir(&quota.folder).expect("a control group can be made: we are root");
            write(&quota.folder.join("cpu.cfs_period_us"), &QUOTA.1.to_string());
            write(&quota.folder.join("cpu.cfs_quota_us"), &QUOTA.0.to_string());
            quota
        } else {
            let quota = Self { folder: second.join(name), home: second.to_owned(), process };
            write(&second.join("cgroup.subtree_control"), "+cpu");
            fs::create_dir(&quota.folder).expect("a control group can be made: we are root");
            write(&quota.folder.join("cpu.max"), &format!("{} {}", QUOTA.0, QUOTA.1));
            quota
        };
        write(&quota.folder.join("cgroup.procs"), &process.to_string());
        quota
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Without its process the group can go; if that fails, an empty group is all that remains.
        drop(
            fs::OpenOptions::new().write(true).open(self.home.join("cgroup.procs")).and_then(|mut file| {
                std::io::Write::write_all(&mut file, self.process.to_string().as_bytes())
            }),
        );
        drop(fs::remove_dir(&self.folder));
    }
}

#[track_caller]
fn write(path: &Path, text: &str) {
    let opened = fs::OpenOptions::new().write(true).open(path);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.unwrap_or_else(|error| {
        panic!("{}: {error}; the test needs the processor's control groups", path.display())
    });
}
