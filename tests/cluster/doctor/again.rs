//! Units that are missing or that nothing started, on a machine with settings of its own: the repair leaves the other units
//! alone.

use std::fs;

use corediscover::host::files::MODE_PUBLIC;

use super::{carry_out, is_found, is_healthy, lay, provision, sh};
use crate::machines::{Machine, Network};
use crate::released::corediscover;
use crate::wait::tell_failures_at_once;

const ETCD: &str = "http://127.0.0.1:2379";
const FOLDER: &str = "/etc/systemd/system";
const AGENT: &str = "corediscover-agent.service";
const REGISTRATOR: &str = "corediscover-registrator.service";
const CONTAINERS: &str = "corediscover-containers.service";
const RESOLVED: &str = "corediscover-resolved.service";

/// A cluster of one machine, with units that were made with these flags.
fn alone(network: &Network, flags: &[&str]) -> Machine {
    let machine = Machine::blank(network, 1);
    machine.etcd(&[&machine]);
    provision(&machine, ETCD);
    let made = tempfile::tempdir().unwrap();
    let out = made.path().to_str().unwrap();
    corediscover(&[&["units", "--systemd", "--etcd", ETCD, "--out", out], flags].concat());
    let root = tempfile::tempdir().unwrap();
    for unit in [AGENT, REGISTRATOR, CONTAINERS, RESOLVED] {
        let text = fs::read(made.path().join(unit)).unwrap();
        lay(root.path(), &format!("{}/{unit}", &FOLDER[1..]), &text, MODE_PUBLIC);
    }
    machine.bring(root.path());
    machine.power_on();
    machine.until_running();
    is_healthy(&machine);
    machine
}

#[test]
fn doctor_brings_units_back_with_the_machines_own_settings_and_starts_what_nothing_started() {
    tell_failures_at_once();
    let network = Network::new(10);
    let machine = alone(&network, &["--domain", "corp.example", "--servers", "1"]);
    missing(&machine);
    disabled_and_rebooted(&machine);
}

/// Files of units that are gone are written again as they were, and no other file is.
fn missing(machine: &Machine) {
    sh(machine, &format!("cp -a {FOLDER} /root/before"));
    // Another file, of the same bytes, would have another inode.
    let agent = || sh(machine, &format!("stat -c '%i %Y' {FOLDER}/{AGENT}"));
    let before = agent();
    for unit in [REGISTRATOR, CONTAINERS, RESOLVED] {
        sh(machine, &format!("systemctl disable --now {unit}; rm {FOLDER}/{unit}; systemctl daemon-reload"));
        let fix = is_found(machine, "units", "warning", &format!("{unit} is not installed"));
        carry_out(machine, &fix);
        is_healthy(machine);
        assert_eq!(sh(machine, &format!("systemctl is-active {unit}")), "active");
        assert_eq!(sh(machine, &format!("diff -r /root/before {FOLDER}")), "");
        assert_eq!(agent(), before);
    }
}

/// A unit that was disabled does not run after a boot: systemd says of it that its condition was not met.
fn disabled_and_rebooted(machine: &Machine) {
    sh(machine, &format!("systemctl disable {REGISTRATOR}"));
    machine.shut_down();
    machine.power_on();
    machine.until_running();
    let fix = is_found(machine, "units", "error", &format!("{REGISTRATOR} does not run"));
    assert_eq!(fix, format!("systemctl enable --now {REGISTRATOR}"));
    carry_out(machine, &fix);
    is_healthy(machine);
    assert_eq!(sh(machine, &format!("systemctl is-active {REGISTRATOR}")), "active");
}
