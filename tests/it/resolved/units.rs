//! Units and cut-off runs, on a machine with the real systemd.

use std::fs;

use super::machine::Machine;
use super::{finds, put};
use crate::support::etcd::tls_file;
use crate::support::machine::PATIENCE;
use crate::support::{corediscover, eventually};

#[test]
fn a_run_that_was_cut_off_before_the_resolver_was_told_is_finished_by_the_next() {
    let (machine, _elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    let before = machine.settings();
    // The machine's power, or whoever is impatient.
    let script = "#!/bin/sh\ncase $1 in try-*) kill -KILL $PPID;; *) exec /usr/bin/systemctl \"$@\";; esac\n";
    put(&machine, "/tmp/cut/systemctl", script);
    machine.run(&["chmod", "755", "/tmp/cut/systemctl"]);
    let cut = |words: &[&str]| {
        let mut all = vec!["env", "PATH=/tmp/cut:/usr/sbin:/usr/bin", "/opt/bin/corediscover", "resolved"];
        all.extend(words);
        assert!(!machine.output(&all).status.success(), "{words:?}");
    };
    cut(&["apply", "--mode", "drop-in"]);
    assert!(!machine.output(&["getent", "hosts", "web.service.consul"]).status.success());
    assert_eq!(machine.resolved(&["apply", "--mode", "drop-in"]), "restarted the resolver");
    finds(&machine, "web.service.consul", "10.1.2.3");
    assert_eq!(machine.resolved(&["apply", "--mode", "drop-in"]), "");

    cut(&["remove"]);
    assert!(machine.output(&["getent", "hosts", "web.service.consul"]).status.success());
    assert_eq!(machine.resolved(&["remove"]), "restarted the resolver");
    assert_eq!(machine.settings(), before);

    // The same for dockerd.
    put(&machine, "/etc/systemd/system/docker.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n");
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "docker"]);
    machine.resolved(&["apply"]);
    let script = "#!/bin/sh\ncase \"$1 $2\" in 'try-restart docker.service') kill -KILL $PPID;; *) exec /usr/bin/systemctl \"$@\";; esac\n";
    put(&machine, "/tmp/cut/systemctl", script);
    cut(&["apply", "--docker", "--restart-docker", "always"]);
    assert_eq!(machine.resolved(&["apply", "--docker", "--restart-docker", "always"]), "restarted dockerd");
}

#[test]
fn after_a_boot_the_server_that_docker_names_answers_before_docker_starts_a_container() {
    let (machine, _elsewhere) = Machine::boot();
    let folder = tempfile::tempdir().unwrap();
    let units = corediscover().args(["units", "--systemd", "--out"]).arg(folder.path()).output().unwrap();
    assert!(units.status.success());
    for unit in ["corediscover-containers.service", "corediscover-resolved.service"] {
        fs::copy(folder.path().join(unit), machine.path("/etc/systemd/system").join(unit)).unwrap();
    }
    // A dockerd whose containers ask at once.
    let ask = "/usr/bin/dig +short +tries=1 @169.254.53.1 localhost";
    let docker = format!(
        "[Service]\nExecStartPre=/bin/sh -c '{ask} >/tmp/asked'\nExecStart=/usr/bin/sleep infinity\n"
    );
    put(&machine, "/etc/systemd/system/docker.service", &docker);
    let boot = "[Unit]\nWants=docker.service corediscover-resolved.service corediscover-containers.service\n";
    put(&machine, "/etc/systemd/system/boot.target", boot);
    machine.run(&["systemctl", "daemon-reload"]);

    // Docker's settings name nobody: nothing is made.
    assert_eq!(machine.resolved(&["restore"]), "");
    assert!(!machine.output(&["ip", "link", "show", "cdns0"]).status.success());

    put(&machine, "/etc/docker/daemon.json", "{\n  \"dns\": [\"169.254.53.1\"]\n}\n");
    machine.run(&["systemctl", "start", "boot.target"]);
    eventually(PATIENCE, "docker has started", || {
        machine.output(&["systemctl", "is-active", "docker"]).status.success().then_some(())
    });
    let journal = || machine.run(&["journalctl", "--no-pager"]);
    assert_eq!(machine.text("/tmp/asked").unwrap(), "127.0.0.1\n", "{}", journal());
    let state =
        machine.run(&["systemctl", "show", "--property=Result", "--value", "corediscover-containers"]);
    assert_eq!(state, "success");
    assert_eq!(machine.resolved(&["restore"]), "", "a second time changes nothing");
    let log = machine.run(&["journalctl", "--no-pager", "-u", "corediscover-containers"]);
    assert!(log.contains("made the link cdns0"), "{log}");
}

#[test]
fn the_agents_unit_reads_files_for_etcd_that_only_root_may_read() {
    let (machine, _elsewhere) = Machine::boot();
    let folder = tempfile::tempdir().unwrap();
    let written = corediscover()
        .args(["units", "--systemd", "--etcd", "https://10.99.0.53:2379"])
        .args([
            "--etcd-ca",
            "/etc/etcd/ca.pem",
            "--etcd-cert",
            "/etc/etcd/a.pem",
            "--etcd-key",
            "/etc/etcd/a.key",
        ])
        .arg("--out")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let unit = "corediscover-agent.service";
    fs::copy(folder.path().join(unit), machine.path("/etc/systemd/system").join(unit)).unwrap();
    for (name, file) in [("ca.pem", "ca.pem"), ("a.pem", "client.pem"), ("a.key", "client-key.pem")] {
        let path = format!("/etc/etcd/{name}");
        put(&machine, &path, &fs::read_to_string(tls_file(file)).unwrap());
        machine.run(&["chmod", "600", &path]);
    }
    machine.run(&["ip", "link", "add", "eth9", "type", "veth", "peer", "name", "eth8"]);
    machine.run(&["ip", "address", "add", "10.98.0.1/24", "dev", "eth9"]);
    machine.run(&["ip", "link", "set", "eth9", "up"]);
    put(&machine, "/etc/environment", "COREOS_PRIVATE_IPV4=10.98.0.1\n");
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "--no-block", "start", unit]);
    let log = || machine.run(&["journalctl", "--no-pager", "-u", unit]);
    // Nobody listens there: what it waits for is the last thing that it needs.
    eventually(PATIENCE, "the agent asks etcd", || {
        log().contains("etcd at https://10.99.0.53:2379 cannot be used").then_some(())
    });
    assert!(!log().contains("cannot read"), "{}", log());
    let owner = machine.run(&["stat", "-L", "-c", "%a %U", "/run/corediscover-etcd"]);
    assert!(owner.starts_with("700 ") && owner != "700 root", "nobody else sees the key: {owner}");
    machine.run(&["systemctl", "stop", unit]);
    assert!(!machine.path("/run/private/corediscover-etcd").exists());
}
