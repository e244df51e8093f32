//! Fifty agents that start at once.

use std::time::{Duration, Instant};

use super::{FairClock, Measured, assert_not_too_busy, tell};
use crate::support::machine::Machine;
use crate::support::netns::turn;

/// Agents in all.
const AGENTS: usize = 50;
/// From the start of the first until each knows all.
const JOINED: Duration = Duration::from_secs(10);

#[test]
fn fifty_agents_of_one_process_tree_join_within_ten_seconds() {
    let _turn = turn();
    let (began, clock) = (Instant::now(), FairClock::start());
    let first = Machine::agent("m00", &["-server", "-bootstrap"]).started();
    let join = first.address.to_string();
    let mut machines = vec![first];
    for number in 1..AGENTS {
        machines.push(Machine::agent(&format!("m{number:02}"), &["-retry-join", &join]).started());
    }
    let started = began.elapsed();
    let mut waiting: Vec<&Machine> = machines.iter().collect();
    while !waiting.is_empty() {
        waiting.retain(|machine| !knows_all(machine));
        let names: Vec<&str> = waiting.iter().map(|machine| machine.name.as_str()).collect();
        assert!(
            began.elapsed() <= JOINED + clock.lost(),
            "after {JOINED:?} these do not know all: {names:?}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let joined = Measured::new(began.elapsed(), &clock, Duration::ZERO);
    let text = format!(
        "{AGENTS} agents were started within {started:.1?} and knew each other after {:.1?}, or {:.1?} without the \
         {:.1?} that were lost",
        joined.raw,
        joined.fair(),
        joined.lost
    );
    assert_not_too_busy(joined.lost, joined.raw, &text);
    tell(&text);
}

fn knows_all(machine: &Machine) -> bool {
    let Some(members) = machine.get("/v1/agent/members") else { return false };
    // 1: alive.
    members.as_array().unwrap().iter().filter(|member| member["Status"] == 1).count() == AGENTS
}
