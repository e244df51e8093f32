//! Containers that the machine's resolver does not serve, although the machine itself finds names.

use super::breakages::write;
use super::{INSTALLED, carry_out, is_found, is_found_and_repaired, is_healthy, sh};
use crate::machines::Machine;

const UNIT: &str = "corediscover-resolved.service";

/// dockerd has a server of its own for containers, so ours cannot be named: the unit goes on without them.
pub(super) fn nobody_serves_them(machine: &Machine) {
    sh(machine, &format!("docker rm -f early; systemctl start {UNIT}"));
    // Once for its settings, and once more when it has forgotten them.
    for _ in 0..2 {
        sh(machine, &format!("{INSTALLED} resolved remove --docker; systemctl restart docker.service"));
    }
    write(machine, "/etc/default/docker", "DOCKER_OPTS=\"--dns 198.51.100.53\"\n");
    sh(machine, &format!("systemctl restart docker.service; systemctl restart {UNIT}"));
    let symptom = "containers do not find consul.service.consul: systemd-resolved answers none";
    let fix = is_found(machine, "resolved", "error", symptom);
    let told = machine.try_run(&[INSTALLED, "doctor"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("dockerd runs with --dns"), "the cause is what the unit says: {told}");
    assert!(fix.ends_with(" # after what the cause tells to do"), "{fix}");
    sh(machine, "rm /etc/default/docker; systemctl restart docker.service");
    carry_out(machine, &fix);
    is_healthy(machine);
    sh(machine, "docker run -d --name early web");
    is_healthy(machine);
}

/// Somebody writes Docker's settings without us: a container from before is answered, new ones ask elsewhere.
pub(super) fn docker_forgets_us(machine: &Machine) {
    let forget = "import json; path = '/etc/docker/daemon.json'; daemon = json.load(open(path)); daemon.pop('dns'); \
                  json.dump(daemon, open(path, 'w'))";
    machine.run(&["python3", "-c", forget]);
    is_found_and_repaired(
        machine,
        "resolved",
        "error",
        "containers that Docker starts do not find consul.service.consul",
    );
    sh(machine, "docker start early");
    is_healthy(machine);
}

/// A firewall drops what containers ask, and lets pass what the machine asks itself.
pub(super) fn a_firewall_is_between(machine: &Machine) {
    sh(machine, "iptables -w -I INPUT -i docker0 -j DROP");
    let symptom = "the container early does not find consul.service.consul";
    let fix = is_found(machine, "resolved", "error", symptom);
    assert!(fix.starts_with("iptables -I INPUT -i docker0 -d 169.254.53.1 "), "{fix}");
    carry_out(machine, &fix);
    is_healthy(machine);
    sh(machine, "iptables -w -D INPUT -i docker0 -j DROP");
    sh(machine, &fix.replace(" -I ", " -D "));
    is_healthy(machine);
    a_firewall_is_before_another_network(machine);
}

/// The same for a network as docker compose makes it: its containers ask a server of Docker's, which says no.
fn a_firewall_is_before_another_network(machine: &Machine) {
    sh(machine, "docker network create shop; docker run -d --name late --network shop web");
    is_healthy(machine);
    sh(machine, "iptables -w -I INPUT -i br-+ -j DROP");
    let symptom = "the container late does not find consul.service.consul";
    let fix = is_found(machine, "resolved", "error", symptom);
    assert!(fix.contains("iptables -I INPUT -i br-+ -d 169.254.53.1 "), "{fix}");
    let apply = machine.try_run(&[INSTALLED, "resolved", "apply", "--docker"]);
    let told = String::from_utf8_lossy(&apply.stderr);
    assert!(!apply.status.success() && told.contains("what comes over br-…"), "{told}");
    carry_out(machine, &fix);
    is_healthy(machine);
    sh(machine, "iptables -w -D INPUT -i br-+ -j DROP");
    sh(machine, &fix.replace(" -I ", " -D "));
    sh(machine, "docker rm -f late; docker network rm shop");
    is_healthy(machine);
}
