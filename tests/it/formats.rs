//! The files of the first release (`tests/fixtures/format-1`) are understood, and those of a later one are refused.
#![allow(clippy::disallowed_methods, reason = "what a crash would leave of a test's files does not matter")]

use std::fs;
use std::path::Path;

use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// Where the fixtures are. They are never written again.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1");

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// A machine that has a data directory of the first release.
fn machine(name: &str, flags: &[&str], fixture: &str) -> Machine {
    let machine = Machine::agent(name, flags);
    copy(&Path::new(FIXTURES).join(fixture), &machine.data());
    machine
}

#[test]
fn a_server_of_the_first_release_starts_with_all_it_had() {
    let mut machine = machine("fixture", &["-server", "-bootstrap"], "server");
    machine.start();
    formed(&[&machine], 1);
    let value = |path: &str| machine.request("GET", path, b"").unwrap();
    assert_eq!(value("/v1/kv/config/answer?raw").2, b"42");
    assert_eq!(value("/v1/kv/empty?raw").0, 200);
    assert_eq!(value("/v1/kv/gone").0, 404);
    let services = machine.get("/v1/agent/services").unwrap();
    let web = &services["web-1"];
    assert_eq!(
        (&web["Port"], &web["Tags"][0], &web["Meta"]["team"]),
        (&8080.into(), &"v1".into(), &"a".into())
    );
    let checks = machine.get("/v1/agent/checks").unwrap();
    assert_eq!(checks["service:web-1"]["Notes"], "a note");
    assert_eq!(checks["disk"]["Name"], "Disk");
    assert_eq!(checks["_node_maintenance"]["Notes"], "fixture");
    let tags = &machine.get("/v1/agent/self").unwrap()["Member"]["Tags"];
    assert_eq!(tags["cluster"], "6ee2ac94-10db-410c-ba51-608a2924ba01", "it is the same cluster");
    assert!(machine.put("/v1/kv/new", "value"), "and it goes on");
    assert!(!machine.log().contains("set aside"), "{}", machine.log());
}

#[test]
fn a_client_of_the_first_release_answers_from_its_replica_while_no_server_is_there() {
    let mut machine = machine("client", &[], "client");
    machine.start();
    eventually(PATIENCE, "DNS answers from the replica", || {
        (machine.dig(&["redis.service.consul"]) == ["127.77.7.2"]).then_some(())
    });
    assert!(!machine.log().contains("is dropped") && !machine.log().contains("damaged"), "{}", machine.log());
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused_with_the_file_and_advice() {
    let later = br#"{"format": 2, "data": {"everything": "is different"}}"#;
    for (fixture, flags, file) in [
        ("server", &["-server", "-bootstrap"][..], "gossip-birth.json"),
        ("server", &["-server", "-bootstrap"], "raft/owner.json"),
        ("server", &["-server", "-bootstrap"], "services/web-1.json"),
        ("server", &["-server", "-bootstrap"], "checks/disk.json"),
        ("server", &["-server", "-bootstrap"], "checks/state/all.json"),
        ("client", &[], "peers.json"),
        ("client", &[], "address.json"),
    ] {
        let mut machine = machine("fixture", flags, fixture);
        let path = machine.data().join(file);
        fs::write(&path, later).unwrap();
        machine.start();
        assert_eq!(machine.ended(), Some(1), "{file}: {}", machine.log());
        let log = machine.log();
        for word in [&*path.display().to_string(), "format 2", "\nhint: ", "newer version"] {
            assert!(log.contains(word), "{file}: `{word}` is not in: {log}");
        }
        assert_eq!(fs::read(&path).unwrap(), later, "{file} is not touched");
    }

    // The replica is a copy: one that is not understood is fetched again.
    let mut machine = machine("client", &[], "client");
    let path = machine.data().join("replica/discovery.snapshot");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    machine.start();
    eventually(PATIENCE, "it says so and lives", || {
        let log = machine.log();
        (log.contains("is dropped") && log.contains("format 2") && log.contains("agent running"))
            .then_some(())
    });
}
