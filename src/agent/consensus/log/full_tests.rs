//! The log on a disk that is full, in every way in which a disk is.

use std::path::Path;
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _};
use tokio::task::JoinSet;

use super::tests::{FOLDER, SMALL, entries, entry, log_id, on};
use super::{Log, Room};
use crate::agent::consensus::types::Vote;
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::{Faults, SimulatedDisk};

/// A log on a simulated disk, written by a task.
fn simulated(disk: &SimulatedDisk) -> (Log, JoinSet<()>) {
    let (log, pump) = Log::open_pumped(on(disk)).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(pump.run(|| Duration::ZERO));
    (log, tasks)
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "what is started here is awaited here")]
async fn on_a_full_disk_votes_are_kept_entries_are_announced_as_too_many_and_room_heals_it() {
    let disk = SimulatedDisk::new(2);
    let (mut log, _tasks) = simulated(&disk);
    let space = log.space();
    disk.set(|faults| faults.capacity = Some(SMALL));
    let mut changes = log.space();
    let seen = tokio::spawn(async move {
        let mut rooms = vec![changes.borrow_and_update().room];
        while rooms.last() != Some(&Room::Full) {
            changes.changed().await.unwrap();
            rooms.push(changes.borrow_and_update().room);
        }
        rooms
    });
    for index in 0..30 {
        log.blocking_append([entry(1, index, 80)]).await.unwrap();
    }
    let mut rooms = soon(seen).await.unwrap();
    rooms.dedup();
    assert_eq!(rooms, [Room::Enough, Room::Low, Room::Full], "each is announced while there is still room");
    assert!(space.borrow().why.is_some());
    log.save_vote(&Vote::new(5, 1)).await.unwrap();
    disk.set(|faults| faults.capacity = None);
    let mut healed = log.space();
    healed.wait_for(|space| space.room == Room::Enough).await.unwrap();
    assert_eq!(healed.borrow().why, None);
    log.blocking_append([entry(5, 30, 3000)]).await.unwrap();
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "what is started here is awaited here")]
async fn what_does_not_fit_waits_in_its_order_until_there_is_room() {
    let disk = SimulatedDisk::new(2);
    let (mut log, _tasks) = simulated(&disk);
    log.blocking_append([entry(1, 0, 10)]).await.unwrap();
    disk.set(|faults| (faults.capacity, faults.copy_on_write) = (Some(SMALL), true));
    let mut appender = log.clone();
    let mut append = tokio::spawn(async move { appender.blocking_append([entry(1, 1, 500)]).await });
    let mut voter = log.clone();
    let mut vote = tokio::spawn(async move { voter.save_vote(&Vote::new(9, 1)).await });
    let mut space = log.space();
    space.wait_for(|space| space.room == Room::Stuck).await.unwrap();
    let either = async {
        tokio::select! { ended = &mut append => drop(ended), ended = &mut vote => drop(ended) }
    };
    let waited = tokio::time::timeout(Duration::from_mins(5), either).await;
    assert!(waited.is_err(), "neither acknowledged nor failed");
    disk.set(|faults| faults.capacity = None);
    append.await.unwrap().unwrap();
    vote.await.unwrap().unwrap();
    space.wait_for(|space| space.room == Room::Enough).await.unwrap();
    drop(log);
    disk.lose_power(|_| false);
    let (log, _tasks) = simulated(&disk);
    assert_eq!(entries(&log).await.len(), 2);
    assert_eq!(log.clone().read_vote().await.unwrap(), Some(Vote::new(9, 1)));
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "what is started here is awaited here")]
async fn a_server_that_stops_does_not_wait_for_room() {
    let disk = SimulatedDisk::new(2);
    let (log, mut tasks) = simulated(&disk);
    disk.set(|faults| (faults.capacity, faults.copy_on_write) = (Some(SMALL), true));
    let mut appender = log.clone();
    let append = tokio::spawn(async move { appender.blocking_append([entry(1, 0, 500)]).await });
    log.space().wait_for(|space| space.room == Room::Stuck).await.unwrap();
    log.give_up();
    let error = append.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("cannot write the log in /data/log: no storage space"), "{error}");
    tasks.join_next().await.unwrap().unwrap();
}

/// What is not to wait for room.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work).await.expect("it waits for room")
}

#[tokio::test(start_paused = true)]
async fn where_removing_takes_room_a_purge_on_a_full_disk_costs_nothing_and_is_made_good() {
    let full: [fn(&mut Faults); 2] =
        [|faults| faults.full_for_removing = true, |faults| faults.full_for_names = true];
    for full in full {
        let disk = SimulatedDisk::new(3);
        let (mut log, tasks) = simulated(&disk);
        for index in 0..100 {
            log.blocking_append([entry(1, index, 100)]).await.unwrap();
        }
        let segments = || disk.list(Path::new(FOLDER)).unwrap().len();
        let before = segments();
        disk.set(full);
        // One group: the writer runs when this waits for the vote.
        log.append([entry(1, 100, 10), entry(1, 101, 10)], IOFlushed::noop()).await.unwrap();
        log.purge(log_id(1, 90)).await.unwrap();
        soon(log.save_vote(&Vote::new(4, 2))).await.unwrap();
        soon(log.blocking_append([entry(1, 102, 10)])).await.unwrap();
        let killed = disk.copy();
        disk.set(|faults| *faults = Faults::default());
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        while segments() + 1 >= before {
            assert!(
                tokio::time::Instant::now() < deadline,
                "purged segments stay: {} of {before}",
                segments()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop((log, tasks));
        killed.set(|faults| *faults = Faults::default());
        for disk in [disk, killed] {
            disk.lose_power(|_| false);
            let (log, _tasks) = simulated(&disk);
            let indexes: Vec<u64> = entries(&log).await.iter().map(|entry| entry.log_id.index).collect();
            assert_eq!(indexes, (91..=102).collect::<Vec<_>>());
            assert_eq!(log.clone().read_vote().await.unwrap(), Some(Vote::new(4, 2)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_grows_where_the_disk_does_not_tell_its_room() {
    let disk = SimulatedDisk::new(2);
    disk.set(|faults| faults.free_unknown = true);
    let (mut log, _tasks) = simulated(&disk);
    for index in 0..200 {
        soon(log.blocking_append([entry(1, index, 100)])).await.unwrap();
    }
    assert!(disk.list(Path::new(FOLDER)).unwrap().len() > 3);
    assert_eq!(log.space().borrow().room, Room::Enough);
}
