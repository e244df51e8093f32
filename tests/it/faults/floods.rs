//! One client asks as fast as it can; the others are answered all the same.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{leader_of, three_servers};
use crate::support::client::Client;
use crate::support::loopback;
use crate::support::machine::Machine;
use crate::support::netns::turn;
use crate::support::resolver::{Resolver, question};

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(5);
/// Sockets of the one who floods: every worker of DNS gets its part.
const SOCKETS: usize = 8;
/// Connections of the one who floods HTTP, each with a request under way all the time.
const CONNECTIONS: usize = 100;
/// How long others wait for an answer before they ask again, as resolvers do.
const WAIT: Duration = Duration::from_secs(1);

/// Ends the flood, also when something panics.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends questions without waiting for answers, from an address of its own, until told to end.
fn flood_dns(from: Ipv4Addr, to: SocketAddr, name: &str, end: &AtomicBool, sent: &AtomicU64) {
    let sockets: Vec<UdpSocket> = (0..SOCKETS)
        .map(|_| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(to).unwrap();
            socket
        })
        .collect();
    let question = question(7, name);
    while !end.load(Ordering::Relaxed) {
        for socket in &sockets {
            for _ in 0..50 {
                sent.fetch_add(u64::from(socket.send(&question).is_ok()), Ordering::Relaxed);
            }
        }
    }
}

/// Asks one after the other for the flood's time; gives how many were asked and how many remained unanswered.
fn ask_meanwhile(machine: &Machine) -> (usize, usize, Duration) {
    let mut resolver = Resolver::new(machine.socket(8600), WAIT);
    let (mut asked, mut unanswered, mut slowest) = (0, 0, Duration::ZERO);
    let began = Instant::now();
    while began.elapsed() < FLOOD {
        let before = Instant::now();
        asked += 1;
        let mut ask = || resolver.addresses("web.service.consul");
        // What the kernel loses before anybody can see it is asked again, as every resolver does.
        match ask().or_else(ask) {
            Some(found) => {
                assert_eq!(found.len(), 1);
                slowest = slowest.max(before.elapsed());
            }
            None => unanswered += 1,
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    (asked, unanswered, slowest)
}

#[test]
fn others_are_answered_while_one_client_floods_dns() {
    let _turn = turn();
    let machines = three_servers();
    let flooded = &machines[leader_of(&machines)];
    assert!(flooded.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#));
    crate::support::eventually(crate::support::machine::PATIENCE, "web is found", || {
        (flooded.dig(&["web.service.consul"]).len() == 1).then_some(())
    });
    // What workers answer from their cache, and what only the slow path can answer.
    for name in ["web.service.consul", "no-such-name.of.nobody.consul"] {
        let (end, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let (from, to) = (loopback(), flooded.socket(8600));
        let (asked, unanswered, slowest) = std::thread::scope(|scope| {
            scope.spawn(|| flood_dns(from, to, name, &end, &sent));
            let _ending = Ending(&end);
            ask_meanwhile(flooded)
        });
        let sent = sent.load(Ordering::Relaxed);
        let text = format!(
            "{sent} questions for {name} in {FLOOD:?}; of {asked} others {unanswered} had no answer, slowest {slowest:?}"
        );
        super::tell(&text);
        assert!(sent > 20_000, "it was a flood: {text}");
        assert!(asked >= 100 && unanswered * 50 <= asked, "{text}");
    }
    let names: Vec<&str> = machines
        .iter()
        .filter(|one| one.log().contains("member failed"))
        .map(|one| one.name.as_str())
        .collect();
    assert!(names.is_empty(), "the flood killed nobody, say {names:?}");
}

#[test]
fn others_are_served_and_the_cluster_goes_on_while_one_client_floods_http() {
    let _turn = turn();
    let machines = three_servers();
    let flooded = &machines[leader_of(&machines)];
    assert!(flooded.put("/v1/kv/k", "v"));
    let (end, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowest = std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (end, done, server) = (&end, &done, flooded.socket(8500));
            scope.spawn(move || {
                let mut client = Client::new(server, WAIT * 10);
                let path = ["/v1/kv/k?stale", "/v1/catalog/services?stale", "/v1/kv/k"][number % 3];
                while !end.load(Ordering::Relaxed) {
                    done.fetch_add(u64::from(client.call("GET", path, b"").is_ok()), Ordering::Relaxed);
                }
            });
        }
        let _ending = Ending(&end);
        let mut other = Client::new(flooded.socket(8500), WAIT * 10);
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        while began.elapsed() < FLOOD {
            let before = Instant::now();
            let answer = other.call("PUT", "/v1/kv/other", b"x").unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, b"true".as_slice()));
            slowest = slowest.max(before.elapsed());
        }
        slowest
    });
    let done = done.load(Ordering::Relaxed);
    super::tell(&format!(
        "{done} requests of {CONNECTIONS} connections in {FLOOD:?}; the slowest write beside them took {slowest:?}"
    ));
    assert!(done > 2000, "it was a flood: {done} requests");
    assert!(slowest < WAIT * 2, "writes go on: {slowest:?}");
    let failed = machines.iter().filter(|machine| machine.log().contains("member failed")).count();
    assert_eq!(failed, 0, "the flood killed nobody");
}
