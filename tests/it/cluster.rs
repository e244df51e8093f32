//! Whole clusters of real processes on loopback, with a real etcd: birth, loss of machines, of etcd, of power.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};

/// How often seven machines are born in one run.
const BIRTHS: usize = 20;
/// A dead machine must leave DNS everywhere within this; the goal of the design, generous for a busy test machine
/// only in that detection may begin a little late.
const DEATH_NOTICED: Duration = Duration::from_secs(10);

fn machines(etcd: &Etcd, count: usize) -> Vec<Machine> {
    (1..=count)
        .map(|number| Machine::bootstrap(&format!("machine-{number}"), &etcd.url(), 3).started())
        .collect()
}

fn all(machines: &[Machine]) -> Vec<&Machine> {
    machines.iter().collect()
}

#[test]
fn seven_machines_that_start_at_once_are_three_servers_and_four_clients_each_time() {
    for round in 0..BIRTHS {
        let etcd = Etcd::start();
        let machines = machines(&etcd, 7);
        let leader = formed(&all(&machines), 7);
        // Gossip tells each machine of the others by itself; the catalog may know a member a moment earlier.
        let members = eventually(PATIENCE, "gossip shows seven members", || {
            let members = machines[0].get("/v1/agent/members")?;
            (members.as_array()?.len() == 7).then_some(members)
        });
        let role = |member: &&serde_json::Value| member["Tags"]["role"] == "consul";
        let servers = members.as_array().unwrap().iter().filter(role).count();
        assert_eq!(servers, 3, "round {round}");
        let peers = machines[0].get("/v1/status/peers").unwrap();
        assert_eq!(peers.as_array().unwrap().len(), 3, "round {round}");
        assert!(peers.as_array().unwrap().iter().any(|peer| peer == leader.as_str()), "round {round}");
        let claims: BTreeMap<String, String> =
            etcd.pairs("/consul.io/bootstrap/machines").into_iter().collect();
        let wanted: BTreeMap<String, String> = machines
            .iter()
            .map(|machine| {
                (format!("/consul.io/bootstrap/machines/{}", machine.name), machine.address.to_string())
            })
            .collect();
        assert_eq!(claims, wanted, "round {round}");
    }
}

#[test]
fn a_killed_server_leaves_dns_and_writes_go_on_and_it_catches_up_when_it_returns() {
    let etcd = Etcd::start();
    let mut machines = machines(&etcd, 3);
    let leader = formed(&all(&machines), 3);
    assert!(machines[0].put("/v1/kv/before", "1"));
    let position =
        machines.iter().position(|machine| leader.starts_with(&machine.address.to_string())).unwrap();
    let mut dead = machines.remove(position);
    dead.kill();
    let gone = dead.address.to_string();
    eventually(DEATH_NOTICED, "the dead machine has left DNS everywhere", || {
        let answers: Vec<Vec<String>> =
            machines.iter().map(|machine| machine.dig(&["consul.service.consul"])).collect();
        assert!(answers.iter().all(|answer| !answer.is_empty()), "DNS answered all the time: {answers:?}");
        answers.iter().all(|answer| !answer.contains(&gone)).then_some(())
    });
    eventually(PATIENCE, "writes go on", || machines[0].put_once("/v1/kv/after", "2").then_some(()));
    dead.start();
    machines.push(dead);
    formed(&all(&machines), 3);
    let back = machines.last().unwrap();
    eventually(PATIENCE, "it has caught up", || {
        let value = back.request("GET", "/v1/kv/after?raw&stale", b"")?;
        (value.0 == 200 && value.2 == b"2").then_some(())
    });
    assert_eq!(back.get("/v1/status/peers").unwrap().as_array().unwrap().len(), 3);
}

#[test]
fn etcd_is_not_needed_after_the_birth_not_even_to_start_all_machines_again() {
    let mut etcd = Etcd::start();
    let mut machines = machines(&etcd, 4);
    formed(&all(&machines), 4);
    etcd.kill();
    assert!(machines[3].put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#));
    let address = machines[3].address.to_string();
    let found = |machine: &Machine| (machine.dig(&["web.service.consul"]) == [address.clone()]).then_some(());
    for machine in &machines {
        eventually(PATIENCE, "web is found without etcd", || found(machine));
    }
    for machine in &mut machines {
        machine.stop();
    }
    for machine in &mut machines {
        machine.start();
    }
    formed(&all(&machines), 4);
    for machine in &machines {
        eventually(PATIENCE, "web is found after the restart", || found(machine));
    }
    assert!(machines[0].put("/v1/kv/a", "b"));
}

#[test]
fn every_acknowledged_write_survives_the_death_of_all_machines_at_once() {
    let etcd = Etcd::start();
    let mut machines = machines(&etcd, 3);
    formed(&all(&machines), 3);
    let acknowledged = {
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (machines, stop, count) = (&mut machines, &stop, &count);
        std::thread::scope(|scope| {
            let writers: Vec<_> = machines
                .iter()
                .enumerate()
                .map(|(writer, machine)| {
                    let address = (machine.address, 8500).into();
                    scope.spawn(move || {
                        let mut keys = Vec::new();
                        for number in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            let key = format!("/v1/kv/load/{writer}/{number}");
                            let answer =
                                crate::support::machine::request(address, "PUT", &key, key.as_bytes());
                            match answer {
                                Some((200, _, body)) if body == b"true" => {
                                    keys.push(key);
                                    count.fetch_add(1, Ordering::Relaxed);
                                }
                                Some(_) => {}
                                // The machine is dead.
                                None => break,
                            }
                        }
                        keys
                    })
                })
                .collect();
            eventually(PATIENCE, "writes are under way", || {
                (count.load(Ordering::Relaxed) > 300).then_some(())
            });
            for machine in machines.iter_mut() {
                machine.kill();
            }
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        })
    };
    assert!(acknowledged.len() > 300);
    for machine in &mut machines {
        machine.start();
    }
    formed(&all(&machines), 3);
    for key in acknowledged {
        let (status, body) = machines[1].read(&format!("{key}?raw&consistent"));
        assert_eq!((status, body.as_slice()), (200, key.as_bytes()), "{key} was acknowledged");
    }
}

#[test]
fn one_server_with_expect_and_two_that_join_it_form_a_cluster_without_etcd() {
    let first = Machine::agent("m1", &["-server", "-bootstrap-expect", "3"]).started();
    let join = first.address.to_string();
    let others = ["m2", "m3"].map(|name| Machine::agent(name, &["-server", "-join", &join]).started());
    let client = Machine::agent("m4", &["-join", &join]).started();
    let [second, third] = &others;
    formed(&[&first, second, third, &client], 4);
    assert_eq!(client.get("/v1/status/peers").unwrap().as_array().unwrap().len(), 3);
    assert!(client.put("/v1/kv/a", "b"));
    let (code, text, _) = client.command(&["members"]);
    assert_eq!(code, 0);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["Node", "Address", "Status", "Type"]);
    let kinds: Vec<(&str, &str)> = rows[1..].iter().map(|row| (row[0], row[3])).collect();
    assert_eq!(kinds, [("m1", "server"), ("m2", "server"), ("m3", "server"), ("m4", "client")]);
}

#[test]
fn a_server_that_leaves_is_removed_from_the_voters_and_one_that_joins_becomes_a_voter() {
    let first = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    let join = first.address.to_string();
    let second = Machine::agent("m2", &["-server", "-join", &join]).started();
    let mut third = Machine::agent("m3", &["-server", "-join", &join]).started();
    formed(&[&first, &second, &third], 3);
    let voters = |machine: &Machine| Some(machine.get("/v1/status/peers")?.as_array()?.len());
    eventually(PATIENCE, "three voters", || (voters(&first) == Some(3)).then_some(()));
    let (code, text, _) = third.command(&["leave"]);
    assert_eq!((code, text.as_str()), (0, "Graceful leave complete\n"));
    eventually(PATIENCE, "two voters", || (voters(&first) == Some(2)).then_some(()));
    eventually(PATIENCE, "the process that left has ended", || (!third.is_alive()).then_some(()));
    let nodes = eventually(PATIENCE, "it is out of the catalog", || {
        let nodes = first.get("/v1/catalog/nodes")?;
        (nodes.as_array()?.len() == 2).then_some(nodes)
    });
    assert!(nodes.as_array().unwrap().iter().all(|node| node["Node"] != "m3"));
}

#[test]
fn a_machine_that_began_a_cluster_alone_joins_it_when_it_comes_back_with_an_empty_disk() {
    for alone in [&["-bootstrap"][..], &["-bootstrap-expect", "1"]] {
        let mut first = Machine::agent("m1", &[&["-server"], alone].concat());
        let second = Machine::agent("m2", &["-retry-join", &first.address.to_string()]);
        first.append_flags(&["-retry-join", &second.address.to_string()]);
        first.start();
        let second = second.started();
        formed(&[&first, &second], 2);
        assert!(second.put("/v1/kv/a", "b"));
        let (code, text, _) = first.command(&["leave"]);
        assert_eq!((code, text.as_str()), (0, "Graceful leave complete\n"), "{}", first.log());
        assert_eq!(first.ended(), Some(0));
        std::fs::remove_dir_all(first.data()).unwrap();
        first.start();
        eventually(PATIENCE, "it has what was there", || {
            (first.read("/v1/kv/a?raw&consistent") == (200, b"b".to_vec())).then_some(())
        });
        let leader = Some(format!("{}:8300", second.address));
        assert_eq!((first.leader(), second.leader()), (leader.clone(), leader), "{}", first.log());
        assert_eq!(first.get("/v1/status/peers").unwrap().as_array().unwrap().len(), 1);
    }
}
