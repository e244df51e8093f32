//! `corediscover resolved` against the real systemd-resolved, with a real agent behind it.

mod firewall;
mod machine;
mod units;

use std::fs;
use std::io::Write as _;

use serde_json::Value;

use crate::support::machine::PATIENCE;
use crate::support::{Running, corediscover, eventually};
use machine::{ELSEWHERE, Machine};

/// Programs that ask in every way there is: the resolver's own interface, the C library, and DNS at its address.
#[track_caller]
fn finds(machine: &Machine, name: &str, address: &str) {
    let asked = machine.run(&["resolvectl", "--legend=no", "--cache=no", "query", name]);
    assert!(asked.contains(address), "{asked}");
    assert!(machine.run(&["getent", "ahostsv4", name]).starts_with(address));
    assert_eq!(machine.run(&["dig", "+short", "@127.0.0.53", name, "A"]), address);
}

/// Puts a file onto the machine.
fn put(machine: &Machine, path: &str, text: &str) {
    let place = machine.path(path);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::File::create(place).unwrap().write_all(text.as_bytes()).unwrap();
}

fn status(machine: &Machine) -> Value {
    let output = machine.output(&["corediscover", "resolved", "status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["Works"], output.status.success(), "{status}");
    status
}

#[test]
fn by_a_link_of_our_own_the_domain_goes_to_the_agent_and_nothing_else() {
    let (machine, elsewhere) = Machine::boot();
    let agent = machine.start_agent();
    let before = machine.settings();
    let resolver = machine.resolver();
    assert_eq!(status(&machine)["Mode"], Value::Null);

    machine.resolved(&["apply", "--mode", "link"]);
    elsewhere.take();
    agent.take();
    finds(&machine, "web.service.consul", "10.1.2.3");
    finds(&machine, "m1.node.consul", "127.0.0.1");
    let service = machine.run(&["resolvectl", "query", "--type=SRV", "web.service.consul"]);
    assert!(service.contains("IN SRV 1 1 80 "), "{service}");
    finds(&machine, "example.org", ELSEWHERE);
    finds(&machine, "www.example.org", ELSEWHERE);
    assert!(!machine.output(&["getent", "hosts", "nobody.service.consul"]).status.success());
    let (ours, foreign) = agent.take();
    assert!(ours.contains(&"web.service.consul".to_owned()));
    assert_eq!(foreign, [""; 0], "the agent was asked for these");
    let (leaked, others) = elsewhere.take();
    assert_eq!(leaked, [""; 0], "these left the machine");
    assert!(others.contains(&"example.org".to_owned()));

    let found = status(&machine);
    assert_eq!(
        (&found["Mode"], &found["Works"], &found["Settings"]["dns of cdns0"]),
        (&Value::from("link"), &Value::from(true), &Value::from("127.0.0.1:8600"))
    );
    assert_eq!(machine.resolved(&["apply", "--mode", "link"]), "", "nothing to change");
    assert_eq!(machine.resolver(), resolver, "the resolver was never restarted");

    // The resolver keeps the settings of its links.
    machine.run(&["systemctl", "restart", "systemd-resolved"]);
    finds(&machine, "web.service.consul", "10.1.2.3");
    machine.resolved(&["remove"]);
    assert_eq!(machine.settings(), before);
    assert!(!machine.output(&["ip", "link", "show", "cdns0"]).status.success());
    assert_eq!(machine.resolved(&["remove"]), "", "there is nothing to remove");
    assert!(!machine.output(&["getent", "hosts", "web.service.consul"]).status.success());
}

#[test]
fn a_drop_in_works_too_is_written_once_and_leaves_nothing_behind() {
    let (machine, elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    let before = machine.settings();

    machine.resolved(&["apply", "--mode", "drop-in"]);
    let resolver = machine.resolver();
    elsewhere.take();
    finds(&machine, "web.service.consul", "10.1.2.3");
    finds(&machine, "example.org", ELSEWHERE);
    assert_eq!(elsewhere.take().0, [""; 0], "these left the machine");
    assert_eq!(status(&machine)["Mode"], "drop-in");
    assert_eq!(machine.resolved(&["apply", "--mode", "drop-in"]), "");
    assert_eq!(machine.resolver(), resolver, "no second restart");

    // Another way takes the place of the first.
    machine.resolved(&["apply", "--mode", "link"]);
    assert_eq!(machine.text("/run/systemd/resolved.conf.d/00-consul-dns.conf"), None);
    finds(&machine, "web.service.consul", "10.1.2.3");

    // systemd gives a unit up that is restarted more than five times in ten seconds.
    for _ in 0..8 {
        machine.resolved(&["apply", "--mode", "drop-in"]);
        machine.resolved(&["remove"]);
    }
    assert_eq!(machine.settings(), before);
    finds(&machine, "example.org", ELSEWHERE);
    machine.resolved(&["apply", "--mode", "drop-in"]);
    machine.resolved(&["remove", "--no-block"]);
    eventually(PATIENCE, "the resolver forgets", || {
        (machine.output(&["resolvectl", "dns"]).status.success() && machine.settings() == before)
            .then_some(())
    });
}

#[test]
fn containers_find_names_on_every_bridge_and_other_names_without_the_agent() {
    let (machine, elsewhere) = Machine::boot();
    let agent = machine.start_agent();
    let before = machine.settings();
    let daemon = "{\n    \"bip\": \"172.17.42.1/24\",\n    \"dns\": [\"10.0.0.2\"]\n}\n";
    fs::create_dir(machine.path("/etc/docker")).unwrap();
    fs::File::create(machine.path("/etc/docker/daemon.json")).unwrap().write_all(daemon.as_bytes()).unwrap();

    machine.resolved(&["apply", "--docker"]);
    let resolver = machine.resolver();
    assert_eq!(machine.resolved(&["apply", "--docker"]), "");
    assert_eq!(
        machine.text("/etc/docker/daemon.json").unwrap(),
        daemon.replace("[\"10.0.0.2\"]", "[\"169.254.53.1\", \"10.0.0.2\"]")
    );
    // Docker comes late, with a container.
    for line in [
        "ip link add docker0 type bridge",
        "ip address add 172.17.42.1/24 dev docker0",
        "ip link set docker0 up",
        "ip netns add box",
        "ip link add out type veth peer name eth0 netns box",
        "ip link set out master docker0 up",
        "ip -n box address add 172.17.42.2/24 dev eth0",
        "ip -n box link set eth0 up",
        "ip -n box route add default via 172.17.42.1",
    ] {
        machine.run(&line.split(' ').collect::<Vec<_>>());
    }
    assert_eq!(machine.resolved(&["apply", "--docker"]), "", "the bridge is where it was expected");
    assert_eq!(machine.resolver(), resolver, "no restart for that");
    let inside = |server: &str, name: &str, more: &[&str]| {
        let server = format!("@{server}");
        let mut words = vec!["ip", "netns", "exec", "box", "dig", "+short", "+tries=5", &server, name];
        words.extend(more);
        machine.run(&words)
    };
    eventually(PATIENCE, "the container has a network", || {
        machine
            .output(&["ip", "netns", "exec", "box", "dig", "@172.17.42.1", "localhost"])
            .status
            .success()
            .then_some(())
    });
    elsewhere.take();
    agent.take();
    for server in ["169.254.53.1", "172.17.42.1"] {
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(
                inside(server, "web.service.consul", &[transport]),
                "10.1.2.3",
                "{server} {transport}"
            );
            assert_eq!(inside(server, "example.org", &[transport]), ELSEWHERE, "{server} {transport}");
        }
        assert!(inside(server, "web.service.consul", &["SRV"]).starts_with("1 1 80 "), "{server}");
    }
    assert_eq!(elsewhere.take().0, [""; 0], "these left the machine");
    assert_eq!(agent.take().1, [""; 0], "the agent was asked for these");
    let found = status(&machine);
    assert_eq!((&found["Container"], &found["DockerTold"]), (&Value::from("found"), &Value::from(true)));

    // Without the agent other names are as before; so they are when only the machine forgets it.
    machine.kill_agent();
    assert_eq!(inside("169.254.53.1", "other.example.org", &[]), ELSEWHERE);
    machine.resolved(&["remove"]);
    assert_eq!(inside("169.254.53.1", "third.example.org", &[]), ELSEWHERE);
    machine.resolved(&["remove", "--docker"]);
    assert_eq!(machine.text("/etc/docker/daemon.json").unwrap(), daemon);
    machine.run(&["ip", "link", "delete", "out"]);
    machine.run(&["ip", "link", "delete", "docker0"]);
    eventually(PATIENCE, "the resolver is as before", || (machine.settings() == before).then_some(()));
}

#[test]
fn a_dockerd_that_has_not_read_its_settings_is_told_of_until_somebody_restarts_it() {
    let (machine, _elsewhere) = Machine::boot();
    let before = machine.settings();
    let unit = "[Service]\nExecStart=/usr/bin/sleep infinity\n";
    let place = machine.path("/etc/systemd/system/docker.service");
    fs::File::create(place).unwrap().write_all(unit.as_bytes()).unwrap();
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "docker"]);
    let dockerd = || machine.run(&["systemctl", "show", "--property=MainPID", "--value", "docker"]);
    let first = dockerd();
    let note = "note: dockerd reads this when it starts";
    let apply = |more: &[&str]| {
        let output = machine.output(&[&["corediscover", "resolved", "apply", "--docker"], more].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        (String::from_utf8(output.stdout).unwrap(), told)
    };

    let (done, told) = apply(&[]);
    assert!(done.contains("put 169.254.53.1 first") && told.contains(note), "{done}{told}");
    // A machine where nobody answers whether containers run: one may.
    for more in [&[][..], &["--restart-docker", "idle"]] {
        let (done, told) = apply(more);
        assert!(done.is_empty() && told.contains(note), "{more:?}: {done}{told}");
        assert_eq!(dockerd(), first);
    }
    let always = ["--restart-docker", "always"];
    assert_eq!(apply(&always).0, "restarted dockerd\n");
    let second = dockerd();
    assert_ne!(second, first);
    let (done, told) = apply(&always);
    assert!(done.is_empty() && !told.contains("dockerd"), "it has read them: {done}{told}");
    assert_eq!(dockerd(), second);

    // What it has read it gives to containers until it starts again: somebody answers there as long.
    let remove = || {
        let output = machine.output(&["corediscover", "resolved", "remove", "--docker"]);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let answers =
        || machine.output(&["dig", "+short", "+tries=1", "@169.254.53.1", "localhost"]).status.success();
    for _ in 0..2 {
        let told = remove();
        assert!(
            told.contains("until it starts again") && told.contains("`systemctl restart docker`"),
            "{told}"
        );
        assert!(answers());
        assert_eq!(machine.text("/etc/docker/daemon.json"), None);
    }
    let (done, told) = apply(&[]);
    assert!(done.contains("put 169.254.53.1 first") && !told.contains("dockerd"), "it knows: {done}{told}");
    assert!(remove().contains("until it starts again"));
    machine.run(&["systemctl", "restart", "docker"]);
    assert!(!remove().contains("dockerd"));
    assert!(!answers());

    // The user does it.
    assert!(apply(&[]).1.contains(note));
    machine.run(&["systemctl", "restart", "docker"]);
    let (done, told) = apply(&always);
    assert!(done.is_empty() && !told.contains("dockerd"), "{done}{told}");
    machine.run(&["systemctl", "stop", "docker"]);
    assert!(!remove().contains("dockerd"));
    eventually(PATIENCE, "the resolver is as before", || (machine.settings() == before).then_some(()));
}

#[test]
fn the_unit_does_it_with_hardly_a_right_and_takes_it_back_when_it_stops() {
    let (machine, _elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    let before = machine.settings();
    let folder = tempfile::tempdir().unwrap();
    let units = corediscover().args(["units", "--systemd", "--out"]).arg(folder.path()).output().unwrap();
    assert!(units.status.success());
    let unit = "corediscover-resolved.service";
    let place = machine.path("/etc/systemd/system").join(unit);
    fs::copy(folder.path().join(unit), place).unwrap();
    machine.run(&["systemctl", "daemon-reload"]);

    machine.run(&["systemctl", "start", unit]);
    let log = machine.run(&["journalctl", "--no-pager", "-u", unit]);
    assert!(log.contains("by mode"), "{log}");
    finds(&machine, "web.service.consul", "10.1.2.3");
    assert_eq!(status(&machine)["Works"], true, "{log}");
    assert_eq!(machine.text("/etc/docker/daemon.json").unwrap(), "{\n  \"dns\": [\"169.254.53.1\"]\n}\n");
    assert_eq!(machine.run(&["dig", "+short", "@169.254.53.1", "web.service.consul"]), "10.1.2.3");

    machine.run(&["systemctl", "stop", unit]);
    assert!(!machine.output(&["getent", "hosts", "web.service.consul"]).status.success());
    finds(&machine, "example.org", ELSEWHERE);
    machine.resolved(&["remove", "--docker"]);
    eventually(PATIENCE, "the resolver is as before", || (machine.settings() == before).then_some(()));

    let judged = machine.run(&["systemd-analyze", "security", "--no-pager", unit]);
    let exposure = judged.lines().last().and_then(|line| line.split(": ").nth(1)).unwrap();
    let exposure: f64 = exposure.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure <= 3.5, "{judged}");
}

#[test]
fn a_network_daemon_that_configures_all_links_leaves_ours_alone() {
    let (machine, _elsewhere) = Machine::boot();
    let _agent = machine.start_agent();
    let before = machine.settings();
    let all = "[Match]\nName=cdns*\n\n[Network]\nLinkLocalAddressing=no\nDNS=10.99.0.53\nDomains=~other\n";
    fs::create_dir(machine.path("/etc/systemd/network")).unwrap();
    let file = fs::File::create(machine.path("/etc/systemd/network/zz-default.network"));
    file.unwrap().write_all(all.as_bytes()).unwrap();
    machine.run(&["systemctl", "start", "systemd-networkd"]);
    machine.run(&["ip", "link", "add", "cdns9", "type", "bridge"]);
    machine.run(&["ip", "link", "set", "cdns9", "up"]);
    let state = |link: &str| machine.run(&["networkctl", "--no-pager", "status", link]);
    eventually(PATIENCE, "the daemon configures links", || {
        state("cdns9").contains("(configured)").then_some(())
    });

    machine.resolved(&["apply", "--mode", "link"]);
    eventually(PATIENCE, "the daemon knows our link", || {
        state("cdns0").contains("(unmanaged)").then_some(())
    });
    finds(&machine, "web.service.consul", "10.1.2.3");
    finds(&machine, "example.org", ELSEWHERE);
    assert_eq!(machine.resolved(&["apply", "--mode", "link"]), "");
    machine.resolved(&["remove"]);
    machine.run(&["ip", "link", "delete", "cdns9"]);
    machine.run(&["systemctl", "stop", "systemd-networkd"]);
    let names = |text: &str| {
        text.lines()
            .filter(|line| line.contains("up0") || line.contains("cdns"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    eventually(PATIENCE, "the resolver is as before", || {
        (names(&machine.settings()) == names(&before)).then_some(())
    });
    assert_eq!(machine.text("/run/systemd/network/00-consul-dns.network"), None);
}

#[test]
fn who_may_not_and_what_cannot_be_is_refused_with_advice_and_nothing_changes() {
    let (machine, _elsewhere) = Machine::boot();
    machine.run(&["ip", "link", "add", "eth9", "type", "veth", "peer", "name", "eth8"]);
    machine.run(&["ip", "address", "add", "10.98.0.1/24", "dev", "eth9"]);
    let before = machine.settings();
    let refused_with = |code: i32, words: &[&str], error: &str| {
        let output = machine.output(words);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        assert!(told.contains(error) && told.contains("\nhint: "), "{words:?}: {told}");
        assert_eq!(machine.settings(), before, "{words:?}");
    };
    let refused = |words: &[&str], error: &str| refused_with(1, words, error);
    let apply = ["corediscover", "resolved", "apply"];
    refused(&[&apply[..], &["--mode", "plain"]].concat(), "on port 53, not 8600");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    refused(&[&nobody[..], &apply].concat(), "only root may change");
    refused(&[&nobody[..], &["corediscover", "resolved", "remove"]].concat(), "only root may change");

    for (address, error) in [
        ("0.0.0.0", "0.0.0.0 stands for all addresses"),
        ("127.0.0.1", "127.0.0.1 is loopback"),
        ("10.98.0.1", "10.98.0.1 is on eth9, which is no network of containers"),
        ("203.0.113.9", "203.0.113.9 is on no interface, and not private"),
    ] {
        refused_with(2, &[&apply[..], &["--docker", "--bridge", address]].concat(), error);
    }

    // The address that Docker's bridge usually has is another machine's way to this one.
    let (address, link) = ("172.17.0.1/24", "eth9");
    machine.run(&["ip", "address", "add", address, "dev", link]);
    let output = machine.output(&[&apply[..], &["--docker"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("172.17.0.1 is on eth9"), "{told}");
    let served = machine.text("/run/systemd/resolved.conf.d/01-consul-containers.conf").unwrap();
    assert_eq!(served, "[Resolve]\nDNSStubListenerExtra=169.254.53.1\n");
    machine.resolved(&["remove", "--docker"]);
    machine.run(&["ip", "address", "delete", address, "dev", link]);
    eventually(PATIENCE, "the resolver is as before", || (machine.settings() == before).then_some(()));

    fs::create_dir_all(machine.path("/etc/docker")).unwrap();
    let damaged = "{\n  \"bip\": \"172.17.42.1/24\",\n}\n";
    fs::File::create(machine.path("/etc/docker/daemon.json")).unwrap().write_all(damaged.as_bytes()).unwrap();
    refused(&[&apply[..], &["--docker"]].concat(), "line 3 column 1");
    assert_eq!(machine.text("/etc/docker/daemon.json").unwrap(), damaged);

    // A dockerd that reads another file.
    let dockerd = "exec -a dockerd sh -c 'while :; do sleep 60; done' sh --config-file=/etc/other.json";
    let _reading = Running::start("dockerd", &mut machine.command(&["bash", "-c", dockerd]));
    eventually(PATIENCE, "dockerd runs", || {
        machine.output(&["pgrep", "-f", "^dockerd "]).status.success().then_some(())
    });
    refused(&[&apply[..], &["--docker"]].concat(), "dockerd runs with --config-file /etc/other.json");

    machine.run(&["systemctl", "stop", "systemd-resolved"]);
    let output = machine.output(&apply);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("error: systemd-resolved does not run") && told.contains("hint: "), "{told}");
    assert!(!machine.output(&["ip", "link", "show", "cdns0"]).status.success());
}
