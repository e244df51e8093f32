//! Faults of machines, disks, networks and clients, on real processes.

mod cuts;
mod disk;
mod dns_connections;
mod engine;
mod floods;
mod hoarders;
mod scarcity;

use std::net::TcpStream;

use crate::support::machine::{Machine, formed};
use crate::support::netns::Network;

/// HTTP connections of one client address, Consul's default.
const HTTP_PER_CLIENT: usize = 200;

/// Three servers on loopback that have formed a cluster; the flags are for the last one.
fn three_servers() -> Vec<Machine> {
    let first = Machine::agent("m0", &["-server", "-bootstrap-expect", "3"]).started();
    let join = first.address.to_string();
    let others = ["m1", "m2"].map(|name| {
        Machine::agent(name, &["-server", "-bootstrap-expect", "3", "-retry-join", &join]).started()
    });
    let machines: Vec<Machine> = std::iter::once(first).chain(others).collect();
    formed(&machines.iter().collect::<Vec<_>>(), 3);
    machines
}

/// The same at addresses of their own, as the first three machines of a network. Who calls is in its place for clients.
fn three_servers_on(network: &Network) -> Vec<Machine> {
    let first = network.address(0).to_string();
    let flags = ["-server", "-bootstrap-expect", "3", "-retry-join", &first];
    let machines: Vec<Machine> = (0..3).map(|number| agent_on(network, number, &flags)).collect();
    formed(&machines.iter().collect::<Vec<_>>(), 3);
    machines
}

/// An agent on a machine of a network.
fn agent_on(network: &Network, number: usize, flags: &[&str]) -> Machine {
    let (name, launcher) = (format!("m{number}"), network.launcher(number));
    Machine::agent_at(&name, network.address(number), launcher, flags).started()
}

/// A server, a place for somebody bad, and one for everybody else.
fn with_a_stranger() -> (Machine, Network) {
    let network = Network::new(2, 1);
    let machine = agent_on(&network, 0, &["-server", "-bootstrap"]);
    {
        let _inside = network.enter();
        formed(&[&machine], 1);
    }
    (machine, network)
}

/// Whether the other side has neither closed it nor said anything.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let open = stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    open
}

/// The position of the leader.
fn leader_of(machines: &[Machine]) -> usize {
    let leader = formed(&machines.iter().collect::<Vec<_>>(), machines.len());
    machines.iter().position(|machine| leader.starts_with(&format!("{}:", machine.address))).unwrap()
}

/// Shown by `cargo test -- --nocapture`.
#[allow(clippy::print_stdout, reason = "the numbers of a run are its output")]
fn tell(text: &str) {
    println!("{text}");
}
