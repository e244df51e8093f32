//! What goes wrong on one machine.

use super::{INSTALLED, carry_out, is_found, is_found_and_repaired, is_found_by, is_healthy, sh, told};
use crate::machines::Machine;
use crate::story::give_image;

const AGENT: &str = "corediscover-agent.service";
const REGISTRATOR: &str = "corediscover-registrator.service";

/// Writes a file of the machine.
pub(super) fn write(machine: &Machine, path: &str, text: &str) {
    machine.run(&["sh", "-ec", r#"mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1""#, "write", path, text]);
}

/// Another program has the agent's port.
pub(super) fn ports(machine: &Machine) {
    let unit = "[Service]\nExecStart=/usr/bin/python3 -m http.server 8500 --bind 127.0.0.1\n";
    write(machine, "/etc/systemd/system/squatter.service", unit);
    sh(
        machine,
        &format!("systemctl daemon-reload; systemctl stop {AGENT}; systemctl start squatter.service"),
    );
    machine.until(&["ss", "-Hltn", "sport = :8500"], |text| !text.is_empty());
    sh(machine, &format!("systemctl start --no-block {AGENT}"));
    is_found_and_repaired(machine, "ports", "error", "port 8500/tcp (HTTP) is held by python3 (pid ");
    sh(machine, "rm /etc/systemd/system/squatter.service; systemctl daemon-reload");

    // A program that is no unit, on gossip's port of UDP.
    sh(machine, &format!("systemctl stop {AGENT}"));
    let squat = "import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',8301)); time.sleep(9999)";
    machine.start(&["python3", "-c", squat]);
    machine.until(&["ss", "-Hlun", "sport = :8301"], |text| !text.is_empty());
    sh(machine, &format!("systemctl start --no-block {AGENT}"));
    is_found_and_repaired(machine, "ports", "error", "port 8301/udp (gossip) is held by python3 (pid ");
}

/// There is no machine-id, in each of its ways.
pub(super) fn empty_machine_ids(machine: &Machine) {
    for (break_it, symptom) in [
        (": >/etc/machine-id", "/etc/machine-id is empty"),
        ("echo uninitialized >/etc/machine-id", "/etc/machine-id says `uninitialized`"),
        ("rm /etc/machine-id", "/etc/machine-id is missing"),
    ] {
        sh(machine, break_it);
        is_found_and_repaired(machine, "machine-id", "error", symptom);
    }
}

/// The machine is a copy of another: it has that one's machine-id.
pub(super) fn cloned_machine_id(machine: &Machine, other: &Machine) {
    let id = other.machine_id();
    sh(
        machine,
        &format!("systemctl stop {AGENT}; echo {id} >/etc/machine-id; systemctl start --no-block {AGENT}"),
    );
    let symptom = format!("machine-id {id} is in use twice: {} ({}) has it too", other.name, other.address);
    is_found_and_repaired(machine, "machine-id", "error", &symptom);
    is_healthy(other);
}

/// The address that the others are told is none, or another one than would be chosen.
pub(super) fn addresses(machine: &Machine, second: &str) {
    let first = &machine.address;
    // A machine like those of CoreOS, where a file says the address.
    let advertise = |from: &str, to: &str| {
        let change = format!("s/--advertise {from} /--advertise {to} /");
        sh(machine, &format!("sed -i '{change}' /etc/systemd/system/{AGENT}; systemctl daemon-reload"));
        sh(machine, &format!("systemctl restart {AGENT}"));
        is_healthy(machine);
    };
    write(machine, "/etc/environment", &format!("COREOS_PRIVATE_IPV4={first}\n"));
    advertise("auto", "private");
    let say = |address: &str| {
        sh(
            machine,
            &format!("sed -i 's/^COREOS_PRIVATE_IPV4=.*/COREOS_PRIVATE_IPV4={address}/' /etc/environment"),
        );
    };
    say("127.0.0.1");
    is_found_and_repaired(machine, "address", "error", "finds no address for the others (private)");
    say(second);
    let symptom = format!("the next start of the agent tells the others {second}, which they cannot use");
    is_found_and_repaired(machine, "address", "error", &symptom);
    assert!(sh(machine, "cat /etc/environment").contains(&format!("COREOS_PRIVATE_IPV4={first}")));

    sh(machine, &format!("ip address add {second}/24 dev eth0"));
    say(second);
    let symptom =
        format!("the agent tells the others {first}, and `corediscover address` chooses {second} now");
    is_found_and_repaired(machine, "address", "error", &symptom);
    say(first);
    let symptom =
        format!("the agent tells the others {second}, and `corediscover address` chooses {first} now");
    is_found_and_repaired(machine, "address", "error", &symptom);
    sh(machine, &format!("ip address del {second}/24 dev eth0"));
    is_healthy(machine);
    sh(machine, "rm /etc/environment");
    advertise("private", "auto");
}

/// Names are not found: the resolver was not told, programs do not ask it, a container does not.
pub(super) fn resolver(machine: &Machine) {
    // An agent that was restarted before has restarted the unit, which may still be at it, and would do it once more.
    sh(machine, &format!("systemctl start corediscover-resolved.service; {INSTALLED} resolved remove"));
    let symptom = "programs of this machine do not find consul.service.consul";
    is_found_and_repaired(machine, "resolved", "error", symptom);

    sh(
        machine,
        "cp /etc/nsswitch.conf /root/nsswitch.conf; sed -i 's/^hosts:.*/hosts: files dns/' /etc/nsswitch.conf",
    );
    sh(machine, "rm /etc/resolv.conf; echo nameserver 127.0.0.1 >/etc/resolv.conf");
    is_found_and_repaired(machine, "resolved", "error", symptom);
    sh(machine, "cp /root/nsswitch.conf /etc/nsswitch.conf");

    // A container that was started before Docker knew about us.
    sh(
        machine,
        &format!(
            "docker rm -f early; {INSTALLED} resolved remove --docker; systemctl restart docker.service"
        ),
    );
    sh(machine, "docker run -d --name early web; systemctl restart corediscover-resolved.service");
    is_found_and_repaired(
        machine,
        "resolved",
        "error",
        "the container early does not find consul.service.consul",
    );

    sh(machine, "systemctl stop systemd-resolved.service");
    is_found_and_repaired(machine, "resolved", "error", "systemd-resolved does not run");
}

/// The disk of a server is full: all machines say so, and it is well again when there is room.
pub(super) fn full_disk(machine: &Machine, other: &Machine) {
    let data = "/var/lib/private/corediscover";
    sh(
        machine,
        &format!(
            "systemctl stop {AGENT}; mv {data} {data}.aside; mkdir -m 0700 {data}; \
             mount -t tmpfs -o size=200m,mode=0700 tmpfs {data}; cp -a {data}.aside/. {data}; \
             chown --reference={data}.aside {data}; systemctl start {AGENT} corediscover-resolved.service"
        ),
    );
    is_healthy(machine);
    sh(machine, &format!("dd if=/dev/zero of={data}/filler bs=64k 2>&1 || df -h {data}"));
    // The log has room prepared: the server knows when that is used up.
    sh(
        other,
        "head -c 400000 /dev/zero >/root/value; for count in $(seq 100); do \
         curl -sS -o /dev/null -X PUT --data-binary @/root/value http://127.0.0.1:8500/v1/kv/value; done; rm /root/value",
    );
    let symptom = format!("the disk of server {} is full", machine.name);
    for told in [machine, other] {
        let fix = is_found(told, "cluster", "error", &symptom);
        assert!(fix.ends_with(" # on that server"), "{fix}");
        carry_out(machine, &fix);
    }
    sh(machine, &format!("rm {data}/filler"));
    is_healthy(machine);
    is_healthy(other);
    sh(
        machine,
        &format!(
            "systemctl stop {AGENT}; rm -r {data}.aside; cp -a {data} {data}.kept; umount {data}; rmdir {data}; \
             mv {data}.kept {data}; systemctl start {AGENT} corediscover-resolved.service"
        ),
    );
    is_healthy(machine);
}

/// Files that everybody may write.
pub(super) fn files(machine: &Machine) {
    write(machine, "/opt/bin/prepare", "#!/bin/sh\nexit 0\n");
    let drop_in = "[Service]\nExecStartPre=/bin/sh /opt/bin/prepare\n";
    write(machine, "/etc/systemd/system/corediscover-agent.service.d/10-prepare.conf", drop_in);
    sh(machine, &format!("systemctl daemon-reload; systemctl restart {AGENT}"));
    is_healthy(machine);
    for path in [
        INSTALLED,
        "/opt/bin",
        "/opt/bin/prepare",
        "/etc/systemd/system/corediscover-registrator.service",
        "/etc/systemd/system/corediscover-agent.service.d",
        "/var/lib/private/corediscover",
        "/var/lib/corediscover/birth.json",
    ] {
        sh(machine, &format!("chmod o+w {path}"));
        let symptom = format!("every user of this machine may write to {path}");
        let fix = is_found(machine, "files", "error", &symptom);
        assert_eq!(fix, format!("chmod o-w {path}"));
        carry_out(machine, &fix);
        is_healthy(machine);
    }
    sh(
        machine,
        "rm -r /etc/systemd/system/corediscover-agent.service.d /opt/bin/prepare; systemctl daemon-reload",
    );
    sh(machine, &format!("systemctl restart {AGENT}"));
    is_healthy(machine);
}

/// Everybody may read the key that etcd knows this machine by.
pub(super) fn readable_key(machine: &Machine) {
    let key = "/etc/etcd-client.key";
    write(machine, key, "a key\n");
    sh(machine, &format!("chmod 0644 {key}"));
    let (etcd, certificate) = (format!("https://{}:2379", machine.address), "/etc/etcd-client.pem");
    let line = [
        &[INSTALLED, "doctor", "--json", "--etcd", &etcd, "--etcd-ca", certificate][..],
        &["--etcd-cert", certificate, "--etcd-key", key],
    ]
    .concat();
    let symptom = format!("every user of this machine may read the key {key}");
    let fix = is_found_by(machine, &line, "files", "error", &symptom);
    assert_eq!(fix, format!("chmod o-r {key}"));
    carry_out(machine, &fix);
    let left = told(machine, &line).1;
    assert!(!left.iter().any(|(check, _)| check == "files"), "{left:#?}");
    sh(machine, &format!("rm {key}"));
}

/// Units that do not run, will not run, fail, or fail again and again.
pub(super) fn units(machine: &Machine) {
    sh(machine, &format!("systemctl stop {REGISTRATOR}"));
    is_found_and_repaired(machine, "units", "error", &format!("{REGISTRATOR} does not run"));
    sh(machine, &format!("systemctl disable {REGISTRATOR}"));
    is_found_and_repaired(machine, "units", "warning", &format!("{REGISTRATOR} is not enabled"));

    // `systemctl mask` takes units that the system brought, as a sysext does.
    let (etc, usr) = ("/etc/systemd/system", "/usr/lib/systemd/system");
    sh(
        machine,
        &format!("mv {etc}/{REGISTRATOR} {usr}; systemctl daemon-reload; systemctl mask --now {REGISTRATOR}"),
    );
    is_found_and_repaired(machine, "units", "error", &format!("{REGISTRATOR} is masked"));
    sh(
        machine,
        &format!("mv {usr}/{REGISTRATOR} {etc}; systemctl daemon-reload; systemctl reenable {REGISTRATOR}"),
    );
    is_healthy(machine);

    let drop_in = format!("/etc/systemd/system/{REGISTRATOR}.d/10-broken.conf");
    for (setting, state, symptom) in [
        ("Restart=no\n", "failed", "has failed (exit-code)"),
        ("", "auto-restart", "is restarted again and again"),
    ] {
        write(machine, &drop_in, &format!("[Service]\nExecStartPre=/bin/false\n{setting}"));
        // It fails, which is what is wanted.
        sh(machine, &format!("systemctl daemon-reload; systemctl restart {REGISTRATOR} || true"));
        machine.until(&["systemctl", "show", "-p", "SubState", "--value", REGISTRATOR], |now| now == state);
        let fix = is_found(machine, "units", "error", &format!("{REGISTRATOR} {symptom}"));
        // The printed command starts it again; what made it fail was a file of somebody's.
        sh(machine, &format!("rm {drop_in}; systemctl daemon-reload"));
        carry_out(machine, &fix);
        is_healthy(machine);
    }
    write(machine, &drop_in, "[Service]\nEnvironment=A=1\n");
    is_found_and_repaired(machine, "units", "warning", &format!("{REGISTRATOR} runs as it was before"));
    sh(machine, &format!("rm -r {drop_in}; systemctl daemon-reload"));

    sh(
        machine,
        &format!("cp /etc/systemd/system/{REGISTRATOR} /root/; systemctl disable --now {REGISTRATOR}"),
    );
    sh(machine, &format!("rm /etc/systemd/system/{REGISTRATOR}; systemctl daemon-reload"));
    is_found_and_repaired(machine, "units", "warning", &format!("{REGISTRATOR} is not installed"));
    assert_eq!(sh(machine, &format!("cmp /root/{REGISTRATOR} /etc/systemd/system/{REGISTRATOR}")), "");
    give_image(machine, "web", 80);
}
