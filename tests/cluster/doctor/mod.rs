//! `corediscover doctor` on a cluster: each thing that it looks for is really broken, found, repaired with the command that
//! it prints, and gone.

mod again;
mod breakages;
mod clock;
mod containers;
mod engine;
mod fellow;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};
use serde_json::Value;

use crate::machines::{Machine, Network, PATIENCE};
use crate::released::{binary, corediscover};
use crate::story::{give_image, until_agreed};
use crate::wait::{eventually, tell_failures_at_once};

/// Where the units expect the binary.
pub(super) const INSTALLED: &str = "/opt/bin/corediscover";

/// Lays a machine's files out in a folder.
pub(super) fn lay(root: &Path, path: &str, text: &[u8], mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_atomic(&path, text, mode).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives a machine the binary and enabled units, which look for etcd there.
pub(super) fn provision(machine: &Machine, etcd: &str) {
    provision_with(machine, etcd, 3);
}

/// The same, for a cluster of so many servers.
pub(super) fn provision_with(machine: &Machine, etcd: &str, servers: usize) {
    let root = tempfile::tempdir().unwrap();
    let system = root.path().join("etc/systemd/system");
    let wants = system.join("multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    let (servers, out) = (servers.to_string(), system.to_str().unwrap());
    corediscover(&["units", "--systemd", "--etcd", etcd, "--servers", &servers, "--out", out]);
    for entry in fs::read_dir(&system).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() {
            // The folder of the test may have made them for its user alone.
            fs::set_permissions(&path, fs::Permissions::from_mode(MODE_PUBLIC)).unwrap();
            symlink(format!("/etc/systemd/system/{name}"), wants.join(name)).unwrap();
        }
    }
    lay(root.path(), &INSTALLED[1..], &fs::read(binary()).unwrap(), 0o755);
    machine.bring(root.path());
}

/// What a command line with `doctor` in it says: its exit code and its findings, each with the name of its check.
pub(super) fn told(machine: &Machine, line: &[&str]) -> (i32, Vec<(String, Value)>) {
    let output = machine.try_run(line);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    let mut found = Vec::new();
    for check in report["checks"].as_array().unwrap() {
        let name = check["name"].as_str().unwrap();
        let findings = check["findings"].as_array().unwrap().iter();
        found.extend(findings.map(|finding| (name.to_owned(), finding.clone())));
    }
    let code = output.status.code().unwrap();
    let has_error = found.iter().any(|(_, finding)| finding["level"] == "error");
    assert_eq!(code, i32::from(has_error), "{text}");
    (code, found)
}

const DOCTOR: &[&str] = &[INSTALLED, "doctor", "--json"];

/// Waits until nothing is wrong: after a repair a cluster settles, and a unit that was restarted often is watched a while.
#[track_caller]
pub(super) fn is_healthy(machine: &Machine) {
    let mut last = Vec::new();
    let healthy = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(PATIENCE, &format!("{} is healthy", machine.name), || {
            last = told(machine, DOCTOR).1;
            last.is_empty().then_some(())
        });
    }));
    assert!(healthy.is_ok(), "{}: {last:#?}", machine.name);
}

/// Waits until the doctor finds this, and gives the command that it prints.
#[track_caller]
pub(super) fn is_found(machine: &Machine, check: &str, level: &str, symptom: &str) -> String {
    is_found_by(machine, DOCTOR, check, level, symptom)
}

/// The same, of a doctor that was told more on its command line.
#[track_caller]
pub(super) fn is_found_by(
    machine: &Machine,
    line: &[&str],
    check: &str,
    level: &str,
    symptom: &str,
) -> String {
    let mut last = Vec::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(PATIENCE, &format!("{}: {check}: {symptom}", machine.name), || {
            last = told(machine, line).1;
            let wanted = |(name, finding): &&(String, Value)| {
                name == check
                    && finding["level"] == level
                    && finding["symptom"].as_str().unwrap().contains(symptom)
            };
            last.iter().find(wanted).map(|(_, finding)| finding["fix"].as_str().unwrap().to_owned())
        })
    }));
    found.unwrap_or_else(|_| panic!("{}: {check}: `{symptom}` is not found: {last:#?}", machine.name))
}

/// Carries out a command that the doctor prints.
#[track_caller]
pub(super) fn carry_out(machine: &Machine, fix: &str) {
    machine.run(&["sh", "-c", fix]);
}

/// Finds it, repairs it with what is printed, and sees it gone.
#[track_caller]
pub(super) fn is_found_and_repaired(machine: &Machine, check: &str, level: &str, symptom: &str) {
    let fix = is_found(machine, check, level, symptom);
    carry_out(machine, &fix);
    is_healthy(machine);
}

/// Runs a script on a machine.
#[track_caller]
pub(super) fn sh(machine: &Machine, script: &str) -> String {
    machine.run(&["sh", "-ec", script])
}

/// Three machines, and the addresses of etcd on them.
fn formed(network: &Network) -> (Vec<Machine>, String) {
    let machines: Vec<Machine> = (1..=3).map(|number| Machine::blank(network, number)).collect();
    let everybody: Vec<&Machine> = machines.iter().collect();
    let etcd: Vec<String> =
        everybody.iter().map(|machine| format!("http://{}:2379", machine.address)).collect();
    let etcd = etcd.join(",");
    for machine in &everybody {
        machine.etcd(&everybody);
        provision(machine, &etcd);
        machine.power_on();
    }
    for machine in &everybody {
        machine.until_running();
    }
    until_agreed(&everybody, &everybody);
    (machines, etcd)
}

#[test]
fn doctor_finds_each_breakage_of_a_cluster_and_prints_the_command_that_repairs_it() {
    tell_failures_at_once();
    let network = Network::new(8);
    let (machines, _) = formed(&network);
    let [one, two, three] = &machines[..] else { panic!("three machines") };
    let everybody = [one, two, three];
    is_told_in_words(three);
    for machine in everybody {
        is_healthy(machine);
    }
    give_image(three, "web", 80);
    // Its unit may be started three times a minute, and what is broken here and repaired starts it more often.
    let starts = "[Unit]\nStartLimitIntervalSec=0\n";
    breakages::write(three, "/etc/systemd/system/docker.service.d/10-starts.conf", starts);
    sh(three, "systemctl daemon-reload");
    sh(three, "docker run -d --name early web");
    is_healthy(three);

    engine::open_docker(three);
    breakages::files(three);
    breakages::readable_key(three);
    breakages::units(three);
    fellow::one_etcd_is_down(one, three);
    fellow::keys_in_the_other_space(one);
    fellow::stale_keys(one);
    fellow::certificate_of_another_cluster(&everybody);
    fellow::agent_that_is_down(one, three);
    fellow::all_etcds_are_down(&everybody);
    breakages::ports(three);
    clock::is_ahead(three);
    clock::is_set_by_nobody(three);
    // What the units said is in the journal of the machine-id of then.
    containers::nobody_serves_them(three);
    containers::docker_forgets_us(three);
    containers::a_firewall_is_between(three);
    breakages::empty_machine_ids(three);
    breakages::cloned_machine_id(three, one);
    breakages::addresses(three, &network.address(77));
    breakages::resolver(three);
    engine::docker(three);
    engine::old_docker(three);
    breakages::full_disk(three, one);
    for machine in everybody {
        is_healthy(machine);
    }
    until_agreed(&everybody, &everybody);
}

#[test]
fn doctor_finds_clients_that_hear_no_server_are_copies_of_others_or_belong_to_another_cluster() {
    tell_failures_at_once();
    let network = Network::new(9);
    let (machines, etcd) = formed(&network);
    let client = fellow::client(&network, 4, &etcd);
    fellow::replica_that_lags(&client, &machines[0]);
    let other = fellow::of_another_cluster(&network, &machines[0], &etcd);
    fellow::one_data_directory(&client, &other, &machines[0]);
}

/// The text for a person: where the settings are from, and a line for each check.
fn is_told_in_words(machine: &Machine) {
    is_healthy(machine);
    let text = machine.run(&[INSTALLED, "doctor"]);
    assert!(
        text.starts_with(
            "settings: from /etc/systemd/system/corediscover-agent.service\nok: units\nok: ports\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("\nnothing is wrong"), "{text}");
    sh(machine, "chmod o+w /opt/bin");
    let output = machine.try_run(&[INSTALLED, "doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let block = "error: every user of this machine may write to /opt/bin\n  cause: its mode is 0757; what is there is run by \
                 the units: whoever changes it runs what he likes\n  fix: chmod o-w /opt/bin\n";
    assert!(text.contains(block) && text.ends_with("1 error, 0 warnings\n"), "{text}");
    sh(machine, "chmod o-w /opt/bin");
    let before = sh(
        machine,
        "stat -c '%n %Y %a' /etc/systemd/system/* /var/lib/corediscover /etc/machine-id /opt/bin",
    );
    is_healthy(machine);
    let after = sh(
        machine,
        "stat -c '%n %Y %a' /etc/systemd/system/* /var/lib/corediscover /etc/machine-id /opt/bin",
    );
    assert_eq!(before, after, "it changes nothing");
}
