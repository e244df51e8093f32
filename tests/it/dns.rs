//! DNS as `dig` sees it, from a real agent.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// Instances of the crowded service: more than a datagram of 1,232 bytes and than one of 512 can hold.
const CROWD: usize = 300;

/// What dig printed.
#[derive(Debug)]
struct Reply {
    status: String,
    flags: BTreeSet<String>,
    answer: Vec<Vec<String>>,
    authority: Vec<Vec<String>>,
    additional: Vec<Vec<String>>,
    edns: bool,
    text: String,
}

impl Reply {
    /// The data of the answers, sorted.
    fn data(&self) -> Vec<&str> {
        let mut data: Vec<&str> = self.answer.iter().map(|record| record[4].as_str()).collect();
        data.sort_unstable();
        data
    }

    fn has_soa(&self) -> bool {
        self.authority
            .iter()
            .any(|record| record[3] == "SOA" && record[4].starts_with("ns.consul. hostmaster.consul. "))
    }
}

/// The records of one section: name, TTL, class, type, data.
fn section(text: &str, name: &str) -> Vec<Vec<String>> {
    let head = format!(";; {name} SECTION:");
    let lines = text.lines().skip_while(|line| *line != head).skip(1).take_while(|line| !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut record: Vec<String> = words[..4].iter().map(|word| (*word).to_owned()).collect();
            record.push(words[4..].join(" "));
            record
        })
        .collect()
}

/// Asks `machine`; it must answer, and at once.
#[track_caller]
fn ask(machine: &Machine, arguments: &[&str]) -> Reply {
    let output = Command::new("dig")
        .args([&format!("@{}", machine.address), "-p", "8600", "+tries=2", "+time=10", "+nocookie"])
        .args(arguments)
        .output()
        .expect("dig is installed (dnsutils)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("Warning"), "{arguments:?}: {text}");
    let after = |start: &str, end: char| {
        let rest = text.split(start).nth(1).unwrap_or_else(|| panic!("{arguments:?}: {text}"));
        rest.split(end).next().unwrap().trim().to_owned()
    };
    Reply {
        status: after("status: ", ','),
        flags: after(";; flags: ", ';').split(' ').map(str::to_owned).collect(),
        answer: section(&text, "ANSWER"),
        authority: section(&text, "AUTHORITY"),
        additional: section(&text, "ADDITIONAL"),
        edns: text.contains("OPT PSEUDOSECTION"),
        text,
    }
}

fn register(machine: &Machine, body: &str) {
    assert!(machine.put("/v1/agent/service/register", body), "{body}");
}

#[test]
fn dig_gets_the_answers_that_consul_gives() {
    let machine = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    formed(&[&machine], 1);
    let own = machine.address.to_string();
    register(&machine, r#"{"Name": "web", "ID": "web1", "Port": 80, "Tags": ["v1"]}"#);
    register(
        &machine,
        r#"{"Name": "web", "ID": "web2", "Port": 81, "Address": "10.1.2.3", "Tags": ["v2", "eu.north"]}"#,
    );
    eventually(PATIENCE, "web is there", || (machine.dig(&["web.service.consul"]).len() == 2).then_some(()));
    let both = [own.as_str(), "10.1.2.3"].map(str::to_owned);
    let sorted = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();

    // Addresses: over UDP and TCP, with and without EDNS, in any spelling.
    for arguments in
        [&["web.service.consul"][..], &["+tcp", "web.service.dc1.consul"], &["+noedns", "web.service.consul"]]
    {
        let reply = ask(&machine, arguments);
        assert_eq!(
            (reply.status.as_str(), reply.edns),
            ("NOERROR", !arguments.contains(&"+noedns")),
            "{arguments:?}"
        );
        let data: BTreeSet<String> = reply.data().into_iter().map(str::to_owned).collect();
        assert_eq!(data, sorted(&both), "{arguments:?}");
        assert!(reply.flags.contains("aa") && reply.flags.contains("rd") && !reply.flags.contains("ra"));
        assert!(reply.answer.iter().all(|record| record[1..4] == ["0", "IN", "A"]), "{}", reply.text);
    }
    let reply = ask(&machine, &["wEB.serVICE.Consul"]);
    assert!(reply.answer.iter().all(|record| record[0] == "wEB.serVICE.Consul."), "{}", reply.text);

    // Services: port and target, the target's address beside it.
    let reply = ask(&machine, &["web.service.consul", "SRV"]);
    assert_eq!(reply.data(), ["1 1 80 m1.node.dc1.consul.", "1 1 81 0a010203.addr.dc1.consul."]);
    let beside: BTreeSet<(&str, &str)> = reply
        .additional
        .iter()
        .filter(|record| record[3] == "A")
        .map(|record| (record[0].as_str(), record[4].as_str()))
        .collect();
    let wanted = [("m1.node.dc1.consul.", own.as_str()), ("0a010203.addr.dc1.consul.", "10.1.2.3")];
    assert_eq!(beside, wanted.into_iter().collect());
    for (name, port) in [
        ("v1.web.service.consul", "80"),
        ("V1.web.service.consul", "80"),
        ("eu.north.web.service.consul", "81"),
        ("_web._v1.service.consul", "80"),
        ("_web._v2.service.dc1.consul", "81"),
        ("_web._v2.consul", "81"),
    ] {
        let reply = ask(&machine, &[name, "SRV"]);
        assert_eq!(reply.answer.len(), 1, "{name}: {}", reply.text);
        assert_eq!(reply.answer[0][4].split(' ').nth(2), Some(port), "{name}");
    }
    assert_eq!(ask(&machine, &["_web._tcp.service.consul", "SRV"]).answer.len(), 2);

    // Nodes, literal addresses, and back.
    for name in ["m1.node.consul", "m1.node.dc1.consul", "M1.Node.Consul"] {
        assert_eq!(ask(&machine, &[name]).data(), [own.as_str()], "{name}");
    }
    assert_eq!(ask(&machine, &["0a010203.addr.dc1.consul"]).data(), ["10.1.2.3"]);
    assert_eq!(ask(&machine, &["-x", &own]).data(), ["m1.node.dc1.consul."]);
    assert_eq!(ask(&machine, &["-x", "10.1.2.3"]).data(), ["web.service.dc1.consul."]);
    assert_eq!(ask(&machine, &["consul.service.consul"]).data(), [own.as_str()]);

    // What is there with other data, what is not there, what is not ours.
    let reply = ask(&machine, &["web.service.consul", "AAAA"]);
    assert_eq!((reply.status.as_str(), reply.answer.len()), ("NOERROR", 0));
    assert!(reply.has_soa(), "{}", reply.text);
    let reply = ask(&machine, &["web.service.consul", "MX"]);
    assert_eq!((reply.status.as_str(), reply.answer.len(), reply.has_soa()), ("NOERROR", 0, true));
    for name in [
        "no.service.consul",
        "v9.web.service.consul",
        "no.node.consul",
        "web.service.dc9.consul",
        "web.nothing.consul",
        "consul",
        "x.consul",
    ] {
        for transport in ["+notcp", "+tcp"] {
            let reply = ask(&machine, &[transport, name]);
            assert_eq!((reply.status.as_str(), reply.answer.len()), ("NXDOMAIN", 0), "{name}");
            assert!(reply.has_soa() && reply.flags.contains("aa"), "{name}: {}", reply.text);
        }
    }
    for name in ["example.com", "consul.example", "."] {
        for transport in ["+notcp", "+tcp"] {
            let reply = ask(&machine, &[transport, name]);
            assert_eq!(reply.status, "REFUSED", "{name}");
            assert!(reply.answer.is_empty() && reply.authority.is_empty() && !reply.flags.contains("aa"));
        }
    }
    let reply = ask(&machine, &["consul.", "SOA"]);
    assert!(reply.answer.iter().any(|record| record[3] == "SOA"), "{}", reply.text);
    let reply = ask(&machine, &["consul.", "NS"]);
    assert_eq!(reply.data(), ["m1.node.dc1.consul."]);
}

#[test]
fn a_crowded_service_is_answered_whole_over_tcp_and_in_part_over_udp() {
    let machine = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    formed(&[&machine], 1);
    let address = |number: usize| format!("10.9.{}.{}", number / 250, number % 250 + 1);
    for number in 0..CROWD {
        let (node, address) = (format!("n{number}"), address(number));
        let body = format!(
            r#"{{"Node": "{node}", "Address": "{address}", "Service": {{"Service": "crowd", "Port": {number}}}}}"#
        );
        assert!(machine.put("/v1/catalog/register", &body));
    }
    let all: BTreeSet<String> = (0..CROWD).map(address).collect();
    let of = |reply: &Reply| reply.data().into_iter().map(str::to_owned).collect::<BTreeSet<String>>();

    let reply = ask(&machine, &["+tcp", "crowd.service.consul"]);
    assert_eq!((reply.answer.len(), of(&reply)), (CROWD, all.clone()));
    let reply = ask(&machine, &["+tcp", "crowd.service.consul", "SRV"]);
    let targets: BTreeSet<&str> =
        reply.answer.iter().map(|record| record[4].rsplit(' ').next().unwrap()).collect();
    assert_eq!(targets.len(), CROWD);

    // Without EDNS three answers, another choice each time; with it as many as the client has room for.
    let mut seen = BTreeSet::new();
    eventually(PATIENCE, "answers are shuffled", || {
        let reply = ask(&machine, &["+noedns", "crowd.service.consul"]);
        assert_eq!((reply.answer.len(), reply.edns), (3, false));
        assert!(of(&reply).is_subset(&all) && !reply.flags.contains("tc"));
        seen.extend(of(&reply));
        (seen.len() > 9).then_some(())
    });
    let small = ask(&machine, &["+bufsize=1232", "+ignore", "crowd.service.consul"]);
    assert!(small.edns && small.answer.len() > 3 && small.answer.len() < CROWD, "{}", small.text);
    assert!(of(&small).is_subset(&all) && of(&small).len() == small.answer.len());
    let large = ask(&machine, &["+bufsize=4096", "+ignore", "crowd.service.consul"]);
    assert!(large.answer.len() > small.answer.len(), "{}", large.text);
    let whole = ask(&machine, &["+bufsize=16384", "+ignore", "crowd.service.consul"]);
    assert_eq!(of(&whole), all);
    let reply = ask(&machine, &["+noedns", "+ignore", "crowd.service.consul", "SRV"]);
    assert_eq!(reply.answer.len(), 3, "{}", reply.text);
}

#[test]
fn foreign_names_go_to_the_recursor_and_ours_do_not() {
    let upstream = Machine::agent("up", &["-server", "-bootstrap", "-domain", "elsewhere"]).started();
    formed(&[&upstream], 1);
    register(&upstream, r#"{"Name": "api", "Port": 1, "Address": "10.7.7.7"}"#);
    eventually(PATIENCE, "the upstream knows api", || {
        (upstream.dig(&["api.service.elsewhere"]) == ["10.7.7.7"]).then_some(())
    });
    let recursor = upstream.socket(8600).to_string();
    let mut machine = Machine::agent("m1", &["-server", "-bootstrap", "-recursor", &recursor]).started();
    formed(&[&machine], 1);
    register(&machine, r#"{"Name": "alias", "Port": 1, "Address": "api.service.elsewhere"}"#);
    for transport in ["+notcp", "+tcp"] {
        let reply = ask(&machine, &[transport, "api.service.elsewhere"]);
        assert_eq!((reply.status.as_str(), reply.data()), ("NOERROR", vec!["10.7.7.7"]), "{transport}");
        assert!(reply.flags.contains("ra"), "{}", reply.text);
        assert_eq!(ask(&machine, &[transport, "no.service.elsewhere"]).status, "NXDOMAIN");
        let reply = ask(&machine, &[transport, "no.service.consul"]);
        assert_eq!((reply.status.as_str(), reply.has_soa()), ("NXDOMAIN", true));
    }
    // A service whose address is a name: the name, and what the recursor says about it.
    let reply = eventually(PATIENCE, "alias is there", || {
        let reply = ask(&machine, &["alias.service.consul"]);
        (reply.status == "NOERROR").then_some(reply)
    });
    let kinds: Vec<(&str, &str)> =
        reply.answer.iter().map(|record| (record[3].as_str(), record[4].as_str())).collect();
    assert_eq!(kinds, [("CNAME", "api.service.elsewhere."), ("A", "10.7.7.7")]);
    // The upstream refuses, then is gone: others fail, ours go on.
    assert_eq!(ask(&machine, &["example.com"]).status, "SERVFAIL");
    drop(upstream);
    assert_eq!(ask(&machine, &["api.service.elsewhere"]).status, "SERVFAIL");
    assert_eq!(ask(&machine, &["m1.node.consul"]).data(), [machine.address.to_string()]);
    machine.stop();
}
