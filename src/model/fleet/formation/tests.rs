//! What becomes of machines, in tables.

use super::{Asked, Facts, HEAD, Plan, Role, Shared, outsiders, plan};
use crate::model::names::ClusterId;

fn blank(number: u8) -> Facts {
    let address = Some([10, 0, 0, number].into());
    Facts {
        name: format!("host-{number}"),
        hostname: format!("host-{number}"),
        machine_id: format!("{number:032}"),
        connected_to: address,
        reached_at: address,
        ..Facts::default()
    }
}

fn member(number: u8, server: bool, cluster: u128) -> Facts {
    let unit = format!("# {HEAD}\n{}", if server { "-server -bootstrap-expect 3" } else { "-join" });
    let unit = format!("{unit} -advertise 10.0.0.{number} -datacenter dc1 -dns-port 53");
    Facts { unit: Some(unit), cluster: Some(ClusterId::from_random(cluster)), runs: true, ..blank(number) }
}

fn told(plan: &Plan) -> String {
    let parts = plan.parts.iter().map(|part| match part.becomes {
        Some(Role::Server) => "server",
        Some(Role::Client) => "client",
        None => "stays",
    });
    let join: Vec<String> = plan.join.iter().map(ToString::to_string).collect();
    format!("{} join {}", parts.collect::<Vec<_>>().join(" "), join.join(" "))
}

#[track_caller]
fn check(facts: &[Facts], servers: Option<&str>, want: &str) {
    let asked = Asked { servers: servers.map(|count| count.parse().unwrap()), ..Asked::default() };
    let got = plan(facts, &asked).map_or_else(|error| error.to_string(), |plan| told(&plan));
    assert_eq!(got, want);
}

#[test]
fn the_first_machines_of_blank_ones_are_the_servers() {
    let blanks: Vec<Facts> = (1..=5).map(blank).collect();
    check(&blanks[..3], None, "server server server join 10.0.0.1 10.0.0.2 10.0.0.3");
    check(&blanks, None, "server server server client client join 10.0.0.1 10.0.0.2 10.0.0.3");
    check(&blanks[..2], None, "server client join 10.0.0.1");
    check(&blanks[..4], Some("1"), "server client client client join 10.0.0.1");
    check(
        &blanks[..4],
        Some("5"),
        "4 machines cannot hold 5 servers: name more machines, or give fewer --servers",
    );
}

#[test]
fn a_formed_cluster_stays_as_it_is_and_a_new_machine_joins_as_a_client() {
    let members = [member(1, true, 7), member(2, true, 7), member(3, true, 7), member(4, false, 7)];
    check(&members, None, "stays stays stays stays join 10.0.0.1 10.0.0.2 10.0.0.3");
    let more = [blank(9), member(1, true, 7), member(4, false, 7), blank(5)];
    check(&more, Some("3"), "client stays stays client join 10.0.0.1");
    check(&[member(4, false, 7), blank(5)], None, "stays client join 10.0.0.4");
    // Its agent's unit was written, and nothing after it.
    let begun = Facts { cluster: None, runs: false, ..member(5, false, 7) };
    check(&[member(1, true, 7), begun.clone()], None, "stays client join 10.0.0.1");
    let silent = Facts { cluster: None, runs: false, ..member(2, true, 7) };
    check(&[member(1, true, 7), silent], None, "stays stays join 10.0.0.1 10.0.0.2");
    // Its agent is down, and its data remembers the others.
    let down = Facts { remembers: vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()], ..begun.clone() };
    check(&[member(1, true, 7), down], None, "stays stays join 10.0.0.1");
}

#[test]
fn what_was_interrupted_before_the_birth_is_done_again() {
    let begun = Facts { cluster: None, ..member(1, true, 7) };
    check(&[begun, blank(2), blank(3)], None, "server server server join 10.0.0.1 10.0.0.2 10.0.0.3");
}

#[test]
fn machines_of_other_clusters_are_refused() {
    let foreign = Facts { unit: Some("[Service]\n".to_owned()), ..member(1, true, 7) };
    check(
        &[foreign, blank(2)],
        None,
        "host-1 has an agent that `fleet up` did not set up: leave that machine out, or remove its \
         corediscover-agent.service first",
    );
    let (one, other) = (ClusterId::from_random(7), ClusterId::from_random(8));
    check(
        &[member(1, true, 7), blank(2), member(3, true, 8)],
        None,
        &format!("host-1 belongs to cluster {one}, host-3 to cluster {other}: clusters cannot be merged"),
    );
    let left = Facts { unit: None, ..member(2, true, 7) };
    check(
        &[blank(1), left],
        None,
        &format!(
            "host-2 has data of cluster {one} and no agent: leave that machine out, or remove \
             /var/lib/private/corediscover on it if nobody needs what it holds"
        ),
    );
}

#[test]
fn a_machine_that_remembers_only_machines_that_are_not_named_is_of_another_cluster() {
    let said = "host-2 has data of a cluster with other machines (10.0.7.1, 10.0.7.2), none of which is named here: name \
                one of them too, leave host-2 out, or remove /var/lib/private/corediscover on it if nobody needs what it \
                holds";
    let remembers = vec![[10, 0, 7, 1].into(), [10, 0, 7, 2].into()];
    let client = Facts { cluster: None, runs: false, remembers, ..member(2, false, 8) };
    check(&[member(1, true, 7), client.clone()], None, said);
    check(&[blank(1), client.clone()], None, said);
    // One that is reached at another address than its agent tells the others.
    let unit = member(1, true, 7).unit.unwrap().replace("10.0.0.1", "10.0.7.1");
    let known = Facts { unit: Some(unit), ..member(1, true, 7) };
    check(&[known, client], None, "stays stays join 10.0.0.1");
    // Those that were interrupted before the birth had met.
    let met = |number: u8, other: u8| Facts {
        cluster: None,
        remembers: vec![[10, 0, 0, other].into()],
        ..member(number, true, 7)
    };
    check(&[met(1, 2), met(2, 1), blank(3)], None, "server server server join 10.0.0.1 10.0.0.2 10.0.0.3");
}

fn asked(servers: &str, datacenter: &str, domain: &str, dns_port: &str) -> Asked {
    let unless_empty = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Asked {
        servers: unless_empty(servers).map(|text| text.parse().unwrap()),
        datacenter: unless_empty(datacenter).map(|text| text.parse().unwrap()),
        domain: unless_empty(domain).map(|text| text.parse().unwrap()),
        dns_port: unless_empty(dns_port).map(|text| text.parse().unwrap()),
    }
}

/// Datacenter, domain and port of the plan, with its notes; or why there is none.
fn settled(facts: &[Facts], asked: &Asked) -> String {
    plan(facts, asked).map_or_else(
        |error| error.to_string(),
        |plan| {
            let settings = plan.settings;
            let words = [settings.datacenter.as_str(), settings.domain.as_str()].join(" ");
            format!("{words} {}{}", settings.dns_port.number(), settings.notes.concat())
        },
    )
}

#[test]
fn a_new_machine_gets_the_settings_of_the_cluster_unless_others_are_asked_for() {
    let blanks: Vec<Facts> = (1..=3).map(blank).collect();
    assert_eq!(settled(&blanks, &Asked::default()), "dc1 consul 8600");
    assert_eq!(settled(&blanks, &asked("3", "east", "corp.example", "53")), "east corp.example 53");
    let unit =
        member(1, true, 7).unit.unwrap().replace("-datacenter dc1", "-datacenter east -domain corp.example");
    let there = Facts { unit: Some(unit), ..member(1, true, 7) };
    assert_eq!(settled(&[blank(2), there.clone()], &Asked::default()), "east corp.example 53");
    assert_eq!(
        settled(&[blank(2), there.clone()], &asked("", "east", "corp.example", "53")),
        "east corp.example 53"
    );
    let note = "--dns-port 8600 is for the machines that are new; members keep theirs (host-1: 53)";
    assert_eq!(
        settled(&[blank(2), there], &asked("", "", "", "8600")),
        format!("east corp.example 8600{note}")
    );
}

#[test]
fn a_setting_that_a_member_does_not_have_is_refused_with_the_way_to_change_it() {
    let members = [member(1, true, 7), member(2, true, 7), member(3, true, 7)];
    assert_eq!(settled(&members, &asked("3", "dc1", "consul", "53")), "dc1 consul 53");
    let said = |flag: &str, has: &str, asked: &str| {
        format!(
            "host-1 is a member and was set up with {flag} {has}, not {asked}: `fleet up` changes no settings of members. \
             Leave the flag out; "
        )
    };
    let more = [&members[..], &[blank(4), blank(5)]].concat();
    for (asked, want, way) in [
        (asked("5", "", "", ""), said("--servers", "3", "5"), "`corediscover operator servers set 5` "),
        (
            asked("", "east", "", ""),
            said("--datacenter", "dc1", "east"),
            "another datacenter is another cluster",
        ),
        (asked("", "", "corp.example", ""), said("--domain", "consul", "corp.example"), "`systemctl restart"),
    ] {
        let got = settled(&more, &asked);
        assert!(got.starts_with(&want) && got.contains(way), "{got}");
    }
    // A port is each machine's own, and none is new.
    let got = settled(&members, &asked("", "", "", "8600"));
    assert!(got.starts_with(&said("--dns-port", "53", "8600")), "{got}");
    // What was changed by hand to something else is nobody's business here.
    let unit = member(1, true, 7).unit.unwrap().replace("-datacenter dc1", "-datacenter $WHERE");
    assert_eq!(
        settled(&[Facts { unit: Some(unit), ..member(1, true, 7) }], &asked("", "x", "", "")),
        "x consul 53"
    );
}

#[test]
fn machines_that_cannot_be_told_apart_are_refused() {
    let clone = Facts { machine_id: blank(1).machine_id, ..blank(2) };
    check(
        &[blank(1), clone],
        None,
        "host-1 and host-2 have the same machine-id: give each machine its own (rm /etc/machine-id; \
         systemd-machine-id-setup; reboot)",
    );
    let namesake = Facts { hostname: "HOST-1".to_owned(), ..blank(2) };
    check(
        &[blank(1), namesake],
        None,
        "host-1 and host-2 have the same host name: give each machine its own (hostnamectl set-hostname NAME)",
    );
}

#[test]
fn a_machine_behind_a_forwarded_port_is_asked_for_its_address() {
    let behind = |number: u8| Facts {
        connected_to: Some([127, 0, 0, 1].into()),
        reached_at: Some([10, 0, 2, 15].into()),
        ..blank(number)
    };
    check(
        &[behind(1), behind(2)],
        None,
        "it is not clear at which address the other machines reach host-1: say it in the file of --machines, \
         as in `host-1 advertise=10.0.0.1`",
    );
    let said = |number: u8| Facts { advertise: Some([172, 28, 128, number].into()), ..behind(number) };
    check(&[said(3), said(4)], None, "server client join 172.28.128.3");
}

#[test]
fn machines_that_know_no_leader_or_are_not_seen_by_all_are_outside() {
    let status = |leader: &str, alive: &[&str]| {
        let members = ["a", "b", "c"].map(|name| {
            let status = if alive.contains(&name) { "alive" } else { "failed" };
            serde_json::json!({"name": name, "status": status})
        });
        serde_json::json!({"leader": leader, "members": members})
    };
    let all = status("10.0.0.1:8300", &["a", "b", "c"]);
    let check = |statuses: &[serde_json::Value], want: &[usize]| {
        assert_eq!(outsiders(statuses, &["a", "b", "c"]), want, "{statuses:?}");
    };
    check(&[all.clone(), all.clone(), all.clone()], &[]);
    check(&[all.clone(), all.clone(), serde_json::Value::Null], &[2]);
    check(&[all.clone(), status("", &["a", "b", "c"]), all.clone()], &[1]);
    check(&[all.clone(), all.clone(), status("10.0.0.3:8300", &["c"])], &[2]);
    check(&[all.clone(), status("10.0.0.1:8300", &["a", "b"]), all], &[2]);
    check(&[status("", &["a"]), status("", &["b"]), status("", &["c"])], &[0, 1, 2]);
}

#[test]
fn an_answer_tells_what_is_on_a_machine() {
    let cluster = ClusterId::from_random(7);
    let mut facts = blank(1);
    facts.read(&format!(
        "file unit\n# {HEAD}\nfile birth\n{{\"cluster\":\"{cluster}\"}}\n\nfile members\n\nfile parts\ndocker\nagent\nstale\n\
         unit corediscover-agent.service\nunit corediscover-containers.service\nunit corediscover-resolved.service\n\
         enabled corediscover-agent.service\nenabled corediscover-resolved.service\nfile peers\n\
         {{\n  \"data\": [\n    \"10.0.0.2:8301\",\n    \"[fd00::1]:8301\"\n  ],\n  \"format\": 1\n}}\n"
    ));
    assert_eq!(facts.remembers, [std::net::IpAddr::from([10, 0, 0, 2]), "fd00::1".parse().unwrap()]);
    let containers = "corediscover-containers.service";
    assert_eq!(facts.units, ["corediscover-agent.service", containers, "corediscover-resolved.service"]);
    assert_eq!(facts.enabled, ["corediscover-agent.service", "corediscover-resolved.service"]);
    assert!(facts.is_ours() && facts.docker && !facts.resolved && facts.runs && facts.stale);
    assert_eq!(facts.cluster, Some(cluster.clone()));
    let mut facts = blank(1);
    facts.read(&format!(
        "file unit\nfile birth\n\nfile members\n[{{\"name\":\"host-1\",\"tags\":{{\"cluster\":\"{cluster}\"}}}}]\n"
    ));
    assert_eq!((facts.cluster, facts.unit), (Some(cluster.clone()), None));
    let mut facts = blank(1);
    facts.read(&format!("file birth\n{{\"born\":true,\"accepted\":{{\"cluster_id\":\"{cluster}\"}}}}\n"));
    assert_eq!(facts.cluster, Some(cluster));
}

#[test]
fn a_flag_of_a_members_unit_is_read_however_it_is_spelled() {
    for spelling in
        ["-advertise 10.0.0.7", "--advertise 10.0.0.7", "-advertise=10.0.0.7", "--advertise=\"10.0.0.7\""]
    {
        let unit = format!(
            "# It's ours\n[Service]\nExecStart=/x agent \\\n  -advertise-wan 1.1.1.1 \\\n  {spelling} -x\n"
        );
        let facts = Facts { unit: Some(unit), ..blank(1) };
        assert_eq!(facts.advertised(), Some([10, 0, 0, 7].into()), "{spelling}");
    }
    let shared =
        |flags: &str| Shared::of(&format!("[Service]\nExecStart=/x agent \\\n  -join 10.0.0.1 {flags}\n"));
    assert_eq!(shared(""), Ok(Shared::default()));
    assert_eq!(
        shared("--domain corp.example -dns-port=53 -client \"127.0.0.1 fd00::7\""),
        Ok(Shared {
            domain: "corp.example".parse().unwrap(),
            dns_port: "53".parse().unwrap(),
            client: vec!["127.0.0.1".parse().unwrap(), "fd00::7".parse().unwrap()],
        })
    );
    for strange in ["-domain ${DOMAIN}", "-dns-port -1", "-client {{ GetPrivateIP }}"] {
        let quoted = strange.replacen(' ', " '", 1) + "'";
        assert_eq!(shared(&quoted), Err(strange.to_owned()));
    }
}

#[test]
fn what_a_machine_does_without_is_told_unless_its_unit_is_there() {
    let docker = "host-1: no Docker: its containers are not registered; install it and run this again";
    let resolved = "host-1: systemd-resolved does not run: its programs do not find names of the domain; install or start it \
                    and run this again";
    assert_eq!(blank(1).left_out(), [docker, resolved]);
    assert_eq!(Facts { docker: true, ..blank(1) }.left_out(), [resolved]);
    let there = vec!["corediscover-registrator.service", "corediscover-resolved.service"];
    assert!(Facts { units: there, ..blank(1) }.left_out().is_empty());
}
