//! A machine whose firewall drops what comes in, as `ufw enable` makes it.

use super::machine::Machine;
use super::put;
use crate::support::eventually;
use crate::support::machine::PATIENCE;

const DAEMON: &str = "/etc/docker/daemon.json";

/// What `apply --docker` prints, and whether it succeeds.
fn apply(machine: &Machine) -> (bool, String) {
    let output = machine.output(&["corediscover", "resolved", "apply", "--docker"]);
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(told).unwrap())
}

/// Rules as `iptables` takes them; the program comes with Docker.
fn firewall(machine: &Machine, rules: &[&str]) {
    // Debian's alternatives are in /etc, which the machine has for itself.
    machine.run(&["mkdir", "/etc/alternatives"]);
    machine.run(&["ln", "-s", "/usr/sbin/iptables-nft", "/etc/alternatives/iptables"]);
    for rule in rules {
        let words: Vec<&str> = ["iptables", "-w"].into_iter().chain(rule.split(' ')).collect();
        machine.run(&words);
    }
}

/// The command that the hint names.
#[track_caller]
fn hint(told: &str) -> &str {
    let (_, hint) = told.split_once("hint: `").unwrap_or_else(|| panic!("no hint: {told}"));
    hint.split_once('`').unwrap().0
}

fn links(machine: &Machine) -> Vec<String> {
    let table = machine.run(&["ip", "-brief", "link"]);
    table.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

/// Docker's bridge, as dockerd makes it where no container runs.
fn bridge(machine: &Machine) {
    for line in [
        "ip link add docker0 type bridge",
        "ip address add 172.17.0.1/16 dev docker0",
        "ip link set docker0 up",
    ] {
        machine.run(&line.split(' ').collect::<Vec<_>>());
    }
}

#[test]
fn docker_is_not_told_of_a_resolver_that_a_firewall_keeps_from_containers() {
    let (machine, _elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    firewall(&machine, &["-A INPUT -i lo -j ACCEPT", "-P INPUT DROP"]);
    let daemon = "{\n    \"dns\": [\"10.0.0.2\"]\n}\n";
    put(&machine, DAEMON, daemon);

    // Before Docker has made its bridge, or where it makes none, networks of users are asked for.
    let (done, told) = apply(&machine);
    assert!(!done && told.contains("what comes over br-…") && told.contains("hint: `iptables -I "), "{told}");
    bridge(&machine);
    let (done, told) = apply(&machine);
    assert!(!done, "{told}");
    for part in [
        "containers would not be answered by 169.254.53.1:53, so Docker is not told of it",
        "a firewall of this machine does not let through what comes over docker0",
        "hint: `iptables -I INPUT -i docker0 -d 169.254.53.1 ",
    ] {
        assert!(told.contains(part), "`{part}` is not in {told}");
    }
    assert_eq!(machine.text(DAEMON).unwrap(), daemon);
    assert_eq!(machine.run(&["dig", "+short", "@169.254.53.1", "web.service.consul"]), "10.1.2.3", "over lo");
    assert_eq!(links(&machine), ["lo", "up0", "cdns0", "docker0"], "what asked is gone");

    // As ufw says it, where that is on.
    put(&machine, "/etc/ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n");
    let (_, with_ufw) = apply(&machine);
    assert_eq!(
        hint(&with_ufw),
        "ufw allow in on docker0 to 169.254.53.1 port 53 && ufw allow in on br-+ to 169.254.53.1 port 53"
    );
    put(&machine, "/etc/ufw/ufw.conf", "ENABLED=no\n");

    // The rules of the hint, as it prints them; those for docker0 alone, as they were once, leave the others out.
    let rules = hint(&told);
    let (for_docker0, _) = rules.split_once(" && iptables -I INPUT -i br-+ ").unwrap();
    machine.run(&["sh", "-ec", for_docker0]);
    let (done, only_docker0) = apply(&machine);
    assert!(!done && only_docker0.contains("what comes over br-…"), "{only_docker0}");
    assert_eq!(machine.text(DAEMON).unwrap(), daemon);
    assert_eq!(hint(&only_docker0), rules);
    machine.run(&["sh", "-ec", rules]);
    let (done, told) = apply(&machine);
    assert!(done, "{told}");
    assert_eq!(
        machine.text(DAEMON).unwrap(),
        daemon.replace("[\"10.0.0.2\"]", "[\"169.254.53.1\", \"10.0.0.2\"]")
    );
    assert_eq!(links(&machine), ["lo", "up0", "cdns0", "docker0"], "what asked is gone");
    assert_eq!(machine.resolved(&["apply", "--docker"]), "");
}

#[test]
fn a_firewall_of_nft_is_opened_in_its_own_chain() {
    let (machine, _elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    bridge(&machine);
    // As Docker leaves the chain of iptables: what it accepts is dropped all the same.
    firewall(&machine, &["-P INPUT ACCEPT"]);
    let own = "table inet own {\n chain incoming {\n  type filter hook input priority 0; policy drop;\n  \
               ct state established,related accept\n  iifname \"lo\" accept\n }\n}\n";
    put(&machine, "/etc/nftables.conf", own);
    machine.run(&["nft", "-f", "/etc/nftables.conf"]);

    let (done, told) = apply(&machine);
    assert!(!done && told.contains("(/etc/nftables.conf)"), "{told}");
    let rules = hint(&told);
    assert!(rules.starts_with("nft 'insert rule inet own incoming iifname \"docker0\" "), "{rules}");
    machine.run(&["sh", "-ec", rules]);
    let (done, told) = apply(&machine);
    assert!(done, "{told}");
}

#[test]
fn an_address_that_a_container_has_is_not_asked_from() {
    let (machine, _elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    bridge(&machine);
    for line in [
        "ip netns add box",
        "ip link add out type veth peer name eth0 netns box",
        "ip link set out master docker0 up",
        "ip -n box address add 172.17.255.254/16 dev eth0",
        "ip -n box link set eth0 up",
    ] {
        machine.run(&line.split(' ').collect::<Vec<_>>());
    }
    let neighbour = ["ip", "-4", "neighbour", "show", "172.17.255.254"];
    eventually(PATIENCE, "the machine knows the container", || {
        machine.output(&[
            "ip",
            "netns",
            "exec",
            "box",
            "dig",
            "+tries=1",
            "+time=1",
            "@172.17.0.1",
            "localhost",
        ]);
        machine.run(&neighbour).contains("lladdr").then_some(())
    });
    let hardware = || machine.run(&neighbour).split_whitespace().nth(4).map(str::to_owned);
    let before = hardware();
    let (done, told) = apply(&machine);
    assert!(done, "{told}");
    assert_eq!(hardware(), before, "nobody else said that he has it");
}
