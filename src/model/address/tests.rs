//! Machines of every kind, and what each tells the others.

use std::net::IpAddr;

use super::template::expand;
use super::variables::parse;
use super::{
    AddressSource, Choice, Facts, Flags, InterfaceAddress, Refusal, choose, choose_private, choose_public_v6,
};

/// `eth0 10.0.0.1/24`, with `loopback` or `down` behind it.
pub(super) fn entry(text: &str) -> InterfaceAddress {
    let words: Vec<&str> = text.split(' ').collect();
    let (address, prefix) = words[1].split_once('/').unwrap();
    let flags = Flags {
        up: !words.contains(&"down"),
        loopback: words.contains(&"loopback"),
        broadcast: !words.contains(&"loopback"),
        multicast: !words.contains(&"loopback"),
        point_to_point: false,
    };
    InterfaceAddress {
        interface: words[0].to_owned(),
        address: address.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        flags,
    }
}

pub(super) fn facts(addresses: &[&str]) -> Facts {
    Facts { addresses: addresses.iter().map(|text| entry(text)).collect(), ..Facts::default() }
}

/// A machine as clouds and desks have it: the default route through `eth0`.
fn machine() -> Facts {
    let mut facts = facts(&[
        "lo 127.0.0.1/8 loopback",
        "eth0 10.0.2.15/24",
        "eth1 172.28.128.3/24",
        "eth1 fe80::3/64",
        "docker0 172.17.0.1/16",
        "br-0123456789ab 172.18.0.1/16",
    ]);
    facts.default_interface = Some("eth0".to_owned());
    facts.default_v4 = Some("10.0.2.15".parse().unwrap());
    with_files(facts, &[("/etc/environment", ""), ("/run/metadata/flatcar", "")])
}

fn with_files(mut facts: Facts, files: &[(&str, &str)]) -> Facts {
    facts.files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), Some(parse(text)).filter(|_| !text.is_empty())))
        .collect();
    facts
}

#[track_caller]
fn chosen(source: &str, facts: &Facts, address: &str, reason: &str) -> Choice {
    let choice = choose(&source.parse().unwrap(), facts).unwrap_or_else(|refusal| panic!("{refusal}"));
    assert_eq!(choice.address, address.parse::<IpAddr>().unwrap(), "{choice:?}");
    assert!(choice.reason.contains(reason), "{}", choice.reason);
    choice
}

#[track_caller]
fn refused(source: &str, facts: &Facts, parts: &[&str]) -> Refusal {
    let refusal = choose(&source.parse().unwrap(), facts).expect_err("nothing can be chosen");
    let text = format!("{refusal}\n{}", refusal.advice);
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    refusal
}

#[test]
fn auto_takes_what_is_written_then_the_default_route() {
    chosen("auto", &machine(), "10.0.2.15", "default route of IPv4");
    let written = [("/etc/environment", "COREOS_PRIVATE_IPV4=172.28.128.3\n")];
    chosen(
        "auto",
        &with_files(machine(), &written),
        "172.28.128.3",
        "COREOS_PRIVATE_IPV4 in /etc/environment",
    );
    let cloud = [
        ("/etc/environment", "LANG=C\nCOREOS_PRIVATE_IPV4=\n"),
        (
            "/run/metadata/afterburn",
            "AFTERBURN_AWS_IPV4_PUBLIC=54.1.2.3\nAFTERBURN_AWS_IPV4_LOCAL=172.28.128.3\n",
        ),
    ];
    let choice = chosen("auto", &with_files(machine(), &cloud), "172.28.128.3", "AFTERBURN_AWS_IPV4_LOCAL");
    let told: Vec<String> = choice.considered.iter().map(ToString::to_string).collect();
    assert_eq!(told[0], "(empty) (COREOS_PRIVATE_IPV4 in /etc/environment): not an IP address");
    assert!(told.iter().any(|line| line.starts_with("172.17.0.1 (docker0): docker0 is a network of con")));
}

#[test]
fn auto_does_not_believe_a_file_that_speaks_of_another_machine() {
    let stale = [("/etc/environment", "COREOS_PRIVATE_IPV4=10.0.2.99\n")];
    let choice = chosen("auto", &with_files(machine(), &stale), "10.0.2.15", "default route");
    assert!(choice.considered[0].to_string().ends_with("no interface of this machine has it"));
    let choice = chosen("private", &with_files(machine(), &stale), "10.0.2.99", "/etc/environment");
    assert!(choice.warning.is_some_and(|text| text.contains("no interface")));
}

#[test]
fn private_and_public_are_written_down_or_refused() {
    let both = [
        ("/etc/environment", "COREOS_PUBLIC_IPV4=54.1.2.3\n"),
        ("/run/metadata/coreos", "COREOS_EC2_IPV4_PUBLIC=54.9.9.9\nCOREOS_EC2_IPV4_LOCAL=10.0.2.15\n"),
    ];
    let facts = with_files(machine(), &both);
    chosen("public", &facts, "54.1.2.3", "COREOS_PUBLIC_IPV4 in /etc/environment");
    let choice = chosen("private", &facts, "10.0.2.15", "COREOS_EC2_IPV4_LOCAL in /run/metadata/coreos");
    assert_eq!(choice.warning, None);
    let nothing = ["/etc/environment (not there)", "/run/metadata/flatcar (not there)", "`auto`"];
    refused("private", &machine(), &nothing);
    refused("public", &machine(), &["no usable public address", "COREOS_PUBLIC_IPV4=ADDRESS"]);
    for (value, reason) in [
        ("127.0.0.1", "loopback"),
        ("0.0.0.0", "stands for all addresses"),
        ("172.17.0.1", "docker0 is a network of containers"),
        ("169.254.7.7", "link-local"),
        ("239.1.1.1", "multicast"),
        ("eth0", "not an IP address"),
    ] {
        let text = format!("COREOS_PRIVATE_IPV4={value}\n");
        let facts = with_files(machine(), &[("/etc/environment", &text)]);
        let line = format!("{value} (COREOS_PRIVATE_IPV4 in /etc/environment): {reason}");
        refused("private", &facts, &[&line]);
    }
}

#[test]
fn without_a_default_route_one_address_is_no_question_and_several_are() {
    let mut one = machine();
    one.addresses.retain(|entry| entry.interface != "eth0");
    (one.default_interface, one.default_v4) = (None, None);
    chosen("auto", &one, "172.28.128.3", "the only address");
    let mut several = machine();
    (several.default_interface, several.default_v4) = (None, None);
    let reason = "several addresses that other machines could use";
    refused(
        "auto",
        &several,
        &[reason, "10.0.2.15 (eth0): usable", "172.18.0.1 (br-0123456789ab): br-", "interface:NAME"],
    );
    let mut none = machine();
    none.addresses.retain(|entry| !entry.interface.starts_with("eth"));
    (none.default_interface, none.default_v4) = (None, None);
    refused("auto", &none, &["no address that other machines can use", "127.0.0.1 (lo): loopback"]);
    refused("auto", &Facts::default(), &["no address at all"]);
}

#[test]
fn a_default_route_into_the_engine_is_not_taken() {
    let mut facts = machine();
    facts.default_interface = Some("eth9".to_owned());
    facts.default_v4 = Some("172.17.0.1".parse().unwrap());
    refused("auto", &facts, &["172.17.0.1 (docker0)", "several"]);
}

#[test]
fn ipv6_alone_is_enough() {
    let mut facts = facts(&["lo ::1/128 loopback", "eth0 fe80::1/64", "eth0 2a00::1/64"]);
    facts.default_v6 = Some("2a00::1".parse().unwrap());
    chosen("auto", &facts, "2a00::1", "default route of IPv6");
    assert_eq!(choose_public_v6(&facts).unwrap().address, "2a00::1".parse::<IpAddr>().unwrap());
    facts.addresses.push(entry("eth1 2a00::2/64"));
    facts.default_v6 = None;
    let refusal = choose_public_v6(&facts).unwrap_err();
    assert!(refusal.reason.starts_with("Multiple public IPv6 addresses found."), "{refusal}");
}

#[test]
fn an_interface_gives_its_first_usable_address() {
    chosen("interface:eth1", &machine(), "172.28.128.3", "of eth1");
    refused("interface:eth7", &machine(), &["no interface eth7", "lo, eth0, eth1, docker0"]);
    refused("interface:docker0", &machine(), &["no address of docker0", "172.17.0.1 (docker0)"]);
    refused("interface:lo", &machine(), &["127.0.0.1 (lo): loopback"]);
}

#[test]
fn a_template_gives_one_usable_address_or_is_refused() {
    chosen(r#"{{ GetInterfaceIP "eth1" }}"#, &machine(), "172.28.128.3", "GetInterfaceIP");
    refused(r#"{{ GetInterfaceIP "eth7" }}"#, &machine(), &["gives no address"]);
    refused(r#"{{ GetAllInterfaces | join "address" " " }}"#, &machine(), &["gives several", "limit 1"]);
    refused(
        r#"{{ GetDefaultInterfaces | attr "name" }}"#,
        &machine(),
        &["gives `eth0`, which is no address"],
    );
    refused(r#"{{ GetInterfaceIP "docker0" }}"#, &machine(), &["cannot use", "docker0 is a network"]);
}

#[test]
fn when_nothing_is_said_consuls_rule_holds_and_the_default_route_decides() {
    let choice = choose_private(&machine()).unwrap();
    assert_eq!(choice.address, "10.0.2.15".parse::<IpAddr>().unwrap());
    assert!(choice.warning.is_some_and(|text| text.contains("10.0.2.15, 172.28.128.3")));
    let refusal = choose_private(&Facts { default_v4: None, ..machine() }).unwrap_err();
    assert!(refusal.to_string().starts_with("Multiple private IPv4 addresses found."), "{refusal}");
    let public = facts(&["eth0 54.1.2.3/24"]);
    assert!(choose_private(&public).unwrap_err().to_string().starts_with("No private IPv4 address found"));
    assert_eq!(AddressSource::default(), AddressSource::Private);
}

#[test]
fn templates_give_what_go_sockaddr_gives() {
    let recorded = include_str!("../../../tests/scenarios/address/go-sockaddr.txt");
    let (machine, results) = recorded.split_once("\n\n").unwrap();
    let of = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let flags = Flags {
            up: words.contains(&"up"),
            broadcast: words.contains(&"broadcast"),
            loopback: words.contains(&"loopback"),
            multicast: words.contains(&"multicast"),
            point_to_point: false,
        };
        InterfaceAddress { flags, ..entry(line) }
    };
    let addresses = machine.lines().filter(|line| !line.starts_with('#')).map(of).collect();
    let facts = Facts { addresses, default_interface: Some("eth1".to_owned()), ..Facts::default() };
    assert!(facts.addresses.len() > 20 && results.lines().count() > 40);
    for line in results.lines() {
        let (template, expected) = line.split_once('\t').unwrap();
        match expand(template, &facts) {
            Ok(result) => assert_eq!(result, expected, "{template}"),
            Err(error) => assert_eq!(expected, "ERROR", "{template}: {error}"),
        }
    }
}
