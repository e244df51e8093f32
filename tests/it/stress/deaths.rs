//! Killed machines leave DNS everywhere, and a killed leader is replaced.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{FairClock, Measured, assert_99_of_100_within};
use crate::support::Link;
use crate::support::chance::{Chance, fresh_seed, soak};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::netns::{Network, turn};
use crate::support::resolver::Resolver;

/// Kills of the short and of the long form.
const KILLS_SHORT: usize = 8;
const KILLS_LONG: usize = 100;
/// Within this time a killed machine is out of DNS on all others.
const OUT_OF_DNS: Duration = Duration::from_secs(3);
/// Within this time after the leader's death a write is acknowledged.
const NEXT_WRITE: Duration = Duration::from_millis(1200);
/// How long one answer of DNS may take.
const DNS_WAIT: Duration = Duration::from_millis(200);
/// A service that every machine has.
const SERVICE: &str = "web.service.consul";

/// Three servers and two clients, each with the service.
struct Cluster {
    machines: Vec<Machine>,
    network: Network,
}

impl Cluster {
    fn formed(servers: usize, clients: usize, seed: u64) -> Self {
        let network = Network::new(servers + clients, seed);
        let first = network.address(0).to_string();
        let expect = servers.to_string();
        let mut machines = Vec::new();
        for number in 0..servers + clients {
            let mut flags = vec!["-retry-join", &first];
            if number < servers {
                flags.extend(["-server", "-bootstrap-expect", &expect]);
            }
            let (name, launcher) = (format!("m{number}"), network.launcher(number));
            machines.push(Machine::agent_at(&name, network.address(number), launcher, &flags).started());
        }
        let cluster = Self { machines, network };
        let inside = cluster.network.enter();
        formed(&cluster.machines.iter().collect::<Vec<_>>(), servers + clients);
        for machine in &cluster.machines {
            assert!(machine.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#));
        }
        drop(inside);
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until everybody finds the service on everybody; gives the leader's number.
    fn wait_until_whole(&self) -> usize {
        let _inside = self.network.enter();
        let leader = formed(&self.machines.iter().collect::<Vec<_>>(), self.machines.len());
        let all: BTreeSet<Ipv4Addr> = self.machines.iter().map(|machine| machine.address).collect();
        for machine in &self.machines {
            let mut resolver = Resolver::new(machine.socket(8600), DNS_WAIT);
            eventually(PATIENCE, "the service is found on all machines", || {
                (resolver.addresses(SERVICE)? == all).then_some(())
            });
        }
        self.machines.iter().position(|machine| leader.starts_with(&format!("{}:", machine.address))).unwrap()
    }

    /// SIGKILL: its machine refuses connections from now on.
    fn kill(&mut self, number: usize) {
        self.machines[number].kill();
    }

    /// Power loss: nobody refuses anything.
    fn power_off(&mut self, number: usize) {
        let clients = self.network.clients();
        for other in (0..=clients).filter(|other| *other != number) {
            self.network.links().set_both(number, other, Link { cut: true, ..Link::default() });
        }
        self.machines[number].kill();
    }

    fn back(&mut self, number: usize) {
        self.network.links().heal();
        self.machines[number].start();
    }
}

/// From `began` until none of the others answers with the dead one any more: the last of them counts.
fn out_of_dns(cluster: &Cluster, dead: usize, began: Instant) -> Duration {
    let gone = cluster.machines[dead].address;
    std::thread::scope(|scope| {
        let others = (0..cluster.machines.len()).filter(|number| *number != dead);
        let watchers: Vec<_> = others
            .map(|number| {
                let (network, server) = (&cluster.network, cluster.machines[number].socket(8600));
                scope.spawn(move || {
                    let _inside = network.enter();
                    let mut resolver = Resolver::new(server, DNS_WAIT);
                    eventually(PATIENCE, "the dead machine is out of DNS", || {
                        let found = resolver.addresses(SERVICE)?;
                        assert!(!found.is_empty(), "DNS always has the living ones");
                        (!found.contains(&gone)).then(|| began.elapsed())
                    })
                })
            })
            .collect();
        watchers.into_iter().map(|watcher| watcher.join().unwrap()).max().unwrap()
    })
}

#[test]
fn a_killed_machine_is_out_of_dns_everywhere_within_three_seconds() {
    let _turn = turn();
    let seed = fresh_seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::formed(3, 2, chance.next());
    let (clock, mut times) = (FairClock::start(), Vec::new());
    for kill in 0..soak().map_or(KILLS_SHORT, |_| KILLS_LONG) {
        let victim = chance.below(cluster.machines.len());
        let (began, lost) = (Instant::now(), clock.lost());
        if kill % 2 == 0 {
            cluster.power_off(victim);
        } else {
            cluster.kill(victim);
        }
        let took = out_of_dns(&cluster, victim, began);
        times.push(Measured::new(took, &clock, lost));
        cluster.back(victim);
        cluster.wait_until_whole();
    }
    assert_99_of_100_within(OUT_OF_DNS, "a killed machine is out of DNS everywhere", &times);
}

/// The first acknowledged write that began after `began`, through whichever survivor is quicker.
fn next_write(cluster: &Cluster, dead: usize, began: Instant) -> Duration {
    std::thread::scope(|scope| {
        let others = (0..cluster.machines.len()).filter(|number| *number != dead);
        let writers: Vec<_> = others
            .map(|number| {
                let (network, server) = (&cluster.network, cluster.machines[number].socket(8500));
                scope.spawn(move || {
                    let _inside = network.enter();
                    let mut client = Client::new(server, PATIENCE);
                    eventually(PATIENCE, "a write is acknowledged", || {
                        let answer = client.call("PUT", "/v1/kv/after", b"x").ok()?;
                        (answer.status == 200 && answer.body == b"true").then(|| began.elapsed())
                    })
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).min().unwrap()
    })
}

#[test]
fn after_the_leaders_death_a_write_is_acknowledged_within_1200_milliseconds() {
    let _turn = turn();
    let seed = fresh_seed();
    let mut cluster = Cluster::formed(3, 0, seed);
    let (clock, mut times) = (FairClock::start(), Vec::new());
    for kill in 0..soak().map_or(KILLS_SHORT, |_| KILLS_LONG) {
        let leader = cluster.wait_until_whole();
        let (began, lost) = (Instant::now(), clock.lost());
        if kill % 2 == 0 {
            cluster.power_off(leader);
        } else {
            cluster.kill(leader);
        }
        let took = next_write(&cluster, leader, began);
        times.push(Measured::new(took, &clock, lost));
        cluster.back(leader);
    }
    assert_99_of_100_within(NEXT_WRITE, "the leader is killed, and the next write is acknowledged", &times);
}
