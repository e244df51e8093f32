//! Units that were made once with `--join`, given unchanged to every machine, form one cluster with the servers they name.

use std::fs;

use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::{corediscover, eventually, loopback};

#[test]
fn the_same_units_on_five_machines_make_the_three_that_they_name_servers_and_the_others_clients() {
    let addresses: Vec<_> = (0..5).map(|_| loopback()).collect();
    let join: Vec<String> = addresses[..3].iter().map(ToString::to_string).collect();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display().to_string();
    let words = ["units", "--join", &join.join(","), "--servers", "3", "--advertise", "auto", "--out", &out];
    assert!(corediscover().args(words).output().unwrap().status.success());
    let unit = fs::read_to_string(folder.path().join("corediscover-agent.service")).unwrap();
    let line =
        unit.split("ExecStart=").nth(1).unwrap().split("\nExecReload").next().unwrap().replace("\\\n", " ");
    let words: Vec<&str> = line.split_whitespace().collect();
    // What differs here from real machines: several on one host, each with an address and a folder of its own.
    let begin = words.iter().position(|word| *word == "agent").unwrap() + 1;
    let end = words.iter().position(|word| *word == "-advertise").unwrap();
    let flags = &words[begin..end];
    assert!(!flags.contains(&"-server"), "{flags:?}");
    let names = ["host-1", "host-2", "host-3", "host-4", "host-5"];
    let mut machines: Vec<Machine> = names
        .iter()
        .zip(&addresses)
        .map(|(name, address)| Machine::agent_at(name, *address, Vec::new(), flags))
        .collect();
    // The last ones first: they must not take the servers' part.
    for machine in machines.iter_mut().rev() {
        machine.start();
    }
    let all: Vec<&Machine> = machines.iter().collect();
    formed(&all, 5);
    let mut servers: Vec<String> = join.iter().map(|address| format!("{address}:8300")).collect();
    servers.sort();
    eventually(PATIENCE, "the named machines are the voters, and only they", || {
        let peers = machines[4].get("/v1/status/peers")?;
        let mut peers: Vec<String> = serde_json::from_value(peers).ok()?;
        peers.sort();
        (peers == servers).then_some(())
    });
    // A named machine that comes again blank joins the cluster that is there.
    let roles = |machine: &Machine| {
        machine.get("/v1/agent/self")?["Member"]["Tags"]["role"].as_str().map(str::to_owned)
    };
    assert_eq!(roles(&machines[3]).as_deref(), Some("node"));
    assert_eq!(roles(&machines[0]).as_deref(), Some("consul"));
}
