//! Clients that hold connections: idle ones by the thousand, heads sent byte by byte, and machines that are gone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{HTTP_PER_CLIENT, agent_on, is_open, leader_of, three_servers_on, with_a_stranger};
use crate::support::Link;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::netns::{Network, beside, turn};

/// Connections that do nothing.
const IDLE: usize = 10_000;
/// After so many more somebody asks something.
const ASKED_EVERY: usize = 1000;
/// HTTP connections that an agent takes, if it may have twice as many files open.
const HTTP_PLACES: usize = 16_384;
/// How long a connection may be without a request.
const IDLE_DEADLINE: Duration = Duration::from_mins(2);
/// Descriptors that this test needs besides.
const OTHERS: u64 = 500;
/// Resident memory of the agent with all of them: 10 KiB of buffers for each connection, and what the agent itself needs.
const MEMORY_MAX_KIB: u64 = 400 * 1024;
/// How long an ordinary request may take meanwhile.
const SERVED: Duration = Duration::from_secs(2);
/// When a head that is not complete is given up, and what a busy machine may add.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const HEAD_GIVEN_UP: Duration = Duration::from_secs(20);

/// RPC connections that one machine opens to each server: more than a server takes of anybody.
const RPC_HOARDED: usize = 1_100;
/// Gossip conversations that it holds open with each: all that an agent has at one time.
const GOSSIP_HOARDED: usize = 64;
/// How often it opens those again that were closed, and how many: as many as a dead server leaves free, and more.
const RENEWAL: Duration = Duration::from_millis(200);
const RENEWED_AT_ONCE: usize = 20;
/// How long a connection of it may take to stand.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// State of a connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Lets this process have as many descriptors as it may, which must be `wanted`.
fn allow_descriptors(wanted: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= wanted, "this test needs {wanted} file descriptors; `ulimit -Hn` says {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn resident_kib(machine: &Machine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// HTTP connections that the agent has places for: half of what it may open.
fn http_places(machine: &Machine) -> usize {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", machine.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    // Without a limit there is no number.
    let files: usize = line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX);
    HTTP_PLACES.min(files / 2)
}

#[test]
fn ten_thousand_idle_connections_do_not_keep_anybody_from_being_served() {
    let _turn = turn();
    allow_descriptors(u64::try_from(IDLE).unwrap() + OTHERS);
    let machine = Machine::agent("m0", &["-server", "-bootstrap"]).started();
    formed(&[&machine], 1);
    assert!(machine.put("/v1/kv/k", "v"));
    let (mut idle, began_all) = (Vec::new(), Instant::now());
    while idle.len() < IDLE {
        idle.push(TcpStream::connect(machine.socket(8500)).expect("the agent accepts"));
        if idle.len() % ASKED_EVERY == 0 {
            let began = Instant::now();
            let answer = machine.request("GET", "/v1/kv/k?raw", b"").unwrap();
            assert_eq!(
                (answer.0, answer.2.as_slice()),
                (200, b"v".as_slice()),
                "with {} connections",
                idle.len()
            );
            assert!(began.elapsed() < SERVED, "with {} connections: {:?}", idle.len(), began.elapsed());
            assert_eq!(machine.dig(&["consul.service.consul"]), [machine.address.to_string()]);
        }
    }
    // Where there is room for all, none gives way before its deadline, and otherwise one for each that is served.
    let standing = idle.iter().filter(|stream| is_open(stream)).count();
    let (places, took) = (http_places(&machine), began_all.elapsed());
    let text = format!("{standing} of {IDLE} stand after {took:?}, and there are {places} places");
    super::tell(&text);
    assert!(standing + IDLE / ASKED_EVERY >= IDLE.min(places) || took >= IDLE_DEADLINE, "{text}");
    let resident = resident_kib(&machine);
    assert!(resident < MEMORY_MAX_KIB, "{resident} KiB");
    drop(idle);
    formed(&[&machine], 1);
}

fn head_begun(server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.write_all(b"GET /v1/kv/k HTTP/1.1\r\nHost: t\r\nX: ").unwrap();
    stream
}

#[test]
fn one_client_gets_its_share_of_connections_and_slow_heads_are_given_up_while_others_are_served() {
    let _turn = beside();
    let (machine, network) = with_a_stranger();
    let server = machine.socket(8500);
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = {
        let _bad = network.enter_machine(1);
        let slow = (0..HTTP_PER_CLIENT).map(|_| head_begun(server)).collect();
        let mut refused = TcpStream::connect(server).unwrap();
        let mut told = String::new();
        refused.set_read_timeout(Some(PATIENCE)).unwrap();
        refused.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 429 "), "one more is refused: {told}");
        slow
    };
    let _good = network.enter();
    let mut other = Client::new(server, PATIENCE);
    while !slow.is_empty() {
        assert!(began.elapsed() < HEAD_GIVEN_UP, "{} slow heads are still waited for", slow.len());
        slow.retain_mut(|stream| {
            // One more byte of the head, a hundred times slower than anybody honest; an error when it was given up.
            let gone = stream.write_all(b"x").is_err();
            assert!(!gone || began.elapsed() >= HEAD_DEADLINE, "not given up too early");
            !gone
        });
        let asked = Instant::now();
        let answer = other.call("PUT", "/v1/kv/k", b"v").unwrap();
        assert_eq!(answer.status, 200);
        assert!(asked.elapsed() < SERVED, "others are served: {:?}", asked.elapsed());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    // Its places are free again.
    let _bad = network.enter_machine(1);
    eventually(PATIENCE, "who was slow is served when it is not", || {
        let answer = Client::new(server, PATIENCE).call("GET", "/v1/kv/k?raw", b"").ok()?;
        (answer.status == 200).then_some(())
    });
}

/// A connection to a server's RPC on which both have said who they are; none when it does not stand.
fn shaken_hands(server: SocketAddr) -> Option<TcpStream> {
    let hello = serde_json::json!({"version": 1, "cluster": null, "node": 99, "name": "stranger"});
    let body = rmp_serde::to_vec_named(&hello).unwrap();
    let mut stream = TcpStream::connect_timeout(&server, CONNECT_WAIT).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&u32::try_from(body.len()).unwrap().to_be_bytes(), body.as_slice()].concat()).ok()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut theirs = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut theirs).ok()?;
    Some(stream)
}

fn conversation(agent: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect_timeout(&agent, CONNECT_WAIT).ok()
}

/// Connections that one machine holds to one port.
struct Hoard {
    to: SocketAddr,
    connect: fn(SocketAddr) -> Option<TcpStream>,
    wanted: usize,
    held: Vec<TcpStream>,
}

impl Hoard {
    /// Opens those again that were closed, up to so many of them.
    fn renew(&mut self, at_once: usize) {
        self.held.retain(is_open);
        let missing = self.wanted - self.held.len();
        let opened = (0..missing.min(at_once)).filter_map(|_| (self.connect)(self.to));
        self.held.extend(opened);
    }
}

/// Ends the hoarder, also when something panics: the scope waits for it.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hoarder_of_rpc_and_gossip_connections_prevents_neither_an_election_nor_a_join() {
    let _turn = turn();
    allow_descriptors(u64::try_from(3 * (RPC_HOARDED + GOSSIP_HOARDED)).unwrap() + OTHERS);
    let network = Network::new(5, 1);
    let _inside = network.enter();
    let mut servers = three_servers_on(&network);
    let leader = leader_of(&servers);
    let hoard = |to, connect, wanted| Hoard { to, connect, wanted, held: Vec::new() };
    let mut hoards: Vec<Hoard> = Vec::new();
    for server in &servers {
        hoards.push(hoard(server.socket(8300), shaken_hands, RPC_HOARDED));
        hoards.push(hoard(server.socket(8301), conversation, GOSSIP_HOARDED));
    }
    {
        let _bad = network.enter_machine(4);
        for hoard in &mut hoards {
            hoard.renew(hoard.wanted);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (network, stop) = (&network, &stop);
        let _end = Ended(stop);
        scope.spawn(move || {
            let _bad = network.enter_machine(4);
            while !stop.load(Ordering::Relaxed) {
                for hoard in &mut hoards {
                    hoard.renew(RENEWED_AT_ONCE);
                }
                std::thread::park_timeout(RENEWAL);
            }
        });
        servers.remove(leader).kill();
        assert!(servers[0].put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#));
        let join: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
        let client = agent_on(network, 3, &["-retry-join", &join[0], "-retry-join", &join[1]]);
        formed(&[&servers[0], &servers[1], &client], 3);
        eventually(PATIENCE, "the newcomer's replica has the service", || {
            (client.dig(&["web.service.consul"]) == [servers[0].address.to_string()]).then_some(())
        });
        assert!(client.put("/v1/kv/through-the-newcomer", "v"), "its requests are answered");
    });
}

/// Connections to a server's RPC that its kernel believes in.
fn rpc_connections(network: &Network, server: usize) -> usize {
    let _there = network.enter_machine(server);
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = format!(":{:04X}", 8300);
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&port) && row[3] == ESTABLISHED).count()
}

#[test]
fn connections_of_a_client_that_has_lost_its_power_do_not_stand_for_ever() {
    let network = Network::new(2, 1);
    let server = agent_on(&network, 0, &["-server", "-bootstrap"]);
    let mut client = agent_on(&network, 1, &["-retry-join", &server.address.to_string()]);
    let _inside = network.enter();
    formed(&[&server, &client], 2);
    assert!(client.put("/v1/kv/k", "v"), "it asks, besides following");
    eventually(PATIENCE, "it has two", || (rpc_connections(&network, 0) == 2).then_some(()));
    network.links().set_both(0, 1, Link { cut: true, ..Link::default() });
    client.kill();
    assert_eq!(rpc_connections(&network, 0), 2, "nobody has told the server");
    eventually(PATIENCE, "the server gives them up", || (rpc_connections(&network, 0) == 0).then_some(()));
}
