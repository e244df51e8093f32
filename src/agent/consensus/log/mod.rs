//! The durable log of a server: a write-ahead log of our own, and the same without files for `-dev`.
//!
//! Entries since the last purge are also held in memory, so that replication and apply never read the disk.
//! Nothing is acknowledged before fdatasync (I6); see [`record`] for the layout and [`recovery`] for what is
//! cut and what is refused.

mod files;
#[cfg(test)]
mod full_tests;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod queue;
mod record;
mod recovery;
mod room;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, oneshot, watch};

use self::files::Files;
use self::queue::Job;
use self::recovery::Content;
pub(super) use self::room::{Room, Space};
#[cfg(test)]
pub(super) use self::writer::Pump;
use self::writer::Writer;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::host::disk::Disk;

/// Size of the first segment in bytes. Small, so that a cluster that stores little uses little disk.
pub(super) const SEGMENT_BYTES_FIRST: u64 = 8 << 20;
/// Size of a segment in bytes at most; each is twice as long as the one before, up to this.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Appends that may wait for the disk; more wait in the consensus core, which then takes no more proposals.
const APPENDS_WAITING_MAX: usize = 1024;
/// Entries that replication reads at once, in bytes of commands: what one frame of RPC should hold.
const READ_BYTES_MAX: usize = 1 << 20;

/// Where the log is and how it grows.
#[derive(Debug, Clone)]
pub(super) struct LogSettings {
    pub(super) disk: Arc<dyn Disk>,
    /// The folder of the segments; nothing else may be in it.
    pub(super) folder: PathBuf,
    /// Bytes of the first segment.
    pub(super) first_bytes: u64,
    /// Bytes of a segment at most.
    pub(super) max_bytes: u64,
}

impl LogSettings {
    /// The usual sizes.
    pub(super) fn in_folder(disk: Arc<dyn Disk>, folder: &Path) -> Self {
        Self {
            disk,
            folder: folder.to_owned(),
            first_bytes: SEGMENT_BYTES_FIRST,
            max_bytes: SEGMENT_BYTES_MAX,
        }
    }

    fn capacity_of(&self, sequence: u64) -> u64 {
        let doublings = u32::try_from(sequence.saturating_sub(1)).unwrap_or(u32::MAX).min(u64::BITS - 1);
        self.first_bytes.saturating_mul(1 << doublings).min(self.max_bytes)
    }
}

/// The log; clones share it.
#[derive(Clone)]
pub(super) struct Log {
    content: Arc<RwLock<Content>>,
    /// None: in memory only.
    writer: Option<Arc<Writer>>,
    places: Arc<Semaphore>,
    /// What a log in memory says about room: always the same, but as long as it lives.
    memory: Arc<watch::Sender<Space>>,
}

impl Log {
    /// A log that is forgotten with the process (`-dev`).
    pub(super) fn in_memory() -> Self {
        Self::with(Content::default(), None)
    }

    /// Opens or creates the log in a folder that no other process uses (see [`super::directory`]).
    ///
    /// # Errors
    /// Damage other than a torn tail, with the file and the offset; what the operating system says.
    pub(super) fn open(settings: LogSettings) -> anyhow::Result<Self> {
        let shown = settings.folder.display().to_string();
        let (content, files) = Self::read(settings)?;
        let writer = Writer::start(files).with_context(|| format!("cannot start the log in {shown}"))?;
        Ok(Self::with(content, Some(writer)))
    }

    /// As [`Log::open`], but whoever calls this runs the writer: as a task of a simulation, which may drop it as a
    /// crash does.
    #[cfg(test)]
    pub(super) fn open_pumped(settings: LogSettings) -> anyhow::Result<(Self, Pump)> {
        let (content, files) = Self::read(settings)?;
        let (writer, pump) = Writer::pumped(files);
        Ok((Self::with(content, Some(writer)), pump))
    }

    fn read(settings: LogSettings) -> anyhow::Result<(Content, Files)> {
        let (disk, folder) = (Arc::clone(&settings.disk), settings.folder.clone());
        disk.create_folder(&folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        if let Some(parent) = folder.parent() {
            disk.sync_folder(parent).with_context(|| format!("cannot sync {}", parent.display()))?;
        }
        let mut recovered = recovery::recover(&*disk, &folder)?;
        let content = std::mem::take(&mut recovered.content);
        let files = Files::new(settings, recovered, content.marks.clone())
            .with_context(|| format!("cannot start the log in {}", folder.display()))?;
        Ok((content, files))
    }

    fn with(content: Content, writer: Option<Writer>) -> Self {
        Self {
            content: Arc::new(RwLock::new(content)),
            writer: writer.map(Arc::new),
            places: Arc::new(Semaphore::new(APPENDS_WAITING_MAX)),
            memory: Arc::new(watch::channel(Space::default()).0),
        }
    }

    /// Whether the log says nothing at all: no vote, no entry, no snapshot.
    pub(super) fn is_empty(&self) -> bool {
        let content = self.content.read();
        content.entries.is_empty() && content.marks.vote.is_none() && content.marks.purged.is_none()
    }

    /// Whether no leader ever wrote to it: it holds at most the first membership, and votes.
    pub(super) fn is_unborn(&self) -> bool {
        let content = self.content.read();
        content.marks.purged.is_none() && content.entries.iter().all(|entry| entry.log_id.index == 0)
    }

    /// Bytes of commands held since the last purge.
    pub(super) fn bytes(&self) -> usize {
        self.content.read().bytes
    }

    /// How much room there is, as it changes.
    pub(super) fn space(&self) -> watch::Receiver<Space> {
        match &self.writer {
            Some(writer) => writer.space(),
            None => self.memory.subscribe(),
        }
    }

    /// Lets what waits for room fail, because nobody will wait for it.
    pub(super) fn give_up(&self) {
        if let Some(writer) = &self.writer {
            writer.stop();
        }
    }

    /// Writes what waits and closes the files; nothing can be written afterwards. Blocks.
    pub(super) fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    /// Waits until what was closed is written, where a task does that.
    #[cfg(test)]
    pub(super) async fn written(&self) {
        if let Some(writer) = &self.writer {
            writer.ended().await;
        }
    }

    fn put(&self, job: Job) -> io::Result<()> {
        match &self.writer {
            Some(writer) => writer.put(job),
            None => Ok(()),
        }
    }
}

/// Bytes of the command in an entry.
pub(super) fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.0.len(),
        _ => 0,
    }
}

impl Content {
    /// The entries of a range, up to `bytes_max` bytes of commands but at least one.
    fn read(&self, range: &impl RangeBounds<u64>, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else { return Vec::new() };
        let end = first + self.entries.len() as u64;
        let from = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let upto = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(upto) => *upto,
            Bound::Unbounded => u64::MAX,
        };
        let (from, upto) = (from.clamp(first, end), upto.clamp(first, end));
        if from >= upto {
            return Vec::new();
        }
        let position = |index: u64| usize::try_from(index - first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut read = Vec::with_capacity(position(upto) - position(from));
        for entry in self.entries.range(position(from)..position(upto)) {
            if bytes >= bytes_max {
                break;
            }
            bytes += weight(entry);
            read.push(entry.clone());
        }
        read
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.content.read().read(&range, usize::MAX))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.content.read().read(&(start..end), READ_BYTES_MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.content.read().marks.vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let content = self.content.read();
        let purged = content.marks.purged;
        let last = content.entries.back().map(|entry| entry.log_id).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::VoteNotPersisted) {
            self.content.write().marks.vote = Some(*vote);
            return Ok(());
        }
        if let Some(writer) = &self.writer {
            let (done, written) = oneshot::channel();
            writer.put(Job::Vote(*vote, done))?;
            written.await.map_err(|_| io::Error::other("the log writer is gone"))??;
        }
        self.content.write().marks.vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.content.write().marks.committed = committed;
        // What is committed never becomes uncommitted: nothing to write for `None`.
        if let (Some(writer), Some(committed)) = (&self.writer, committed) {
            writer.put_committed(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.content.read().marks.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        self.content.write().extend(&entries);
        if let Some(writer) = &self.writer {
            return writer.put(Job::Append(entries, callback, place));
        }
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.content.write().truncate_after(last_log_id.as_ref());
        self.put(Job::Truncate(last_log_id))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.content.write().purge(&log_id);
        self.put(Job::Purge(log_id))
    }
}
