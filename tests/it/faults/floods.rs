//! One client asks as fast as it can; the others are answered all the same.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{HTTP_PER_CLIENT, leader_of, three_servers, three_servers_on};
use crate::support::client::Client;
use crate::support::loopback;
use crate::support::machine::{Machine, deaths};
use crate::support::netns::{Network, turn};
use crate::support::resolver::{Resolver, question};

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(5);
/// Sockets of the one who floods: every worker of DNS gets its part.
const SOCKETS: usize = 8;
/// Connections of the one who floods HTTP, each with a request under way all the time: of a program of the machine
/// itself, which has no limit, and of another machine, which wants more than it gets.
const LOCAL_CONNECTIONS: usize = 100;
const REMOTE_CONNECTIONS: usize = HTTP_PER_CLIENT + 100;
/// Answers that make a flood.
const ANSWERS_MIN: u64 = 2000;
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
    assert_eq!(deaths(&machines), Vec::<String>::new(), "the flood killed nobody");
}

/// What became of the requests of one who floods HTTP.
#[derive(Default)]
struct Flooded {
    answers: u64,
    /// Connections that had answers, and those that were only told that there were too many.
    served: usize,
    refused: usize,
}

/// Asks on one connection after the other, without a pause, until told to end; gives how many answers and refusals came.
fn flood_http(number: usize, server: SocketAddr, end: &AtomicBool) -> (u64, u64) {
    let mut client = Client::new(server, WAIT * 10);
    let path = ["/v1/kv/k?stale", "/v1/catalog/services?stale", "/v1/kv/k"][number % 3];
    let (mut answers, mut refusals) = (0, 0);
    loop {
        let answer = client.call("GET", path, b"").map(|answer| answer.status);
        // In the end, the places of those who have gone are free.
        if end.load(Ordering::Relaxed) {
            return (answers, refusals);
        }
        match answer {
            Ok(200) => answers += 1,
            Ok(429) => refusals += 1,
            // What was refused while the request was sent, and what the cluster could not answer.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Floods a server with so many connections, made in `place`, and writes through it meanwhile, from where the caller is.
fn write_while_flooded<P>(server: SocketAddr, connections: usize, place: impl Fn() -> P + Sync) -> Flooded {
    let end = AtomicBool::new(false);
    let (slowest, flooded) = std::thread::scope(|scope| {
        let (end, place) = (&end, &place);
        let flood = |number| {
            scope.spawn(move || {
                let _place = place();
                flood_http(number, server, end)
            })
        };
        let flooders: Vec<_> = (0..connections).map(flood).collect();
        let ending = Ending(end);
        let mut other = Client::new(server, WAIT * 10);
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        while began.elapsed() < FLOOD {
            let before = Instant::now();
            let answer = other.call("PUT", "/v1/kv/other", b"x").unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, b"true".as_slice()));
            slowest = slowest.max(before.elapsed());
        }
        drop(ending);
        let mut flooded = Flooded::default();
        for flooder in flooders {
            let (answers, refusals) = flooder.join().unwrap();
            flooded.answers += answers;
            flooded.served += usize::from(answers > 0);
            flooded.refused += usize::from(answers == 0 && refusals > 0);
        }
        (slowest, flooded)
    });
    let Flooded { answers, served, refused } = flooded;
    let text = format!(
        "{answers} answers in {FLOOD:?} on {served} of {connections} connections, {refused} were refused; the slowest \
         write beside them took {slowest:?}"
    );
    super::tell(&text);
    assert!(answers > ANSWERS_MIN, "it was a flood: {text}");
    assert!(slowest < WAIT * 2, "writes go on: {text}");
    flooded
}

#[test]
fn others_are_served_and_the_cluster_goes_on_while_one_client_floods_http() {
    let _turn = turn();
    let network = Network::new(4, 1);
    let _others = network.enter();
    let machines = three_servers_on(&network);
    let server = &machines[leader_of(&machines)];
    assert!(server.put("/v1/kv/k", "v"));
    let place = || network.enter_machine(3);
    let flooded = write_while_flooded(server.socket(8500), REMOTE_CONNECTIONS, place);
    assert!(flooded.served <= HTTP_PER_CLIENT, "{} connections of one address", flooded.served);
    assert!(flooded.refused >= REMOTE_CONNECTIONS - HTTP_PER_CLIENT, "{} were refused", flooded.refused);
    assert_eq!(deaths(&machines), Vec::<String>::new(), "the flood killed nobody");
}

#[test]
fn local_programs_that_flood_http_have_no_limit_and_keep_nobody_from_being_served() {
    let _turn = turn();
    let machines = three_servers();
    let server = &machines[leader_of(&machines)];
    assert!(server.put("/v1/kv/k", "v"));
    let flooded = write_while_flooded(server.socket(8500), LOCAL_CONNECTIONS, || ());
    assert_eq!((flooded.served, flooded.refused), (LOCAL_CONNECTIONS, 0), "they share one address");
    assert_eq!(deaths(&machines), Vec::<String>::new(), "the flood killed nobody");
}
