//! Too few file descriptors, too little memory.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::{leader_of, three_servers};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, deaths};

/// Files and sockets that the agent may have open: enough for itself and those who wait, not for a crowd.
const FILES: usize = 192;
/// Clients that wait for a change, as consul-template does: their connections are old, and never idle.
const WAITING: usize = 70;
/// How long a connection may take to stand; refused ones by a full queue take minutes.
const CONNECT_WAIT: Duration = Duration::from_millis(50);
/// Memory that a process may take beyond what it has, in bytes, before the kernel gives it no more.
const MEMORY_LEFT: u64 = 4 << 20;
/// One large value.
const VALUE_BYTES: usize = 500_000;

fn limit(machine: &Machine, what: &str) {
    let output = Command::new("prlimit").args(["--pid", &machine.id().to_string(), what]).output().unwrap();
    assert!(output.status.success(), "prlimit: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_agent_without_file_descriptors_stays_a_member_and_idle_connections_give_way() {
    let machines = three_servers();
    let starved = &machines[1];
    assert!(starved.put("/v1/kv/waited", "x"));
    let answer = Client::new(starved.socket(8500), PATIENCE).call("GET", "/v1/kv/waited", b"").unwrap();
    let index = answer.index.unwrap();
    let wait = format!("GET /v1/kv/waited?index={index}&wait=10m HTTP/1.1\r\nHost: t\r\n\r\n");
    let waiting: Vec<TcpStream> = (0..WAITING)
        .map(|_| {
            let mut stream = TcpStream::connect(starved.socket(8500)).unwrap();
            stream.write_all(wait.as_bytes()).unwrap();
            stream
        })
        .collect();
    limit(starved, &format!("--nofile={FILES}:{FILES}"));
    // Some wait in vain, as far as the kernel lets them wait.
    let connect = || TcpStream::connect_timeout(&starved.socket(8500), CONNECT_WAIT).ok();
    let crowd: Vec<TcpStream> = (0..2 * FILES).filter_map(|_| connect()).collect();
    assert!(crowd.len() > FILES, "more than the agent can have");
    // Gossip, raft and DNS have their sockets already.
    for number in 0..20 {
        let path = format!("/v1/kv/files/{number}");
        assert!(machines[number % 2 * 2].put(&path, "x"));
    }
    assert_eq!(starved.dig(&["consul.service.consul"]).len(), 3, "DNS over UDP needs no new socket");
    eventually(PATIENCE, "it serves, because idle connections give way", || {
        let answer = starved.request("GET", "/v1/kv/files/19?raw", b"")?;
        (answer.0 == 200 && answer.2 == b"x").then_some(())
    });
    drop((crowd, waiting));
    leader_of(&machines);
    assert_eq!(deaths(&machines), Vec::<String>::new(), "nobody was declared dead");
}

#[test]
fn a_server_that_gets_no_more_memory_ends_and_nothing_acknowledged_is_lost() {
    let mut machines = three_servers();
    let victim = (leader_of(&machines) + 1) % 3;
    let status = std::fs::read_to_string(format!("/proc/{}/status", machines[victim].id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    let size: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    limit(&machines[victim], &format!("--as={}", size * 1024 + MEMORY_LEFT));
    let value = "v".repeat(VALUE_BYTES);
    let mut acknowledged = Vec::new();
    for number in 0.. {
        assert!(number < 2000, "the limit is never reached");
        let path = format!("/v1/kv/memory/{}", number % 100);
        let value = format!("{number} {value}");
        let writer = (victim + 1 + number % 2) % 3;
        eventually(PATIENCE, "the others go on", || machines[writer].put_once(&path, &value).then_some(()));
        acknowledged.retain(|(known, _): &(String, usize)| *known != path);
        acknowledged.push((path, number));
        if !machines[victim].is_alive() {
            break;
        }
    }
    machines[victim].kill();
    machines[victim].start();
    leader_of(&machines);
    for (path, number) in acknowledged {
        let (status, body) = machines[victim].read(&format!("{path}?raw&consistent"));
        assert_eq!((status, body.len()), (200, VALUE_BYTES + 1 + number.to_string().len()));
        assert!(body.starts_with(format!("{number} ").as_bytes()), "{path}");
    }
}
