//! Opening a log: from the files on disk to the entries and marks that they tell.
//!
//! A torn tail (the last frame, never acknowledged) is cut. Anything else that is broken is refused with the
//! file and the offset: skipping it could forget an acknowledged write (I6).

use std::collections::VecDeque;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::files::Closed;
use super::record::{Marks, Record, decode};
use super::segment::{self, Segment};
use super::weight;
use crate::agent::consensus::types::{Entry, LogId};
use crate::hint::WithHint as _;
use crate::host::disk::Disk;

const ADVICE: &str = "if other servers live, stop this one, move its data directory away and let it join again as a new machine; never delete single files";

const ADVICE_WRITABLE: &str =
    "make room on the disk, or mount it writable, and start again: what was acknowledged is kept";

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) entries: VecDeque<Entry>,
    pub(super) marks: Marks,
    /// Bytes of the commands in `entries`.
    pub(super) bytes: usize,
    /// The index that the next entry must have, where the records say so.
    expected: Option<u64>,
}

impl Content {
    /// Takes one record into account.
    ///
    /// # Errors
    /// When an entry does not follow the last.
    pub(super) fn replay(&mut self, record: Record) -> anyhow::Result<()> {
        match record {
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                if let Some(expected) = self.expected {
                    ensure!(index == expected, "entry {index} follows entry {}", expected.saturating_sub(1));
                }
                self.expected = Some(next(index)?);
                self.bytes += weight(&entry);
                self.entries.push_back(entry);
            }
            Record::Vote(vote) => self.marks.vote = Some(vote),
            Record::Committed(committed) => self.marks.committed = Some(committed),
            Record::Truncate(last) => {
                self.truncate_after(last.as_ref());
                self.expected = Some(last.map_or(Ok(0), |last| next(last.index))?);
            }
            Record::Purge(upto) => {
                self.purge(&upto);
                // In the first segment that remains, what comes next may still be unknown here.
                let behind = next(upto.index)?;
                self.expected = self.expected.map(|expected| expected.max(behind));
            }
            Record::Checkpoint(marks) => self.marks = marks,
        }
        Ok(())
    }

    /// Adds entries that follow the last.
    pub(super) fn extend(&mut self, entries: &[Entry]) {
        self.bytes += entries.iter().map(weight).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Forgets the entries behind `last`.
    pub(super) fn truncate_after(&mut self, last: Option<&LogId>) {
        while self.entries.back().is_some_and(|entry| last.is_none_or(|last| entry.log_id.index > last.index))
        {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, weight);
        }
    }

    /// Forgets the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: &LogId) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, weight);
        }
        self.marks.purged = self.marks.purged.max(Some(*upto));
    }
}

fn next(index: u64) -> anyhow::Result<u64> {
    index.checked_add(1).context("no entry can follow the last number that there is")
}

/// A log read from disk.
pub(super) struct Recovered {
    pub(super) content: Content,
    /// Older segments, first to last.
    pub(super) closed: VecDeque<Closed>,
    /// The segment to write on, with the offset to write at and the highest entry in it.
    pub(super) active: Option<(Segment, u64, Option<u64>)>,
    /// A segment made ahead of need.
    pub(super) spare: Option<Segment>,
    /// Ordinal of the next frame.
    pub(super) ordinal: u64,
    /// The last frame is a seal.
    pub(super) sealed: bool,
}

/// Reads the log in `folder`, which may be empty.
///
/// A process that was killed may have left bytes that the kernel shows but the disk does not have, even after a sync
/// that failed. What is taken for true here is therefore made durable here: the names, and the last frame once more.
///
/// # Errors
/// Damage, with the file and the offset.
pub(super) fn recover(disk: &dyn Disk, folder: &Path) -> anyhow::Result<Recovered> {
    let mut recovered = Recovered {
        content: Content::default(),
        closed: VecDeque::new(),
        active: None,
        spare: None,
        ordinal: 0,
        sealed: true,
    };
    let mut last_ordinal: Option<u64> = None;
    let mut torn: Option<(String, usize)> = None;
    let mut last_frame = None;
    let sequences = segment::list(disk, folder)?;
    disk.sync_folder(folder).with_context(|| format!("cannot sync {}", folder.display()))?;
    for sequence in sequences {
        let (segment, bytes) = segment::open(disk, folder, sequence).hint(ADVICE)?;
        let shown = segment.path.display().to_string();
        let scan = segment::scan(&bytes, segment.salt, last_ordinal);
        if let (Some((file, offset)), false) = (&torn, scan.frames.is_empty()) {
            return Err(anyhow::anyhow!(
                "{file} is damaged at offset {offset}: whole frames follow in {shown}"
            ))
            .hint(ADVICE);
        }
        if let Some(behind) = scan.whole_behind {
            return Err(anyhow::anyhow!(
                "{shown} is damaged at offset {}: a broken frame has a whole one behind it, at offset {behind}",
                scan.end
            ))
            .hint(ADVICE);
        }
        let mut highest = None;
        for (offset, frame) in &scan.frames {
            let follows = last_ordinal.is_none_or(|last| frame.ordinal == last + 1);
            let replayed = if follows {
                replay(&mut recovered, frame.records, &mut highest)
            } else {
                Err(anyhow::anyhow!(
                    "frame {} follows frame {}",
                    frame.ordinal,
                    last_ordinal.unwrap_or_default()
                ))
            };
            replayed.with_context(|| format!("{shown} is damaged at offset {offset}")).hint(ADVICE)?;
            last_ordinal = Some(frame.ordinal);
        }
        if let Some((offset, frame)) = scan.frames.last() {
            let end = bytes.len().min(offset + frame.span());
            last_frame = Some((segment.path.clone(), *offset as u64, bytes[*offset..end].to_vec()));
        }
        if scan.torn {
            tracing::warn!(file = %shown, offset = scan.end, "cutting a torn frame off the end of the log");
            segment
                .cut(scan.end as u64)
                .with_context(|| format!("cannot cut the torn end of {shown}"))
                .hint(ADVICE_WRITABLE)?;
            torn = Some((shown, scan.end));
        }
        recovered.place(segment, scan.end as u64, highest, scan.frames.is_empty())?;
    }
    if let Some((path, offset, bytes)) = last_frame {
        disk.open(&path)
            .and_then(|file| file.write_at(&bytes, offset).and_then(|()| file.sync_data()))
            .with_context(|| format!("cannot write the last frame of {} again", path.display()))
            .hint(ADVICE_WRITABLE)?;
    }
    recovered.ordinal = last_ordinal.map_or(0, |last| last + 1);
    finish(&mut recovered.content)
        .with_context(|| format!("the log in {} cannot be used", folder.display()))
        .hint(ADVICE)?;
    Ok(recovered)
}

impl Recovered {
    fn place(&mut self, segment: Segment, end: u64, highest: Option<u64>, empty: bool) -> anyhow::Result<()> {
        if empty && self.active.is_some() {
            if let Some(other) = self.spare.replace(segment) {
                bail!("{} and a later log segment are both unused", other.path.display());
            }
            return Ok(());
        }
        if let Some((older, _, highest)) = self.active.replace((segment, end, highest)) {
            self.closed.push_back(Closed { path: older.path, highest });
        }
        Ok(())
    }
}

fn replay(recovered: &mut Recovered, records: &[u8], highest: &mut Option<u64>) -> anyhow::Result<()> {
    let records = decode(records)?;
    recovered.sealed =
        records.iter().all(|record| matches!(record, Record::Checkpoint(_) | Record::Committed(_)));
    for record in records {
        if let Record::Entry(entry) = &record {
            *highest = (*highest).max(Some(entry.log_id.index));
        }
        recovered.content.replay(record)?;
    }
    Ok(())
}

/// Removed segments may have left purged entries in the first that remains.
fn finish(content: &mut Content) -> anyhow::Result<()> {
    if let (Some(first), Some(purged)) = (content.entries.front(), content.marks.purged) {
        ensure!(
            first.log_id.index <= purged.index.saturating_add(1),
            "the log begins at entry {}, but only entries up to {} may be missing",
            first.log_id.index,
            purged.index
        );
        content.purge(&purged);
    } else if let (Some(first), None) = (content.entries.front(), content.marks.purged) {
        ensure!(first.log_id.index == 0, "the log begins at entry {}", first.log_id.index);
    }
    #[cfg(test)]
    if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::AcknowledgedEntryDropped) {
        content.entries.pop_back();
    }
    Ok(())
}
