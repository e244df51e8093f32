//! A thousand members: how long until everybody has heard of a change.

use std::collections::BTreeMap;
use std::time::Duration;

use super::codec::encode_frame;
use super::message::{Entry, Frame, State};
use super::simulator::Simulation;
use super::{Change, Input, Tags};

/// Size of the cluster.
const MEMBERS: usize = 1000;
/// Changes that are measured in all.
const CHANGES: usize = 5;
/// By then gossip has ended.
const SETTLED: Duration = Duration::from_millis(600);
/// The bound: of all members and changes, 99 of 100 have heard within this time.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// A cluster in which everybody knows everybody: each was told of all others at once, as by an exchange with an old member.
fn thousand() -> Simulation {
    let mut simulation = Simulation::new(21);
    let names: Vec<String> = (1..=MEMBERS).map(|number| format!("n{number}")).collect();
    for (name, number) in names.iter().zip(1..) {
        simulation.start(name, number);
    }
    let entry = |(name, number): (&String, usize)| Entry {
        name: name.clone(),
        address: Simulation::address(number),
        incarnation: 1,
        tags: Tags::default(),
        state: State::Alive,
        leaving: false,
        age: 0,
    };
    let entries = names.iter().zip(1..).map(entry).collect();
    let bytes = encode_frame(&Frame::Sync { from: "n1".to_owned(), entries });
    for name in &names {
        simulation.input(name, Input::StreamRequest { stream: 0, bytes: bytes.clone() });
    }
    simulation.run(SETTLED);
    simulation
}

/// How long it took each of the others to see `wanted` of `changed`, in order.
fn spread(simulation: &mut Simulation, changed: &str, wanted: Change) -> Vec<Duration> {
    let began = simulation.now;
    simulation.seen.clear();
    simulation.run(SETTLED);
    let others = simulation.running().iter().filter(|name| *name != changed).count();
    let saw = simulation
        .seen
        .iter()
        .filter(|seen| seen.name == changed && seen.by != changed && seen.change == wanted);
    let mut times: Vec<Duration> = saw.map(|seen| seen.at.saturating_sub(began)).collect();
    times.sort();
    assert_eq!(times.len(), others, "all hear of {wanted:?} of {changed}, once");
    times
}

#[test]
fn a_thousand_members_hear_of_a_change_within_half_a_second() {
    let mut simulation = thousand();
    let mut times = Vec::new();
    let mut last = Vec::new();
    for change in 0..CHANGES {
        let name = format!("n{}", 1 + change * 37 % MEMBERS);
        let tags: Tags = BTreeMap::from([("version".to_owned(), change.to_string())]).try_into().unwrap();
        simulation.input(&name, Input::SetTags(tags));
        let heard = spread(&mut simulation, &name, Change::Updated);
        last.push(*heard.last().unwrap());
        times.extend(heard);
    }
    times.sort();
    last.sort();
    let (middle, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    assert!(
        most <= HEARD_WITHIN,
        "half within {middle:?}, 99 of 100 within {most:?}, all of a change within {last:?}"
    );
}
