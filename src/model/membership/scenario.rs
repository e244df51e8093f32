//! Replays the transcripts of `tests/scenarios/membership`: a command, `----`, what comes of it, an empty line.
//!
//! `cluster N` starts n1 … nN, all known to each other · `start NAME by SEED` joins one more, or again ·
//! `power-off`, `crash`, `pause`, `resume NAME…` · `cut NAME…` puts these on another side · `heal` · `loss PERCENT` ·
//! `leave NAME` · `force-leave NAME by NAME [prune]` · `tag NAME key=value` ·
//! `members by NAME` · `run SECONDS` tells who saw what change, and within which time all had seen it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::simulator::Simulation;
use super::{Change, Input, Tags};

#[test]
fn transcripts_come_out_as_written() {
    let transcripts = [
        ("failure.txt", include_str!("../../../tests/scenarios/membership/failure.txt")),
        ("leaving.txt", include_str!("../../../tests/scenarios/membership/leaving.txt")),
        ("suspicion.txt", include_str!("../../../tests/scenarios/membership/suspicion.txt")),
        ("partition.txt", include_str!("../../../tests/scenarios/membership/partition.txt")),
    ];
    let mut different = String::new();
    for (name, written) in transcripts {
        let played = replay(written);
        if played != written {
            writeln!(different, "=== tests/scenarios/membership/{name} would now read:\n{played}===")
                .expect("memory");
        }
    }
    assert!(different.is_empty(), "{different}");
}

/// The transcript with its outcomes as they are now.
fn replay(written: &str) -> String {
    let mut simulation = Simulation::new(1);
    let mut played = String::new();
    let mut in_outcome = false;
    for line in written.lines() {
        match line {
            "----" => in_outcome = true,
            "" => {
                in_outcome = false;
                played.push('\n');
            }
            _ if in_outcome => {}
            comment if comment.starts_with('#') => {
                writeln!(played, "{comment}").expect("memory");
            }
            command => {
                let outcome = perform(&mut simulation, command);
                write!(played, "{command}\n----\n{outcome}").expect("memory");
            }
        }
    }
    played
}

fn number(name: &str) -> usize {
    name.trim_start_matches('n').parse().expect("machines are called n1, n2, …")
}

fn perform(simulation: &mut Simulation, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["cluster", count] => *simulation = Simulation::cluster(1, count.parse().expect("a number")),
        ["start", name, "by", seed] => {
            simulation.start(name, number(name));
            simulation.join(name, seed);
        }
        ["power-off", names @ ..] => names.iter().for_each(|name| simulation.power_off(name)),
        ["crash", names @ ..] => names.iter().for_each(|name| simulation.crash(name)),
        ["pause", names @ ..] => names.iter().for_each(|name| simulation.pause(name)),
        ["resume", names @ ..] => names.iter().for_each(|name| simulation.resume(name)),
        ["cut", names @ ..] => names.iter().for_each(|name| simulation.cut(name, 1)),
        ["heal"] => simulation.heal(),
        ["loss", percent] => simulation.loss = percent.parse::<f64>().expect("a number") / 100.0,
        ["leave", name] => simulation.input(name, Input::Leave),
        ["force-leave", name, "by", by, rest @ ..] => {
            let prune = rest.contains(&"prune");
            simulation.input(by, Input::ForceLeave { name: (*name).to_owned(), prune });
        }
        ["tag", name, pair] => {
            let (key, value) = pair.split_once('=').expect("key=value");
            let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            simulation.input(name, Input::SetTags(Tags::try_from(tags).expect("short")));
        }
        ["members", "by", by] => return members(simulation, by),
        ["run", seconds] => return run(simulation, Duration::from_secs(seconds.parse().expect("a number"))),
        _ => panic!("no such command: {command}"),
    }
    String::new()
}

fn members(simulation: &Simulation, by: &str) -> String {
    let mut text = String::new();
    for member in simulation.members(by) {
        let tags: Vec<String> = member.tags.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        let (name, status) = (&member.name, member.status.as_str());
        writeln!(text, "{name} {} {status}{}", member.address, tags.concat()).expect("memory");
    }
    text
}

/// Runs, and tells in which order changes were first seen.
fn run(simulation: &mut Simulation, time: Duration) -> String {
    let start = simulation.now;
    simulation.run(time);
    let mut order: Vec<(String, Change)> = Vec::new();
    let mut seen: BTreeMap<String, (BTreeSet<String>, Duration)> = BTreeMap::new();
    for one in std::mem::take(&mut simulation.seen) {
        let key = (one.name.clone(), one.change);
        if !order.contains(&key) {
            order.push(key);
        }
        let (by, last) = seen.entry(format!("{}{:?}", one.name, one.change)).or_default();
        by.insert(one.by);
        *last = one.at.saturating_sub(start);
    }
    let mut text = String::new();
    for (name, change) in order {
        let (by, last) = &seen[&format!("{name}{change:?}")];
        let others = simulation.running().into_iter().filter(|running| *running != name);
        let everybody = others.collect::<BTreeSet<_>>().is_subset(by);
        let by = if everybody { "all".to_owned() } else { by.iter().cloned().collect::<Vec<_>>().join(" ") };
        let half_seconds = last.as_micros().div_ceil(500_000);
        let within = format!("{}.{}", half_seconds / 2, half_seconds % 2 * 5);
        let change = format!("{change:?}").to_lowercase();
        writeln!(text, "{name} {change}: seen by {by} within {within} s").expect("memory");
    }
    if text.is_empty() { "nothing happens\n".to_owned() } else { text }
}
