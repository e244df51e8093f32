//! Which address a machine tells the others: on machines with made interfaces, bridges as Docker's, files of clouds, no way out.

use std::process::{Command, Output};
use std::time::Duration;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};
use serde_json::Value;

use crate::support::netns::Network;
use crate::support::{binary, corediscover, eventually};

/// Starts its arguments on a machine whose files of addresses are those in the folder `$1`; nobody else sees the mounts.
const WITH_FILES: &str = "set -e; touch /etc/environment
mount --bind \"$1/environment\" /etc/environment
mount -t tmpfs none /run; mkdir /run/metadata; cp \"$1\"/metadata/* /run/metadata/ 2>/dev/null || true
shift; exec \"$@\"";
/// A process has a moment to log, on a machine that does much else.
const DEADLINE: Duration = Duration::from_mins(1);

/// One machine of `network`: 10.77.0.1/24 on `wire0`, plus what the test makes.
struct Machine<'a> {
    network: &'a Network,
    files: tempfile::TempDir,
}

impl<'a> Machine<'a> {
    fn new(network: &'a Network) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::create_dir(files.path().join("metadata")).unwrap();
        let machine = Self { network, files };
        machine.file("environment", "");
        machine
    }

    fn file(&self, name: &str, text: &str) {
        write_atomic(&self.files.path().join(name), text.as_bytes(), MODE_PUBLIC).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let launcher = self.network.launcher(0);
        let mut command = Command::new(&launcher[0]);
        command.args(&launcher[1..]).args(["sh", "-c", WITH_FILES, "sh"]).arg(self.files.path()).args(words);
        command
    }

    #[track_caller]
    fn ip(&self, words: &str) {
        let words: Vec<&str> = std::iter::once("ip").chain(words.split(' ')).collect();
        let output = self.command(&words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn bridge(&self, name: &str, address: &str) {
        self.ip(&format!("link add {name} type bridge"));
        self.ip(&format!("address add {address} dev {name}"));
        self.ip(&format!("link set {name} up"));
    }

    fn ask(&self, words: &[&str]) -> Output {
        let program = binary();
        let words: Vec<&str> =
            [program.to_str().unwrap(), "address"].into_iter().chain(words.iter().copied()).collect();
        self.command(&words).output().unwrap()
    }

    #[track_caller]
    fn chosen(&self, source: &str) -> String {
        let output = self.ask(&[source]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{source}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    fn refused(&self, source: &str) -> String {
        let output = self.ask(&[source]);
        assert_eq!(output.status.code(), Some(1), "{source}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn a_machine_with_containers_tells_the_others_its_own_address_and_says_why() {
    let network = Network::new(1, 1);
    let machine = Machine::new(&network);
    machine.bridge("docker0", "172.17.0.1/16");
    machine.bridge("br-0123456789ab", "172.18.0.1/16");
    // A network of containers by another name: nothing but ends of pairs is on that bridge.
    machine.bridge("apps", "192.168.200.1/24");
    // No default route, and one address that is left.
    assert_eq!(machine.chosen("auto"), "10.77.0.1");
    let output = machine.ask(&["auto", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["address"], "10.77.0.1");
    let of = |address: &str| {
        let candidates = told["candidates"].as_array().unwrap();
        candidates.iter().find(|candidate| candidate["address"] == address).unwrap().clone()
    };
    assert_eq!(of("10.77.0.1")["verdict"], "chosen");
    for (address, interface) in
        [("172.17.0.1", "docker0"), ("172.18.0.1", "br-0123456789ab"), ("192.168.200.1", "apps")]
    {
        let candidate = of(address);
        assert_eq!((&candidate["origin"], &candidate["verdict"]), (&interface.into(), &"refused".into()));
        assert!(candidate["objection"].as_str().unwrap().contains("network of containers"), "{candidate}");
    }
    assert_eq!(of("127.0.0.1")["objection"], "loopback: other machines would reach themselves");

    // A second network: now it is the default route that decides.
    machine.bridge("br-ex", "10.78.0.1/24");
    machine.ip("link add lan0 type veth peer name lan1");
    machine.ip("link set lan0 master br-ex");
    let refusal = machine.refused("auto");
    assert!(refusal.contains("10.77.0.1 (") && refusal.contains("10.78.0.1 (br-ex): usable"), "{refusal}");
    assert!(refusal.contains("172.17.0.1 (docker0): docker0 is a network of containers"), "{refusal}");
    assert!(refusal.lines().last().unwrap().starts_with("hint: name the interface"), "{refusal}");
    machine.ip("route add default via 10.78.0.2");
    assert_eq!(machine.chosen("auto"), "10.78.0.1");
    assert_eq!(machine.chosen("{{ GetPrivateIP }}"), "10.78.0.1");
    assert_eq!(
        machine.chosen(r#"{{ GetDefaultInterfaces | include "type" "ipv4" | attr "address" }}"#),
        "10.78.0.1"
    );
    let by_network = r#"{{ GetPrivateInterfaces | include "network" "10.77.0.0/16" | attr "address" }}"#;
    assert_eq!(machine.chosen(by_network), "10.77.0.1");
    assert_eq!(machine.chosen("interface:br-ex"), "10.78.0.1");
    let refusal = machine.refused(r#"{{ GetInterfaceIP "docker0" }}"#);
    assert!(refusal.contains("172.17.0.1 (docker0)"), "{refusal}");
}

#[test]
fn what_files_say_is_taken_in_order_and_what_is_wrong_in_them_is_told() {
    let network = Network::new(1, 2);
    let machine = Machine::new(&network);
    machine.ip("address add 10.77.0.99/24 dev lo");
    let refusal = machine.refused("private");
    assert!(refusal.contains("no usable private address is written in /etc/environment, "), "{refusal}");
    assert!(refusal.contains("/run/metadata/flatcar (not there)"), "{refusal}");

    machine.file("metadata/flatcar", "COREOS_EC2_IPV4_LOCAL=10.77.0.99\nCOREOS_EC2_IPV4_PUBLIC=54.1.2.3\n");
    assert_eq!(machine.chosen("private"), "10.77.0.99");
    assert_eq!(machine.chosen("auto"), "10.77.0.99");
    assert_eq!(machine.chosen("public"), "54.1.2.3");

    machine.file("environment", "COREOS_PRIVATE_IPV4=\"10.77.0.1\"\n");
    assert_eq!(machine.chosen("private"), "10.77.0.1");

    machine.file("environment", "COREOS_PRIVATE_IPV4=127.0.0.1\n");
    assert_eq!(machine.chosen("private"), "10.77.0.99");
    let told = String::from_utf8(machine.ask(&["private"]).stderr).unwrap();
    assert!(told.contains("127.0.0.1 (COREOS_PRIVATE_IPV4 in /etc/environment): loopback"), "{told}");
}

#[test]
fn ipv6_alone_is_enough_for_a_machine() {
    let network = Network::new(1, 3);
    let machine = Machine::new(&network);
    machine.ip("link add six0 type veth peer name six1");
    machine.ip("link set six0 up");
    machine.ip("link set six1 up");
    machine.ip("address add fd77::1/64 dev six0 nodad");
    machine.ip("address flush scope global dev eth0");
    machine.ip("-6 route add default via fd77::2 dev six0");
    assert_eq!(machine.chosen("auto"), "fd77::1");
    assert_eq!(machine.chosen("interface:six0"), "fd77::1");
}

/// Starts a command and waits until its log has a line with this text.
#[track_caller]
fn logs(mut command: Command, text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = std::fs::File::create(&path).unwrap();
    let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let found = eventually(DEADLINE, &format!("the log says `{text}`"), || {
        let log = std::fs::read_to_string(&path).unwrap();
        let line = log.lines().find(|line| line.contains(text)).map(str::to_owned);
        let ended = child.try_wait().unwrap();
        assert!(line.is_some() || ended.is_none(), "it ended: {log}");
        line
    });
    drop(child.kill());
    drop(child.wait());
    found
}

#[test]
fn agent_and_bootstrap_say_at_the_start_which_address_they_chose() {
    let network = Network::new(1, 4);
    let machine = Machine::new(&network);
    machine.bridge("docker0", "172.17.0.1/16");
    machine.file("environment", "COREOS_PRIVATE_IPV4=10.77.0.1\n");
    let data = tempfile::tempdir().unwrap();
    let (program, path) = (binary(), data.path().to_str().unwrap());
    let program = program.to_str().unwrap();
    let client = r#"127.0.0.1 {{ GetInterfaceIP "docker0" }}"#;
    let template = r#"{{ GetInterfaceIP "^(eth|wire|tun)0$" }}"#;
    let agent = machine.command(&[program, "agent", "-data-dir", path, "-bind", template, "-client", client]);
    logs(agent, "172.17.0.1:8500");
    let agent = machine.command(&[program, "agent", "-data-dir", path, "-advertise", "private"]);
    logs(agent, "tells the others the address 10.77.0.1: COREOS_PRIVATE_IPV4 in /etc/environment");

    let file = data.path().join("store");
    let mut words = vec![
        program,
        "bootstrap",
        "--embedded",
        file.to_str().unwrap(),
        "--machine-id",
        "0123456789abcdef0123456789abcdef",
    ];
    words.extend(["--expect", "1", "--data-dir", path, "--advertise", "auto"]);
    logs(machine.command(&words), "tells the others the address 10.77.0.1: COREOS_PRIVATE_IPV4");
}

#[test]
fn what_is_no_source_is_a_usage_error_with_the_words_to_use() {
    for (words, part) in [
        (&["address", "eth0"][..], "interface:NAME"),
        (&["address", "{{ GetMyIP }}"], "no function `GetMyIP`"),
        (&["address", "--interface", "a/b"], "is no name of an interface"),
        (&["address", "auto", "--interface", "eth0"], "cannot be used with"),
        (&["cloud-init", "--advertise", "eth0"], "interface:NAME"),
        (&["cloud-init", "--advertise", "{{ GetInterfaceIP }}"], "GetInterfaceIP: it takes"),
    ] {
        let output = corediscover().args(words).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(part), "{words:?}: {stderr}");
    }
}
