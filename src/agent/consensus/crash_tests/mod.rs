//! Every crash, and every damage, that a disk can do to the log and the snapshots of a server.
//!
//! A run of the real code on a simulated disk is recorded. Then, for each change of the disk in turn, the power fails
//! right behind it: of what is not synced every subset of sectors and names is kept (where there are few of them; else
//! a sample), and what recovery finds is compared with what the run knew at that moment. The rule is strict: log and
//! marks are exactly what they were after some number of operations, at least all that were acknowledged and at most
//! all that were begun.
//!
//! `COREDISCOVER_CRASH_RUNS` sets how many more runs with fresh seeds there are; `COREDISCOVER_CRASH_SEED` runs one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "whoever reads a failed run needs its seed")]

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use super::log::{Log, LogSettings, Pump};
use super::snapshot::SnapshotStore;
use super::types::{Entry, LogId, Proposal, SnapshotMeta, TypeConfig, Vote};
use crate::host::disk::Disk;
use crate::host::disk::simulated::{Event, SECTOR_BYTES, SimulatedDisk, mix};

/// Seeds that are always run; a failure that was found stays here.
const SEEDS: std::ops::Range<u64> = 1..7;
/// Runs with fresh seeds, where nothing else is said.
const FRESH_RUNS: u64 = 2;
/// What a run does at most.
const STEPS: usize = 90;
/// All subsets are tried of so many unsynced pieces.
const EXHAUSTIVE_MAX: usize = 6;
/// Subsets by chance that are tried of more pieces.
const SAMPLES: usize = 16;
/// Bytes of the first segment.
const SEGMENT_BYTES: u64 = 4096;

const LOG: &str = "/data/log";
const SNAPSHOTS: &str = "/data/snapshots";

/// What is noted in the journal, with a number.
const BEGUN: u64 = 1 << 56;
const DONE: u64 = 2 << 56;
const SNAPSHOT_BEGUN: u64 = 3 << 56;
const SNAPSHOT_DONE: u64 = 4 << 56;
const NUMBER: u64 = (1 << 56) - 1;

/// What a log says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Content {
    entries: VecDeque<Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

impl Content {
    fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |last| last.index + 1);
        self.entries.retain(|entry| entry.log_id.index < keep);
    }

    fn purge(&mut self, upto: LogId) {
        self.entries.retain(|entry| entry.log_id.index > upto.index);
        self.purged = self.purged.max(Some(upto));
    }
}

/// How far a run was at some moment, in numbers of operations and of snapshots.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    begun: usize,
    done: usize,
    snapshots_begun: usize,
    snapshots_done: usize,
}

impl Known {
    fn note(&mut self, note: u64) {
        let number = usize::try_from(note & NUMBER).unwrap();
        match note & !NUMBER {
            BEGUN => self.begun = number,
            DONE => self.done = number,
            SNAPSHOT_BEGUN => self.snapshots_begun = number,
            _ => self.snapshots_done = number,
        }
    }
}

/// What was ever true: the content after each operation, and each snapshot.
#[derive(Debug, Default)]
struct History {
    contents: Vec<Content>,
    snapshots: Vec<Option<(SnapshotMeta, Bytes)>>,
}

type Answer = Pin<Box<dyn Future<Output = bool>>>;

/// A server's storage at work.
struct Run {
    disk: SimulatedDisk,
    random: u64,
    log: Log,
    pump: Pump,
    store: SnapshotStore,
    history: History,
    known: Known,
    /// Operations whose answers are awaited.
    waiting: VecDeque<(usize, Answer)>,
    term: u64,
}

fn settings(disk: &SimulatedDisk) -> LogSettings {
    LogSettings {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from(LOG),
        first_bytes: SEGMENT_BYTES,
        max_bytes: 2 * SEGMENT_BYTES,
    }
}

fn store(disk: &SimulatedDisk) -> anyhow::Result<SnapshotStore> {
    SnapshotStore::on(Arc::new(disk.clone()), Path::new(SNAPSHOTS))
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        disk.record();
        let (log, pump) = Log::open_pumped(settings(&disk)).unwrap();
        let store = store(&disk).unwrap();
        let history = History { contents: vec![Content::default()], snapshots: vec![None] };
        let (known, waiting) = (Known::default(), VecDeque::new());
        Self { disk, random: seed, log, pump, store, history, known, waiting, term: 1 }
    }

    fn below(&mut self, end: u64) -> u64 {
        mix(&mut self.random) % end
    }

    fn note(&mut self, kind: u64, number: usize) {
        let note = kind | number as u64;
        self.known.note(note);
        self.disk.note(note);
    }

    fn content(&self) -> &Content {
        &self.history.contents[self.history.contents.len() - 1]
    }

    /// An operation begins: what is true once it is done.
    fn begin(&mut self, change: impl FnOnce(&mut Content)) -> usize {
        let mut content = self.content().clone();
        change(&mut content);
        self.history.contents.push(content);
        let number = self.history.contents.len() - 1;
        self.note(BEGUN, number);
        number
    }

    fn append(&mut self, count: u64, length: u64) {
        let next = self.content().last().map_or(0, |last| last.index + 1);
        let entries: Vec<Entry> = (next..next + count)
            .map(|index| Entry {
                log_id: LogId::new_term_index(self.term, index),
                payload: if length == 0 {
                    EntryPayload::Blank
                } else {
                    let value = vec![u8::try_from(index % 255).unwrap(); usize::try_from(length).unwrap()];
                    EntryPayload::Normal(Proposal(value.into()))
                },
            })
            .collect();
        let number = self.begin(|content| content.entries.extend(entries.iter().cloned()));
        let (sender, receiver) = TypeConfig::oneshot();
        let queued = self.log.append(entries, IOFlushed::signal(sender)).now_or_never().unwrap();
        if queued.is_ok() {
            let answer = async move { matches!(receiver.await, Ok(Ok(()))) };
            self.waiting.push_back((number, Box::pin(answer)));
        }
    }

    fn vote(&mut self) {
        self.term += 1;
        let vote = Vote::new(self.term, self.below(3));
        let number = self.begin(|content| content.vote = Some(vote));
        let mut log = self.log.clone();
        let mut answer: Answer = Box::pin(async move { log.save_vote(&vote).await.is_ok() });
        // Queued by being asked.
        if (&mut answer).now_or_never().is_none() {
            self.waiting.push_back((number, answer));
        }
    }

    fn truncate(&mut self, back: u64) {
        let (last, purged) = (self.content().last(), self.content().purged);
        let keep = last.map_or(0, |last| last.index + 1).saturating_sub(back);
        let kept = self.content().entries.iter().rfind(|entry| entry.log_id.index < keep);
        let after = kept.map(|entry| entry.log_id).or(purged);
        self.begin(|content| content.truncate_after(after));
        self.term += 1;
        drop(self.log.truncate_after(after).now_or_never().unwrap());
    }

    /// A snapshot of the log up to some entry, or (installed) of one that is ahead of it; then the purge.
    fn snapshot(&mut self, ahead: bool) -> io::Result<()> {
        let upto = if ahead {
            let next = self.content().last().map_or(0, |last| last.index + 1);
            Some(LogId::new_term_index(self.term, next + 3))
        } else {
            let length = self.content().entries.len() as u64;
            let at = if length == 0 { 0 } else { self.below(length) };
            self.content().entries.get(usize::try_from(at).unwrap()).map(|entry| entry.log_id)
        };
        let Some(upto) = upto else { return Ok(()) };
        // What is applied is committed, and what is committed is on the disk of a majority: of ours, in this run.
        self.settle();
        if !ahead && !self.waiting.is_empty() {
            return Ok(());
        }
        let meta = SnapshotMeta { last_log_id: Some(upto), ..SnapshotMeta::default() };
        let bytes = Bytes::from(vec![7; usize::try_from(self.below(2000)).unwrap()]);
        self.history.snapshots.push(Some((meta.clone(), bytes.clone())));
        let number = self.history.snapshots.len() - 1;
        self.note(SNAPSHOT_BEGUN, number);
        self.store.save(&meta, &bytes).map_err(io::Error::other)?;
        self.note(SNAPSHOT_DONE, number);
        self.begin(|content| content.purge(upto));
        self.log.purge(upto).now_or_never().unwrap()
    }

    /// Lets the writer work until it has nothing to do; notes each answer as soon as it is there.
    fn settle(&mut self) {
        while self.step(false) {}
    }

    fn step(&mut self, idle: bool) -> bool {
        let again = self.pump.step(idle);
        while let Some((number, answer)) = self.waiting.front_mut() {
            let Some(fine) = answer.now_or_never() else { break };
            let number = *number;
            self.waiting.pop_front();
            if fine {
                self.note(DONE, number);
            }
        }
        again
    }

    /// Closes the log and opens it again, or after a kill only the latter.
    fn reopen(&mut self, kill: bool) {
        if kill {
            self.disk.kill();
        } else {
            self.log.close();
            while self.step(true) {}
        }
        self.waiting.clear();
        (self.log, self.pump) = Log::open_pumped(settings(&self.disk)).unwrap();
        self.store = store(&self.disk).unwrap();
        let snapshot = self.store.load().unwrap().and_then(|(meta, _)| meta.last_log_id);
        // What is there now is true; what is not there was never acknowledged.
        let found = content_of(&self.log);
        let range = self.known.done..=self.known.begun;
        let at = range.rev().find(|at| self.history.contents[*at] == found).expect("a reopened log is whole");
        // Operations go on from what was found, so numbers do too.
        let content = self.history.contents[at].clone();
        self.history.contents.push(content);
        let number = self.history.contents.len() - 1;
        self.note(BEGUN, number);
        self.note(DONE, number);
        // As raft does: what a snapshot holds is not in the log.
        if let Some(upto) = snapshot.filter(|upto| Some(*upto) > self.content().purged) {
            self.begin(|content| content.purge(upto));
            self.log.purge(upto).now_or_never().unwrap().unwrap();
        }
    }

    fn random_step(&mut self) {
        match self.below(100) {
            0..45 => {
                let (count, length) = (1 + self.below(4), self.below(400));
                self.append(count, length);
            }
            45..47 => self.append(1, 3000),
            47..55 => self.vote(),
            55..60 => {
                let back = self.below(6);
                self.truncate(back);
            }
            60..66 => {
                let committed = self.content().last();
                drop(self.log.save_committed(committed).now_or_never().unwrap());
            }
            66..72 => drop(self.snapshot(false)),
            72..74 => drop(self.snapshot(true)),
            74..90 => drop(self.step(false)),
            90..97 => {
                self.settle();
                self.step(true);
            }
            97..99 => self.reopen(false),
            _ => self.reopen(true),
        }
    }
}

fn content_of(log: &Log) -> Content {
    let mut log = log.clone();
    let entries = log.try_get_log_entries(0..).now_or_never().unwrap().unwrap();
    let vote = log.read_vote().now_or_never().unwrap().unwrap();
    let state = log.get_log_state().now_or_never().unwrap().unwrap();
    Content { entries: entries.into(), vote, purged: state.last_purged_log_id }
}

/// Starts again on a disk: how many operations are done there.
///
/// # Errors
/// What is not as it must be; or, wrapped once more, that recovery refuses.
fn recover(disk: &SimulatedDisk, history: &History, known: Known) -> Result<Result<usize, String>, String> {
    let opened = store(disk).and_then(|store| {
        let snapshot = store.load()?;
        Ok((snapshot, Log::open_pumped(settings(disk))?.0))
    });
    let (snapshot, log) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(crate::hint::report(&error))),
    };
    let found = content_of(&log);
    let saved = known.snapshots_done..=known.snapshots_begun;
    if !saved.clone().any(|at| history.snapshots[at] == snapshot) {
        return Err(format!("the snapshot is none of {saved:?}: {:?}", snapshot.map(|(meta, _)| meta)));
    }
    let position = snapshot.and_then(|(meta, _)| meta.last_log_id);
    if found.purged > position {
        return Err(format!("purged up to {:?}, but the snapshot ends at {position:?}", found.purged));
    }
    let range = known.done..=known.begun;
    match range.clone().rev().find(|at| history.contents[*at] == found) {
        Some(at) => Ok(Ok(at)),
        None => Err(format!("the log is what it was after none of the operations {range:?}: {found:?}")),
    }
}

/// As [`recover`], where nothing but a crash has happened: that is never refused.
fn recover_after_crash(disk: &SimulatedDisk, history: &History, known: Known, what: &str) -> usize {
    match recover(disk, history, known) {
        Ok(Ok(at)) => at,
        Ok(Err(refused)) => panic!("{what}: a mere crash is refused: {refused}"),
        Err(wrong) => panic!("{what}: {wrong}"),
    }
}

/// Starts again and works on, as raft does; then the power fails. What was acknowledged meanwhile must be there too.
fn work_on(disk: &SimulatedDisk, random: &mut u64, what: &str) {
    let (store, (mut log, mut pump)) = (store(disk).unwrap(), Log::open_pumped(settings(disk)).unwrap());
    let mut content = content_of(&log);
    let snapshot = store.load().unwrap().and_then(|(meta, _)| meta.last_log_id);
    if let Some(upto) = snapshot.filter(|upto| Some(*upto) > content.purged) {
        log.purge(upto).now_or_never().unwrap().unwrap();
        content.purge(upto);
    }
    for _ in 0..=mix(random) % 4 {
        let index = content.last().map_or(0, |last| last.index + 1);
        let value = vec![1; usize::try_from(mix(random) % 2000).unwrap()];
        let payload = EntryPayload::Normal(Proposal(value.into()));
        let entry = Entry { log_id: LogId::new_term_index(1 << 40, index), payload };
        content.entries.push_back(entry.clone());
        let (sender, receiver) = TypeConfig::oneshot();
        log.append([entry], IOFlushed::signal(sender)).now_or_never().unwrap().unwrap();
        while pump.step(false) {}
        receiver.now_or_never().unwrap().unwrap().unwrap();
    }
    disk.lose_power(|piece| mix(random) >> (piece % 60) & 1 == 1);
    let opened = Log::open_pumped(settings(disk));
    let log = opened.unwrap_or_else(|error| panic!("{what}: a mere crash is refused: {error:#}")).0;
    assert_eq!(content_of(&log), content, "{what}");
    let position = self::store(disk).unwrap().load().unwrap().and_then(|(meta, _)| meta.last_log_id);
    assert!(content.purged <= position, "{what}: purged up to {:?}, snapshot {position:?}", content.purged);
}

/// Crashes at this moment in every way.
fn explore(disk: &SimulatedDisk, history: &History, known: Known, random: &mut u64, what: &str) -> u64 {
    let pieces = disk.unsynced();
    let mut masks: Vec<u128> = if pieces <= EXHAUSTIVE_MAX {
        (0..1 << pieces).collect()
    } else {
        let all = if pieces >= 128 { u128::MAX } else { (1 << pieces) - 1 };
        let one = |at: usize| 1_u128 << (at % 128);
        let chance = |random: &mut u64| u128::from(mix(random)) << 64 | u128::from(mix(random));
        let mut masks = vec![0, all];
        masks
            .extend((0..pieces.min(8)).flat_map(|at| [one(at), all & !one(at), all & !one(pieces - 1 - at)]));
        masks.extend((0..SAMPLES).map(|_| chance(random)));
        masks
    };
    masks.dedup();
    for mask in &masks {
        let what = format!("{what}, kept {mask:#x} of {pieces}");
        let lost = disk.copy();
        lost.lose_power(|piece| mask >> (piece % 128) & 1 == 1);
        if mix(random).is_multiple_of(8) {
            // The power fails again while the log is recovered.
            let again = lost.copy();
            again.set(|faults| faults.stop_in = Some(1 + mix(random) % 12));
            drop(recover(&again, history, known));
            again.set(|faults| faults.stop_in = None);
            again.lose_power(|piece| mix(random) >> (piece % 60) & 1 == 1);
            recover_after_crash(&again, history, known, &format!("{what}, crashed in recovery"));
        }
        let at = recover_after_crash(&lost, history, known, &what);
        if mix(random).is_multiple_of(4) {
            work_on(&lost.copy(), random, &format!("{what}, then working"));
        }
        // What a recovered log says, raft acts upon: it must stay.
        lost.lose_power(|_| false);
        let later =
            recover_after_crash(&lost, history, Known { done: at, ..known }, &format!("{what}, twice"));
        assert_eq!(history.contents[later], history.contents[at]);
    }
    // Only the process is killed: what it wrote is seen, though it may not be on the disk yet.
    let killed = disk.copy();
    killed.kill();
    work_on(&killed.copy(), random, &format!("{what}, killed, then working"));
    let at = recover_after_crash(&killed, history, known, &format!("{what}, killed"));
    killed.lose_power(|_| false);
    recover_after_crash(
        &killed,
        history,
        Known { done: at, ..known },
        &format!("{what}, killed, then no power"),
    );
    masks.len() as u64 + 1
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("COREDISCOVER_CRASH_SEED") {
        return vec![seed];
    }
    let fresh = number("COREDISCOVER_CRASH_RUNS").unwrap_or(FRESH_RUNS);
    SEEDS.chain((0..fresh).map(|_| uuid::Uuid::new_v4().as_u64_pair().0)).collect()
}

fn recorded(seed: u64) -> Run {
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
        run.random_step();
    }
    run.settle();
    run
}

/// Says which seed failed, and how to run it again.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with COREDISCOVER_CRASH_SEED={}", self.0);
        }
    }
}

#[test]
fn after_a_crash_at_any_moment_with_any_unsynced_sectors_lost_nothing_acknowledged_is_gone() {
    for seed in seeds() {
        let named = Named(seed);
        let run = recorded(seed);
        let disk = SimulatedDisk::new(seed);
        for folder in [LOG, SNAPSHOTS] {
            disk.create_folder(Path::new(folder)).unwrap();
        }
        let (mut known, mut random, mut crashes) = (Known::default(), seed, 0);
        let journal = run.disk.journal();
        for (at, event) in journal.iter().enumerate() {
            disk.apply(event);
            if let Event::Note(note) = event {
                known.note(*note);
            } else {
                let what = format!("seed {seed}, change {at} of {}", journal.len());
                crashes += explore(&disk, &run.history, known, &mut random, &what);
            }
        }
        println!("seed {seed}: {} operations, {crashes} crashes", known.begun);
        drop(named);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_nothing_acknowledged_is_gone() {
    for seed in seeds().into_iter().flat_map(|seed| (0..12).map(move |more| seed ^ (more << 32))) {
        let named = Named(seed);
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
        drop(named);
    }
}

#[test]
fn a_full_disk_holds_writes_back_and_loses_nothing() {
    for seed in seeds().into_iter().flat_map(|seed| (0..12).map(move |more| seed ^ (more << 32))) {
        let named = Named(seed);
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
        drop(named);
    }
}

/// Damages every file in every way, and starts again.
fn damage_everything(run: &Run, what: &str) -> (u32, u32) {
    let (mut refused, mut harmless) = (0, 0);
    let mut random = 1;
    let disk = &run.disk;
    let folders = [Path::new(LOG), Path::new(SNAPSHOTS)];
    for path in folders.iter().flat_map(|folder| disk.list(folder).unwrap()) {
        let length = disk.read(&path).unwrap().len();
        let mut try_it = |damage: &dyn Fn(&SimulatedDisk), how: String| {
            let damaged = disk.copy();
            damaged.kill();
            damage(&damaged);
            let what = format!("{what}: {how} in {}", path.display());
            match recover(&damaged, &run.history, run.known) {
                Ok(Ok(_)) => harmless += 1,
                Ok(Err(text)) => {
                    refused += 1;
                    assert!(text.contains("/data/") && text.contains("hint: "), "{what}: {text}");
                    assert!(text.contains("offset "), "{what}: {text}");
                }
                Err(wrong) => panic!("{what}: {wrong}"),
            }
        };
        for _ in 0..150 {
            let offset = usize::try_from(mix(&mut random)).unwrap_or(usize::MAX) % length;
            let mask = 1 << (mix(&mut random) % 8);
            try_it(&|disk| disk.rot(&path, offset, mask), format!("bits {mask:#x} at {offset}"));
        }
        for sector in 0..length.div_ceil(SECTOR_BYTES) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            for fill in [0, 0xff, 0x5a] {
                try_it(&|disk| disk.wipe(&path, range.clone(), fill), format!("{fill:#x} over {range:?}"));
            }
        }
    }
    (refused, harmless)
}

#[test]
fn damage_anywhere_is_refused_with_file_and_offset_or_costs_nothing() {
    for seed in seeds() {
        let named = Named(seed);
        let mut run = recorded(seed);
        // The writer was idle for a moment: the last frame that matters has a seal behind it.
        run.step(true);
        run.known.done = run.known.begun;
        let (refused, harmless) = damage_everything(&run, &format!("seed {seed}"));
        println!("seed {seed}: {refused} refused, {harmless} harmless");
        assert!(refused > 0 && harmless > 0);
        drop(named);
    }
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
