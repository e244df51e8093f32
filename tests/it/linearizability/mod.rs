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
use crate::support::chance::{Chance, fresh_seed, soak};
use crate::support::netns::turn;

/// Clients at once; five keys among them make them meet all the time.
const CLIENTS: usize = 10;
/// How long a run of the short form disturbs its cluster.
const SHORT: Duration = Duration::from_secs(18);
/// Least number of operations of a run of the long form.
const OPERATIONS_MIN: u64 = 50_000;

/// Runs clients on a cluster that is disturbed for `time`, and until there were `operations`; checks what they saw.
fn run(servers: usize, seed: u64, time: Duration, operations: u64) {
    let _turn = turn();
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
        while began.elapsed() < time || load.operations.load(Ordering::Relaxed) < operations {
            let at = began.elapsed();
            let event = cluster.cluster.disturb(&mut chance, &load);
            writeln!(events, "  {at:.1?}: {event}").unwrap();
        }
    });
    let leader = cluster.recovered();
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
            panic!(
                "{key}: {why}\n{summary}\nwhat happened:\n{events}{}\nagain: COREDISCOVER_SEED={seed} cargo test --test it linearizability",
                cluster.log_ends()
            );
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
        run(servers, first, SHORT, 0);
        return;
    };
    let began = Instant::now();
    let mut seed = first;
    while began.elapsed() < time {
        run(servers, seed, time.saturating_sub(began.elapsed()).min(Duration::from_mins(5)), OPERATIONS_MIN);
        seed += 1;
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
