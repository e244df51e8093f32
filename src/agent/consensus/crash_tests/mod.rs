//! Every crash, and every damage, that a disk can do to the log and the snapshots of a server.
//!
//! A run of the real code on a simulated disk is recorded. Then, for each change of the disk in turn, the power fails
//! right behind it: of what is not synced every subset of sectors and names is kept (where there are few of them; else
//! a sample), and what recovery finds is compared with what the run knew at that moment. The rule is strict: log and
//! marks are exactly what they were after some number of operations, at least all that were acknowledged and at most
//! all that were begun.
//!
//! `COREDISCOVER_CRASH_RUNS` sets how many more runs with fresh seeds there are; `COREDISCOVER_CRASH_SEED` runs one.

mod recovery;
mod run;

use std::path::Path;

use self::recovery::{Explored, damage_everything, explore, recover, recover_after_crash};
use self::run::{Known, LOG, Run, SNAPSHOTS};
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::{Event, SimulatedDisk};
use crate::simulation::panics::first_panic;
use crate::simulation::say;

/// Seeds that are always run; a failure that was found stays here.
const SEEDS: std::ops::Range<u64> = 1..7;
/// Runs with fresh seeds, where nothing else is said.
const FRESH_RUNS: u64 = 2;
/// What a run does at most.
const STEPS: usize = 90;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("COREDISCOVER_CRASH_SEED") {
        return vec![seed];
    }
    let fresh = number("COREDISCOVER_CRASH_RUNS").unwrap_or(FRESH_RUNS);
    // Short enough to be typed.
    let fresh = (0..fresh).map(|_| uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000_000_000);
    SEEDS.chain(fresh).collect()
}

fn recorded(seed: u64) -> Run {
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
        run.random_step();
    }
    run.settle();
    run
}

/// Says which seeds are played, and how to play one again that failed.
fn play(what: &str, mut one: impl FnMut(u64)) {
    let seeds = seeds();
    say(&format!("{what}: COREDISCOVER_CRASH_SEED= {seeds:?}"));
    for seed in seeds {
        let played = first_panic(|| one(seed));
        if let Err(why) = played {
            panic!("{why}\nplay it again: COREDISCOVER_CRASH_SEED={seed} cargo test --lib crash_tests");
        }
    }
}

#[test]
fn after_a_crash_at_any_moment_with_any_unsynced_sectors_lost_nothing_acknowledged_is_gone() {
    let mut total = Explored::default();
    play("crashes at any moment", |seed| {
        let run = recorded(seed);
        let disk = SimulatedDisk::new(seed);
        for folder in [LOG, SNAPSHOTS] {
            disk.create_folder(Path::new(folder)).unwrap();
        }
        let (mut known, mut random) = (Known::default(), seed);
        let journal = run.disk.journal();
        for (at, event) in journal.iter().enumerate() {
            disk.apply(event);
            if let Event::Note(note) = event {
                known.note(*note);
            } else {
                let what = format!("seed {seed}, change {at} of {}", journal.len());
                explore(&disk, &run.history, known, &mut random, &what, &mut total);
            }
        }
    });
    let Explored { moments, whole, crashes } = total;
    say(&format!(
        "{crashes} crashes at {moments} moments, at {whole} of them with every subset of what was not synced"
    ));
    assert!(whole * 2 > moments, "most moments are looked at as a whole");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_nothing_acknowledged_is_gone() {
    play("failed syncs", |seed| (0..12).map(|more| seed ^ (more << 32)).for_each(fail_a_sync));
}

fn fail_a_sync(seed: u64) {
    let mut run = Run::new(seed);
    let fails = 5 + run.below(40);
    for step in 0..STEPS as u64 {
        run.random_step();
        if step == fails {
            run.disk.set(|faults| faults.fail_sync = true);
            break;
        }
    }
    let number = run.history.contents.len();
    run.append(1, 10);
    run.settle();
    assert!(run.known.done < number, "seed {seed}: acknowledged though the sync failed");
    run.append(1, 10);
    run.vote();
    run.settle();
    assert!(
        run.known.done < number && run.waiting.is_empty(),
        "seed {seed}: acknowledged after the sync failed"
    );
    for crash in 0..8 {
        let disk = run.disk.copy();
        disk.set(|faults| faults.fail_sync = false);
        if crash == 0 {
            disk.kill();
        } else {
            disk.lose_power_by_chance();
        }
        let at = recover_after_crash(&disk, &run.history, run.known, &format!("seed {seed}"));
        disk.lose_power(|_| false);
        recover_after_crash(
            &disk,
            &run.history,
            Known { done: at, ..run.known },
            &format!("seed {seed}, twice"),
        );
    }
}

#[test]
fn a_full_disk_holds_writes_back_and_loses_nothing() {
    play("full disks", |seed| (0..12).map(|more| seed ^ (more << 32)).for_each(fill_the_disk));
}

fn fill_the_disk(seed: u64) {
    let mut run = Run::new(seed);
    run.disk.set(|faults| faults.copy_on_write = seed.is_multiple_of(2));
    for step in 0..STEPS {
        if step % 10 == 5 {
            let capacity = run.disk.used() + run.below(6000);
            run.disk.set(|faults| faults.capacity = Some(capacity));
        }
        if step % 10 == 9 {
            run.disk.set(|faults| faults.capacity = None);
            run.settle();
            assert!(run.waiting.is_empty(), "seed {seed}: with room again everything is acknowledged");
        }
        // Opening may need room, which is another matter.
        let full = (5..9).contains(&(step % 10));
        if full {
            run.append(1, 300);
            run.step(step % 2 == 0);
            run.step(true);
        } else {
            run.random_step();
        }
        let disk = run.disk.copy();
        disk.set(|faults| faults.capacity = None);
        disk.lose_power_by_chance();
        recover_after_crash(&disk, &run.history, run.known, &format!("seed {seed}, step {step}"));
    }
}

#[test]
fn damage_anywhere_is_refused_with_file_and_offset_or_costs_nothing() {
    play("damage", |seed| {
        let mut run = recorded(seed);
        // The writer was idle for a moment: the last frame that matters has a seal behind it.
        run.step(true);
        run.known.done = run.known.begun;
        let (refused, harmless) = damage_everything(&run, &format!("seed {seed}"));
        assert!(refused > 0 && harmless > 0, "{refused} refused, {harmless} harmless");
    });
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let run = recorded(1);
    for path in [LOG, SNAPSHOTS].iter().flat_map(|folder| run.disk.list(Path::new(folder)).unwrap()) {
        let disk = run.disk.copy();
        disk.set(|faults| faults.unreadable.extend([path.clone()]));
        let refused = recover(&disk, &run.history, run.known).unwrap().unwrap_err();
        assert!(refused.contains(&path.display().to_string()) && refused.contains("hint: "), "{refused}");
    }
}
