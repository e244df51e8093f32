//! A server's storage at work on a simulated disk, and what is true after each of its operations.

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

use crate::agent::consensus::log::{Log, LogSettings, Pump};
use crate::agent::consensus::snapshot::SnapshotStore;
use crate::agent::consensus::types::{Entry, LogId, Proposal, SnapshotMeta, TypeConfig, Vote};
use crate::host::disk::simulated::{SimulatedDisk, mix};

/// Bytes of the first segment.
const SEGMENT_BYTES: u64 = 4096;

pub(super) const LOG: &str = "/data/log";
pub(super) const SNAPSHOTS: &str = "/data/snapshots";

/// What is noted in the journal, with a number.
const BEGUN: u64 = 1 << 56;
const DONE: u64 = 2 << 56;
const SNAPSHOT_BEGUN: u64 = 3 << 56;
const SNAPSHOT_DONE: u64 = 4 << 56;
const NUMBER: u64 = (1 << 56) - 1;

/// What a log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Content {
    pub(super) entries: VecDeque<Entry>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
}

impl Content {
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |last| last.index + 1);
        self.entries.retain(|entry| entry.log_id.index < keep);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.entries.retain(|entry| entry.log_id.index > upto.index);
        self.purged = self.purged.max(Some(upto));
    }
}

/// How far a run was at some moment, in numbers of operations and of snapshots.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) begun: usize,
    pub(super) done: usize,
    pub(super) snapshots_begun: usize,
    pub(super) snapshots_done: usize,
}

impl Known {
    pub(super) fn note(&mut self, note: u64) {
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
pub(super) struct History {
    pub(super) contents: Vec<Content>,
    pub(super) snapshots: Vec<Option<(SnapshotMeta, Bytes)>>,
}

pub(super) type Answer = Pin<Box<dyn Future<Output = bool>>>;

/// A server's storage at work.
pub(super) struct Run {
    pub(super) disk: SimulatedDisk,
    pub(super) random: u64,
    pub(super) log: Log,
    pub(super) pump: Pump,
    pub(super) store: SnapshotStore,
    pub(super) history: History,
    pub(super) known: Known,
    /// Operations whose answers are awaited.
    pub(super) waiting: VecDeque<(usize, Answer)>,
    pub(super) term: u64,
}

pub(super) fn settings(disk: &SimulatedDisk) -> LogSettings {
    LogSettings {
        disk: Arc::new(disk.clone()),
        folder: PathBuf::from(LOG),
        first_bytes: SEGMENT_BYTES,
        max_bytes: 2 * SEGMENT_BYTES,
    }
}

pub(super) fn store(disk: &SimulatedDisk) -> anyhow::Result<SnapshotStore> {
    SnapshotStore::on(Arc::new(disk.clone()), Path::new(SNAPSHOTS))
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        disk.record();
        let (log, pump) = Log::open_pumped(settings(&disk)).unwrap();
        let store = store(&disk).unwrap();
        let history = History { contents: vec![Content::default()], snapshots: vec![None] };
        let (known, waiting) = (Known::default(), VecDeque::new());
        Self { disk, random: seed, log, pump, store, history, known, waiting, term: 1 }
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        mix(&mut self.random) % end
    }

    pub(super) fn note(&mut self, kind: u64, number: usize) {
        let note = kind | number as u64;
        self.known.note(note);
        self.disk.note(note);
    }

    pub(super) fn content(&self) -> &Content {
        &self.history.contents[self.history.contents.len() - 1]
    }

    /// An operation begins: what is true once it is done.
    pub(super) fn begin(&mut self, change: impl FnOnce(&mut Content)) -> usize {
        let mut content = self.content().clone();
        change(&mut content);
        self.history.contents.push(content);
        let number = self.history.contents.len() - 1;
        self.note(BEGUN, number);
        number
    }

    pub(super) fn append(&mut self, count: u64, length: u64) {
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

    pub(super) fn vote(&mut self) {
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

    pub(super) fn truncate(&mut self, back: u64) {
        let (last, purged) = (self.content().last(), self.content().purged);
        let keep = last.map_or(0, |last| last.index + 1).saturating_sub(back);
        let kept = self.content().entries.iter().rfind(|entry| entry.log_id.index < keep);
        let after = kept.map(|entry| entry.log_id).or(purged);
        self.begin(|content| content.truncate_after(after));
        self.term += 1;
        drop(self.log.truncate_after(after).now_or_never().unwrap());
    }

    /// A snapshot of the log up to some entry, or (installed) of one that is ahead of it; then the purge.
    pub(super) fn snapshot(&mut self, ahead: bool) -> io::Result<()> {
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
    pub(super) fn settle(&mut self) {
        while self.step(false) {}
    }

    pub(super) fn step(&mut self, idle: bool) -> bool {
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
    pub(super) fn reopen(&mut self, kill: bool) {
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

    pub(super) fn random_step(&mut self) {
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

pub(super) fn content_of(log: &Log) -> Content {
    let mut log = log.clone();
    let entries = log.try_get_log_entries(0..).now_or_never().unwrap().unwrap();
    let vote = log.read_vote().now_or_never().unwrap().unwrap();
    let state = log.get_log_state().now_or_never().unwrap().unwrap();
    Content { entries: entries.into(), vote, purged: state.last_purged_log_id }
}
