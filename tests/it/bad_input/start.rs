//! What an agent is started with: flags, files, folders, ports, and an etcd that is not there.
#![allow(clippy::disallowed_methods, reason = "what a crash would leave of a test's files does not matter")]

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use nix::sys::signal::Signal;

use super::disk::Disk;
use super::{nothing_is_lost, refused, server};
use crate::support::machine::{Machine, PATIENCE};
use crate::support::{eventually, loopback};

#[test]
fn an_agent_refuses_bad_flags_and_files_with_the_reason_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let own = loopback().to_string();
    let with = |flags: &[&str], code: i32, words: &[&str]| {
        let usual = ["agent", "-bind", &own, "-client", &own, "-data-dir", &data];
        refused(&[&usual[..], flags].concat(), code, words);
    };
    with(&["-bogus"], 2, &["--bogus"]);
    with(&["-server=maybe"], 2, &["maybe"]);
    with(&["-dns-port", "99999"], 2, &["ports.dns", "99999"]);
    with(&["-dns-port", "x"], 2, &["--dns-port"]);
    with(&["-http-port", "-2"], 2, &["ports.http", "-2"]);
    with(&["-advertise", "0.0.0.0"], 2, &["Advertise address cannot be 0.0.0.0"]);
    with(&["-advertise", "nowhere"], 2, &["advertise_addr", "nowhere"]);
    with(&["-bootstrap"], 2, &["'bootstrap = true' requires 'server = true'"]);
    with(&["-bootstrap-expect", "3"], 2, &["'bootstrap_expect > 0' requires 'server = true'"]);
    with(&["-server", "-bootstrap-expect=-3"], 2, &["bootstrap_expect cannot be -3"]);
    with(&["-recursor", "zz"], 2, &["recursors", "zz"]);
    with(&["-recursor", &format!("{own}:8600")], 1, &["own DNS"]);
    with(&["-domain", "a b"], 2, &["`a b` is not a DNS domain"]);
    with(&["-datacenter", "d c"], 2, &["datacenter can only contain"]);
    with(&["-node", ""], 2, &["node_name cannot be empty"]);
    with(&["-node-meta", "novalue"], 2, &["novalue", "key:value"]);
    with(&["-log-level", "loud"], 2, &["Invalid log level: loud"]);
    with(&["-retry-interval", "soon"], 2, &["-retry-interval"]);
    with(&["-config-file", "/no/such/file.json"], 2, &["/no/such/file.json"]);
    with(&["-config-dir", "/no/such/folder"], 2, &["/no/such/folder"]);
    refused(&["agent", "-bind", "nonsense", "-data-dir", &data], 2, &["bind_addr", "nonsense"]);
    refused(&["agent", "-bind", &own], 2, &["data_dir cannot be empty"]);
    // An address that is not this machine's (TEST-NET-1).
    refused(&["agent", "-bind", "192.0.2.1", "-data-dir", &data], 1, &["192.0.2.1:8301"]);

    let file = folder.path().join("agent.json");
    let named = file.display().to_string();
    for (text, code, words) in [
        (r#"{"server": tru"#, 2, &["failed to parse"][..]),
        ("[]", 2, &["failed to parse", "a JSON object is expected"]),
        ("\u{0}", 2, &["failed to parse"]),
        (
            r#"{"nodename": "x", "ports": {"web": 1}, "dns_config": {"zz": 1}}"#,
            2,
            &[
                "3 errors occurred",
                "invalid config key nodename",
                "invalid config key ports.web",
                "invalid config key dns_config.zz",
            ],
        ),
        (r#"{"ports": {"http": "many"}}"#, 2, &["ports.http: a whole number is expected"]),
        (r#"{"encrypt": "c2VjcmV0"}"#, 2, &["encrypt is not supported"]),
        (r#"{"service": {"name": "web", "prot": 80}}"#, 2, &["service \"web\"", "unknown field \"prot\""]),
        (r#"{"check": {"name": "c", "ttl": "soon"}}"#, 2, &["check \"c\""]),
    ] {
        fs::write(&file, text).unwrap();
        let mut words = words.to_vec();
        if code == 2 {
            words.push(&named);
        }
        with(&["-config-file", &named], code, &words);
    }
    let large = File::create(&file).unwrap();
    large.set_len(1 << 30).unwrap();
    with(&["-config-file", &named], 2, &[&named, "1073741824 bytes"]);
    fs::write(folder.path().join("agent.hcl"), "server = true\nports {\n  dns = nought\n}\n").unwrap();
    fs::remove_file(&file).unwrap();
    let named = folder.path().display().to_string();
    with(&["-config-dir", &named], 2, &["agent.hcl", "line 3, column 9: `nought` is not a value", "hint: "]);
    with(&["-hcl", "server = = 1"], 2, &["-hcl", "line 1, column 10"]);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let own = loopback().to_string();
    let with = |data: &Path, words: &[&str]| {
        let data = data.display().to_string();
        let arguments =
            ["agent", "-server", "-bootstrap", "-bind", &own, "-client", &own, "-data-dir", &data];
        refused(&arguments, 1, &[&[data.as_str()], words].concat());
    };
    with(Path::new("/proc/no/such"), &["cannot create the folder"]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    with(&file, &["cannot create the folder"]);
    let damaged = folder.path().join("damaged");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("incarnation"), "not a uuid").unwrap();
    with(&damaged, &["incarnation is damaged"]);
    // A file system that cannot be written.
    let disk = Disk::mount(&folder.path().join("readonly"), 1 << 20, "ro");
    with(&disk.0.join("data"), &["Read-only file system"]);

    // Wrong machine-ids.
    let id = folder.path().join("machine-id");
    for (text, word) in [
        ("", "holds no machine-id"),
        ("uninitialized\n", "holds no machine-id"),
        ("a b/c", "holds no machine-id"),
    ] {
        fs::write(&id, text).unwrap();
        let (data, id) = (folder.path().join("new").display().to_string(), id.display().to_string());
        let rest = ["--etcd=http://127.0.0.1:1", "--advertise=127.0.0.1", "--expect=1", "--data-dir", &data];
        refused(&[&["bootstrap", "--machine-id-file", &id], &rest[..]].concat(), 1, &[&id, word]);
    }
}

#[test]
fn an_occupied_port_or_data_directory_is_refused_and_the_first_agent_goes_on() {
    let first = server();
    let data = first.data().display().to_string();
    let taken = first.address.to_string();
    let free = loopback().to_string();
    let other = tempfile::tempdir().unwrap();
    let other = other.path().join("data").display().to_string();

    // The same data directory, for a server and for a client.
    let usual = ["agent", "-bind", &free, "-client", &free];
    let busy = ["in use by another process", data.as_str()];
    refused(&[&usual[..], &["-server", "-bootstrap", "-data-dir", &data]].concat(), 1, &busy);
    refused(&[&usual[..], &["-join", &taken, "-data-dir", &data]].concat(), 1, &busy);
    let meeting = first.data().with_file_name("coordinator.json").display().to_string();
    let machine = ["bootstrap", "--embedded", &meeting, "--machine-id=m9", "--expect=1", "--data-dir", &data];
    refused(&[&machine[..], &["--advertise", &free, "--", "-bind", &free]].concat(), 1, &busy);

    // Each port in its turn.
    let in_use = |flags: &[&str], port: u16| {
        let address = format!("{taken}:{port}");
        refused(&[flags, &["-data-dir", &other]].concat(), 1, &[&address, "in use"]);
    };
    in_use(&["agent", "-server", "-bootstrap", "-bind", &taken, "-client", &free], 8300);
    in_use(&["agent", "-bind", &taken, "-client", &free], 8301);
    in_use(&["agent", "-bind", &free, "-client", &taken], 8600);
    in_use(&["agent", "-bind", &free, "-client", &taken, "-dns-port=-1"], 8500);
    // A port that only UDP has taken.
    let socket = UdpSocket::bind((free.as_str(), 8301)).unwrap();
    let address = format!("{free}:8301");
    refused(&[&usual[..], &["-data-dir", &other]].concat(), 1, &[&address, "in use"]);
    drop(socket);
    nothing_is_lost(&first);
}

#[test]
fn bootstrap_without_etcd_says_so_and_waits_and_a_half_etcd_does_not_stop_it() {
    // Nobody there, and somebody who never answers.
    let silent = TcpListener::bind((loopback(), 2379)).unwrap();
    let nobody = format!("http://{}:2379", loopback());
    let mute = format!("http://{}", silent.local_addr().unwrap());
    for etcd in [nobody, mute] {
        let mut machine = Machine::bootstrap("lonely", &etcd, 1).started();
        eventually(PATIENCE, "it names the etcd that does not answer", || {
            machine.log().contains(&etcd).then_some(())
        });
        assert!(machine.is_alive());
        machine.signal(Signal::SIGINT);
        assert_eq!(machine.ended(), Some(0), "{}", machine.log());
        assert!(!machine.data().join("raft").exists(), "nothing was begun");
    }
}
