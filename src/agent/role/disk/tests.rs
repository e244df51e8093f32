//! What a machine is after any crash, told by its disk.

use std::path::Path;

use super::{MODE_PRIVATE, Start, load, look, retire, succeed};
use crate::agent::consensus::{FOLDER, NEXT_FOLDER, owner_of};
use crate::host::disk::simulated::SimulatedDisk;
use crate::host::disk::{Disk as _, HostDisk};
use crate::host::files::{write_atomic, write_atomic_on};
use crate::model::election::Incarnation;

#[test]
fn the_disk_counts_more_than_the_flags_and_a_past_server_is_none_until_it_has_a_log_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, incarnation) = (folder.path(), Incarnation::from_random(7));
    let look = |flags| look(&HostDisk, Some(data), flags, &incarnation).unwrap();
    assert_eq!(look(false), Start { life: 0, server: false, by_flags: false });
    assert_eq!(look(true), Start { life: 0, server: true, by_flags: true });
    std::fs::create_dir(data.join("raft")).unwrap();
    assert_eq!(look(false), Start { life: 0, server: true, by_flags: false });
    assert_eq!(retire(&HostDisk, Some(data), 0).unwrap(), 1);
    assert!(data.join("raft.retired-0").is_dir());
    assert_eq!(look(true), Start { life: 1, server: false, by_flags: false });
    std::fs::create_dir(data.join("raft")).unwrap();
    assert_eq!(look(false), Start { life: 1, server: true, by_flags: false });
}

#[test]
fn an_archiving_that_was_interrupted_is_finished_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (data, incarnation) = (folder.path(), Incarnation::from_random(7));
    std::fs::create_dir(data.join("raft")).unwrap();
    let owner = format!(r#"{{"format": 1, "node": {}, "cluster": null}}"#, incarnation.node_id());
    write_atomic(&data.join("raft/owner.json"), owner.as_bytes(), MODE_PRIVATE).unwrap();
    write_atomic(&data.join("raft-life.json"), br#"{"format": 1, "life": 1}"#, MODE_PRIVATE).unwrap();
    assert_eq!(
        look(&HostDisk, Some(data), true, &incarnation).unwrap(),
        Start { life: 1, server: false, by_flags: false }
    );
    assert!(data.join("raft.retired-0/owner.json").is_file());
}

const DATA: &str = "/data";

fn machine() -> Incarnation {
    Incarnation::from_random(7)
}

/// A server in its first life that made a successor ready.
fn with_successor_at_hand() -> SimulatedDisk {
    let disk = SimulatedDisk::new(3);
    for (folder, life) in [(FOLDER, 0), (NEXT_FOLDER, 1)] {
        let folder = Path::new(DATA).join(folder);
        disk.create_folder(&folder).unwrap();
        let owner =
            format!(r#"{{"format": 1, "node": {}, "cluster": null}}"#, machine().node_id_in_life(life));
        write_atomic_on(&disk, &folder.join("owner.json"), owner.as_bytes(), MODE_PRIVATE).unwrap();
    }
    disk.sync_folder(Path::new(DATA)).unwrap();
    disk
}

/// What the machine is when it starts on this disk, and in which life the log that it has was begun.
fn started(disk: &SimulatedDisk, flags: bool) -> (Start, Option<u32>) {
    let start = look(disk, Some(Path::new(DATA)), flags, &machine()).unwrap();
    assert!(!disk.exists(&Path::new(DATA).join(NEXT_FOLDER)).unwrap(), "no later life must find it");
    let owner = owner_of(disk, &Path::new(DATA).join(FOLDER)).unwrap();
    let life = owner.map(|id| (0..3).find(|life| machine().node_id_in_life(*life) == id).unwrap());
    (start, life)
}

const AS_BEFORE: (Start, Option<u32>) = (Start { life: 0, server: true, by_flags: false }, Some(0));
const CLIENT: (Start, Option<u32>) = (Start { life: 1, server: false, by_flags: false }, None);
const FOUNDER: (Start, Option<u32>) = (Start { life: 1, server: true, by_flags: false }, Some(1));

/// The power fails, or the process is killed, behind each change of the disk while `change` is done; every subset of what
/// was not synced is kept. Gives what the machine was afterwards, without repetitions.
fn after_each_crash(change: impl FnOnce(&SimulatedDisk)) -> Vec<(Start, Option<u32>)> {
    let (disk, replayed) = (with_successor_at_hand(), with_successor_at_hand());
    disk.record();
    change(&disk);
    let mut found = Vec::new();
    let mut note = |disk: &SimulatedDisk| {
        let first = started(disk, false);
        disk.lose_power(|_| false);
        assert_eq!(started(disk, false), first, "what was seen once stays");
        if found.last() != Some(&first) {
            found.push(first);
        }
    };
    for event in disk.journal() {
        replayed.apply(&event);
        for mask in 0_u32..1 << replayed.unsynced() {
            let lost = replayed.copy();
            lost.lose_power(|piece| mask >> piece & 1 == 1);
            note(&lost);
        }
        let killed = replayed.copy();
        killed.kill();
        note(&killed);
    }
    found.sort_by_key(|(start, log)| (start.life, *log));
    found.dedup();
    found
}

#[test]
fn a_successor_that_was_made_ready_and_never_founded_does_not_lead_in_the_next_life() {
    let disk = with_successor_at_hand();
    assert_eq!(retire(&disk, Some(Path::new(DATA)), 0).unwrap(), 1);
    assert_eq!(started(&disk, true), CLIENT);
}

#[test]
fn a_server_that_starts_again_before_it_has_founded_a_successor_forgets_it() {
    let disk = with_successor_at_hand();
    assert_eq!(started(&disk, false), AS_BEFORE);
    // As a version before this one could end the life.
    write_atomic_on(
        &disk,
        &Path::new(DATA).join("raft-life.json"),
        br#"{"format": 1, "life": 1}"#,
        MODE_PRIVATE,
    )
    .unwrap();
    assert_eq!(started(&disk, true), CLIENT);
}

#[test]
fn after_a_crash_at_any_moment_a_succession_has_taken_effect_as_a_whole_or_not_at_all() {
    let crashed = after_each_crash(|disk| {
        succeed(disk, Path::new(DATA), 0).unwrap();
        assert_eq!(started(&disk.copy(), false), FOUNDER);
    });
    assert_eq!(crashed, [AS_BEFORE, FOUNDER]);
}

#[test]
fn after_a_crash_at_any_moment_a_server_that_ceases_to_be_one_is_no_founder() {
    let crashed = after_each_crash(|disk| assert_eq!(retire(disk, Some(Path::new(DATA)), 0).unwrap(), 1));
    assert_eq!(crashed, [AS_BEFORE, CLIENT]);
}

#[test]
fn a_server_whose_full_disk_cannot_remove_a_successor_that_was_never_founded_starts_and_does_so_when_it_ends()
{
    let disk = with_successor_at_hand();
    disk.set(|faults| faults.full_for_removing = true);
    let start = look(&disk, Some(Path::new(DATA)), false, &machine()).unwrap();
    assert_eq!(start, AS_BEFORE.0);
    retire(&disk, Some(Path::new(DATA)), 0).unwrap_err();
    assert_eq!(load(&disk, Path::new(DATA)).unwrap(), 0, "its life has not ended");
    disk.set(|faults| faults.full_for_removing = false);
    retire(&disk, Some(Path::new(DATA)), 0).unwrap();
    assert_eq!(started(&disk, false), CLIENT);
}

#[test]
fn a_succession_that_finds_no_room_leaves_the_server_as_it_was() {
    let full = with_successor_at_hand();
    let used = full.used();
    full.set(|faults| faults.capacity = Some(used));
    succeed(&full, Path::new(DATA), 0).unwrap_err();
    assert_eq!(load(&full, Path::new(DATA)).unwrap(), 0);
    // Weeks later it is replaced, though its disk is full no more.
    full.set(|faults| faults.capacity = None);
    assert_eq!(started(&full, false), AS_BEFORE);
    retire(&full, Some(Path::new(DATA)), 0).unwrap();
    assert_eq!(started(&full, false), CLIENT);
}
