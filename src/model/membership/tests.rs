//! Cases and simulated stories that need more than a transcript.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::chance::Chance;
use super::codec::{decode_datagram, decode_frame};
use super::simulator::Simulation;
use super::{Change, Config, Event, Input, MemberStatus, Output, Refusal, Swim, Tags};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(number: usize) -> SocketAddr {
    Simulation::address(number)
}

fn false_deaths(simulation: &Simulation) -> usize {
    simulation.seen.iter().filter(|seen| seen.change == Change::Failed).count()
}

#[test]
fn three_twenty_and_fifty_members_that_join_one_know_each_other_in_half_a_second() {
    for count in [3, 20, 50] {
        let mut simulation = Simulation::new(7);
        for number in 1..=count {
            simulation.start(&format!("n{number}"), number);
        }
        for number in 2..=count {
            simulation.join(&format!("n{number}"), "n1");
        }
        let took = simulation.run_until(seconds(3), Simulation::all_alive);
        assert!(took <= Duration::from_millis(600), "{count} members took {took:?}");
    }
}

#[test]
fn a_machine_that_loses_its_power_is_failed_everywhere_within_three_seconds() {
    for (count, runs) in [(2, 20), (3, 60), (5, 20), (20, 8), (50, 3)] {
        let mut times = Vec::new();
        for seed in 0..runs {
            let mut simulation = Simulation::cluster(seed, count);
            simulation.run(Duration::from_millis(37 * seed));
            simulation.power_off("n2");
            let took = simulation.run_until(seconds(8), |now| now.agreed("n2", MemberStatus::Failed));
            times.push(took);
            assert_eq!(false_deaths(&simulation), count - 1, "only n2 failed");
        }
        times.sort();
        let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
        assert!(last <= seconds(3), "{count} members: half within {middle:?}, worst {last:?}");
    }
}

#[test]
fn a_killed_process_is_failed_everywhere_within_two_seconds() {
    for (count, runs) in [(2, 20), (3, 40), (20, 5)] {
        let mut times = Vec::new();
        for seed in 0..runs {
            let mut simulation = Simulation::cluster(seed, count);
            simulation.run(Duration::from_millis(37 * seed));
            simulation.crash("n2");
            times.push(simulation.run_until(seconds(8), |now| now.agreed("n2", MemberStatus::Failed)));
        }
        times.sort();
        let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
        assert!(last <= seconds(2), "{count} members: half within {middle:?}, worst {last:?}");
    }
}

#[test]
fn ten_percent_loss_for_five_minutes_kills_nobody() {
    for (count, runs) in [(3, 4), (5, 2), (20, 1)] {
        for seed in 0..runs {
            let mut simulation = Simulation::cluster(seed, count);
            simulation.loss = 0.1;
            simulation.run(seconds(300));
            assert_eq!(false_deaths(&simulation), 0, "{count} members, seed {seed}");
            simulation.assert_all_alive();
        }
    }
}

#[test]
fn a_dead_machine_is_found_under_loss_too() {
    for seed in 0..20 {
        let mut simulation = Simulation::cluster(seed, 10);
        simulation.loss = 0.1;
        simulation.power_off("n4");
        let took = simulation.run_until(seconds(10), |now| now.agreed("n4", MemberStatus::Failed));
        assert!(took <= seconds(5), "seed {seed}: {took:?}");
        assert_eq!(false_deaths(&simulation), 9, "only n4 failed, seed {seed}");
    }
}

#[test]
fn starved_members_that_run_only_now_and_then_kill_nobody_and_are_not_killed() {
    // Two of eight machines get the processor for 50 ms of every 900 ms.
    for seed in 0..3 {
        let mut simulation = Simulation::cluster(seed, 8);
        for _ in 0..120 {
            for starved in ["n3", "n6"] {
                simulation.pause(starved);
            }
            simulation.run(Duration::from_millis(850));
            for starved in ["n3", "n6"] {
                simulation.resume(starved);
            }
            simulation.run(Duration::from_millis(50));
        }
        assert_eq!(false_deaths(&simulation), 0, "seed {seed}");
    }
}

#[test]
fn a_paused_process_gets_more_time_than_a_dead_machine_and_comes_back_at_once() {
    let mut simulation = Simulation::cluster(3, 5);
    simulation.pause("n3");
    let took = simulation.run_until(seconds(14), |now| now.agreed("n3", MemberStatus::Failed));
    assert!(took >= seconds(5), "{took:?}");
    simulation.run(seconds(20));
    simulation.seen.clear();
    simulation.resume("n3");
    let back = simulation.run_until(seconds(3), |now| now.agreed("n3", MemberStatus::Alive));
    assert!(back <= seconds(1), "{back:?}");
    simulation.run(seconds(10));
    assert_eq!(false_deaths(&simulation), 0, "the awakened member must not accuse others");
    simulation.assert_all_alive();
}

#[test]
fn both_halves_of_a_cut_network_come_back_without_a_restart() {
    for seed in 0..5 {
        let mut simulation = Simulation::cluster(seed, 10);
        for name in ["n1", "n2", "n3", "n4"] {
            simulation.cut(name, 1);
        }
        simulation.run(seconds(60));
        assert_eq!(simulation.status("n1", "n9"), Some(MemberStatus::Failed));
        assert_eq!(simulation.status("n9", "n1"), Some(MemberStatus::Failed));
        assert_eq!(simulation.status("n1", "n2"), Some(MemberStatus::Alive));
        simulation.heal();
        let took = simulation.run_until(seconds(30), Simulation::all_alive);
        assert!(took <= seconds(20), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_member_that_was_cut_off_does_not_talk_others_into_a_death() {
    for count in [3, 5] {
        for seed in 0..60 {
            let mut simulation = Simulation::cluster(seed, count);
            simulation.cut("n2", 1);
            simulation.run(Duration::from_millis(1500 + 100 * seed));
            simulation.heal();
            simulation.run(seconds(15));
            let others =
                simulation.seen.iter().filter(|seen| seen.change == Change::Failed && seen.by != "n2");
            let wrong: Vec<_> = others.filter(|seen| seen.name != "n2").collect();
            assert!(wrong.is_empty(), "{count} members, seed {seed}: {wrong:?}");
            simulation.assert_all_alive();
        }
    }
}

#[test]
fn the_last_of_three_sees_the_two_others_die() {
    for seed in 0..20 {
        let mut simulation = Simulation::cluster(seed, 3);
        simulation.power_off("n1");
        simulation.power_off("n2");
        let both = |now: &Simulation| ["n1", "n2"].iter().all(|name| now.agreed(name, MemberStatus::Failed));
        let took = simulation.run_until(seconds(15), both);
        assert!(took <= seconds(5), "seed {seed}: {took:?}");
    }
}

#[test]
fn half_of_a_large_cluster_dying_at_once_leaves_the_other_half_unharmed() {
    let mut simulation = Simulation::cluster(1, 20);
    for number in 11..=20 {
        simulation.power_off(&format!("n{number}"));
    }
    simulation.run(seconds(15));
    simulation.assert_all_alive();
}

#[test]
fn a_restarted_process_joins_again_at_once_even_without_a_join_list() {
    let mut simulation = Simulation::cluster(5, 5);
    // Quicker than anybody noticed: its next prober is a stranger to it, and so it finds the cluster.
    simulation.start("n2", 2);
    simulation.run(seconds(3));
    simulation.assert_all_alive();
    assert_eq!(false_deaths(&simulation), 0);
    // After its failure was noticed, by a join.
    simulation.crash("n3");
    simulation.run_until(seconds(5), |now| now.agreed("n3", MemberStatus::Failed));
    simulation.start("n3", 3);
    simulation.join("n3", "n5");
    let took = simulation.run_until(seconds(3), Simulation::all_alive);
    assert!(took <= Duration::from_millis(500), "{took:?}");
}

/// Whoever shows members shows what it was last told of.
#[test]
fn everybody_is_told_that_a_member_is_back_which_went_down_while_it_was_leaving() {
    let mut simulation = Simulation::cluster(5, 5);
    simulation.input("n2", Input::Leave);
    simulation.run_until(seconds(1), |now| now.agreed("n2", MemberStatus::Leaving));
    simulation.crash("n2");
    simulation.start("n2", 2);
    simulation.join("n2", "n4");
    simulation.run(seconds(3));
    simulation.assert_all_alive();
    for by in ["n1", "n3", "n4", "n5"] {
        let told = simulation.events.iter().rev().find_map(|(to, event)| match event {
            Event::Member { member, .. } if to == by && member.name == "n2" => Some(member.status),
            _ => None,
        });
        assert_eq!(told, Some(MemberStatus::Alive), "{by}");
    }
}

#[test]
fn a_name_is_taken_over_by_another_address_only_when_its_holder_is_long_dead() {
    let mut simulation = Simulation::cluster(5, 4);
    // A fourth machine is configured with the name of a living one.
    simulation.start("intruder", 9);
    let swim = Swim::new(Config::default(), "n2".into(), address(9), Tags::default(), 1);
    simulation.replace_core("intruder", swim);
    simulation.join("intruder", "n1");
    simulation.run(seconds(5));
    let holder = simulation.members("n1").into_iter().find(|member| member.name == "n2").unwrap();
    assert_eq!(holder.address, address(2).ip());
    assert!(
        simulation.events.iter().any(|(by, event)| by == "n1"
            && matches!(event, Event::Refused { refusal: Refusal::NameTaken(_), .. })),
        "the refusal is told"
    );
    simulation.power_off("n2");
    simulation.run(seconds(20));
    assert_eq!(simulation.status("n1", "n2"), Some(MemberStatus::Failed));
    simulation.run(seconds(80));
    let holder = simulation.members("n1").into_iter().find(|member| member.name == "n2").unwrap();
    assert_eq!((holder.address, holder.status), (address(9).ip(), MemberStatus::Alive));
}

#[test]
fn a_namesake_that_was_not_let_in_cannot_leave_for_the_dead_holder_of_the_name() {
    let mut simulation = Simulation::cluster(5, 4);
    simulation.power_off("n2");
    simulation.run(seconds(6));
    simulation.start("namesake", 9);
    let swim = Swim::new(Config::default(), "n2".into(), address(9), Tags::default(), 1);
    simulation.replace_core("namesake", swim);
    simulation.join("namesake", "n1");
    simulation.run(seconds(5));
    simulation.input("namesake", Input::Leave);
    simulation.run(seconds(10));
    for other in ["n1", "n3", "n4"] {
        let member = simulation.members(other).into_iter().find(|member| member.name == "n2").unwrap();
        let shown = (member.address, member.status);
        assert_eq!(shown, (address(2).ip(), MemberStatus::Failed), "{other}");
    }
}

#[test]
fn a_machine_that_died_and_is_back_at_another_address_has_its_name_as_soon_as_its_death_is_known() {
    let tags = Tags::try_from(BTreeMap::from([("id".to_owned(), "of its disk".to_owned())])).unwrap();
    for pause in [0, 1, 6] {
        let mut simulation = Simulation::cluster(5, 4);
        simulation.input("n2", Input::SetTags(tags.clone()));
        simulation.run(seconds(2));
        simulation.power_off("n2");
        simulation.run(seconds(pause));
        simulation.start("moved", 9);
        let swim = Swim::new(Config::default(), "n2".into(), address(9), tags.clone(), 1);
        simulation.replace_core("moved", swim);
        simulation.join("moved", "n1");
        simulation.run(seconds(6));
        for other in ["n1", "n3", "n4"] {
            let member = simulation.members(other).into_iter().find(|member| member.name == "n2").unwrap();
            let shown = (member.address, member.status);
            assert_eq!(shown, (address(9).ip(), MemberStatus::Alive), "{other}, after {pause} s");
        }
    }
}

#[test]
fn the_dead_are_forgotten_after_their_time_and_nobody_brings_them_back() {
    let mut simulation = Simulation::new(9);
    simulation.config.failed_kept = seconds(300);
    simulation.config.left_kept = seconds(200);
    for number in 1..=5 {
        simulation.start(&format!("n{number}"), number);
    }
    for number in 2..=5 {
        simulation.join(&format!("n{number}"), "n1");
    }
    simulation.run(seconds(5));
    simulation.power_off("n4");
    simulation.input("n5", Input::Leave);
    simulation.run(seconds(5));
    simulation.power_off("n5");
    simulation.run(seconds(150));
    assert_eq!(simulation.status("n1", "n4"), Some(MemberStatus::Failed));
    assert_eq!(simulation.status("n1", "n5"), Some(MemberStatus::Left));
    simulation.run(seconds(120));
    assert_eq!(simulation.status("n1", "n5"), None);
    simulation.run(seconds(600));
    assert_eq!(simulation.status("n1", "n4"), None);
    assert_eq!(simulation.status("n3", "n4"), None);
}

#[test]
fn tags_reach_everybody_and_have_a_limit() {
    let mut simulation = Simulation::cluster(2, 20);
    let tags: BTreeMap<String, String> = BTreeMap::from([("role".into(), "consul".into())]);
    simulation.input("n7", Input::SetTags(tags.clone().try_into().unwrap()));
    let everywhere = |now: &Simulation| {
        now.names().iter().all(|by| now.members(by).iter().any(|m| m.name == "n7" && m.tags == tags))
    };
    let took = simulation.run_until(seconds(3), everywhere);
    assert!(took <= Duration::from_millis(500), "{took:?}");

    let long = BTreeMap::from([("key".to_owned(), "v".repeat(510))]);
    let error = Tags::try_from(long).unwrap_err();
    assert_eq!(error.to_string(), "tags take 520 bytes when encoded, at most 512 fit");
}

#[test]
fn an_idle_member_sends_about_four_pings_and_their_answers_a_second() {
    let mut simulation = Simulation::cluster(2, 10);
    let before = simulation.datagrams;
    simulation.run(seconds(60));
    let rate = (simulation.datagrams - before) / 60 / 10;
    assert!(rate <= 9, "{rate} datagrams a second and member");
}

#[test]
fn random_and_damaged_bytes_change_nothing_and_never_panic() {
    let mut simulation = Simulation::cluster(11, 3);
    let before = simulation.members("n1");
    let mut chance = Chance::new(42);
    let mut samples = Vec::new();
    for (position, output) in collect_outputs().into_iter().enumerate() {
        samples.push(output.clone());
        for _ in 0..50 {
            let mut damaged = output.clone();
            let place = chance.below(damaged.len());
            damaged[place] = u8::try_from(chance.below(256)).unwrap();
            damaged.truncate(chance.below(damaged.len()) + 1 + position % 2);
            samples.push(damaged);
        }
    }
    for length in 0..2000 {
        let mut bytes: Vec<u8> = (0..length).map(|_| u8::try_from(chance.below(256)).unwrap()).collect();
        if let (Some(first), true) = (bytes.first_mut(), length % 2 == 0) {
            *first = super::PROTOCOL_VERSION;
        }
        // The decoders alone see everything; the member sees only noise, as damaged packets may be believed.
        simulation.input("n1", Input::Datagram { from: address(77), bytes: bytes.clone() });
        simulation.input("n1", Input::StreamRequest { stream: 1, bytes: bytes.clone() });
        samples.push(bytes);
    }
    for bytes in &samples {
        let _decoded = (decode_datagram(bytes), decode_frame(bytes));
    }
    simulation.run(seconds(5));
    assert_eq!(simulation.members("n1"), before);

    let mut victim = Simulation::cluster(11, 3);
    for bytes in samples {
        victim.input("n1", Input::Datagram { from: address(2), bytes: bytes.clone() });
        victim.input("n1", Input::StreamRequest { stream: 1, bytes });
    }
    victim.run(seconds(60));
}

/// Real messages of all kinds, to damage them.
fn collect_outputs() -> Vec<Vec<u8>> {
    let mut swim = Swim::new(Config::default(), "n2".into(), address(2), Tags::default(), 1);
    let mut other = Swim::new(Config::default(), "n3".into(), address(3), Tags::default(), 2);
    let mut collected = Vec::new();
    let outputs = swim.step(Duration::ZERO, Input::Join { request: 1, to: address(3) });
    for output in outputs {
        if let Output::Exchange { exchange, bytes, .. } = output {
            collected.push(bytes.clone());
            for reply in other.step(Duration::ZERO, Input::StreamRequest { stream: 1, bytes }) {
                if let Output::Reply { bytes: Some(bytes), .. } = reply {
                    collected.push(bytes.clone());
                    swim.step(Duration::ZERO, Input::StreamReply { exchange, bytes });
                }
            }
        }
    }
    while collected.len() < 60 {
        for output in swim.step(swim.next_deadline(), Input::Tick) {
            match output {
                Output::Datagram { bytes, .. } | Output::Exchange { bytes, .. } => collected.push(bytes),
                Output::Reply { .. } | Output::Event(_) => {}
            }
        }
    }
    collected
}

#[test]
fn two_hundred_members_hear_of_a_change_within_half_a_second() {
    let mut simulation = Simulation::new(4);
    for number in 1..=200 {
        simulation.start(&format!("n{number}"), number);
    }
    for number in 2..=200 {
        simulation.join(&format!("n{number}"), "n1");
    }
    simulation.run(seconds(4));
    let tags: BTreeMap<String, String> = BTreeMap::from([("version".into(), "2".into())]);
    simulation.input("n150", Input::SetTags(tags.try_into().unwrap()));
    simulation.run(Duration::from_millis(500));
    let heard = simulation.names().into_iter().filter(|by| {
        simulation.members(by).iter().any(|member| member.name == "n150" && !member.tags.is_empty())
    });
    let heard = heard.count();
    assert!(heard >= 199, "{heard} of 200");
}
