//! The files of the first release (`tests/fixtures/format-1`) are understood, and those of a later one are refused.
#![allow(clippy::disallowed_methods, reason = "what a crash would leave of a test's files does not matter")]

use std::fs;
use std::path::Path;

use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// Where the fixtures are. They are never written again.
///
/// `survivor` is of the second of five servers after three were killed: it had just promised the first one to let it
/// recover the cluster. `former` is of a server that another one had replaced while it was away. `copy` is what an agent
/// has left of a data directory that was copied from a machine that lived.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1");
/// The cluster of `survivor`, who it promised to, and where it was.
const LOST_CLUSTER: &str = "169062a5-e0f3-49a7-8b77-39d164ec7858";
const FOUNDER: &str = "m1";
const SURVIVOR_WAS_AT: &str = "127.77.9.2:8301";
/// What a later release may write.
const LATER: &[u8] = br#"{"format": 2, "data": {"everything": "is different"}}"#;
/// Where the log of a server's first life goes when that life ends.
const ARCHIVE: &str = "raft.retired-0";

/// How a file tells its format.
#[derive(Debug, PartialEq)]
enum Kind {
    /// JSON with a field `format`.
    Json,
    /// These bytes, then the number.
    Binary(&'static [u8; 8]),
    /// Not at all: one line that can mean nothing else, or nothing but a lock.
    Plain,
}

/// Every file that an agent keeps, as a path in its data directory where `*` is any name. An archived raft folder is
/// one as well.
const FILES: [(&str, Kind); 15] = [
    ("agent.lock", Kind::Plain),
    ("incarnation", Kind::Plain),
    ("address.json", Kind::Json),
    ("gossip-birth.json", Kind::Json),
    ("peers.json", Kind::Json),
    ("raft-life.json", Kind::Json),
    ("succession.json", Kind::Json),
    ("services/*.json", Kind::Json),
    ("checks/*.json", Kind::Json),
    ("checks/state/*.json", Kind::Json),
    ("replica/discovery.snapshot", Kind::Binary(b"CDREPLIC")),
    ("raft/lock", Kind::Plain),
    ("raft/owner.json", Kind::Json),
    ("raft/log/*.log", Kind::Binary(b"CDRAFTLG")),
    ("raft/snapshots/*.snapshot", Kind::Binary(b"CDSNAPSH")),
];

/// The paths of all files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found
}

/// Whether a path is one of those that the pattern stands for.
fn is_one_of(path: &str, pattern: &str) -> bool {
    let archived = path.strip_prefix(ARCHIVE).map(|below| format!("raft{below}"));
    let path = archived.as_deref().unwrap_or(path);
    let Some((before, behind)) = pattern.split_once('*') else { return path == pattern };
    let name = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
    name.is_some_and(|name| !name.contains('/'))
}

/// Fails for a file that is of no format that later releases know they have to read.
#[track_caller]
fn assert_all_known(machine: &Machine) {
    for path in files(&machine.data()) {
        let known = FILES.iter().find(|(pattern, _)| is_one_of(&path, pattern));
        let Some((_, kind)) = known else {
            panic!("{path} is in no table of formats: give it a number, a fixture and a line in FILES")
        };
        let bytes = fs::read(machine.data().join(&path)).unwrap();
        match kind {
            Kind::Json => {
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                assert_eq!(value["format"], 1, "{path}");
            }
            Kind::Binary(magic) => assert!(bytes.starts_with(&[&magic[..], &[1, 0]].concat()), "{path}"),
            Kind::Plain => assert!(bytes.split(|byte| *byte == b'\n').count() <= 2, "{path}"),
        }
    }
}

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

/// Orders the survivor to recover its cluster; gives the exit code and the error.
fn recover(survivor: &Machine, more: &[&str]) -> (i32, String) {
    let order = [&["operator", "recover", "-cluster", LOST_CLUSTER], more].concat();
    let (code, _, error) = survivor.command(&order);
    (code, error)
}

fn survivor() -> Machine {
    let machine = machine("m2", &["-server", "-bootstrap-expect", "5"], "survivor").started();
    eventually(PATIENCE, "it answers", || machine.get("/v1/agent/self"));
    machine
}

#[test]
fn a_promise_of_the_first_release_binds_until_an_operator_insists() {
    let mut machine = survivor();
    assert!(machine.log().contains(&format!("was before address={SURVIVOR_WAS_AT}")), "{}", machine.log());
    let (code, error) = recover(&machine, &[]);
    assert_eq!(code, 1);
    assert!(error.contains(&format!("m2 has promised that {FOUNDER} may recover the cluster")), "{error}");
    assert_eq!(recover(&machine, &["-force"]), (0, String::new()));
    assert_eq!(machine.read("/v1/kv/config/answer?raw"), (200, b"42".to_vec()));
    machine.stop();
    assert!(machine.data().join(ARCHIVE).is_dir());
    let written = fs::read_to_string(machine.data().join("address.json")).unwrap();
    assert!(written.contains(&format!("\"{}:8301\"", machine.address)), "where it is now: {written}");
    assert_all_known(&machine);
}

#[test]
fn a_promise_of_a_newer_version_is_refused_with_the_file_when_it_matters() {
    let machine = survivor();
    let path = machine.data().join("succession.json");
    fs::write(&path, LATER).unwrap();
    for more in [&[][..], &["-force"]] {
        let (code, error) = recover(&machine, more);
        assert_eq!(code, 1);
        assert!(error.contains(&*path.display().to_string()) && error.contains("format 2"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), LATER, "it is not touched");
}

#[test]
fn a_server_of_the_first_release_that_was_replaced_is_a_client_whatever_its_flags_say() {
    let flags = ["-server", "-bootstrap-expect", "3"];
    // Also one that was killed before its log was archived.
    for (fixture, log) in [("former", false), ("survivor", true)] {
        let mut machine = machine("m2", &flags, fixture);
        let life = "raft-life.json";
        fs::copy(Path::new(FIXTURES).join("former").join(life), machine.data().join(life)).unwrap();
        machine.start();
        let own = eventually(PATIENCE, "it answers", || machine.get("/v1/agent/self"));
        assert_eq!(own["Config"]["Server"], false, "{fixture}: {own}");
        assert_eq!(own["Member"]["Tags"]["role"], "node", "{fixture}: {own}");
        machine.stop();
        assert!(!machine.data().join("raft").exists(), "{fixture}");
        assert_eq!(machine.data().join(ARCHIVE).join("owner.json").exists(), log, "{fixture}");
        assert_all_known(&machine);
    }
}

#[test]
fn a_copy_that_the_first_release_refused_is_refused_for_ever() {
    let mut machine = machine("copy", &[], "copy");
    machine.start();
    assert_eq!(machine.ended(), Some(1), "{}", machine.log());
    let text = "is a copy of that of the machine at 127.77.11.1:8301";
    assert!(machine.log().contains(text), "{}", machine.log());
}

#[test]
fn every_file_of_a_used_data_directory_is_of_a_known_format_of_which_there_is_a_fixture() {
    let mut server = Machine::agent("server", &["-server", "-bootstrap"]).started();
    let mut client = Machine::agent("client", &["-retry-join", &server.address.to_string()]).started();
    formed(&[&server, &client], 2);
    for machine in [&server, &client] {
        let service = r#"{"Name": "web", "Port": 80, "Check": {"TTL": "10m"}}"#;
        assert!(machine.put("/v1/agent/service/register", service));
        assert!(machine.put("/v1/agent/check/register", r#"{"Name": "disk", "TTL": "10m"}"#));
        assert!(machine.put("/v1/agent/check/pass/disk", ""));
        assert!(machine.put("/v1/agent/maintenance?enable=true", ""));
        assert!(machine.put("/v1/kv/k", "v"));
    }
    for machine in [&mut client, &mut server] {
        machine.stop();
        assert_all_known(machine);
        for file in ["address.json", "services/web.json", "checks/disk.json", "checks/state/all.json"] {
            assert!(machine.data().join(file).exists(), "{}: {file}", machine.name);
        }
    }
    assert!(client.data().join("replica/discovery.snapshot").exists());
    let fixtures = files(Path::new(FIXTURES));
    for (pattern, _) in FILES.iter().filter(|(_, kind)| *kind != Kind::Plain) {
        let is_one = |path: &String| {
            is_one_of(path, pattern)
                || path.split_once('/').is_some_and(|(_, below)| is_one_of(below, pattern))
        };
        assert!(fixtures.iter().any(is_one), "there is no fixture of {pattern}");
    }
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused_with_the_file_and_advice() {
    for (fixture, flags, file) in [
        ("server", &["-server", "-bootstrap"][..], "gossip-birth.json"),
        ("server", &["-server", "-bootstrap"], "raft/owner.json"),
        ("server", &["-server", "-bootstrap"], "services/web-1.json"),
        ("server", &["-server", "-bootstrap"], "checks/disk.json"),
        ("server", &["-server", "-bootstrap"], "checks/state/all.json"),
        ("client", &[], "peers.json"),
        ("client", &[], "address.json"),
        ("former", &["-server", "-bootstrap-expect", "3"], "address.json"),
        ("former", &["-server", "-bootstrap-expect", "3"], "raft-life.json"),
    ] {
        let mut machine = machine("fixture", flags, fixture);
        let path = machine.data().join(file);
        fs::write(&path, LATER).unwrap();
        machine.start();
        assert_eq!(machine.ended(), Some(1), "{file}: {}", machine.log());
        let log = machine.log();
        for word in [&*path.display().to_string(), "format 2", "\nhint: ", "newer version"] {
            assert!(log.contains(word), "{file}: `{word}` is not in: {log}");
        }
        assert_eq!(fs::read(&path).unwrap(), LATER, "{file} is not touched");
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
