//! Clients that hold connections: idle ones by the thousand, and heads sent byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::netns::{Network, turn};

/// Connections that do nothing.
const IDLE: usize = 10_000;
/// Descriptors that this test needs besides.
const OTHERS: u64 = 500;
/// Resident memory of the agent with all of them: 10 KiB of buffers for each connection, and what the agent itself needs.
const MEMORY_MAX_KIB: u64 = 400 * 1024;
/// Connections of one client address, Consul's default.
const PER_CLIENT: usize = 200;
/// How long an ordinary request may take meanwhile.
const SERVED: Duration = Duration::from_secs(2);
/// When a head that is not complete is given up, and what a busy machine may add.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const HEAD_GIVEN_UP: Duration = Duration::from_secs(20);

fn resident_kib(machine: &Machine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", machine.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_idle_connections_do_not_keep_anybody_from_being_served() {
    let _turn = turn();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = u64::try_from(IDLE).unwrap() + OTHERS;
    assert!(hard >= wanted, "this test needs {wanted} file descriptors; `ulimit -Hn` says {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let machine = Machine::agent("m0", &["-server", "-bootstrap"]).started();
    formed(&[&machine], 1);
    assert!(machine.put("/v1/kv/k", "v"));
    let mut idle = Vec::new();
    while idle.len() < IDLE {
        idle.push(TcpStream::connect(machine.socket(8500)).expect("the agent accepts"));
        if idle.len() % 1000 == 0 {
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
    let resident = resident_kib(&machine);
    assert!(resident < MEMORY_MAX_KIB, "{resident} KiB");
    drop(idle);
    formed(&[&machine], 1);
}

/// A server, a place for somebody bad, and one for everybody else.
fn with_a_stranger() -> (Machine, Network) {
    let network = Network::new(2, 1);
    let flags = ["-server", "-bootstrap"];
    let machine = Machine::agent_at("m0", network.address(0), network.launcher(0), &flags).started();
    {
        let _inside = network.enter();
        formed(&[&machine], 1);
    }
    (machine, network)
}

fn head_begun(server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.write_all(b"GET /v1/kv/k HTTP/1.1\r\nHost: t\r\nX: ").unwrap();
    stream
}

#[test]
fn one_client_gets_its_share_of_connections_and_slow_heads_are_given_up_while_others_are_served() {
    let _turn = turn();
    let (machine, network) = with_a_stranger();
    let server = machine.socket(8500);
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = {
        let _bad = network.enter_machine(1);
        let slow = (0..PER_CLIENT).map(|_| head_begun(server)).collect();
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
