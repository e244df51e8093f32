//! A changed configuration comes into force while the agent runs: by HTTP, by the command, by SIGHUP.

use std::path::Path;

use corediscover::host::files::{MODE_PRIVATE, write_atomic};
use nix::sys::signal::Signal;

use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// Makes the folder's configuration one with these services.
fn write(folder: &Path, services: &[&str]) {
    let definitions: Vec<String> =
        services.iter().map(|name| format!(r#"{{"name": "{name}", "port": 80}}"#)).collect();
    let text = format!(r#"{{"services": [{}]}}"#, definitions.join(","));
    write_atomic(&folder.join("services.json"), text.as_bytes(), MODE_PRIVATE).unwrap();
}

#[track_caller]
fn until_found(machine: &Machine, found: &[&str], gone: &[&str]) {
    let address = machine.address.to_string();
    eventually(PATIENCE, &format!("DNS and the catalog have {found:?} and not {gone:?}"), || {
        let catalog = machine.get("/v1/catalog/services")?;
        let dns = |name: &str| machine.dig(&[&format!("{name}.service.consul")]);
        let has = |name: &&str| catalog.get(name).is_some() && dns(name) == [address.as_str()];
        let lacks = |name: &&str| catalog.get(name).is_none() && dns(name).is_empty();
        (found.iter().all(has) && gone.iter().all(lacks)).then_some(())
    });
}

#[test]
fn a_reload_by_http_by_the_command_and_by_sighup_changes_the_services_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &["one"]);
    let flags = ["-server", "-bootstrap", "-config-dir", &folder.path().display().to_string()];
    let machine = Machine::agent("reloaded", &flags).started();
    formed(&[&machine], 1);
    until_found(&machine, &["one"], &["two"]);
    assert!(machine.put("/v1/agent/service/register", r#"{"Name": "other", "Port": 81}"#));

    write(folder.path(), &["one", "two"]);
    let (status, _, body) = machine.request("PUT", "/v1/agent/reload", b"").unwrap();
    assert_eq!((status, body.as_slice()), (200, &b""[..]));
    until_found(&machine, &["one", "two", "other"], &[]);

    write(folder.path(), &["two"]);
    let told = machine.command(&["reload"]);
    assert_eq!(told, (0, "Configuration reload triggered\n".to_owned(), String::new()));
    until_found(&machine, &["two", "other"], &["one"]);

    write(folder.path(), &["three"]);
    machine.signal(Signal::SIGHUP);
    until_found(&machine, &["three", "other"], &["two"]);
}

#[test]
fn a_bad_file_changes_nothing_and_the_command_and_the_journal_name_it() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &["one"]);
    let flags = ["-server", "-bootstrap", "-config-dir", &folder.path().display().to_string()];
    let mut machine = Machine::agent("kept", &flags).started();
    formed(&[&machine], 1);
    until_found(&machine, &["one"], &[]);
    let bad = folder.path().join("zz.json");
    let text = r#"{"service": {"name": "two"}, "no_such_key": 1}"#;
    write_atomic(&bad, text.as_bytes(), MODE_PRIVATE).unwrap();
    write(folder.path(), &["three"]);
    let name = bad.display().to_string();

    let (status, _, body) = machine.request("PUT", "/v1/agent/reload", b"").unwrap();
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 500);
    for part in [name.as_str(), "invalid config key no_such_key", "\nhint: "] {
        assert!(body.contains(part), "{part}: {body}");
    }
    let (code, printed, errors) = machine.command(&["reload"]);
    assert_eq!((code, printed.as_str()), (1, ""), "{errors}");
    assert!(errors.starts_with("error: Error reloading: Unexpected response code: 500 (failed to parse "));
    assert!(errors.contains(&name) && errors.lines().last().unwrap().starts_with("hint: "), "{errors}");
    let lines = |machine: &Machine| {
        machine.log().lines().filter(|line| line.contains(&name) && line.contains("hint: ")).count()
    };
    assert_eq!(lines(&machine), 2);
    machine.signal(Signal::SIGHUP);
    eventually(PATIENCE, "the journal names the file", || (lines(&machine) == 3).then_some(()));
    until_found(&machine, &["one"], &["two", "three"]);

    std::fs::remove_file(&bad).unwrap();
    machine.signal(Signal::SIGHUP);
    until_found(&machine, &["three"], &["one", "two"]);
    assert!(machine.is_alive());
}

#[test]
fn a_machine_that_bootstrap_has_started_follows_sighup_too() {
    let etcd = Etcd::start();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &["one"]);
    let mut machine = Machine::bootstrap("bootstrapped", &etcd.url(), 1);
    machine.append_flags(&["-config-dir", &folder.path().display().to_string()]);
    machine.start();
    formed(&[&machine], 1);
    until_found(&machine, &["one"], &[]);
    write(folder.path(), &["two"]);
    machine.signal(Signal::SIGHUP);
    until_found(&machine, &["two"], &["one"]);
}
