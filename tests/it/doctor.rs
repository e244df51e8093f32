//! `corediscover doctor` on a machine that has nothing: it says what it could not look at, and ends.
//! What it finds on machines of a cluster is in tests/cluster.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use corediscover::host::files::{MODE_PUBLIC, write_atomic};
use corediscover::model::address::{self as machine, Flags, InterfaceAddress};
use corediscover::model::doctor::address::{Advertise, Facts, judge};
use corediscover::model::fleet::formation;
use corediscover::model::provision::Spec;
use corediscover::model::provision::etcd::Etcd;
use corediscover::model::provision::units::{AGENT, Place, unit_files_at};
use serde_json::Value;

use crate::support::corediscover;

/// Longest time that the command may take, whatever hangs: half a minute for the slowest look, twice for a busy machine.
const END_MAX: Duration = Duration::from_mins(1);

fn doctor(arguments: &[&str]) -> Output {
    let empty = tempfile::tempdir().unwrap();
    let mut command = corediscover();
    command.arg("doctor").args(arguments).arg("--data-dir").arg(empty.path().join("none"));
    for name in ["CONSUL_HTTP_ADDR", "DOCKER_HOST"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn doctor_says_what_it_cannot_look_at_without_agent_etcd_and_docker() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", folder.path().join("none.sock").display());
    let machine_id = folder.path().join("machine-id");
    let output = doctor(&[
        "--json",
        "--etcd",
        "http://127.0.0.1:1",
        "--http-addr",
        "127.0.0.1:1",
        "--docker-host",
        &socket,
        "--machine-id-file",
        machine_id.to_str().unwrap(),
    ]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert!(report["errors"].as_u64().unwrap() >= 2, "{report:#}");
    let etcd = &check(&report, "etcd")["findings"][0];
    assert!(etcd["symptom"].as_str().unwrap().starts_with("etcd at http://127.0.0.1:1 does not answer"));
    assert_eq!(
        (&etcd["level"], etcd["cause"].is_string(), etcd["fix"].is_string()),
        (&Value::from("error"), true, true)
    );
    assert_eq!(check(&report, "keys")["not_checked"][0], "no etcd answers");
    let agent = check(&report, "cluster")["not_checked"][0].as_str().unwrap();
    assert!(agent.starts_with("no agent answers at http://127.0.0.1:1"), "{agent}");
    let id = &check(&report, "machine-id")["findings"][0]["symptom"];
    assert_eq!(*id, format!("{} is missing", machine_id.display()));
}

#[test]
fn doctor_ends_although_everything_that_it_asks_takes_its_connection_and_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let _socket = UnixListener::bind(&path).unwrap();
    let begin = Instant::now();
    let output = doctor(&[
        "--json",
        "--etcd",
        &format!("http://{address}"),
        "--http-addr",
        &address,
        "--docker-host",
        &format!("unix://{}", path.display()),
    ]);
    assert!(begin.elapsed() < END_MAX, "{:?}", begin.elapsed());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    for (name, word) in [("etcd", "no answer within"), ("docker", "does not answer")] {
        let symptom = check(&report, name)["findings"][0]["symptom"].as_str().unwrap();
        assert!(symptom.contains(word), "{symptom}");
    }
    // Other tests hold ports of an agent meanwhile, which are findings too.
    let port = silent.local_addr().unwrap().port();
    let held = format!("port {port}/tcp (HTTP) is held by ");
    let ports = check(&report, "ports")["findings"].as_array().unwrap();
    let mut symptoms = ports.iter().map(|finding| finding["symptom"].as_str().unwrap());
    let ours = symptoms.find(|symptom| symptom.starts_with(&held)).unwrap_or_else(|| panic!("{report:#}"));
    assert!(ours.ends_with(&format!("(pid {})", std::process::id())), "{ours}");
}

#[test]
fn doctor_refuses_settings_that_make_no_sense() {
    for wrong in [["--http-addr", "https://a:1"], ["--advertise", "nowhere"], ["--dns-port", "x"]] {
        let output = doctor(&wrong);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {errors}");
        assert!(output.stdout.is_empty() && errors.contains(wrong[0]), "{wrong:?}: {errors}");
    }
}

#[test]
fn the_command_that_repairs_an_address_leaves_a_unit_that_fleet_up_still_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(AGENT);
    let place = Place { head: formation::HEAD, advertise: [10, 9, 0, 1].into(), is_server: true };
    let etcd = Etcd::Absent { join: vec!["10.9.0.1".parse().unwrap()] };
    let unit = unit_files_at(&Spec { etcd, ..Spec::default() }, place).unwrap().remove(0).text;
    let eth0 = InterfaceAddress {
        interface: "eth0".to_owned(),
        address: [10, 0, 0, 1].into(),
        prefix: 24,
        flags: Flags { up: true, ..Flags::default() },
    };
    let found = judge(&Facts {
        advertise: Advertise::Fixed([10, 9, 0, 1].into()),
        told: Ok([10, 9, 0, 1].into()),
        machine: machine::Facts { addresses: vec![eth0], ..machine::Facts::default() },
        unit: Some(path.display().to_string()),
        show: String::new(),
    });
    let (repair, rest) = found.findings[0].fix.split_once(" && ").unwrap();
    assert!(rest.starts_with("systemctl daemon-reload && systemctl restart "), "{rest}");
    for spelling in ["-advertise", "--advertise"] {
        let before = unit.replace("-advertise", spelling);
        write_atomic(&path, before.as_bytes(), MODE_PUBLIC).unwrap();
        assert!(Command::new("sh").args(["-c", repair]).status().unwrap().success(), "{repair}");
        let text = std::fs::read_to_string(&path).unwrap();
        let (old, new) = (format!(" {spelling} 10.9.0.1 "), format!(" {spelling} 10.0.0.1 "));
        assert!(before.contains(&old), "{before}");
        assert_eq!(text, before.replace(&old, &new), "{repair}");
        let facts = formation::Facts { unit: Some(text), ..formation::Facts::default() };
        assert_eq!(facts.advertised(), Some([10, 0, 0, 1].into()));
    }
}
