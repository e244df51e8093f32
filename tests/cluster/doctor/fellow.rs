//! What goes wrong between machines: etcd, what is in it, agents that do not hear each other.

use serde_json::Value;

use super::{
    INSTALLED, carry_out, is_found, is_found_and_repaired, is_healthy, provision, provision_with, sh,
};
use crate::machines::{Machine, Network, PATIENCE};
use crate::wait::eventually;

const PREFIX: &str = "/consul.io/bootstrap";

/// `etcdctl` by etcd's v3 API, on that machine.
fn etcdctl(machine: &Machine, words: &[&str]) -> String {
    machine.run(&[&["env", "ETCDCTL_API=3", "etcdctl"][..], words].concat())
}

/// The birth certificate.
fn certificate(machine: &Machine) -> String {
    etcdctl(machine, &["get", "--print-value-only", &format!("{PREFIX}/cluster")])
}

/// Where the fix is to be carried out is behind its `#`.
#[track_caller]
fn repair_there(fix: &str, machine: &Machine) {
    let (_, place) = fix.split_once(" # on ").unwrap_or_else(|| panic!("{fix}"));
    assert!(place.contains(&machine.address), "{fix}");
    carry_out(machine, fix);
}

/// One etcd of three does not run: that is a warning elsewhere.
pub(super) fn one_etcd_is_down(machine: &Machine, other: &Machine) {
    sh(other, "systemctl stop etcd.service");
    let symptom = format!("etcd at http://{}:2379 does not answer", other.address);
    let fix = is_found(machine, "etcd", "warning", &symptom);
    assert!(machine.try_run(&[INSTALLED, "doctor"]).status.success(), "a warning is no error");
    repair_there(&fix, other);
    is_healthy(machine);
    is_healthy(other);
}

/// None runs.
pub(super) fn all_etcds_are_down(machines: &[&Machine]) {
    for machine in machines {
        sh(machine, "systemctl stop etcd.service");
    }
    for machine in machines {
        let symptom = format!("etcd at http://{}:2379 does not answer", machine.address);
        let fix = is_found(machine, "etcd", "error", &symptom);
        assert_eq!(fix, "systemctl restart etcd.service");
    }
    for machine in machines {
        // A member of etcd is up when enough of them are.
        carry_out(machine, "systemctl --no-block restart etcd.service");
    }
    for machine in machines {
        is_healthy(machine);
    }
}

/// A certificate of etcd's other API was left, as after an upgrade.
pub(super) fn keys_in_the_other_space(machine: &Machine) {
    let certificate = certificate(machine);
    let url = format!("http://127.0.0.1:2379/v2/keys{PREFIX}/cluster");
    machine.run(&["curl", "-fsS", "-X", "PUT", &url, "--data-urlencode", &format!("value={certificate}")]);
    let symptom = "machines meet in etcd's v3 keys, and its other API has the birth certificate of cluster ";
    is_found_and_repaired(machine, "etcd", "warning", symptom);
}

/// Keys of machines that are none: another program's, and a claim that somebody keeps.
pub(super) fn stale_keys(machine: &Machine) {
    let (stranger, gone) = ("0000000000000000000000000000dead", "0000000000000000000000000000beef");
    etcdctl(machine, &["put", &format!("{PREFIX}/machines/{stranger}"), "10.9.9.9"]);
    let symptom = format!("{PREFIX}/machines/{stranger} belongs to no machine of this cluster");
    is_found_and_repaired(machine, "keys", "warning", &symptom);

    let details = r#"{"incarnation": "00000000-0000-4000-8000-000000000001", "name": "gone", "boot_id": "b", "version": "1"}"#;
    etcdctl(machine, &["put", &format!("{PREFIX}/machines/{gone}"), "10.9.9.9"]);
    etcdctl(machine, &["put", &format!("{PREFIX}/incarnations/{gone}"), details]);
    let symptom = format!("{PREFIX}/machines/{gone} is the claim of gone (10.9.9.9), which is no member");
    is_found_and_repaired(machine, "keys", "warning", &symptom);
    let left = etcdctl(machine, &["get", "--prefix", "--keys-only", PREFIX]);
    assert!(!left.contains(gone) && left.contains("/cluster"), "{left}");
}

/// etcd speaks of another cluster than the one that these machines are.
pub(super) fn certificate_of_another_cluster(machines: &[&Machine]) {
    let ours = certificate(machines[0]);
    let mut other: Value = serde_json::from_str(&ours).unwrap();
    other["cluster_id"] = "00000000-0000-4000-8000-00000000000a".into();
    etcdctl(machines[0], &["put", &format!("{PREFIX}/cluster"), &other.to_string()]);
    let symptom =
        format!("{PREFIX}/cluster names cluster 00000000-0000-4000-8000-00000000000a, and this machine");
    let fix = is_found(machines[1], "keys", "error", &symptom);
    carry_out(machines[1], &fix);
    // Their leader writes what is true.
    let id = |text: &str| serde_json::from_str::<Value>(text).ok().map(|value| value["cluster_id"].clone());
    eventually(PATIENCE, "the certificate is there again", || {
        (id(&certificate(machines[0])) == id(&ours)).then_some(())
    });
    for machine in machines {
        is_healthy(machine);
    }
}

/// Raft counts on a server that gossip does not see.
pub(super) fn agent_that_is_down(machine: &Machine, other: &Machine) {
    sh(other, "systemctl stop corediscover-agent.service");
    let symptom = format!("raft counts {}:8300 as a voter, gossip does not see it alive", other.address);
    let fix = is_found(machine, "cluster", "error", &symptom);
    repair_there(&fix, other);
    is_healthy(machine);
    // Its unit for the resolver stopped with it, and is started by what its own doctor says.
    let units = super::told(other, &[INSTALLED, "doctor", "--json"]).1;
    for (_, finding) in units.iter().filter(|(check, _)| check == "units") {
        carry_out(other, finding["fix"].as_str().unwrap());
    }
    is_healthy(other);
}

/// A machine more, for a cluster that has its servers.
pub(super) fn client(network: &Network, number: u8, etcd: &str) -> Machine {
    let client = Machine::blank(network, number);
    provision(&client, etcd);
    client.power_on();
    client.until_running();
    is_healthy(&client);
    client
}

/// A client that hears the others by gossip, and not the servers: what it knows gets old.
pub(super) fn replica_that_lags(client: &Machine, server: &Machine) {
    let cut = |action: &str| {
        for rule in [["INPUT", "--sport"], ["OUTPUT", "--dport"]] {
            let [chain, port] = rule;
            client.run(&["iptables", "-w", action, chain, "-p", "tcp", port, "8300", "-j", "DROP"]);
        }
    };
    cut("-I");
    is_found(client, "cluster", "error", "there is no leader");
    is_found(client, "cluster", "error", "what this machine knows is ");
    cut("-D");
    is_healthy(client);
    is_healthy(server);
}

/// A machine that was told an etcd of its own is a cluster of its own, and then meets this one.
pub(super) fn of_another_cluster(network: &Network, server: &Machine, etcd: &str) -> Machine {
    let other = Machine::blank(network, 5);
    other.etcd(&[&other]);
    provision_with(&other, "http://127.0.0.1:2379", 1);
    other.power_on();
    other.until_running();
    is_healthy(&other);
    other.run(&[INSTALLED, "join", &server.address]);
    let symptom = "members of 2 clusters see each other; they do not mix";
    let fix = is_found(server, "cluster", "error", symptom);
    assert!(fix.ends_with(&format!(" # on {}", other.name)), "{fix}");
    // The machine is told the right etcd first, as the cause says.
    provision(&other, etcd);
    sh(&other, "systemctl disable --now etcd.service; systemctl daemon-reload");
    carry_out(&other, &fix);
    is_healthy(server);
    is_healthy(&other);
    other
}

/// What an agent keeps was copied to another machine while the first was down: both come back with it.
pub(super) fn one_data_directory(original: &Machine, copy: &Machine, server: &Machine) {
    let agent = "corediscover-agent.service";
    for machine in [copy, original] {
        sh(machine, &format!("systemctl stop {agent}"));
    }
    sh(copy, "rm -r /var/lib/private/corediscover");
    copy.lay("/var/lib/private", &original.folder("/var/lib/private/corediscover"));
    for machine in [copy, original] {
        sh(machine, &format!("systemctl start {agent} corediscover-resolved.service"));
    }
    let symptom = format!(
        "{} ({}) and {} ({}) have one data directory",
        original.name, original.address, copy.name, copy.address
    );
    for machine in [original, server] {
        let fix = is_found(machine, "machine-id", "error", &symptom);
        assert!(fix.ends_with(" # on the copy"), "{fix}");
    }
    let fix = is_found(server, "machine-id", "error", &symptom);
    carry_out(copy, &fix);
    for machine in [copy, original, server] {
        is_healthy(machine);
    }
}
