//! Servers that die, leave, return: who takes their place, with real processes on loopback.

use std::collections::BTreeSet;

use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// Servers are replaced this soon in these tests.
const SOON: [&str; 2] = ["-replace-after", "2s"];

/// `count` servers that are born together, then clients; all with `flags`.
fn cluster(servers: usize, clients: usize, flags: &[&str]) -> Vec<Machine> {
    let expect = servers.to_string();
    let mut machines: Vec<Machine> = Vec::new();
    for number in 1..=servers + clients {
        let mut all = flags.to_vec();
        if number <= servers {
            all.extend(["-server", "-bootstrap-expect", &expect]);
        }
        let join = machines.first().map(|first| first.address.to_string());
        if let Some(join) = &join {
            all.extend(["-join", join]);
        }
        machines.push(Machine::agent(&format!("m{number}"), &all).started());
    }
    let all: Vec<&Machine> = machines.iter().collect();
    formed(&all, servers + clients);
    for machine in &machines {
        eventually(PATIENCE, "everybody says which cluster it is in", || {
            let members = machine.get("/v1/agent/members")?;
            let told = members.as_array()?.iter().all(|member| member["Tags"]["cluster"].is_string());
            told.then_some(())
        });
    }
    machines
}

/// Addresses of the servers that vote, as one machine knows them.
fn voters(machine: &Machine) -> Option<BTreeSet<String>> {
    let peers = machine.get("/v1/status/peers")?;
    let addresses = peers.as_array()?.iter().filter_map(|peer| peer.as_str());
    Some(addresses.map(|address| address.trim_end_matches(":8300").to_owned()).collect())
}

fn addresses<'a>(machines: impl IntoIterator<Item = &'a Machine>) -> BTreeSet<String> {
    machines.into_iter().map(|machine| machine.address.to_string()).collect()
}

#[track_caller]
fn until_voters(machine: &Machine, wanted: &BTreeSet<String>) {
    let mut last = None;
    let end = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < end {
        last = voters(machine);
        if last.as_ref() == Some(wanted) {
            return;
        }
        // Polling interval.
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    panic!("{} sees the voters {last:?}, not {wanted:?}\n{}", machine.name, machine.log());
}

#[track_caller]
fn writes_go_on(machine: &Machine, key: &str) {
    eventually(PATIENCE, &format!("{} writes", machine.name), || {
        machine.put_once(&format!("/v1/kv/{key}"), key).then_some(())
    });
}

fn reads(machine: &Machine, key: &str) -> bool {
    machine.read(&format!("/v1/kv/{key}?raw&consistent")) == (200, key.as_bytes().to_vec())
}

fn leader_of(machine: &Machine) -> String {
    eventually(PATIENCE, &format!("{} knows a leader", machine.name), || machine.leader())
}

/// Takes out a server that does not lead.
fn follower(machines: &[Machine], servers: usize) -> usize {
    let leader = leader_of(&machines[0]);
    let leads = |machine: &Machine| leader == format!("{}:8300", machine.address);
    (0..servers).find(|position| !leads(&machines[*position])).unwrap()
}

fn role(machine: &Machine, of: &Machine) -> Option<String> {
    let members = machine.get("/v1/agent/members")?;
    let member = members.as_array()?.iter().find(|member| member["Name"] == of.name.as_str())?.clone();
    member["Tags"]["role"].as_str().map(str::to_owned)
}

#[test]
fn a_server_killed_for_good_is_replaced_by_a_client_and_runs_as_a_client_when_it_returns() {
    let mut machines = cluster(3, 1, &SOON);
    writes_go_on(&machines[3], "before");
    let mut dead = machines.remove(follower(&machines, 3));
    dead.kill();
    for machine in &machines {
        until_voters(machine, &addresses(&machines));
        writes_go_on(machine, &format!("by-{}", machine.name));
        assert!(reads(machine, "before"));
    }
    let audit = machines.iter().map(Machine::log).collect::<String>();
    assert!(audit.contains("audit: a server was replaced"), "{audit}");
    dead.start();
    eventually(PATIENCE, "the old server is a client", || {
        (role(&machines[0], &dead).as_deref() == Some("node")).then_some(())
    });
    eventually(PATIENCE, "its log is kept", || {
        dead.data().join("raft.retired-0/owner.json").is_file().then_some(())
    });
    assert!(!dead.data().join("raft").exists());
    writes_go_on(&dead, "by-the-returned");
    assert!(!dead.dig(&["consul.service.consul"]).is_empty());
    assert!(dead.is_alive());
    until_voters(&dead, &addresses(&machines));
    // As what it is it comes back, too, although its flags say that it is a server.
    dead.stop();
    dead.start();
    writes_go_on(&dead, "after-a-restart");
    until_voters(&dead, &addresses(&machines));
    assert_eq!(role(&machines[0], &dead).as_deref(), Some("node"));
}

#[test]
fn a_client_that_became_a_server_is_one_after_a_restart() {
    let mut machines = cluster(3, 1, &SOON);
    let mut dead = machines.remove(follower(&machines, 3));
    dead.kill();
    until_voters(&machines[0], &addresses(&machines));
    for machine in &mut machines {
        machine.stop();
    }
    for machine in &mut machines {
        machine.start();
    }
    let promoted = machines.last().unwrap();
    eventually(PATIENCE, "all lead or follow again", || promoted.leader());
    until_voters(promoted, &addresses(&machines));
    writes_go_on(promoted, "after");
    eventually(PATIENCE, "it is a server", || {
        (role(&machines[0], promoted).as_deref() == Some("consul")).then_some(())
    });
}

#[test]
fn a_server_that_leaves_is_replaced_first() {
    let mut machines = cluster(3, 1, &[]);
    let mut leaving = machines.remove(follower(&machines, 3));
    let (code, ..) = leaving.command(&["leave"]);
    assert_eq!(code, 0);
    until_voters(&machines[0], &addresses(&machines));
    assert_eq!(leaving.ended(), Some(0));
    is_replaced_while_it_leaves(&leaving, &machines);
    writes_go_on(&machines[2], "after");
}

/// It left because another had its place, and not because it had waited long enough and its place was filled later.
fn is_replaced_while_it_leaves(leaving: &Machine, others: &[Machine]) {
    let log = leaving.log();
    assert!(log.contains("another machine is taking the place"), "{log}");
    assert!(!log.contains("nobody has taken the place"), "{log}");
    let said = others.iter().chain([leaving]).map(Machine::log).collect::<String>();
    let swapped = |line: &&str| {
        line.contains("audit: a server was replaced")
            && line.contains(&format!("old=\"{}\"", leaving.name))
            && line.contains("why=it leaves")
    };
    assert!(said.lines().any(|line| swapped(&line)), "{said}");
    assert!(!said.contains("audit: a server was added"), "{said}");
}

#[test]
fn a_leader_that_leaves_is_replaced_first() {
    let mut machines = cluster(3, 1, &[]);
    let leader = leader_of(&machines[0]);
    let position = machines.iter().position(|machine| leader == format!("{}:8300", machine.address)).unwrap();
    let mut leaving = machines.remove(position);
    assert_eq!(leaving.command(&["leave"]).0, 0);
    until_voters(&machines[0], &addresses(&machines));
    assert_eq!(leaving.ended(), Some(0));
    is_replaced_while_it_leaves(&leaving, &machines);
    writes_go_on(&machines[2], "after");
}

#[test]
fn two_servers_of_five_that_die_at_once_are_replaced_one_after_the_other() {
    let mut machines = cluster(5, 2, &SOON);
    let first = follower(&machines, 5);
    let mut dead = vec![machines.remove(first)];
    let second = follower(&machines, 4);
    dead.push(machines.remove(second));
    for machine in &mut dead {
        machine.kill();
    }
    until_voters(&machines[0], &addresses(&machines));
    writes_go_on(machines.last().unwrap(), "after");
    assert_eq!(voters(&machines[1]).unwrap().len(), 5);
    // The log begins each line with its time.
    let logs = machines.iter().map(Machine::log).collect::<String>();
    let replaced = |old: &Machine| -> jiff::Timestamp {
        let old = format!("old=\"{}\"", old.name);
        let swap = |line: &&str| line.contains("audit: a server was replaced") && line.contains(&old);
        let line = logs.lines().find(swap).unwrap_or_else(|| panic!("{old}: {logs}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut times = [replaced(&dead[0]), replaced(&dead[1])];
    times.sort_unstable();
    let [first, second] = times;
    assert!(second.duration_since(first).as_secs() >= 10, "{logs}");
}

#[test]
fn the_number_of_servers_can_be_raised_and_lowered_by_an_operator() {
    let machines = cluster(3, 2, &SOON);
    writes_go_on(&machines[4], "before");
    let (code, text, error) = machines[4].command(&["operator", "servers", "set", "5"]);
    assert_eq!((code, text.as_str()), (0, "The cluster is to have 5 servers\n"), "{error}");
    until_voters(&machines[0], &addresses(&machines));
    for machine in &machines {
        writes_go_on(machine, &format!("five-{}", machine.name));
    }
    assert_eq!(machines[0].command(&["operator", "servers", "set", "3"]).0, 0);
    eventually(PATIENCE, "three servers are left", || (voters(&machines[0])?.len() == 3).then_some(()));
    let left = voters(&machines[0]).unwrap();
    let clients: Vec<&Machine> =
        machines.iter().filter(|machine| !left.contains(&machine.address.to_string())).collect();
    for client in &clients {
        eventually(PATIENCE, "it is a client", || {
            (role(&machines[0], client).as_deref() == Some("node")).then_some(())
        });
        writes_go_on(client, &format!("three-{}", client.name));
        assert!(reads(client, "before"));
        eventually(PATIENCE, "its log is kept", || {
            client.data().join("raft.retired-0").is_dir().then_some(())
        });
    }
    let (code, _, error) = machines[0].command(&["operator", "servers", "set", "40"]);
    assert_eq!(code, 1);
    assert!(error.contains("not between 1 and 9"), "{error}");
    // A former server becomes one again, as another node of raft.
    assert_eq!(machines[0].command(&["operator", "servers", "set", "5"]).0, 0);
    until_voters(clients[0], &addresses(&machines));
    for machine in &machines {
        writes_go_on(machine, &format!("again-{}", machine.name));
    }
}

#[test]
fn where_replacement_is_only_proposed_an_operator_carries_it_out() {
    let mut machines = cluster(3, 1, &["-replace-after", "2s", "-replace", "propose"]);
    let before = addresses(&machines[..3]);
    let mut dead = machines.remove(follower(&machines, 3));
    dead.kill();
    let text = eventually(PATIENCE, "the proposal is shown", || {
        let (_, text, _) = machines[0].command(&["operator", "raft"]);
        text.contains("Proposal: m4 in the place of").then_some(text)
    });
    assert!(text.contains(&dead.name), "{text}");
    assert_eq!(voters(&machines[0]), Some(before));
    let (_, status, _) = machines[0].command(&["status"]);
    assert!(status.contains("`operator servers replace` carries it out"), "{status}");
    let (code, _, error) = machines[0].command(&["operator", "servers", "replace"]);
    assert_eq!(code, 0, "{error}");
    until_voters(&machines[0], &addresses(&machines));
    let text = eventually(PATIENCE, "the change is shown", || {
        let (_, text, _) = machines[1].command(&["status"]);
        text.contains("Last change: m4").then_some(text)
    });
    assert!(text.contains("it is dead"), "{text}");
}

#[test]
fn a_dead_server_without_a_client_to_replace_it_is_reported_and_stays_a_voter() {
    let mut machines = cluster(3, 0, &SOON);
    let before = addresses(&machines);
    let mut dead = machines.remove(follower(&machines, 3));
    dead.kill();
    let text = eventually(PATIENCE, "the reason is shown", || {
        let (_, text, _) = machines[0].command(&["status"]);
        text.contains("there is no client that could become a server").then_some(text)
    });
    assert!(text.contains(&format!("{} is dead", dead.name)), "{text}");
    assert_eq!(voters(&machines[0]), Some(before.clone()));
    writes_go_on(&machines[0], "after");
    dead.start();
    eventually(PATIENCE, "it votes again", || dead.leader());
    writes_go_on(&dead, "by-the-returned");
    assert_eq!(voters(&dead), Some(before));
}

#[test]
fn raft_is_shown_and_changed_as_with_consul() {
    let machines = cluster(3, 1, &["-replace", "off"]);
    let (code, text, error) = machines[3].command(&["operator", "raft", "list-peers"]);
    assert_eq!(code, 0, "{error}");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..6], ["Node", "ID", "Address", "State", "Voter", "RaftProtocol"]);
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[1..].iter().filter(|row| row[3] == "leader").count(), 1);
    let (status, _, body) = machines[0].request("DELETE", "/v1/operator/raft/peer", b"").unwrap();
    assert_eq!(status, 400);
    assert!(String::from_utf8_lossy(&body).starts_with("Must specify either ?id with the server's ID"));
    let unknown = "/v1/operator/raft/peer?address=127.0.0.1:1";
    let (status, _, body) = machines[0].request("DELETE", unknown, b"").unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(
        (status, text.as_str()),
        (500, "address \"127.0.0.1:1\" was not found in the Raft configuration")
    );
    let before = leader_of(&machines[0]);
    let (code, text, error) = machines[3].command(&["operator", "raft", "transfer-leader"]);
    assert_eq!((code, text.as_str()), (0, "Success\n"), "{error}");
    eventually(PATIENCE, "another server leads", || machines[0].leader().filter(|now| *now != before));
    let (status, _, body) = machines[1].request("POST", "/v1/operator/raft/transfer-leader", b"").unwrap();
    assert_eq!((status, body.as_slice()), (200, br#"{"Success":true}"#.as_slice()));
    let health =
        eventually(PATIENCE, "autopilot is content", || machines[3].get("/v1/operator/autopilot/health"));
    assert_eq!((health["Healthy"].as_bool(), health["FailureTolerance"].as_u64()), (Some(true), Some(1)));
    let state = eventually(PATIENCE, "and tells of it", || machines[3].get("/v1/operator/autopilot/state"));
    assert_eq!(state["Voters"].as_array().unwrap().len(), 3);
    let set =
        ["operator", "autopilot", "set-config", "-cleanup-dead-servers=false", "-max-trailing-logs=300"];
    let (code, text, error) = machines[3].command(&set);
    assert_eq!((code, text.as_str()), (0, "Configuration updated!\n"), "{error}");
    let (_, text, _) = machines[0].command(&["operator", "autopilot", "get-config"]);
    assert!(
        text.starts_with("CleanupDeadServers = false\nLastContactThreshold = 200ms\nMaxTrailingLogs = 300\n"),
        "{text}"
    );
    let leader = leader_of(&machines[0]);
    let victim = machines[..3].iter().find(|machine| leader != format!("{}:8300", machine.address)).unwrap();
    let address = format!("{}:8300", victim.address);
    let (code, text, error) = machines[3].command(&["operator", "raft", "remove-peer", "-address", &address]);
    assert_eq!((code, text), (0, format!("Removed peer with address \"{address}\"\n")), "{error}");
    eventually(PATIENCE, "two servers are left", || (voters(&machines[3])?.len() == 2).then_some(()));
    eventually(PATIENCE, "the removed one is a client", || {
        (role(&machines[3], victim).as_deref() == Some("node")).then_some(())
    });
    writes_go_on(victim, "as-a-client");
}

#[test]
fn after_a_lost_quorum_one_server_founds_a_successor_and_the_lost_ones_can_only_join_it() {
    let mut machines = cluster(3, 1, &[]);
    writes_go_on(&machines[3], "before");
    let old = eventually(PATIENCE, "its tags name the cluster", || cluster_of(&machines[0], &machines[0]));
    let mut lost: Vec<Machine> = machines.drain(1..3).collect();
    for machine in &mut lost {
        machine.kill();
    }
    let (survivor, client) = (&machines[0], &machines[1]);
    let (code, _, advice) = survivor.command(&["operator", "recover"]);
    assert_eq!(code, 2);
    assert!(advice.contains(&format!("operator recover -cluster {old}")), "{advice}");
    let (code, _, error) = client.command(&["operator", "recover", "-cluster", &old]);
    assert_eq!(code, 1);
    assert!(error.contains("recover at a server"), "{error}");
    eventually(PATIENCE, "the cluster is recovered", || {
        let (code, ..) = survivor.command(&["operator", "recover", "-cluster", &old]);
        (code == 0).then_some(())
    });
    writes_go_on(survivor, "by-the-survivor");
    assert!(reads(survivor, "before"));
    writes_go_on(client, "by-the-client");
    assert!(reads(client, "before"));
    let new = eventually(PATIENCE, "the client is in the successor", || {
        cluster_of(survivor, client).filter(|cluster| *cluster != old)
    });
    assert!(survivor.data().join("raft.retired-0").is_dir(), "what was there is kept");
    let (code, text, _) = survivor.command(&["operator", "recover", "-cluster", &old]);
    assert_eq!(code, 0, "what is done is done once");
    assert!(text.contains(&new), "{text}");
    // The lost side is a majority of the old cluster: it must not go on as that.
    for machine in &mut lost {
        machine.start();
    }
    for machine in &lost {
        eventually(PATIENCE, "a lost server has joined the successor", || {
            let archived = machine.data().join("raft.retired-0").is_dir();
            (archived && cluster_of(survivor, machine).as_ref() == Some(&new)).then_some(())
        });
        writes_go_on(machine, &format!("by-the-lost-{}", machine.name));
        assert!(reads(machine, "by-the-survivor"));
    }
    eventually(PATIENCE, "there are three servers again", || (voters(survivor)?.len() == 3).then_some(()));
    writes_go_on(survivor, "in-the-end");
    assert!(reads(&lost[0], "in-the-end"));
    // After a restart everybody is still in the successor.
    for machine in &mut lost {
        machine.stop();
        machine.start();
        writes_go_on(machine, &format!("restarted-{}", machine.name));
    }
}

#[test]
fn of_two_survivors_that_are_both_told_to_recover_one_founds_the_successor_and_the_other_joins_it() {
    let mut machines = cluster(5, 0, &[]);
    writes_go_on(&machines[0], "before");
    let old = eventually(PATIENCE, "its tags name the cluster", || cluster_of(&machines[0], &machines[0]));
    let mut lost = machines.split_off(2);
    for machine in &mut lost {
        machine.kill();
    }
    let order = ["operator", "recover", "-cluster", &old];
    eventually(PATIENCE, "one of them recovers the cluster", || {
        let told = machines.iter().map(|machine| machine.command(&order)).collect::<Vec<_>>();
        told.iter().any(|(code, ..)| *code == 0).then_some(())
    });
    let new = eventually(PATIENCE, "both are in one successor", || {
        let [one, other] = [0, 1].map(|number| cluster_of(&machines[number], &machines[number]));
        one.filter(|cluster| *cluster != old && other.as_ref() == Some(cluster))
    });
    for machine in &machines {
        let (code, text, error) = machine.command(&order);
        assert!(code == 0 && text.contains(&new), "what is done is done once: {text}{error}");
    }
    for mut machine in lost {
        machine.start();
        machines.push(machine);
    }
    for machine in &machines {
        eventually(PATIENCE, "everybody is in the successor", || {
            (cluster_of(machine, machine).as_ref() == Some(&new)).then_some(())
        });
        writes_go_on(machine, &format!("by-{}", machine.name));
        assert!(reads(machine, "before"));
    }
    let leaders: BTreeSet<String> = machines.iter().map(leader_of).collect();
    assert_eq!(leaders.len(), 1, "{leaders:?}");
}

#[test]
fn a_recovery_renews_the_certificate_in_etcd_and_machines_that_come_later_join_the_successor() {
    let etcd = Etcd::start();
    let mut machines: Vec<Machine> =
        (1..=3).map(|number| Machine::bootstrap(&format!("m{number}"), &etcd.url(), 3).started()).collect();
    formed(&machines.iter().collect::<Vec<_>>(), 3);
    writes_go_on(&machines[0], "before");
    let old = eventually(PATIENCE, "its tags name the cluster", || cluster_of(&machines[0], &machines[0]));
    let mut lost = machines.split_off(1);
    for machine in &mut lost {
        machine.kill();
    }
    let mut survivor = machines.remove(0);
    eventually(PATIENCE, "the cluster is recovered", || {
        let (code, ..) = survivor.command(&["operator", "recover", "-cluster", &old]);
        (code == 0).then_some(())
    });
    writes_go_on(&survivor, "after");
    let certificate = eventually(PATIENCE, "etcd knows the successor", || {
        let text = etcd.pairs("/consul.io/bootstrap/cluster").pop()?.1;
        let certificate: serde_json::Value = serde_json::from_str(&text).unwrap();
        (certificate["cluster_id"] != old.as_str()).then_some(certificate)
    });
    let tells = eventually(PATIENCE, "its tags name the successor", || {
        cluster_of(&survivor, &survivor).filter(|cluster| *cluster != old)
    });
    assert_eq!(
        (certificate["cluster_id"].as_str(), certificate["epoch"].as_u64()),
        (Some(tells.as_str()), Some(2))
    );
    assert_eq!(certificate["closed"][0], old.as_str());
    let late = Machine::bootstrap("m4", &etcd.url(), 3).started();
    writes_go_on(&late, "by-a-machine-that-came-late");
    assert!(reads(&late, "before"));
    for machine in &mut lost {
        machine.start();
    }
    for machine in &lost {
        eventually(PATIENCE, "a lost server has joined the successor", || {
            (cluster_of(&survivor, machine).as_deref() == Some(tells.as_str())).then_some(())
        });
        writes_go_on(machine, &format!("by-the-lost-{}", machine.name));
        assert!(reads(machine, "after"));
    }
    survivor.stop();
    survivor.start();
    writes_go_on(&survivor, "after-a-restart");
    let again = eventually(PATIENCE, "its tags name a cluster", || cluster_of(&survivor, &survivor));
    assert_eq!(again, tells);
}

/// The cluster that a member says it is in.
fn cluster_of(machine: &Machine, of: &Machine) -> Option<String> {
    let members = machine.get("/v1/agent/members")?;
    let member = members.as_array()?.iter().find(|member| member["Name"] == of.name.as_str())?.clone();
    member["Tags"]["cluster"].as_str().map(str::to_owned)
}
