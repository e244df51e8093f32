//! Starts again on a disk that has lost power or is damaged, and compares what is there with what was true.

use std::path::Path;

use futures_util::FutureExt as _;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;

use super::run::{History, Known, LOG, Run, SNAPSHOTS, content_of, settings, store};
use crate::agent::consensus::log::Log;
use crate::agent::consensus::types::{Entry, LogId, Proposal, TypeConfig};
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::{SECTOR_BYTES, SimulatedDisk, mix};

/// All subsets are tried of so many unsynced pieces.
const EXHAUSTIVE_MAX: usize = 8;
/// Subsets by chance that are tried of more pieces.
const SAMPLES: usize = 16;

/// How much was tried.
#[derive(Default)]
pub(super) struct Explored {
    /// Changes of a disk behind each of which it crashed.
    pub(super) moments: u64,
    /// Those at which every subset of the unsynced pieces was lost.
    pub(super) whole: u64,
    pub(super) crashes: u64,
}

/// Starts again on a disk: how many operations are done there.
///
/// # Errors
/// What is not as it must be; or, wrapped once more, that recovery refuses.
pub(super) fn recover(
    disk: &SimulatedDisk,
    history: &History,
    known: Known,
) -> Result<Result<usize, String>, String> {
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
pub(super) fn recover_after_crash(
    disk: &SimulatedDisk,
    history: &History,
    known: Known,
    what: &str,
) -> usize {
    match recover(disk, history, known) {
        Ok(Ok(at)) => at,
        Ok(Err(refused)) => panic!("{what}: a mere crash is refused: {refused}"),
        Err(wrong) => panic!("{what}: {wrong}"),
    }
}

/// Starts again and works on, as raft does; then the power fails. What was acknowledged meanwhile must be there too.
pub(super) fn work_on(disk: &SimulatedDisk, random: &mut u64, what: &str) {
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
pub(super) fn explore(
    disk: &SimulatedDisk,
    history: &History,
    known: Known,
    random: &mut u64,
    what: &str,
    explored: &mut Explored,
) {
    let pieces = disk.unsynced();
    let subsets = subsets(pieces, random);
    for kept in &subsets {
        let bits: String = kept.iter().map(|kept| if *kept { '1' } else { '0' }).collect();
        let what = format!("{what}, kept of its pieces {bits}");
        let lost = disk.copy();
        lost.lose_power(|piece| kept[piece]);
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
    explored.moments += 1;
    explored.whole += u64::from(pieces <= EXHAUSTIVE_MAX);
    explored.crashes += subsets.len() as u64 + 1;
}

/// Which of so many pieces are kept: all subsets where there are few; else none, all, each of the first alone and each of
/// the first and of the last missing, and some by chance.
fn subsets(pieces: usize, random: &mut u64) -> Vec<Vec<bool>> {
    if pieces <= EXHAUSTIVE_MAX {
        return (0_u32..1 << pieces)
            .map(|mask| (0..pieces).map(|at| mask >> at & 1 == 1).collect())
            .collect();
    }
    let mut subsets = vec![vec![false; pieces], vec![true; pieces]];
    let but = |at: usize, kept: bool| (0..pieces).map(|piece| (piece == at) == kept).collect::<Vec<_>>();
    for at in 0..EXHAUSTIVE_MAX {
        subsets.extend([but(at, true), but(at, false), but(pieces - 1 - at, false)]);
    }
    subsets.extend((0..SAMPLES).map(|_| (0..pieces).map(|_| mix(random) & 1 == 1).collect()));
    subsets
}

/// Damages every file in every way, and starts again.
pub(super) fn damage_everything(run: &Run, what: &str) -> (u32, u32) {
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
