//! A network that works in one direction only, or not at all, for one machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::Link;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::netns::{Network, beside};
use crate::support::resolver::Resolver;

/// How long DNS may take for an answer from what it has.
const DNS_WAIT: Duration = Duration::from_secs(2);
/// How long a write may take: an election, and Consul's hold time.
const WRITE_WAIT: Duration = Duration::from_secs(10);

/// What a cut does to the machine: (it is not heard, it does not hear).
const CUTS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

#[test]
fn a_machine_cut_off_in_either_direction_stops_neither_dns_nor_writes_and_comes_back() {
    let _turn = beside();
    let network = Network::new(4, 1);
    let first = network.address(0).to_string();
    let machines: Vec<Machine> = (0..4)
        .map(|number| {
            let server: &[&str] = if number < 3 { &["-server", "-bootstrap-expect", "3"] } else { &[] };
            let flags = [&["-retry-join", &first], server].concat();
            let (name, launcher) = (format!("m{number}"), network.launcher(number));
            Machine::agent_at(&name, network.address(number), launcher, &flags).started()
        })
        .collect();
    let _inside = network.enter();
    let all: Vec<&Machine> = machines.iter().collect();
    let every: BTreeSet<Ipv4Addr> = machines.iter().map(|machine| machine.address).collect();
    formed(&all, 4);
    for machine in &machines {
        assert!(machine.put("/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#));
    }
    for (not_heard, deaf) in CUTS {
        for client in [false, true] {
            let leader = whole(&all, &every);
            let victim = if client { 3 } else { leader };
            let what =
                format!("m{victim} (leader: m{leader}) is not heard: {not_heard}, does not hear: {deaf}");
            let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for (number, machine) in machines.iter().enumerate() {
                    let (network, stop, answers, what) = (&network, &stop, &answers, &what);
                    // To a machine that is cut off all others are dead, and the dead are hidden within seconds.
                    let least = if number == victim { 1 } else { 2 };
                    scope.spawn(move || {
                        let _inside = network.enter();
                        let mut resolver = Resolver::new(machine.socket(8600), DNS_WAIT);
                        while !stop.load(Ordering::Relaxed) {
                            let found = resolver.addresses("web.service.consul");
                            let found = found.unwrap_or_else(|| panic!("{} answers: {what}", machine.name));
                            assert!(found.len() >= least, "{}: {found:?} while {what}", machine.name);
                            answers.fetch_add(1, Ordering::Relaxed);
                            std::thread::park_timeout(Duration::from_millis(5));
                        }
                    });
                }
                let end = Ended(&stop);
                cut(&network, victim, not_heard, deaf);
                for writer in (0..3).filter(|number| *number != victim) {
                    let mut client = Client::new(machines[writer].socket(8500), WRITE_WAIT);
                    eventually(PATIENCE, &format!("a write through m{writer} while {what}"), || {
                        let answer = client.call("PUT", "/v1/kv/cut", what.as_bytes()).ok()?;
                        (answer.status == 200).then_some(())
                    });
                }
                // The others notice that it is not there: a machine that cannot be heard cannot be used.
                eventually(PATIENCE, &format!("somebody gave it up while {what}"), || {
                    let observer = (victim + 1) % 3;
                    let members = machines[observer].get("/v1/agent/members")?;
                    let name = format!("m{victim}");
                    let member = members.as_array()?.iter().find(|member| member["Name"] == name.as_str())?;
                    (member["Status"] == 4).then_some(())
                });
                network.links().heal();
                drop(end);
            });
            assert!(answers.load(Ordering::Relaxed) > 20, "DNS was asked all the time");
            whole(&all, &every);
            let (_, read) = machines[victim].read("/v1/kv/cut?raw");
            assert_eq!(String::from_utf8_lossy(&read), what, "it has what was written without it");
        }
    }
}

/// Ends the questions, also when something panics: the scope waits for those who ask.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn cut(network: &Network, victim: usize, not_heard: bool, deaf: bool) {
    let link = Link { cut: true, ..Link::default() };
    for other in (0..4).filter(|other| *other != victim) {
        if not_heard {
            network.links().set(victim, other, link);
        }
        if deaf {
            network.links().set(other, victim, link);
        }
    }
}

/// Waits until all is as it should be; gives the leader's number.
fn whole(all: &[&Machine], every: &BTreeSet<Ipv4Addr>) -> usize {
    let leader = formed(all, all.len());
    for machine in all {
        let mut resolver = Resolver::new(machine.socket(8600), DNS_WAIT);
        eventually(PATIENCE, "everybody finds everybody", || {
            (resolver.addresses("web.service.consul")? == *every).then_some(())
        });
    }
    all.iter().position(|machine| leader.starts_with(&format!("{}:", machine.address))).unwrap()
}
