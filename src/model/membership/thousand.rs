//! A thousand members: how long until everybody has heard of a change.

use std::collections::BTreeMap;
use std::time::Duration;

use super::codec::encode_frame;
use super::message::{Entry, Frame, State};
use super::simulator::Simulation;
use super::{Change, Input, Tags};
use crate::simulation::say;

/// Size of the cluster.
const MEMBERS: usize = 1000;
/// Changes that are measured in all.
const CHANGES: usize = 20;
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

/// One change of the cluster: other tags, or a machine that joins or leaves. How long it took the others to hear of it.
fn change(simulation: &mut Simulation, number: usize) -> Vec<Duration> {
    match number % 5 {
        3 => {
            let name = format!("new{number}");
            simulation.start(&name, MEMBERS + 1 + number);
            simulation.join(&name, &format!("n{}", 2 + number));
            spread(simulation, &name, Change::Joined)
        }
        4 => {
            let name = format!("n{}", MEMBERS - number);
            simulation.input(&name, Input::Leave);
            let times = spread(simulation, &name, Change::Leaving);
            simulation.power_off(&name);
            times
        }
        _ => {
            let name = format!("n{}", 1 + number * 37 % (MEMBERS / 2));
            let tags = BTreeMap::from([("version".to_owned(), number.to_string())]);
            simulation.input(&name, Input::SetTags(tags.try_into().unwrap()));
            spread(simulation, &name, Change::Updated)
        }
    }
}

#[test]
fn a_thousand_members_hear_of_a_change_within_half_a_second() {
    let mut simulation = thousand();
    let (mut times, mut last) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let heard = change(&mut simulation, number);
        last.push(*heard.last().unwrap());
        times.extend(heard);
    }
    times.sort();
    last.sort();
    let (middle, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let text = format!(
        "{CHANGES} changes: half of the members heard within {middle:?}, 99 of 100 within {most:?}, all within {:?}",
        last.last().unwrap()
    );
    say(&text);
    assert!(most <= HEARD_WITHIN, "{text}");
}
