//! Faults of machines, disks, networks and clients, on real processes.

mod cuts;
mod disk;
mod engine;
mod floods;
mod hoarders;
mod scarcity;

use crate::support::machine::{Machine, formed};

/// Three servers on loopback that have formed a cluster; the flags are for the last one.
fn three_servers() -> Vec<Machine> {
    let first = Machine::agent("m0", &["-server", "-bootstrap-expect", "3"]).started();
    let join = first.address.to_string();
    let others = ["m1", "m2"].map(|name| {
        Machine::agent(name, &["-server", "-bootstrap-expect", "3", "-retry-join", &join]).started()
    });
    let machines: Vec<Machine> = std::iter::once(first).chain(others).collect();
    formed(&machines.iter().collect::<Vec<_>>(), 3);
    machines
}

/// The position of the leader.
fn leader_of(machines: &[Machine]) -> usize {
    let leader = formed(&machines.iter().collect::<Vec<_>>(), machines.len());
    machines.iter().position(|machine| leader.starts_with(&format!("{}:", machine.address))).unwrap()
}

/// Shown by `cargo test -- --nocapture`.
#[allow(clippy::print_stdout, reason = "the numbers of a run are its output")]
fn tell(text: &str) {
    println!("{text}");
}
