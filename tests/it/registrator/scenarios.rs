//! Transcripts of containers and what they are registered as; `UPDATE_EXPECT=1` rewrites them.

use std::fmt::Write as _;
use std::path::Path;

use corediscover::model::registration::facts::HealthStatus;
use corediscover::model::registration::naming::wanted;
use corediscover::model::registration::{Binding, Facts, Health, NetworkMode, Port, Rules, State, Wanted};

#[test]
fn containers_are_registered_as_the_transcript_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/registration/naming.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let found: Vec<String> = text.split("\n\n").map(replay).collect();
    let found = found.join("\n\n") + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        corediscover::host::files::write_atomic(&path, found.as_bytes(), 0o644).unwrap();
        return;
    }
    assert!(text.matches("\n\n").count() > 30);
    for (found, want) in found.split("\n\n").zip(text.split("\n\n")) {
        assert_eq!(found.trim_end(), want.trim_end());
    }
}

/// The case with the answers that the model gives.
fn replay(case: &str) -> String {
    let input = case.split("\n----").next().unwrap();
    let mut rules = Rules {
        hostname: "core-01".to_owned(),
        owner: "me".to_owned(),
        machine_address: Some("10.0.0.1".to_owned()),
        ..Rules::default()
    };
    let mut containers: Vec<Facts> = Vec::new();
    for line in input.lines().filter(|line| !line.starts_with('#')) {
        let (word, rest) = line.trim_start().split_once(' ').unwrap();
        match word {
            "rules" => rest.split(' ').for_each(|rule| read_rule(&mut rules, rule)),
            "container" => containers.push(read_container(rest)),
            "env" => containers.last_mut().unwrap().environment.push(rest.to_owned()),
            "label" => {
                let (key, value) = rest.split_once('=').unwrap();
                containers.last_mut().unwrap().labels.insert(key.to_owned(), value.to_owned());
            }
            other => panic!("`{other}` in {case}"),
        }
    }
    let (services, remarks) = wanted(&containers, &rules);
    let mut answers = format!("{input}\n----");
    for wanted in services.values() {
        write!(answers, "\n{}", describe(wanted)).unwrap();
    }
    for (container, remark) in remarks {
        let word = if remark.is_ignored() { "ignored" } else { "remark" };
        write!(answers, "\n{word}: {container} {remark}").unwrap();
    }
    answers
}

fn describe(wanted: &Wanted) -> String {
    let mut body = serde_json::to_value(wanted.body()).unwrap();
    let mut line = format!(
        "{} {} {}:{}",
        wanted.service.id, wanted.service.name, wanted.service.address, wanted.service.port
    );
    if !wanted.service.tags.is_empty() {
        write!(line, " tags={}", wanted.service.tags.join(" ")).unwrap();
    }
    for (key, value) in &wanted.service.meta {
        if !key.starts_with("corediscover-") {
            write!(line, " {key}={value}").unwrap();
        }
    }
    for key in ["Check", "Checks"] {
        let value = body[key].take();
        if !value.is_null() {
            write!(line, "\n  {key} {value}").unwrap();
        }
    }
    if wanted.paused {
        line += "\n  paused";
    }
    line
}

fn read_rule(rules: &mut Rules, rule: &str) {
    let (key, value) = rule.split_once('=').unwrap_or((rule, ""));
    match key {
        "ip" => rules.forced_address = Some(value.to_owned()),
        "machine" => rules.machine_address = Some(value.to_owned()).filter(|value| !value.is_empty()),
        "internal" => rules.internal = true,
        "explicit" => rules.explicit = true,
        "label" => rules.address_label = Some(value.to_owned()),
        "tags" => rules.tags = value.split(',').map(str::to_owned).collect(),
        "compat" if value == "tags-reversed" => rules.compat.tags_reversed = true,
        "compat" if value == "network-address" => rules.compat.network_address = true,
        other => panic!("rule `{other}`"),
    }
}

fn read_container(text: &str) -> Facts {
    let (name, rest) = text.split_once(' ').unwrap();
    let mut facts = Facts { id: name.to_owned(), name: name.to_owned(), ..Facts::default() };
    for word in rest.split(' ') {
        let (key, value) = word.split_once('=').unwrap();
        let list = || value.split(',');
        match key {
            "image" => value.clone_into(&mut facts.image),
            "expose" => facts.exposed.extend(list().map(|port| port.parse::<Port>().unwrap())),
            "unpublished" => {
                facts.published.extend(list().map(|port| (port.parse().unwrap(), Vec::new())));
            }
            "publish" => {
                for publication in list() {
                    let (port, binding) = publication.split_once('@').unwrap();
                    let (address, number) = binding.rsplit_once(':').unwrap();
                    let address = address.trim_matches(['[', ']']).to_owned();
                    let binding = Binding { address, port: number.parse().unwrap() };
                    facts.published.entry(port.parse().unwrap()).or_default().push(binding);
                }
            }
            "network" => {
                facts.network = match value.split_once(':') {
                    Some((_, address)) => NetworkMode::Container(Some(address.to_owned())),
                    None if value == "container" => NetworkMode::Container(None),
                    None if value == "host" => NetworkMode::Host,
                    None if value == "none" => NetworkMode::None,
                    None => NetworkMode::Named(value.to_owned()),
                }
            }
            "address" => {
                for address in list() {
                    let (network, address) = address.split_once(':').unwrap();
                    facts.addresses.insert(network.to_owned(), address.to_owned());
                }
            }
            "state" => {
                facts.state = match value {
                    "paused" => State::Paused,
                    "exited" => State::Exited(1),
                    "away" => State::Away,
                    other => panic!("state `{other}`"),
                }
            }
            "health" => {
                let status = match value {
                    "starting" => HealthStatus::Starting,
                    "healthy" => HealthStatus::Healthy,
                    other => panic!("health `{other}`"),
                };
                facts.health = Some(Health { status, output: String::new() });
            }
            other => panic!("container `{other}`"),
        }
    }
    facts
}
