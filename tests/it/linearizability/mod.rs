//! Keys behave as one copy would, whatever happens to the servers: histories of real clusters, checked.

mod checker;
mod cluster;
mod history;
#[cfg(test)]
mod tests;
mod workload;

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::cluster::Cluster;
use self::history::History;
use self::workload::Load;
use crate::support::chance::{Chance, fresh_seed, soak, tell_seed};
use crate::support::netns::turn;

/// Clients at once; five keys among them make them meet all the time.
const CLIENTS: usize = 10;
/// How long a run of the short form disturbs its cluster.
const SHORT: Duration = Duration::from_secs(18);
/// Least number of operations of a run of the long form.
const OPERATIONS_MIN: u64 = 50_000;

/// A run of the long form that has not reached that after so many times the time asked for never will. Less time than
/// `make soak` takes by itself is too short for so many on any machine.
const PATIENCE_FACTOR: u32 = 3;
const SOAK_LEAST: Duration = Duration::from_mins(10);

/// What a run must reach besides its time, and by when.
#[derive(Clone, Copy)]
struct Goal {
    operations: u64,
    within: Duration,
}

/// Runs clients on a cluster that is disturbed for `time`, and until `goal` is reached; checks what they saw.
fn run(servers: usize, seed: u64, time: Duration, goal: Option<Goal>) {
    let _turn = turn();
    let again = format!("again: COREDISCOVER_SEED={seed} cargo test --test it linearizability");
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::formed(servers, chance.next());
    let load = Load::new(cluster.addresses());
    let mut events = String::new();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (load, network, seed) = (&load, cluster.network(), chance.next());
            scope.spawn(move || {
                let _inside = network.enter();
                load.run(client, seed);
            });
        }
        let cluster = Stopping { cluster: &mut cluster, load: &load };
        loop {
            let (at, operations) = (began.elapsed(), load.operations.load(Ordering::Relaxed));
            let missing = goal.filter(|goal| operations < goal.operations);
            if at >= time && missing.is_none() {
                break;
            }
            if let Some(Goal { operations: wanted, within }) = missing {
                assert!(at < within, "{operations} of {wanted} operations in {at:.0?}\n{events}{again}");
            }
            let event = cluster.cluster.disturb(&mut chance, &load);
            writeln!(events, "  {at:.1?}: {event}").unwrap();
        }
    });
    let leader = cluster.recovered();
    cluster.assert_clocks_jumped();
    let network = cluster.network();
    {
        let _inside = network.enter();
        load.read_all(leader);
    }
    let histories = load.into_histories();
    let count = |of: fn(&History) -> usize| histories.values().map(of).sum::<usize>();
    let (done, stale) = (count(|history| history.operations.len()), count(|history| history.stale.len()));
    let open = count(|history| history.operations.iter().filter(|one| one.returned.is_none()).count());
    let summary = format!(
        "{servers} servers, seed {seed}: {done} operations ({open} of unknown fate) and {stale} stale reads on {} keys, \
         {} packets",
        histories.len(),
        network.links().passed(),
    );
    for (key, history) in &histories {
        if let Err(why) = checker::check(history) {
            panic!("{key}: {why}\n{summary}\nwhat happened:\n{events}{}\n{again}", cluster.log_ends());
        }
    }
    tell(&format!("{summary}; what happened:\n{events}"));
    assert!(done > 500, "the clients got something done: {summary}");
}

/// Shown by `cargo test -- --nocapture`, and so by `make soak`.
#[allow(clippy::print_stdout, reason = "the results of long runs are their output")]
fn tell(text: &str) {
    println!("{text}");
}

/// Ends the load when the disturbing ends, also by a panic: the clients would run for ever.
struct Stopping<'a> {
    cluster: &'a mut Cluster,
    load: &'a Load,
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.load.stop.store(true, Ordering::Relaxed);
        self.cluster.undo(self.load);
    }
}

/// The short form runs a cluster once; the long form again and again with new seeds.
fn runs(servers: usize, first: u64) {
    let Some(time) = soak() else {
        run(servers, first, SHORT, None);
        return;
    };
    let goal = Goal { operations: OPERATIONS_MIN, within: time.max(SOAK_LEAST) * PATIENCE_FACTOR };
    let began = Instant::now();
    for seed in first.. {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        if seed != first {
            tell_seed(seed);
        }
        run(servers, seed, left.min(Duration::from_mins(5)), Some(goal));
    }
}

#[test]
fn three_servers_are_linearizable_under_faults_with_a_fixed_seed() {
    runs(3, 1);
}

#[test]
fn three_servers_are_linearizable_under_faults_with_a_fresh_seed() {
    runs(3, fresh_seed());
}

#[test]
fn five_servers_are_linearizable_under_faults() {
    runs(5, fresh_seed());
}
