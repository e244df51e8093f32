//! `fleet up`: machines with sshd alone become a cluster; once more changes nothing; one more machine joins.

use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use super::machine::{Machine, User};
use crate::support::netns::Network;

/// A network with machines in it.
struct Site {
    network: Network,
    user: User,
    machines: Vec<Machine>,
}

impl Site {
    fn new(count: usize) -> Self {
        let network = Network::new(count, 1);
        let user = User::new();
        let machine = |number: usize| {
            let (address, launcher) = (network.address(number), network.launcher(number));
            Machine::at(&format!("{number}-host"), (address, 22).into(), launcher).let_in(&user.key()).start()
        };
        let machines = (0..count).map(machine).collect();
        Self { network, user, machines }
    }

    fn up(&self, count: usize, more: &[&str]) -> (i32, String, String) {
        self.up_these(&(0..count).collect::<Vec<_>>(), more)
    }

    fn up_these(&self, numbers: &[usize], more: &[&str]) -> (i32, String, String) {
        let _inside = self.network.enter();
        let names: Vec<String> =
            numbers.iter().map(|number| self.machines[*number].address.ip().to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.user.fleet(&[&["up", "--accept-new"], more, &names[..]].concat())
    }

    /// Runs a program on a machine; gives what it prints.
    #[track_caller]
    fn ssh(&self, number: usize, words: &[&str]) -> String {
        let _inside = self.network.enter();
        let name = self.machines[number].address.ip().to_string();
        let (code, stdout, stderr) =
            self.user.fleet(&[&["--accept-new", "--machines", &name, "ssh", &name], words].concat());
        assert_eq!(code, 0, "{stderr}");
        stdout
    }

    /// What `status --json` says on a machine.
    fn status(&self, number: usize) -> Value {
        serde_json::from_str(&self.ssh(number, &["/opt/bin/corediscover", "status", "--json"])).unwrap()
    }
}

/// What is said of a member whose agent was down.
const AGAIN: &str = ": its agent was down and is started again; its units and data stay\n";

#[test]
fn plain_machines_become_a_cluster_and_stay_as_they_are_and_a_new_one_joins_as_a_client() {
    let site = Site::new(4);
    let (code, stdout, stderr) = site.up(3, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[0].read("lib/agent.log"));
    assert!(stderr.contains("10.77.0.1: brought the binary and 1 unit\n"), "{stderr}");
    assert_eq!(stdout.matches("  alive   server  ").count(), 3, "{stdout}");
    let unit = site.machines[1].read("system/corediscover-agent.service");
    let line = "agent \\\n  -server \\\n  -bootstrap-expect 3 \\\n  -join 10.77.0.1 \\\n  -join 10.77.0.2 \\\n  -join 10.77.0.3 \\\n  \
                -advertise 10.77.0.2 \\\n";
    assert!(unit.contains(line), "{unit}");
    let log = site.machines[0].read("lib/systemctl.log");
    let (code, again, stderr) = site.up(3, &[]);
    assert_eq!((code, again), (0, stdout), "{stderr}");
    assert_eq!(stderr.matches(": nothing to change\n").count(), 3, "{stderr}");
    let now = site.machines[0].read("lib/systemctl.log");
    let changes = |line: &&str| !line.starts_with("is-active") && !line.starts_with("show");
    assert_eq!(now[log.len()..].lines().filter(changes).count(), 0, "{now}");
    let (code, stdout, stderr) = site.up(4, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[3].read("lib/agent.log"));
    assert_eq!(stderr.matches(": nothing to change\n").count(), 3, "{stderr}");
    assert!(stdout.contains("3-host  10.77.0.4:8301  alive   client  "), "{stdout}");
    assert_eq!(site.status(3)["voters"].as_array().unwrap().len(), 3);
    // With no agent to ask, the disks tell of the cluster: in another order, all stay what they are.
    let unit = |number: usize| site.machines[number].read("system/corediscover-agent.service");
    let before = [0, 1, 2, 3].map(unit);
    for number in 0..4 {
        site.ssh(number, &["systemctl", "stop", "corediscover-agent.service"]);
    }
    let (code, stdout, stderr) = site.up_these(&[3, 2, 1, 0], &[]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[3].read("lib/agent.log"));
    assert_eq!(stderr.matches(AGAIN).count(), 4, "{stderr}");
    assert_eq!([0, 1, 2, 3].map(unit), before);
    assert!(!unit(3).contains("-server"), "{}", unit(3));
    // A new machine that was left when its agent's unit was there, and nothing was started.
    site.ssh(3, &["systemctl", "stop", "corediscover-agent.service"]);
    site.ssh(3, &["rm", "-r", "/var/lib/private/corediscover"]);
    let log = site.machines[3].read("lib/systemctl.log").len();
    let (code, stdout, stderr) = site.up(4, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[3].read("lib/agent.log"));
    let done = site.machines[3].read("lib/systemctl.log")[log..].to_owned();
    assert!(done.contains("enable --quiet -- corediscover-agent.service\n"), "{done}");
    // A machine with data and without a unit is not taken for a blank one.
    site.ssh(2, &["systemctl", "stop", "corediscover-agent.service"]);
    site.ssh(2, &["rm", "/etc/systemd/system/corediscover-agent.service"]);
    let (code, _, stderr) = site.up(4, &[]);
    assert!(code == 1 && stderr.contains("10.77.0.3 has data of cluster "), "{stderr}");
}

#[test]
fn members_keep_their_settings_and_new_machines_get_them() {
    let site = Site::new(3);
    let (code, stdout, stderr) = site.up(1, &["--datacenter", "east", "--dns-port", "8601"]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[0].read("lib/agent.log"));
    let log = |number: usize| {
        let log = site.machines[number].read("lib/systemctl.log");
        let changes = |line: &&str| !line.starts_with("is-active") && !line.starts_with("show");
        log.lines().filter(changes).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = log(0);
    for (flags, said) in [
        (["--datacenter", "west"], "was set up with --datacenter east, not west"),
        (["--domain", "corp.example"], "was set up with --domain consul, not corp.example"),
        (["--servers", "3"], "was set up with --servers 1, not 3"),
    ] {
        let (code, stdout, stderr) = site.up(3, &flags);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains(&format!("error: 10.77.0.1 is a member and {said}: ")), "{stderr}");
        assert!(
            stderr.contains("Leave the flag out") && stderr.contains("hint: nothing was changed"),
            "{stderr}"
        );
        assert!(!site.machines[1].path("opt/bin").exists());
    }
    // A port can be changed by nobody where nobody is new, and be another one on a new machine.
    let (code, _, stderr) = site.up(1, &["--dns-port", "8600"]);
    assert!(code == 1 && stderr.contains("was set up with --dns-port 8601, not 8600"), "{stderr}");
    assert_eq!(log(0), before);
    let (code, stdout, stderr) = site.up(2, &["--dns-port", "8602"]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[1].read("lib/agent.log"));
    let note = "--dns-port 8602 is for the machines that are new; members keep theirs (10.77.0.1: 8601)\n";
    assert!(stderr.contains(note) && stderr.contains("10.77.0.1: nothing to change\n"), "{stderr}");
    let unit = |number: usize| site.machines[number].read("system/corediscover-agent.service");
    assert!(unit(1).contains("-datacenter east -dns-port 8602\n"), "{}", unit(1));
    let (code, stdout, stderr) = site.up_these(&[0, 2], &[]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[2].read("lib/agent.log"));
    assert!(unit(2).contains("-datacenter east -dns-port 8601\n"), "{}", unit(2));
}

#[test]
fn a_member_gets_the_units_for_what_came_to_it_later_and_keeps_those_that_it_has() {
    let site = Site::new(2);
    let (code, stdout, stderr) = site.up(2, &["--domain", "corp.example", "--dns-port", "8601"]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[0].read("lib/agent.log"));
    let lacks = ["no Docker: its containers are not registered; ", "systemd-resolved does not run: "];
    for (address, lack) in ["10.77.0.1", "10.77.0.2"].iter().flat_map(|one| lacks.map(|lack| (one, lack))) {
        let line = stderr.lines().find(|line| line.starts_with(&format!("{address}: {lack}")));
        assert!(line.is_some_and(|line| line.ends_with(" and run this again")), "{stderr}");
    }
    let member = &site.machines[1];
    let unit = |name: &str| member.read(&format!("system/corediscover-{name}.service"));
    let agent = unit("agent");
    let come = "mkdir -p /var/lib/state; echo active >/var/lib/state/systemd-resolved.service; \
                python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/run/docker.sock\")'";
    site.ssh(1, &["sh", "-c", come]);
    let log = member.read("lib/systemctl.log").len();
    let (code, stdout, stderr) = site.up(2, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stderr.contains("10.77.0.1: nothing to change\n"), "{stderr}");
    assert!(stderr.contains("10.77.0.2: brought 3 units\n"), "{stderr}");
    assert!(lacks.iter().all(|lack| !stderr.contains(&format!("10.77.0.2: {lack}"))), "{stderr}");
    assert_eq!(unit("agent"), agent);
    let line = "ExecStart=/opt/bin/corediscover resolved apply --domain corp.example --dns-port 8601\n";
    assert!(unit("resolved").contains(line), "{}", unit("resolved"));
    let log = member.read("lib/systemctl.log")[log..].to_owned();
    let changes: Vec<&str> =
        log.lines().filter(|line| !line.starts_with("is-active") && !line.starts_with("show")).collect();
    let new =
        "corediscover-registrator.service corediscover-containers.service corediscover-resolved.service";
    assert_eq!(
        changes,
        ["daemon-reload", &format!("enable --quiet -- {new}"), &format!("--no-block start -- {new}")]
    );
    let (code, _, stderr) = site.up(2, &[]);
    assert_eq!((code, stderr.matches(": nothing to change\n").count()), (0, 2), "{stderr}");
    // What was changed by hand to something that is not understood is not guessed.
    let path = "/etc/systemd/system/corediscover-";
    site.ssh(1, &["sed", "-i", "s/-dns-port 8601/-dns-port ${PORT}/", &format!("{path}agent.service")]);
    site.ssh(1, &["rm", &format!("{path}registrator.service")]);
    let (code, _, stderr) = site.up(2, &[]);
    assert_eq!(code, 0, "{stderr}");
    let said = "10.77.0.2: corediscover-agent.service says `-dns-port ${PORT}`, which is not understood here: not written are \
                corediscover-registrator.service; ";
    assert!(stderr.contains(said) && stderr.contains("10.77.0.2: nothing to change\n"), "{stderr}");
    assert_eq!(unit("registrator"), "");
}

#[test]
fn a_client_whose_agent_is_down_is_started_with_what_it_has() {
    let site = Site::new(2);
    let (code, stdout, stderr) = site.up(2, &["--datacenter", "east"]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", site.machines[1].read("lib/agent.log"));
    let client = &site.machines[1];
    // Another unit of ours that runs there, as where Docker is.
    client.put("system/corediscover-registrator.service", "[Service]\nExecStart=/bin/sleep 1000\n", 0o644);
    site.ssh(1, &["systemctl", "enable", "corediscover-registrator.service"]);
    site.ssh(1, &["systemctl", "stop", "corediscover-agent.service", "corediscover-registrator.service"]);
    client.put("lib/private/corediscover/mark", "", 0o600);
    let file = |name: &str| {
        let meta = std::fs::metadata(client.path(name)).unwrap();
        (meta.ino(), meta.mtime_nsec())
    };
    let files =
        ["system/corediscover-agent.service", "opt/bin/corediscover", "lib/private/corediscover/mark"];
    let (before, log) = (files.map(file), client.read("lib/systemctl.log").len());
    let (code, stdout, stderr) = site.up(2, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}{}", client.read("lib/agent.log"));
    assert!(stderr.contains(&format!("10.77.0.2{AGAIN}")), "{stderr}");
    assert!(stderr.contains("10.77.0.1: nothing to change\n"), "{stderr}");
    assert_eq!(files.map(file), before);
    let log = client.read("lib/systemctl.log")[log..].to_owned();
    let changes: Vec<&str> =
        log.lines().filter(|line| !line.starts_with("is-active") && !line.starts_with("show")).collect();
    let start = "--no-block start -- corediscover-agent.service corediscover-registrator.service";
    assert_eq!(changes, [start], "{log}");
    // Data of a cluster of others is not mixed with this one's.
    site.ssh(1, &["systemctl", "stop", "corediscover-agent.service"]);
    let peers = r#"{"data":["10.99.0.1:8301"],"format":1}"#;
    client.put("lib/private/corediscover/peers.json", peers, 0o600);
    let (code, stdout, stderr) = site.up(2, &[]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let said = "10.77.0.2 has data of a cluster with other machines (10.99.0.1), none of which is named here";
    assert!(stderr.contains(said) && stderr.contains("hint: nothing was changed"), "{stderr}");
}

#[test]
fn a_new_binary_is_brought_to_all_and_run_by_one_machine_after_the_other() {
    let site = Site::new(3);
    let (code, stdout, stderr) = site.up(3, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let process = |number: usize| site.machines[number].read("lib/state/corediscover-agent.service.pid");
    let before = [0, 1, 2].map(process);
    // Bytes behind the end of a program change nothing but its hash.
    let other = site.user.home.path().join("other");
    let mut bytes = std::fs::read(crate::support::binary()).unwrap();
    bytes.extend_from_slice(b"other");
    corediscover::host::files::write_atomic(&other, &bytes, 0o755).unwrap();
    let other = other.display().to_string();
    // A program that does not run there replaces nothing.
    let cut = site.user.home.path().join("cut");
    corediscover::host::files::write_atomic(&cut, &bytes[..64], 0o755).unwrap();
    let (code, _, stderr) = site.up(3, &["--binary", &cut.display().to_string()]);
    assert!(code == 1 && stderr.contains("the binary does not run there"), "{stderr}");
    for machine in &site.machines {
        assert_eq!(std::fs::read_dir(machine.path("opt/bin")).unwrap().count(), 1);
        assert!(machine.path("opt/bin/corediscover").metadata().unwrap().len() > 64);
    }
    assert_eq!([0, 1, 2].map(process), before);
    // A machine that does not come back ends it: the others keep the cluster up.
    site.machines[0].put("lib/refuses", "", 0o644);
    let (code, _, stderr) = site.up(3, &["--binary", &other]);
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stderr.matches(": brought the binary\n").count(), 3, "{stderr}");
    let left = "the restarts end here; still with the binary of before: 10.77.0.2, 10.77.0.3\n";
    assert!(stderr.contains(left) && !stderr.contains(": restarted\n"), "{stderr}");
    assert_eq!([0, 1, 2].map(process), before);
    std::fs::remove_file(site.machines[0].path("lib/refuses")).unwrap();
    // It goes on from there.
    let (code, again, stderr) = site.up(3, &["--binary", &other]);
    assert_eq!((code, again), (0, stdout), "{stderr}");
    assert_eq!(stderr.matches(": nothing to change\n").count(), 3, "{stderr}");
    let restarted: Vec<&str> = stderr.lines().filter(|line| line.ends_with(": restarted")).collect();
    assert_eq!(restarted, ["10.77.0.1: restarted", "10.77.0.2: restarted", "10.77.0.3: restarted"]);
    for (number, before) in before.iter().enumerate() {
        assert_ne!(process(number), *before);
        assert_eq!(
            std::fs::read(site.machines[number].path("opt/bin/corediscover")).unwrap().len(),
            bytes.len()
        );
    }
}

#[test]
fn nothing_is_changed_where_one_machine_cannot_be_set_up() {
    let mut site = Site::new(2);
    let changed = |site: &Site| site.machines[0].path("opt/bin").exists();
    let (code, _, stderr) = site.up(2, &["--servers", "3"]);
    assert!(code == 1 && stderr.contains("2 machines cannot hold 3 servers"), "{stderr}");
    site.machines[1].put("system/corediscover-agent.service", "[Service]\nExecStart=/x\n", 0o644);
    let (code, _, stderr) = site.up(2, &[]);
    assert!(
        code == 1 && stderr.contains("10.77.0.2 has an agent that `fleet up` did not set up"),
        "{stderr}"
    );
    site.machines[1].power_off();
    let (code, _, stderr) = site.up(2, &["--timeout", "2s"]);
    assert!(code == 1 && stderr.contains("nothing was changed: 10.77.0.2 cannot be set up"), "{stderr}");
    assert!(!changed(&site));
    let (code, _, stderr) = site.up(1, &["--binary", "/etc/hostname"]);
    assert!(code == 1 && stderr.contains("the binary is none for Linux"), "{stderr}");
}
