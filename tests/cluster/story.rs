//! The life of a cluster, from the first power-on: one user-data, given unchanged to every machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::machines::{BRIDGE, Machine, Network, PATIENCE, daemon_json};
use crate::released::{ProvisionServer, corediscover};
use crate::wait::{eventually, tell_failures_at_once};

/// Where user-data expects it.
const INSTALLED: &str = "/opt/bin/corediscover";

/// A busybox that serves HTTP, as an image of this name that exposes `port`.
pub(crate) fn give_image(machine: &Machine, name: &str, port: u16) {
    let root = tempfile::tempdir().unwrap();
    let programs = root.path().join("bin");
    fs::create_dir(&programs).unwrap();
    fs::copy("/bin/busybox", programs.join("busybox"))
        .expect("the Debian package busybox-static is installed");
    for program in ["sh", "httpd", "nslookup", "ping", "sleep"] {
        symlink("busybox", programs.join(program)).unwrap();
    }
    let tar = Command::new("tar").arg("-C").arg(root.path()).args(["-c", "."]).output().unwrap();
    let command = format!(r#"CMD ["/bin/httpd","-f","-p","{port}"]"#);
    machine.image(name, &tar.stdout, &[&format!("EXPOSE {port}"), &command]);
}

/// The addresses that the machine's own resolver gives for a name.
fn resolved(machine: &Machine, name: &str) -> BTreeSet<String> {
    let text = machine.answer(&["getent", "ahostsv4", name]).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Waits until the machine's own resolver gives exactly these addresses for a name.
#[track_caller]
pub(crate) fn until_resolved(machine: &Machine, name: &str, addresses: &[&str]) {
    let wanted: BTreeSet<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut last = BTreeSet::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(PATIENCE, &format!("{} finds {wanted:?} for {name}", machine.name), || {
            last = resolved(machine, name);
            (last == wanted).then_some(())
        });
    }));
    assert!(found.is_ok(), "{} finds {last:?} for {name}, not {wanted:?}", machine.name);
}

/// What `status --json` of a machine's agent tells.
fn status(machine: &Machine) -> Option<Value> {
    serde_json::from_str(&machine.answer(&[INSTALLED, "status", "--json"])?).ok()
}

/// The ids of the clusters that the machine's members belong to.
fn cluster_ids(machine: &Machine) -> BTreeSet<String> {
    let text = machine.run(&["curl", "-sS", "http://127.0.0.1:8500/v1/agent/members"]);
    let members: Vec<Value> = serde_json::from_str(&text).unwrap();
    members
        .iter()
        .filter(|member| member["Status"] == 1)
        .map(|member| member["Tags"]["cluster"].to_string())
        .collect()
}

/// Waits until all these machines agree: one leader, these voters, nobody else alive.
#[track_caller]
pub(crate) fn until_agreed(machines: &[&Machine], voters: &[&Machine]) {
    let addresses = |machines: &[&Machine], port: &str| -> BTreeSet<String> {
        machines.iter().map(|machine| format!("{}{port}", machine.address)).collect()
    };
    let (wanted, alive) = (addresses(voters, ":8300"), addresses(machines, ""));
    let texts = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for machine in machines {
        eventually(PATIENCE, &format!("{} agrees that {wanted:?} vote", machine.name), || {
            let status = status(machine)?;
            let members = status["members"].as_array()?.iter();
            let up = members.filter(|member| member["status"] == "alive");
            let up: BTreeSet<String> =
                up.filter_map(|member| Some(member["address"].as_str()?.to_owned())).collect();
            let agreed = texts(&status["voters"]) == wanted && up == alive && status["leader"] != "";
            agreed.then_some(())
        });
    }
}

/// Asks again and again, on a machine, for a name by the machine's own resolver; tells how often there was no answer.
struct Asking<'a> {
    machine: &'a Machine,
}

impl<'a> Asking<'a> {
    /// Programs ask about 50 times a second.
    const SCRIPT: &'static str = r#"
        trap 'exit 0' TERM; asked=0; failed=0; echo $$ >/run/asking.pid
        while :; do
          getent ahostsv4 "$1" >/dev/null || { failed=$((failed + 1)); date +%T.%N >>/run/asking.failed; }
          asked=$((asked + 1)); echo "$asked $failed" >/run/asking.new; mv /run/asking.new /run/asking
          sleep 0.02
        done"#;

    fn start(machine: &'a Machine, name: &str) -> Self {
        machine.start(&["sh", "-c", Self::SCRIPT, "asking", name]);
        machine.until(&["cat", "/run/asking"], |text| text.contains(' '));
        Self { machine }
    }

    /// Questions so far, and those that were not answered.
    fn counts(&self) -> (u64, u64) {
        let text = self.machine.until(&["cat", "/run/asking"], |text| text.contains(' '));
        let (asked, failed) = text.split_once(' ').unwrap();
        (asked.parse().unwrap(), failed.parse().unwrap())
    }

    /// Stops; there were questions, and each had its answer.
    #[track_caller]
    fn all_were_answered(self) {
        let (asked, failed) = self.counts();
        let when = self.machine.answer(&["cat", "/run/asking.failed"]).unwrap_or_default();
        self.machine.run(&["sh", "-c", "kill $(cat /run/asking.pid); rm -f /run/asking /run/asking.failed"]);
        assert!(asked > 0, "nothing was asked on {}", self.machine.name);
        assert_eq!(
            failed, 0,
            "{}: {failed} of {asked} questions had no answer, at {when}",
            self.machine.name
        );
    }
}

#[allow(clippy::print_stdout, reason = "how long it took is what whoever runs this wants to know")]
fn told(what: &str, since: Instant) {
    println!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}

#[test]
fn one_user_data_makes_blank_machines_a_cluster_that_outlives_reboots_losses_cuts_and_etcd() {
    tell_failures_at_once();
    let network = Network::new(1);
    let machines: Vec<Machine> = (1..=3).map(|number| Machine::blank(&network, number)).collect();
    let [one, two, three] = &machines[..] else { panic!("three machines") };
    let everybody = [one, two, three];
    let etcd: Vec<String> =
        everybody.iter().map(|machine| format!("http://{}:2379", machine.address)).collect();
    let etcd = etcd.join(",");
    let server = ProvisionServer::start(&network.host(), &["--etcd", &etcd]);
    let user_data = server.get("cloud-init/user-data");
    let digest = server.get("corediscover.sha512");
    let digest = digest.split(' ').next().unwrap();
    let how = format!("url={}corediscover/{digest},sha512={digest}", server.url());
    assert_eq!(user_data, corediscover(&["cloud-init", "--etcd", &etcd, "--binary", &how]));

    for machine in everybody {
        machine.etcd(&everybody);
        machine.user_data(&user_data);
    }
    let power_on = Instant::now();
    for machine in everybody {
        machine.power_on();
    }
    until_resolved(one, "consul.service.consul", &[&one.address, &two.address, &three.address]);
    told("power-on to the first answer", power_on);
    for machine in everybody {
        machine.until_running();
    }
    until_agreed(&everybody, &everybody);
    let ids = cluster_ids(one);
    assert_eq!(ids.len(), 1, "{ids:?}");
    let machine_ids: BTreeSet<String> = everybody.iter().map(|machine| machine.machine_id()).collect();
    assert_eq!(machine_ids.len(), 3, "each machine has its own id: {machine_ids:?}");
    told("power-on to a whole cluster", power_on);

    container_is_found_everywhere(everybody);
    resolver_is_left_as_it_was(three);
    reboots(&everybody, &ids);

    let four = Machine::blank(&network, 4);
    four.user_data(&user_data);
    three.power_off();
    let lost = Instant::now();
    four.power_on();
    let everybody = [one, two, &four];
    until_agreed(&everybody, &everybody);
    told("a machine lost for good to three voters again", lost);
    assert_eq!(cluster_ids(&four), ids);

    for machine in [one, &four] {
        give_image(machine, "redis", 6379);
    }
    for machine in everybody {
        machine.run(&["docker", "run", "-dP", "--name", "cache", "redis"]);
    }
    for machine in everybody {
        until_resolved(machine, "redis.service.consul", &[&one.address, &two.address, &four.address]);
    }
    cut_off_and_healed(everybody);
    etcd_is_lost(everybody);
    agents_are_restarted(everybody);
    assert_eq!(cluster_ids(one), ids);
}

/// `docker run -dP` on the second machine.
fn container_is_found_everywhere([one, two, three]: [&Machine; 3]) {
    give_image(two, "redis", 6379);
    let begin = Instant::now();
    two.run(&["docker", "run", "-dP", "--name", "cache", "redis"]);
    for machine in [one, two, three] {
        until_resolved(machine, "redis.service.consul", &[&two.address]);
    }
    told("docker run to the answer on every machine", begin);
    for machine in [one, three] {
        machine.run(&["ping", "-c", "1", "-W", "5", "redis.service.consul"]);
    }
    containers_find_it(three, &two.address);
    let port = two.run(&["docker", "port", "cache", "6379/tcp"]);
    let port = port.lines().next().and_then(|line| line.rsplit(':').next()).unwrap();
    let srv = one.run(&["resolvectl", "query", "--type=SRV", "redis.service.consul"]);
    assert!(srv.contains(&format!("IN SRV 1 1 {port} ")), "{srv}");
    let name = one.run(&["dig", "@127.0.0.1", "-p", "8600", "+short", "-x", &two.address]);
    assert_eq!(name, format!("{}.node.dc1.consul.", two.name));

    two.run(&["docker", "stop", "--time", "1", "cache"]);
    for machine in [one, three] {
        until_resolved(machine, "redis.service.consul", &[]);
    }
    two.run(&["docker", "rm", "cache"]);
}

/// Containers find it with nothing said, and in the way of CoreOS' time; other names are not answered by us.
fn containers_find_it(machine: &Machine, address: &str) {
    give_image(machine, "tools", 80);
    let name = "redis.service.consul";
    let asks = |options: &[&str], name: &str| {
        let line = [&["docker", "run", "--rm"], options, &["tools", "/bin/nslookup", name]].concat();
        machine.try_run(&line)
    };
    machine.until(&["systemctl", "is-active", "corediscover-resolved.service"], |state| state == "active");
    for options in [&[][..], &["--dns", BRIDGE, "--dns-search", "service.consul"]] {
        eventually(PATIENCE, &format!("a container with {options:?} finds {name}"), || {
            let told = asks(options, name);
            String::from_utf8_lossy(&told.stdout).contains(address).then_some(())
        });
    }
    let foreign = asks(&[], "www.example.org");
    assert!(
        !foreign.status.success(),
        "there is nobody to ask: {}",
        String::from_utf8_lossy(&foreign.stdout)
    );
    machine.run(&["docker", "run", "--rm", "tools", "/bin/ping", "-c", "1", "-W", "5", address]);
}

/// `systemctl stop` takes back what the units told the machine's resolver; what containers were told goes when asked for.
fn resolver_is_left_as_it_was(machine: &Machine) {
    machine.run(&["systemctl", "stop", "corediscover-agent.service"]);
    let state = machine.until(&["resolvectl", "status"], |text| !text.contains("consul"));
    assert!(!state.contains("8600"), "{state}");
    machine.run(&[INSTALLED, "resolved", "remove", "--docker"]);
    assert_eq!(machine.run(&["cat", "/etc/docker/daemon.json"]), daemon_json(), "as it was before");
    // The dockerd that was told goes on telling containers, so they are answered until it has started again.
    machine.run(&["systemctl", "restart", "docker.service"]);
    machine.run(&[INSTALLED, "resolved", "remove", "--docker"]);
    let left = machine.run(&[
        "sh",
        "-c",
        "ls /run/systemd/resolved.conf.d /run/systemd/network 2>/dev/null; ip -br link",
    ]);
    assert!(!left.contains("consul") && !left.contains("cdns0"), "{left}");
    machine.run(&["systemctl", "start", "corediscover-agent.service", "corediscover-resolved.service"]);
    machine.until(&["resolvectl", "status"], |text| text.contains("consul"));
}

/// One machine, then all at once.
fn reboots(machines: &[&Machine], ids: &BTreeSet<String>) {
    let [.., last] = machines else { panic!("a machine") };
    last.shut_down();
    last.power_on();
    last.until_running();
    until_agreed(machines, machines);
    for machine in machines {
        machine.shut_down();
    }
    let power_on = Instant::now();
    for machine in machines {
        machine.power_on();
    }
    for machine in machines {
        machine.until_running();
    }
    until_agreed(machines, machines);
    told("power-on of all to a whole cluster again", power_on);
    assert_eq!(cluster_ids(machines[0]), *ids);
}

/// The last machine hears nobody and nobody hears it: each side goes on, and both are one again.
fn cut_off_and_healed([one, two, cut]: [&Machine; 3]) {
    let rules = |action: &str| {
        for other in [one, two] {
            cut.run(&["iptables", "-w", action, "INPUT", "-s", &other.address, "-j", "DROP"]);
            cut.run(&["iptables", "-w", action, "OUTPUT", "-d", &other.address, "-j", "DROP"]);
        }
    };
    rules("-I");
    for machine in [one, two] {
        until_resolved(machine, "redis.service.consul", &[&one.address, &two.address]);
    }
    until_resolved(cut, "redis.service.consul", &[&cut.address]);
    one.until(&[INSTALLED, "kv", "put", "while-cut", "yes"], |_| true);
    rules("-D");
    let healed = Instant::now();
    until_agreed(&[one, two, cut], &[one, two, cut]);
    for machine in [one, two, cut] {
        until_resolved(machine, "redis.service.consul", &[&one.address, &two.address, &cut.address]);
    }
    told("a healed cut to one cluster again", healed);
    assert_eq!(cut.run(&[INSTALLED, "kv", "get", "while-cut"]), "yes");
}

/// The cluster needs etcd for its birth alone.
fn etcd_is_lost([one, two, three]: [&Machine; 3]) {
    for machine in [one, two] {
        machine.run(&["systemctl", "disable", "--now", "etcd.service"]);
        machine.run(&["sh", "-c", "rm -rf /var/lib/etcd/*"]);
    }
    two.run(&["docker", "run", "-dP", "--name", "later", "-e", "SERVICE_NAME=later", "redis"]);
    until_resolved(three, "later.service.consul", &[&two.address]);
    three.run(&["systemctl", "restart", "corediscover-agent.service"]);
    until_agreed(&[one, two, three], &[one, two, three]);
    until_resolved(three, "later.service.consul", &[&two.address]);
}

/// One agent after the other, as at an update: on the other machines no question is without its answer.
fn agents_are_restarted(machines: [&Machine; 3]) {
    for (turn, restarted) in machines.iter().enumerate() {
        let others = machines.iter().enumerate().filter(|(number, _)| *number != turn);
        let asking: Vec<Asking<'_>> =
            others.map(|(_, machine)| Asking::start(machine, "redis.service.consul")).collect();
        restarted.run(&["systemctl", "restart", "corediscover-agent.service"]);
        until_agreed(&machines, &machines);
        for machine in machines {
            let all: Vec<&str> = machines.iter().map(|machine| machine.address.as_str()).collect();
            until_resolved(machine, "redis.service.consul", &all);
        }
        for asking in asking {
            asking.all_were_answered();
        }
    }
}
