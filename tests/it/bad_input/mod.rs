//! Bad input: a clear error that names the thing, an exit code or status, and nothing lost.

mod disk;
mod dns;
mod http;
mod start;

use std::fs::{self, File};

use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::{Running, corediscover, eventually};

/// A server with a service that must survive everything.
fn server() -> Machine {
    let machine = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    formed(&[&machine], 1);
    assert!(machine.put("/v1/agent/service/register", r#"{"Name": "before", "Port": 80}"#));
    assert!(machine.put("/v1/kv/before", "value"));
    nothing_is_lost(&machine);
    machine
}

#[track_caller]
fn nothing_is_lost(machine: &Machine) {
    eventually(PATIENCE, "the service is there", || {
        (machine.dig(&["before.service.consul"]) == [machine.address.to_string()]).then_some(())
    });
    let answer = machine.request("GET", "/v1/kv/before?raw&consistent", b"");
    let (status, _, body) = answer.unwrap_or_else(|| panic!("no answer: {}", machine.log()));
    assert_eq!((status, body.as_slice()), (200, &b"value"[..]));
    assert!(machine.get("/v1/agent/services").unwrap()["before"].is_object());
}

/// Runs the program, which must end by itself with this code and these words on stderr.
#[track_caller]
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = corediscover();
    command
        .args(arguments)
        .stdout(File::create(folder.path().join("out")).unwrap())
        .stderr(File::create(&log).unwrap());
    let mut process = Running::start("corediscover", &mut command);
    let found = process.exit_code(PATIENCE);
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(found, Some(code), "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: `{word}` is not in: {text}");
    }
    let advised = text.contains("\nhint: ") || text.contains("try '--help'");
    assert!(advised && !text.contains("panicked"), "{arguments:?}: {text}");
}
