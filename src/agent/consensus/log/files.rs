//! The files of the log as its writer owns them: one group of jobs, one frame, one write, one fdatasync.
//!
//! No thread and no clock of its own, so that a simulation can drive it.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::LogSettings;
use super::queue::Job;
use super::record::{self, ALIGNMENT, Marks, Record};
use super::recovery::Recovered;
use super::room::{self, Room, Space};
use super::segment::{self, SECTOR_BYTES, Segment};
use crate::agent::consensus::types::LogId;
use crate::host::disk::{is_full, may_fit};

/// A segment that is no longer written.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) path: PathBuf,
    /// The highest entry that was ever in it.
    pub(super) highest: Option<u64>,
}

/// The segment behind the one that is written.
enum Next {
    /// There is none; the reason, if it was tried.
    Missing(Option<Arc<str>>),
    /// Being made, on a disk that has threads; and why there was none before.
    Making(JoinHandle<io::Result<Segment>>, Option<Arc<str>>),
    Ready(Segment),
}

/// The files; after an error other than a full disk they must not be used any more.
pub(super) struct Files {
    pub(super) settings: LogSettings,
    closed: VecDeque<Closed>,
    active: Segment,
    offset: u64,
    highest: Option<u64>,
    ordinal: u64,
    marks: Marks,
    next: Next,
    buffer: Vec<u8>,
    /// The last frame has none behind it that proves it whole.
    unsealed: bool,
    /// There seemed to be room for the next segment, and was not (a quota).
    made_in_vain: bool,
    /// Purged segments are still there, because the disk was full.
    unremoved: bool,
}

impl Files {
    /// The files of a log that was read; creates the first segment.
    ///
    /// # Errors
    /// As the disk says.
    pub(super) fn new(settings: LogSettings, recovered: Recovered, marks: Marks) -> io::Result<Self> {
        let (active, offset, highest) = if let Some(active) = recovered.active {
            active
        } else {
            let capacity = settings.capacity_of(1);
            let first = segment::create(&*settings.disk, &settings.folder, 1, capacity)?;
            (first, segment::HEADER_BYTES as u64, None)
        };
        Ok(Self {
            settings,
            closed: recovered.closed,
            active,
            offset,
            highest,
            ordinal: recovered.ordinal,
            marks,
            next: recovered.spare.map_or(Next::Missing(None), Next::Ready),
            buffer: Vec::new(),
            unsealed: !recovered.sealed,
            made_in_vain: false,
            unremoved: false,
        })
    }

    /// Whether the last frame still wants a seal.
    pub(super) fn unsealed(&self) -> bool {
        self.unsealed
    }

    /// Lets the last frame be without a seal.
    pub(super) fn skip_seal(&mut self) {
        self.unsealed = false;
    }

    /// Makes a group durable; an empty one as a seal.
    ///
    /// # Errors
    /// As the disk says. When it is full, nothing has happened, and the same group may be given again.
    pub(super) fn commit(&mut self, group: &[Job], committed: Option<LogId>) -> io::Result<()> {
        // They may be what there is no room for.
        self.remove_left()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write(&mut buffer, group, committed);
        self.buffer = buffer;
        if written? {
            self.remove_purged()?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::SyncSkipped) {
            return Ok(());
        }
        self.active.file.sync_data().map_err(|error| {
            // Full or not: what is on the disk now is unknown.
            io::Error::other(format!("it could not be synced: {error}"))
        })
    }

    /// Writes one frame; tells whether something was purged.
    fn write(&mut self, buffer: &mut Vec<u8>, group: &[Job], committed: Option<LogId>) -> io::Result<bool> {
        let mut told = self.encode(buffer, group, committed)?;
        let mut offset = self.offset;
        if group.is_empty() {
            // A seal must not share the fate of what it proves.
            offset = offset.next_multiple_of(SECTOR_BYTES as u64);
        }
        if offset + buffer.len() as u64 > self.active.capacity {
            self.go_on(buffer.len())?;
            told = self.encode(buffer, group, committed)?;
            offset = self.offset;
        }
        record::finish_frame(buffer, self.ordinal, self.active.salt).map_err(io::Error::other)?;
        self.active.file.write_at(buffer, offset)?;
        self.sync()?;
        self.ordinal += 1;
        self.offset = offset + buffer.len().next_multiple_of(ALIGNMENT) as u64;
        self.highest = self.highest.max(told.highest);
        self.marks = told.marks;
        self.unsealed = !group.is_empty();
        Ok(told.purged)
    }

    fn encode(&self, buffer: &mut Vec<u8>, group: &[Job], committed: Option<LogId>) -> io::Result<Told> {
        record::begin_frame(buffer);
        let mut told = Told { marks: self.marks.clone(), highest: None, purged: false };
        let first = self.offset == segment::HEADER_BYTES as u64 && self.active.sequence > 1;
        if first || group.is_empty() {
            record::encode(&Record::Checkpoint(self.marks.clone()), buffer)?;
        }
        for job in group {
            match job {
                Job::Append(entries, ..) => {
                    for entry in entries {
                        record::encode_entry(entry, buffer)?;
                        told.highest = told.highest.max(Some(entry.log_id.index));
                    }
                }
                Job::Vote(vote, _) => {
                    record::encode(&Record::Vote(*vote), buffer)?;
                    told.marks.vote = Some(*vote);
                }
                Job::Truncate(last) => record::encode(&Record::Truncate(*last), buffer)?,
                Job::Purge(upto) => {
                    record::encode(&Record::Purge(*upto), buffer)?;
                    told.marks.purged = told.marks.purged.max(Some(*upto));
                    told.purged = true;
                }
            }
        }
        if let Some(committed) = committed {
            record::encode(&Record::Committed(committed), buffer)?;
            told.marks.committed = Some(committed);
        }
        Ok(told)
    }

    /// Goes on to a next segment that takes a frame of `length` bytes and a checkpoint.
    fn go_on(&mut self, length: usize) -> io::Result<()> {
        let mut checkpoint = Vec::new();
        record::encode(&Record::Checkpoint(self.marks.clone()), &mut checkpoint)?;
        let need = (segment::HEADER_BYTES + checkpoint.len() + length.next_multiple_of(ALIGNMENT)) as u64;
        let next = self.next_segment(need)?;
        let older = std::mem::replace(&mut self.active, next);
        self.closed.push_back(Closed { path: older.path, highest: self.highest.take() });
        self.offset = segment::HEADER_BYTES as u64;
        Ok(())
    }

    fn next_segment(&mut self, need: u64) -> io::Result<Segment> {
        match std::mem::replace(&mut self.next, Next::Missing(None)) {
            Next::Making(thread, _) => self.made(thread.join())?,
            other => self.next = other,
        }
        if matches!(&self.next, Next::Ready(next) if next.capacity >= need)
            && let Next::Ready(next) = std::mem::replace(&mut self.next, Next::Missing(None))
        {
            return Ok(next);
        }
        if let Next::Ready(short) = std::mem::replace(&mut self.next, Next::Missing(None)) {
            self.settings.disk.remove(&short.path)?;
        }
        let sequence = self.active.sequence + 1;
        let capacity = self.settings.capacity_of(sequence).max(need);
        let disk = &*self.settings.disk;
        let made = if may_fit(disk, &self.settings.folder, capacity) {
            segment::create(disk, &self.settings.folder, sequence, capacity)
        } else {
            Err(io::ErrorKind::StorageFull.into())
        };
        if let Err(error) = &made {
            self.next = Next::Missing(Some(error.to_string().into()));
        }
        made
    }

    /// Takes what the thread that made a segment left. A full disk is no error here.
    fn made(&mut self, made: std::thread::Result<io::Result<Segment>>) -> io::Result<()> {
        self.next = match made {
            Ok(Ok(segment)) => {
                self.made_in_vain = false;
                Next::Ready(segment)
            }
            Ok(Err(error)) if is_full(&error) => {
                self.made_in_vain = true;
                Next::Missing(Some(error.to_string().into()))
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::other("the thread that makes log segments panicked")),
        };
        Ok(())
    }

    /// Sees to it that the next segment is there in time: begun when this one is half full, and again when `retry`
    /// says so after the disk was full.
    ///
    /// # Errors
    /// As the disk says, except that it is full.
    pub(super) fn prepare_next(&mut self, retry: bool) -> io::Result<()> {
        if let Next::Making(thread, _) = &self.next {
            if thread.is_finished()
                && let Next::Making(thread, _) = std::mem::replace(&mut self.next, Next::Missing(None))
            {
                self.made(thread.join())?;
            }
            return Ok(());
        }
        let Next::Missing(why) = &self.next else { return Ok(()) };
        let why = why.clone();
        let due = self.offset >= self.active.capacity / 2;
        if !due || (why.is_some() && !retry) {
            return Ok(());
        }
        let sequence = self.active.sequence + 1;
        let capacity = self.settings.capacity_of(sequence);
        let disk = Arc::clone(&self.settings.disk);
        let folder = self.settings.folder.clone();
        // Looked at first, so that a disk that is nearly full is not filled to the last byte every time.
        if !may_fit(&*disk, &folder, capacity) {
            self.next = Next::Missing(Some(io::Error::from(io::ErrorKind::StorageFull).to_string().into()));
            return Ok(());
        }
        let threads = disk.threads();
        let make = move || segment::create(&*disk, &folder, sequence, capacity);
        if threads {
            let thread = std::thread::Builder::new().name("log segment".to_owned()).spawn(make)?;
            self.next = Next::Making(thread, why);
            Ok(())
        } else {
            self.made(Ok(make()))
        }
    }

    /// Whether the last attempt to make the next segment wrote much for nothing.
    pub(super) fn made_in_vain(&self) -> bool {
        self.made_in_vain
    }

    /// Whether there is something to come back to: the next segment is missing or being made, or purged ones are left.
    pub(super) fn wants_care(&self) -> bool {
        self.unremoved || matches!(&self.next, Next::Making(..) | Next::Missing(Some(_)))
    }

    /// How much room is left.
    pub(super) fn space(&self) -> Space {
        let (next, why) = match &self.next {
            Next::Missing(why) | Next::Making(_, why) => (why.is_none(), why.clone()),
            Next::Ready(_) => (true, None),
        };
        let room = room::room(self.active.capacity, self.offset, next);
        Space { room, why: why.filter(|_| room != Room::Enough) }
    }

    /// Removes the purged segments that a full disk kept.
    ///
    /// # Errors
    /// As the disk says, except that it is still full.
    pub(super) fn remove_left(&mut self) -> io::Result<()> {
        if self.unremoved { self.remove_purged() } else { Ok(()) }
    }

    /// Removes the segments whose entries are all purged. The group that purged them is durable, so a full disk is no
    /// error (on some, removing takes room): then they stay for now.
    fn remove_purged(&mut self) -> io::Result<()> {
        let removed = self.remove_oldest();
        match removed {
            Err(error) if is_full(&error) => {
                if !std::mem::replace(&mut self.unremoved, true) {
                    let folder = self.settings.folder.display();
                    tracing::warn!(
                        "there is no room to remove purged segments of the log in {folder}: {error}"
                    );
                }
                Ok(())
            }
            removed => {
                self.unremoved = false;
                removed
            }
        }
    }

    /// Oldest first; the segment behind each begins with the marks.
    fn remove_oldest(&mut self) -> io::Result<()> {
        let Some(purged) = self.marks.purged else { return Ok(()) };
        while let Some(older) = self.closed.front()
            && older.highest.is_none_or(|highest| highest <= purged.index)
        {
            self.settings.disk.remove(&older.path)?;
            // One by one: a gap would look like a segment that was lost.
            self.settings.disk.sync_folder(&self.settings.folder)?;
            self.closed.pop_front();
        }
        Ok(())
    }
}

/// What a frame will have told once it is durable.
struct Told {
    marks: Marks,
    highest: Option<u64>,
    purged: bool,
}

impl Drop for Files {
    fn drop(&mut self) {
        // A segment being made is complete or removed before the folder may be opened again.
        if let Next::Making(thread, _) = std::mem::replace(&mut self.next, Next::Missing(None))
            && !matches!(thread.join(), Ok(Ok(_)))
        {
            tracing::warn!("the next log segment was not made");
        }
    }
}
