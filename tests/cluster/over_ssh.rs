//! Plain machines with sshd, and nothing else: `corediscover fleet`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::fleet::{Site, becomes_a_cluster, runs_units, says_when_sudo_wants_a_password};
use crate::machines::{Machine, Network, PATIENCE};
use crate::released::binary;
use crate::wait::{eventually, tell_failures_at_once};

/// Debian's Vagrant has the key that the image lets in; the folder's name has a version in it.
const GEMS: &str = "/usr/share/rubygems-integration/all/gems";

pub(crate) fn vagrants_key() -> Vec<u8> {
    let gems = fs::read_dir(GEMS).expect("Debian's package vagrant is installed");
    let mut folders = gems.map(|entry| entry.unwrap().path());
    let vagrant = folders.find(|path| path.join("keys/vagrant").exists()).expect("Vagrant's key");
    fs::read(vagrant.join("keys/vagrant")).unwrap()
}

#[test]
fn fleet_up_makes_plain_machines_a_cluster_and_fleet_runs_units_on_them() {
    tell_failures_at_once();
    let network = Network::new(2);
    let machines: Vec<Machine> = (1..=4).map(|number| Machine::blank(&network, number)).collect();
    for machine in &machines {
        machine.power_on();
    }
    for machine in &machines {
        machine.until_running();
    }
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("key");
    corediscover::host::files::write_atomic(&key, &vagrants_key(), 0o600).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let binary = binary();
    let site = Site {
        binary: &binary,
        key: &key,
        home: home.path(),
        addresses: machines.iter().map(|machine| machine.address.clone()).collect(),
        names: machines.iter().map(|machine| machine.name.clone()).collect(),
        look: &|number, words| String::from_utf8(machines[number].try_run(words).stdout).unwrap(),
        until: &|what, probe| eventually(PATIENCE, what, || probe().then_some(())),
    };
    let reboot = |number: usize| {
        machines[number].shut_down();
        machines[number].power_on();
        machines[number].until_running();
    };
    becomes_a_cluster(&site, &reboot);
    runs_units(&site, &reboot);
    says_when_sudo_wants_a_password(&site);
}
