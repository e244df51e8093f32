//! The log against openraft's own suite, against power loss at every byte, and against damage.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use proptest::prelude::*;

use super::record::{ALIGNMENT, FRAME_HEADER_BYTES};
use super::segment::{HEADER_BYTES, SECTOR_BYTES, path_of};
use super::{Log, LogSettings};
use crate::agent::consensus::feed::Feed;
use crate::agent::consensus::snapshot::SnapshotStore;
use crate::agent::consensus::state_machine::StateMachine;
use crate::agent::consensus::types::{Entry, LogId, Proposal, TypeConfig, Vote};
use crate::agent::handle::Replica;
use crate::host::disk::simulated::SimulatedDisk;
use crate::host::disk::{Disk as _, HostDisk};
use crate::host::files::{MODE_PRIVATE, write_atomic};

pub(super) const SMALL: u64 = 4096;

fn settings(folder: &Path) -> LogSettings {
    LogSettings {
        first_bytes: SMALL,
        max_bytes: 2 * SMALL,
        ..LogSettings::in_folder(Arc::new(HostDisk), folder)
    }
}

fn open(folder: &Path) -> Log {
    Log::open(settings(folder)).unwrap()
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(super) fn entry(term: u64, index: u64, length: usize) -> Entry {
    let payload = if length == 0 {
        EntryPayload::Blank
    } else {
        EntryPayload::Normal(Proposal(Bytes::from(vec![u8::try_from(index % 251).unwrap() + 1; length])))
    };
    Entry { log_id: log_id(term, index), payload }
}

pub(super) async fn entries(log: &Log) -> Vec<Entry> {
    log.clone().try_get_log_entries(0..).await.unwrap()
}

struct OnDisk;
struct InMemory;

impl StoreBuilder<TypeConfig, Log, StateMachine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, StateMachine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::in_folder(&folder.path().join("snapshots")).unwrap();
        let machine =
            StateMachine::open(store, Arc::new(Replica::default()), Arc::new(Feed::default())).unwrap();
        let log = open(&folder.path().join("log"));
        Ok((folder, log, machine))
    }
}

impl StoreBuilder<TypeConfig, Log, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), Log, StateMachine), StorageError<TypeConfig>> {
        let store = SnapshotStore::in_memory();
        let machine =
            StateMachine::open(store, Arc::new(Replica::default()), Arc::new(Feed::default())).unwrap();
        Ok(((), Log::in_memory(), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_and_the_state_machine_do_what_openraft_expects() {
    Suite::test_all(OnDisk).await.unwrap();
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_reopening_over_many_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    assert!(log.is_empty());
    for index in 0..200 {
        log.blocking_append([entry(1, index, 100)]).await.unwrap();
    }
    log.save_vote(&Vote::new(7, 42)).await.unwrap();
    log.save_committed(Some(log_id(1, 150))).await.unwrap();
    log.close();
    let segments = || std::fs::read_dir(folder.path()).unwrap().count();
    assert!(segments() > 3, "{}", segments());
    let mut log = open(folder.path());
    assert_eq!(entries(&log).await, (0..200).map(|index| entry(1, index, 100)).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 42)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 150)));
    log.purge(log_id(1, 180)).await.unwrap();
    log.truncate_after(Some(log_id(1, 190))).await.unwrap();
    log.blocking_append([entry(2, 191, 5000), entry(2, 192, 0)]).await.unwrap();
    log.close();
    assert!(segments() <= 4, "purged segments are removed: {}", segments());
    let mut log = open(folder.path());
    let indexes: Vec<_> = entries(&log).await.iter().map(|entry| entry.log_id).collect();
    let want: Vec<_> = (181..=190).map(|at| log_id(1, at)).chain([log_id(2, 191), log_id(2, 192)]).collect();
    assert_eq!(indexes, want);
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 180)));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 42)), "the vote outlives its segment");
    log.purge(log_id(3, 1000)).await.unwrap();
    log.blocking_append([entry(3, 1001, 1)]).await.unwrap();
    log.close();
    let log = open(folder.path());
    assert_eq!(entries(&log).await, [entry(3, 1001, 1)], "a snapshot was installed ahead of the log");
}

pub(super) const FOLDER: &str = "/data/log";

pub(super) fn on(disk: &SimulatedDisk) -> LogSettings {
    LogSettings { disk: Arc::new(disk.clone()), ..settings(Path::new(FOLDER)) }
}

fn open_on(disk: &SimulatedDisk) -> Log {
    Log::open(on(disk)).unwrap()
}

/// A segment with one frame per entry, and no seal yet: its bytes and where each frame begins and ends.
async fn one_segment(disk: &SimulatedDisk, count: u64) -> (Vec<u8>, Vec<(usize, usize)>) {
    let mut log = open_on(disk);
    let mut frames = Vec::new();
    let mut end = HEADER_BYTES;
    for index in 0..count {
        let length = 11 + usize::try_from(index).unwrap();
        log.blocking_append([entry(1, index, length)]).await.unwrap();
        // kind 1, log id 16, payload kind 1, length 4.
        let used = FRAME_HEADER_BYTES + 22 + length;
        frames.push((end, end + used));
        end += used.next_multiple_of(ALIGNMENT);
    }
    log.close();
    let mut bytes = disk.read(&path_of(Path::new(FOLDER), 1)).unwrap();
    bytes[end..].fill(0);
    (bytes, frames)
}

/// A disk with nothing but this as the first segment.
fn disk_with(segment: &[u8]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    disk.create_folder(Path::new(FOLDER)).unwrap();
    let file = disk.create(&path_of(Path::new(FOLDER), 1), MODE_PRIVATE).unwrap();
    file.write_at(segment, 0).unwrap();
    disk
}

#[tokio::test]
async fn a_power_loss_at_any_byte_keeps_exactly_the_frames_that_were_whole() {
    let (bytes, frames) = one_segment(&SimulatedDisk::new(1), 6).await;
    for cut in HEADER_BYTES..=frames[5].1 {
        let whole = frames.iter().filter(|(_, end)| *end <= cut).count();
        let mut padded = bytes[..cut].to_vec();
        padded.resize(bytes.len(), 0);
        for broken in [padded, bytes[..cut].to_vec()] {
            let disk = disk_with(&broken);
            let mut log = open_on(&disk);
            assert_eq!(entries(&log).await.len(), whole, "cut at {cut}");
            let next = entry(2, whole as u64, 3);
            log.blocking_append([next.clone()]).await.unwrap();
            log.close();
            assert_eq!(entries(&open_on(&disk)).await.last(), Some(&next), "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn damage_before_the_last_frame_is_refused_with_the_file_and_the_offset() {
    let (bytes, frames) = one_segment(&SimulatedDisk::new(1), 5).await;
    let path = path_of(Path::new(FOLDER), 1);
    for at in 0..frames[4].1 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let opened = Log::open(on(&disk_with(&damaged)));
        let hit = frames.iter().position(|(start, end)| (*start..*end).contains(&at));
        match (hit, at < HEADER_BYTES) {
            (Some(4), _) => assert_eq!(entries(&opened.unwrap()).await.len(), 4, "the last may be torn"),
            (None, false) => assert_eq!(entries(&opened.unwrap()).await.len(), 5, "padding means nothing"),
            (hit, _) => {
                let Err(error) = opened else { panic!("damage at {at} went unnoticed") };
                let report = crate::hint::report(&error);
                assert!(report.contains(&path.display().to_string()), "{report}");
                if let Some(hit) = hit {
                    assert!(report.contains(&format!("offset {}", frames[hit].0)), "{report}");
                }
            }
        }
    }
}

#[tokio::test]
async fn damage_in_the_last_frame_is_refused_once_the_log_was_idle_or_closed() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append([entry(1, 0, 40), entry(1, 1, 40)]).await.unwrap();
    log.save_vote(&Vote::new(4, 2)).await.unwrap();
    log.close();
    let path = path_of(folder.path(), 1);
    let good = std::fs::read(&path).unwrap();
    let end = good[..SECTOR_BYTES].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let last_frame = end - 17 - FRAME_HEADER_BYTES - 1;
    for (range, fill) in
        [(end - 2..end - 1, 0x55), (last_frame..end, 0), (0..SECTOR_BYTES, 0), (100..SECTOR_BYTES, 0xff)]
    {
        let mut bad = good.clone();
        bad[range.clone()].fill(fill);
        write_atomic(&path, &bad, MODE_PRIVATE).unwrap();
        let Err(error) = Log::open(settings(folder.path())) else { panic!("{range:?} went unnoticed") };
        assert!(format!("{error:#}").contains("is damaged at offset "), "{error:#}");
    }
    // The seal alone says nothing that matters.
    let mut bad = good.clone();
    bad[SECTOR_BYTES..].fill(0xff);
    write_atomic(&path, &bad, MODE_PRIVATE).unwrap();
    let mut log = open(folder.path());
    assert_eq!(entries(&log).await.len(), 2);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(4, 2)));
}

#[tokio::test]
async fn a_missing_segment_and_damage_in_an_older_one_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    for index in 0..200 {
        log.blocking_append([entry(1, index, 100)]).await.unwrap();
    }
    log.close();
    let second = path_of(folder.path(), 2);
    let good = std::fs::read(&second).unwrap();
    let zeroed: Vec<u8> =
        good[..HEADER_BYTES].iter().copied().chain(std::iter::repeat_n(0, good.len() - 64)).collect();
    let last_broken: Vec<u8> = {
        let mut bytes = good.clone();
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[last] ^= 1;
        bytes
    };
    for bad in [zeroed, last_broken] {
        write_atomic(&second, &bad, MODE_PRIVATE).unwrap();
        assert!(Log::open(settings(folder.path())).is_err(), "what was acknowledged is never skipped");
    }
    std::fs::remove_file(&second).unwrap();
    let Err(error) = Log::open(settings(folder.path())) else { panic!("opened without segment 2") };
    assert!(error.to_string().contains("is missing"), "{error:#}");
}

#[tokio::test]
async fn a_user_value_that_looks_like_a_frame_does_not_make_a_torn_tail_look_like_damage() {
    let (bytes, frames) = one_segment(&SimulatedDisk::new(1), 2).await;
    let disk = disk_with(&bytes);
    let mut log = open_on(&disk);
    // The same frame, copied by a user into a value at an aligned position.
    let mut value = vec![0; 2];
    value.extend_from_slice(&bytes[frames[0].0..frames[0].1]);
    let (other, other_frames) = one_segment(&SimulatedDisk::new(2), 1).await;
    value.resize(value.len().next_multiple_of(ALIGNMENT) + 2, 0);
    value.extend_from_slice(&other[other_frames[0].0..other_frames[0].1]);
    let start = frames[1].1.next_multiple_of(ALIGNMENT);
    let end = start + FRAME_HEADER_BYTES + 22 + value.len();
    log.blocking_append([Entry {
        log_id: log_id(1, 2),
        payload: EntryPayload::Normal(Proposal(value.into())),
    }])
    .await
    .unwrap();
    log.close();
    let mut torn = disk.read(&path_of(Path::new(FOLDER), 1)).unwrap();
    torn[start] ^= 1;
    torn[end..].fill(0);
    // The copy of an earlier frame of this segment is old, that of another segment has another salt.
    assert_eq!(entries(&open_on(&disk_with(&torn))).await.len(), 2);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_acknowledges_nothing_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("log");
    let mut log = open(&inner);
    log.blocking_append([entry(1, 0, 100)]).await.unwrap();
    std::fs::remove_dir_all(&inner).unwrap();
    let mut failed = None;
    for index in 1..200 {
        if let Err(error) = log.blocking_append([entry(1, index, 100)]).await {
            failed = Some(error.to_string());
            break;
        }
    }
    let text = failed.expect("the next segment cannot be made");
    assert!(text.contains("cannot write the log in "), "{text}");
    assert!(log.blocking_append([entry(1, 500, 1)]).await.is_err());
    assert!(log.save_vote(&Vote::new(9, 9)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_log_runs_as_a_task_on_a_simulated_disk_and_survives_kills_and_losses_of_power() {
    let disk = SimulatedDisk::new(11);
    disk.set(|faults| faults.delay = Some(Duration::from_millis(1)..Duration::from_millis(30)));
    let (mut next, mut stops) = (0, 0);
    for life in 0..20_u64 {
        let (mut log, pump) = Log::open_pumped(on(&disk)).unwrap();
        let delays = disk.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(pump.run(move || delays.delay()));
        let found = entries(&log).await;
        assert!(found.len() as u64 >= next, "life {life}: {} of {next} entries are there", found.len());
        next = found.len() as u64;
        disk.set(|faults| faults.stop_in = (life % 2 == 1).then_some(3 * life));
        for _ in 0..life + 3 {
            if log.blocking_append([entry(1, next, 300)]).await.is_err() {
                break;
            }
            next += 1;
        }
        stops += u32::from(disk.has_stopped());
        // What was appended last may not be there, because it is not acknowledged.
        drop(log.append([entry(1, next, 300)], IOFlushed::noop()).await);
        tasks.shutdown().await;
        disk.set(|faults| faults.stop_in = None);
        if life % 3 == 0 {
            disk.kill();
        } else {
            disk.lose_power_by_chance();
        }
    }
    assert!(next > 60 && stops > 3, "{next} entries, {stops} stops in the middle of a write");
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8, u8),
    Truncate(u8),
    Purge(u8),
    Vote(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1..8_u8, 0..200_u8).prop_map(|(count, length)| Step::Append(count, length)),
        1 => (0..20_u8).prop_map(Step::Truncate),
        1 => (0..20_u8).prop_map(Step::Purge),
        1 => any::<u8>().prop_map(Step::Vote),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_reopened_log_is_the_same_as_one_that_was_never_closed(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut log = open(folder.path());
            let mut twin = Log::in_memory();
            let mut term = 1;
            for step in steps.into_iter().chain([Step::Reopen]) {
                let state = twin.get_log_state().await.unwrap();
                let next = state.last_log_id.map_or(0, |last| last.index + 1);
                let floor = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
                for one in [&mut log, &mut twin] {
                    match step {
                        Step::Append(count, length) => {
                            let added = (next..next + u64::from(count)).map(|at| entry(term, at, length.into()));
                            one.blocking_append(added.collect::<Vec<_>>()).await.unwrap();
                        }
                        Step::Truncate(back) => {
                            let keep = next.saturating_sub(back.into()).max(floor);
                            let last = one.try_get_log_entries(keep.saturating_sub(1)..keep).await.unwrap();
                            let last = last.last().map(|entry| entry.log_id).or(state.last_purged_log_id);
                            one.truncate_after(last).await.unwrap();
                        }
                        Step::Purge(ahead) => {
                            let at = (floor + u64::from(ahead)).min(next.saturating_sub(1));
                            if let Some(found) = one.try_get_log_entries(at..=at).await.unwrap().first() {
                                one.purge(found.log_id).await.unwrap();
                            }
                        }
                        Step::Vote(node) => one.save_vote(&Vote::new(term, node.into())).await.unwrap(),
                        Step::Reopen => {}
                    }
                }
                match step {
                    Step::Reopen => {
                        log.close();
                        log = open(folder.path());
                        assert_eq!(entries(&log).await, entries(&twin).await);
                        assert_eq!(log.get_log_state().await.unwrap(), twin.get_log_state().await.unwrap());
                        assert_eq!(log.read_vote().await.unwrap(), twin.read_vote().await.unwrap());
                        assert_eq!(log.bytes(), twin.bytes());
                    }
                    Step::Truncate(_) => term += 1,
                    _ => {}
                }
            }
        });
    }
}
