//! Machines whose disk was written by the real Ignition before their first boot, without etcd.

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

use crate::ignition::apply;
use crate::machines::{Machine, Network};
use crate::released::ProvisionServer;
use crate::story::{until_agreed, until_resolved};
use crate::wait::tell_failures_at_once;

#[test]
fn machines_provisioned_by_ignition_meet_by_gossip_and_those_not_named_are_clients() {
    tell_failures_at_once();
    let network = Network::new(3);
    let machines: Vec<Machine> = (1..=4).map(|number| Machine::blank(&network, number)).collect();
    let all: Vec<&Machine> = machines.iter().collect();
    let servers: Vec<&str> = machines[..3].iter().map(|machine| machine.address.as_str()).collect();
    let server = ProvisionServer::start(&network.host(), &["--join", &servers.join(",")]);
    let work = tempfile::tempdir().unwrap();
    let root = apply(work.path(), &server.get("ignition"));
    // systemd takes this for the first boot, in which it enables what Ignition says; an image of Flatcar has the same.
    write_atomic(&root.join("etc/machine-id"), b"uninitialized\n", MODE_PUBLIC).unwrap();
    for machine in &machines {
        machine.bring(&root);
        machine.power_on();
    }
    until_agreed(&all, &all[..3]);
    for machine in &all {
        until_resolved(machine, "consul.service.consul", &servers);
    }
}
