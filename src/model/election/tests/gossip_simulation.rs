//! Random births by gossip: packets are lost, late, doubled and reordered, also in one direction only; servers crash
//! at any action, restart, lose their disks, have cloned names, move to addresses of others; their clocks jump; they
//! see only some of each other.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::gossip_world::GossipWorld;
use super::telling::{Names, tell_gossip_action};
use super::world::Log;
use crate::model::election::gossip_birth::GossipEvent;
use crate::simulation::chance::Chance;
use crate::simulation::explore::{Histories, explore, replay};

/// Births by gossip in `make test`.
const HISTORIES: u64 = 30_000;
/// Most rounds (half seconds) of calm until the one birth must be done.
const CALM_ROUNDS_MAX: usize = 80;
/// The same where disks were lost: only safety is promised, a look is enough.
const CALM_ROUNDS_WIPED: usize = 10;

/// One thing that happens to a server (the number), or to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One of the packets under way arrives.
    Arrive(u8),
    /// The same, and its receiver crashes after so many actions.
    ArriveAndCrash(u8, u8),
    /// One of the packets is lost.
    Lose(u8),
    /// One of the packets becomes two.
    Double(u8),
    /// Gossip shows it these others (a bit each).
    See(u8, u8),
    /// So many times ten milliseconds pass, and it looks at its clock.
    Pass(u8, u8),
    /// Its clock jumps by so many seconds.
    Jump(u8, u8),
    /// It is killed.
    Crash(u8),
    /// It comes back, if it is down.
    Start(u8),
    /// It loses its disk.
    Wipe(u8),
    /// It goes down and gets another address: that of the other one, if that is down too.
    Move(u8, u8),
    /// What the first says does not reach the second.
    Cut(u8, u8),
    /// The network is whole again.
    Heal,
    /// Those that can commit.
    Form,
}

struct Births;

struct Setup {
    expect: usize,
    /// Fewer than twice as many as expected, so that two births would have to share a server.
    servers: usize,
    /// The last server has the name of the first.
    clone: bool,
    wiping: bool,
    /// Which servers were told how many to expect.
    told: u8,
}

impl Setup {
    fn of(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        let expect = chance.pick(&[2, 3, 3, 4]);
        let servers = expect + chance.below(2);
        let clone = expect > 2 && chance.one_in(5);
        Self { expect, servers, clone, wiping: chance.one_in(5), told: chance.byte() | 1 }
    }
}

impl Histories for Births {
    type Step = Step;

    fn name(&self) -> &'static str {
        "births_by_gossip"
    }

    fn plan(&self, seed: u64) -> Vec<Step> {
        let setup = Setup::of(seed);
        let mut chance = Chance::new(seed);
        let count = u8::try_from(setup.servers + usize::from(setup.clone)).unwrap();
        let length = chance.pick(&[60, 100, 160, 250]);
        let (faults, moving) = (chance.below(3), chance.one_in(4));
        let mut steps = Vec::with_capacity(length);
        for _ in 0..length {
            let server = chance.byte() % count;
            let step = match chance.below(32) {
                14..=19 => Step::See(server, chance.byte() | chance.byte()),
                20..=25 => Step::Pass(server, chance.byte() % 150),
                26 => Step::Form,
                27 => Step::Start(server),
                28 if faults > 0 => match chance.below(3) {
                    0 => Step::Lose(chance.byte()),
                    1 => Step::Double(chance.byte()),
                    _ => Step::ArriveAndCrash(chance.byte(), chance.byte() % 3),
                },
                29 if faults > 0 => match chance.below(3) {
                    0 => Step::Crash(server),
                    1 if setup.wiping && chance.one_in(3) => Step::Wipe(server),
                    _ => Step::Start(server),
                },
                30 if faults > 1 => match chance.below(3) {
                    0 => Step::Heal,
                    _ => Step::Cut(server, chance.byte() % count),
                },
                31 if faults > 1 && moving => match chance.below(3) {
                    0 => Step::Jump(server, chance.byte() % 20),
                    _ => Step::Move(server, chance.byte() % count),
                },
                _ => Step::Arrive(chance.byte()),
            };
            steps.push(step);
        }
        steps
    }

    fn play(&self, seed: u64, steps: &[Step], mut story: Option<&mut Vec<String>>) -> u64 {
        let setup = Setup::of(seed);
        let log = if story.is_some() { Log::Actions } else { Log::Nothing };
        let mut world = GossipWorld::new(seed, log);
        let mut names = Names::default();
        for number in 0..setup.servers {
            let told = setup.told >> (number % 8) & 1 == 1;
            world.add(&format!("s{number}"), told.then_some(setup.expect), false);
        }
        if setup.clone {
            world.add("s0", Some(setup.expect), false);
            world.servers[setup.servers].address = "clone-of-s0.example".to_owned();
        }
        for server in 0..world.servers.len() {
            world.start(server);
        }
        for step in steps {
            if let Some(story) = &mut story {
                for server in &world.servers {
                    names.know(&server.incarnation.to_string(), &server.name);
                }
                story.push(format!("{step:?}"));
            }
            take(&mut world, *step);
            if let Some(story) = &mut story {
                tell(&mut world, &mut names, story);
            }
            check(&world, &setup);
        }
        calm(&mut world, &setup);
        if let Some(story) = &mut story {
            story.push("everything works again".to_owned());
            tell(&mut world, &mut names, story);
        }
        let mut hash = DefaultHasher::new();
        (world.now, world.packets.len()).hash(&mut hash);
        world.born.keys().for_each(|id| id.as_str().hash(&mut hash));
        hash.finish()
    }
}

fn tell(world: &mut GossipWorld, names: &mut Names, story: &mut Vec<String>) {
    for (name, action) in std::mem::take(&mut world.log) {
        story.push(names.replace(&format!("    {name}: {}", tell_gossip_action(&action))));
    }
}

/// No disk is in two births; and as long as none was lost, there is one birth at most.
fn check(world: &GossipWorld, setup: &Setup) {
    world.check();
    assert!(setup.wiping || world.born.len() <= 1, "two births");
}

fn take(world: &mut GossipWorld, step: Step) {
    let picked = |world: &GossipWorld, pick: u8| {
        (!world.packets.is_empty()).then(|| usize::from(pick) % world.packets.len())
    };
    match step {
        Step::Arrive(pick) | Step::ArriveAndCrash(pick, _) => {
            if let Some(position) = picked(world, pick) {
                let packet = world.packets.swap_remove(position);
                let cut = if let Step::ArriveAndCrash(_, after) = step { Some(after.into()) } else { None };
                world.transport(packet, cut);
            }
        }
        Step::Lose(pick) => {
            if let Some(position) = picked(world, pick) {
                world.packets.swap_remove(position);
            }
        }
        Step::Double(pick) => {
            if let Some(position) = picked(world, pick) {
                let packet = world.packets[position].clone();
                world.packets.push(packet);
            }
        }
        Step::See(server, mask) => {
            let others: Vec<usize> =
                (0..world.servers.len()).filter(|other| mask >> (other % 8) & 1 == 1).collect();
            world.show(server.into(), &others);
        }
        Step::Pass(server, time) => {
            world.now += Duration::from_millis(10) * u32::from(time);
            world.step(server.into(), GossipEvent::Timer, None);
        }
        Step::Jump(server, seconds) => {
            world.servers[usize::from(server)].ahead += Duration::from_secs(seconds.into());
            world.step(server.into(), GossipEvent::Timer, None);
        }
        Step::Crash(server) => world.servers[usize::from(server)].process = None,
        Step::Start(server) => {
            if world.servers[usize::from(server)].process.is_none() {
                world.start(server.into());
            }
        }
        Step::Wipe(server) => world.wipe(server.into()),
        Step::Move(server, to) => {
            let (server, to) = (usize::from(server), usize::from(to));
            world.servers[server].process = None;
            if world.servers[to].process.is_none() {
                let (one, other) = (world.servers[server].address.clone(), world.servers[to].address.clone());
                (world.servers[server].address, world.servers[to].address) = (other, one);
            }
        }
        Step::Cut(from, to) => {
            world.cuts.insert((from.into(), to.into()));
        }
        Step::Heal => world.cuts.clear(),
        Step::Form => world.form(),
    }
}

/// Everybody comes back and sees everybody: then there is exactly one birth, and all are in it.
fn calm(world: &mut GossipWorld, setup: &Setup) {
    world.cuts.clear();
    let limited = setup.wiping || setup.clone;
    for _ in 0..if limited { CALM_ROUNDS_WIPED } else { CALM_ROUNDS_MAX } {
        for server in 0..world.servers.len() {
            if world.servers[server].process.is_none() {
                world.start(server);
            }
        }
        world.round();
        check(world, setup);
        if world.servers.iter().all(|server| server.cluster.is_some()) {
            break;
        }
    }
    if limited {
        return;
    }
    assert_eq!(world.born.len(), 1, "exactly one birth");
    for server in &world.servers {
        assert!(server.cluster.is_some(), "{} is in no cluster: {:?}", server.name, server.record);
    }
}

#[test]
fn births_by_gossip_put_no_server_into_two_clusters_whatever_happens() {
    explore(&Births, HISTORIES);
}

/// Found by simulation: the others went on to ask at the address that the certificate names.
#[test]
fn births_by_gossip_reach_servers_that_have_moved_since_they_accepted() {
    let accepted =
        [Step::See(2, 239), Step::Arrive(132), Step::Arrive(104), Step::Arrive(30), Step::Crash(1)];
    let moved = [Step::Arrive(65), Step::Arrive(56), Step::Move(0, 0), Step::Arrive(185), Step::Move(2, 1)];
    replay(&Births, 40, &[accepted, moved].concat());
}
