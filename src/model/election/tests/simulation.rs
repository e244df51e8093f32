//! Random births through a store. Machines crash at any action, restart, lose their disks, come with cloned
//! machine-ids, move to addresses of others; their clocks jump. What they ask the store is delayed, lost, doubled,
//! answered late or not at all; what they hear is stale. The store goes down, loses leases, is emptied.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::telling::{Names, tell_action};
use super::world::{Log, World};
use crate::model::election::birth::Event;
use crate::simulation::chance::Chance;
use crate::simulation::explore::{Histories, explore, finds};
use crate::simulation::mutants::Mutant;

/// Births through a store in `make test`.
const HISTORIES: u64 = 60_000;
/// The same with a store that is emptied again and again.
const HISTORIES_EMPTIED: u64 = 20_000;
/// Most rounds of calm until a birth must be done: leases expire, stalled births are replaced.
const CALM_ROUNDS_MAX: usize = 60;

/// One thing that happens to a machine (the number), or to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It takes in what it heard next.
    Deliver(u8),
    /// The same, but it crashes after so many actions.
    DeliverAndCrash(u8, u8),
    /// Its oldest write is executed and answered, if the store can be asked.
    Write(u8),
    /// Its oldest write is given up, and may still arrive.
    GiveUp(u8),
    /// Its oldest write arrives twice, the second time later.
    Double(u8),
    /// A write arrives that nobody waits for.
    ArriveLate(u8),
    /// It reads the store.
    Read(u8),
    /// It is told that time passed.
    Tick(u8),
    /// So many seconds pass.
    Pass(u8),
    /// Its clock jumps by so many minutes.
    Jump(u8, u8),
    /// It is killed.
    Crash(u8),
    /// It comes back if it is down; with another boot if so.
    Start(u8, bool),
    /// It loses its disk.
    Wipe(u8),
    /// It goes down and gets another address: that of the other one, if that is down too.
    Move(u8, u8),
    /// Its lease expires.
    Expire(u8),
    /// Whom it wanted to ask answer, or not.
    Probe(u8),
    /// Agents elect a leader, if they can.
    Form(u8),
    /// What the first says does not reach the second.
    Cut(u8, u8),
    /// What it says does not reach the store; or what the store says does not reach it.
    CutFromStore(u8, bool),
    /// The network is whole again.
    Heal,
    /// The store can no longer be asked.
    Down,
    /// It can be asked again.
    Up,
    /// All that it holds is gone.
    Empty,
}

/// A kind of births.
pub(super) struct Births {
    pub(super) name: &'static str,
    /// The store may be emptied.
    pub(super) emptied: bool,
}

/// What the seed says about the machines.
struct Setup {
    expect: usize,
    machines: usize,
    /// The last machine is a clone of the first: only its machine-id, or its whole disk.
    clone: Option<bool>,
}

impl Setup {
    fn of(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        let expect = chance.pick(&[1, 3, 3, 3, 5]);
        let machines = expect + chance.below(4);
        let clone = chance.one_in(4).then(|| chance.one_in(2));
        Self { expect, machines, clone }
    }
}

impl Histories for Births {
    type Step = Step;

    fn name(&self) -> &'static str {
        self.name
    }

    fn plan(&self, seed: u64) -> Vec<Step> {
        let setup = Setup::of(seed);
        let mut chance = Chance::new(seed);
        let hosts = setup.machines + usize::from(setup.clone.is_some());
        let length = chance.pick(&[80, 120, 160, 240, 400]);
        // Faults come in fashions: each history is rich in some and has none of others.
        let (crashing, network, storing) = (chance.below(3), chance.below(3), chance.below(3));
        let mut steps = Vec::with_capacity(length);
        let mut down = false;
        for _ in 0..length {
            let host = u8::try_from(chance.below(hosts)).unwrap();
            let step = match chance.below(64) {
                18..=29 => Step::Write(host),
                30..=42 => Step::Read(host),
                43 | 44 => Step::Pass(chance.byte() % 12),
                45 => Step::Tick(host),
                46 | 47 => Step::Form(chance.byte()),
                48 | 49 => Step::Start(host, chance.one_in(2)),
                50 | 51 => Step::Probe(host),
                52 | 53 if crashing > 0 => match chance.below(if crashing == 1 { 3 } else { 7 }) {
                    0 => Step::Crash(host),
                    1 | 2 => Step::DeliverAndCrash(host, chance.byte() % 4),
                    3 | 4 => Step::Wipe(host),
                    5 => Step::Move(host, chance.byte() % u8::try_from(hosts).unwrap()),
                    _ => Step::Jump(host, chance.byte()),
                },
                54..=57 if network > 0 => match chance.below(if network == 1 { 3 } else { 7 }) {
                    0 => Step::GiveUp(host),
                    1 => Step::Double(host),
                    2 => Step::ArriveLate(chance.byte()),
                    3 | 4 => Step::Cut(host, chance.byte() % u8::try_from(hosts).unwrap()),
                    5 => Step::CutFromStore(host, chance.one_in(2)),
                    _ => Step::Heal,
                },
                58..=60 if storing > 0 => match chance.below(if storing == 1 { 2 } else { 5 }) {
                    0 | 1 => Step::Expire(host),
                    _ if down => {
                        down = false;
                        Step::Up
                    }
                    2 => {
                        down = true;
                        Step::Down
                    }
                    _ if self.emptied => Step::Empty,
                    _ => Step::Read(host),
                },
                61 if self.emptied => Step::Empty,
                _ => Step::Deliver(host),
            };
            steps.push(step);
        }
        steps
    }

    fn play(&self, seed: u64, steps: &[Step], mut story: Option<&mut Vec<String>>) -> u64 {
        let setup = Setup::of(seed);
        let log = if story.is_some() { Log::Actions } else { Log::Nothing };
        let mut world = World::new(seed, setup.expect, log);
        let mut names = Names::default();
        for number in 0..setup.machines {
            world.add_host(&format!("m{number}"), &format!("m{number}"));
        }
        if let Some(whole_disk) = setup.clone {
            world.add_host("clone-of-m0", "m0");
            // An emptied store cannot tell two disks with one incarnation apart; nothing is promised for these.
            if whole_disk && !self.emptied {
                world.hosts[setup.machines].disk = world.hosts[0].disk.clone();
            }
        }
        for host in 0..world.hosts.len() {
            world.start(host);
        }
        for step in steps {
            world.moves += 1;
            if let Some(story) = &mut story {
                for host in &world.hosts {
                    names.know(&host.disk.incarnation.to_string(), &host.name);
                }
                story.push(format!("{step:?}"));
            }
            take(&mut world, *step);
            if let Some(story) = &mut story {
                tell(&mut world, &mut names, story);
            }
            if self.emptied {
                world.check_no_disk_serves_two();
            } else {
                world.check_one_cluster();
            }
        }
        if !self.emptied {
            if let Some(story) = &mut story {
                story.push("everything works again".to_owned());
            }
            calm(&mut world, setup.machines);
            if let Some(story) = &mut story {
                tell(&mut world, &mut names, story);
            }
        }
        let mut hash = DefaultHasher::new();
        let certificate =
            world.store.certificate.as_ref().map(|(certificate, _)| certificate.cluster_id.as_str());
        (world.now, world.store.revision, certificate, world.formed.len()).hash(&mut hash);
        hash.finish()
    }
}

fn tell(world: &mut World, names: &mut Names, story: &mut Vec<String>) {
    for (name, action) in std::mem::take(&mut world.log) {
        if let Some(text) = tell_action(&action) {
            story.push(names.replace(&format!("    {name}: {text}")));
        }
    }
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Deliver(host) => world.deliver(host.into(), None),
        Step::DeliverAndCrash(host, after) => world.deliver(host.into(), Some(after.into())),
        Step::Write(host) => world.write(host.into()),
        Step::GiveUp(host) => world.give_up(host.into()),
        Step::Double(host) => world.double(host.into()),
        Step::ArriveLate(pick) => world.arrive_late(pick.into()),
        Step::Read(host) => world.read(host.into()),
        Step::Tick(host) => world.tell(host.into(), Event::Timer),
        Step::Pass(seconds) => world.now += Duration::from_secs(seconds.into()),
        Step::Jump(host, minutes) => {
            world.hosts[usize::from(host)].ahead += Duration::from_mins(minutes.into());
            world.tell(host.into(), Event::Timer);
        }
        Step::Crash(host) => world.crash(host.into()),
        Step::Start(host, rebooted) => {
            if world.hosts[usize::from(host)].process.is_none() {
                world.hosts[usize::from(host)].boot += u64::from(rebooted);
                world.start(host.into());
            }
        }
        Step::Wipe(host) => world.wipe(host.into()),
        Step::Move(host, to) => world.move_to(host.into(), to.into()),
        Step::Expire(host) => {
            let machine_id = world.hosts[usize::from(host)].machine_id.clone();
            world.expire(&machine_id);
        }
        Step::Probe(host) => world.probe(host.into()),
        Step::Form(pick) => world.form(pick.into()),
        Step::Cut(from, to) => world.cut(from.into(), to.into()),
        Step::CutFromStore(host, outward) => {
            let host = &mut world.hosts[usize::from(host)];
            if outward { host.mute = true } else { host.deaf = true }
        }
        Step::Heal => world.heal(),
        Step::Down => world.store.down = true,
        Step::Up => world.store.down = false,
        Step::Empty => {
            world.store.claims.clear();
            world.store.certificate = None;
        }
    }
}

/// After the storm every machine comes back (a clone stays away), and the cluster forms unless bound disks are gone
/// for ever.
fn calm(world: &mut World, machines: usize) {
    world.heal();
    world.late.clear();
    world.store.down = false;
    for clone in machines..world.hosts.len() {
        world.crash(clone);
    }
    for _ in 0..CALM_ROUNDS_MAX {
        for host in 0..machines {
            if world.hosts[host].process.is_none() {
                world.start(host);
            }
        }
        world.round();
        world.check_one_cluster();
        if is_settled(world, machines) {
            break;
        }
    }
    let (certificate, _) = world.store.certificate.clone().expect("a birth began");
    let living = certificate
        .bound
        .iter()
        .filter(|incarnation| {
            world.hosts[..machines].iter().any(|host| host.disk.incarnation == **incarnation)
        })
        .count();
    let lost_for_ever = certificate.can_be_closed().is_err() && living < certificate.majority();
    if !certificate.formed && lost_for_ever {
        return;
    }
    assert!(certificate.formed, "not formed: {certificate:?}");
    for host in &world.hosts[..machines] {
        let process = host.process.as_ref().expect("it runs");
        let plan = process.plan.as_ref().unwrap_or_else(|| panic!("{} has no agent", host.name));
        assert_eq!(plan.cluster_id.as_ref(), Some(&certificate.cluster_id), "{}", host.name);
        assert_eq!(host.disk.local.record.as_ref().map(|record| record.formed), Some(true));
    }
}

fn is_settled(world: &World, machines: usize) -> bool {
    let Some((certificate, _)) = &world.store.certificate else { return false };
    certificate.formed
        && world.hosts[..machines].iter().all(|host| {
            let record = host.disk.local.record.as_ref();
            record.is_some_and(|record| record.formed && record.cluster_id == certificate.cluster_id)
                && host.process.as_ref().is_some_and(|process| process.plan.is_some())
        })
}

const THROUGH_A_STORE: Births = Births { name: "births_through_a_store", emptied: false };
const EMPTIED: Births = Births { name: "births_with_an_emptied_store", emptied: true };

#[test]
fn births_through_a_store_make_at_most_one_cluster_whatever_happens() {
    explore(&THROUGH_A_STORE, HISTORIES);
}

/// Somebody empties the store again and again: I1 cannot hold, but no disk ever serves two clusters, and none is
/// begun by a machine that can reach a member of another.
#[test]
fn births_with_an_emptied_store_never_put_a_disk_into_two_clusters() {
    explore(&EMPTIED, HISTORIES_EMPTIED);
}

#[test]
fn planted_faults_in_births_are_found() {
    assert!(finds(&THROUGH_A_STORE, Mutant::StaleBirthList, &["two clusters can commit"], 2000));
}
