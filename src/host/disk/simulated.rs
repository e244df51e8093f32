//! A disk in memory that fails as disks do, the same way for the same seed.
//!
//! Every write is cut into sectors, and as long as it is not synced a loss of power keeps any subset of them, and any
//! subset of the names that were changed. A sync that fails keeps some of what it was to write, and what the process
//! still reads is then not what is on the disk. The disk can be full (with or without overwriting in place), read only,
//! unreadable in places, slow, and can rot.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use super::faults::Faults;
use super::names::{FileId, NameChange, Tree};
pub(crate) use super::sectors::{SECTOR_BYTES, mix};
use super::sectors::{put, sectors};
use super::{Disk, DiskFile, Held};

/// One change of the disk, or a remark of the one who uses it, in the order in which they happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// An empty file under a name.
    Create(PathBuf, FileId),
    /// Bytes at an offset.
    Write(FileId, u64, Vec<u8>),
    /// What was written is durable.
    Sync(FileId),
    /// Another name.
    Rename(PathBuf, PathBuf),
    /// A name less.
    Remove(PathBuf),
    /// A folder less, with all that is in it.
    RemoveFolder(PathBuf),
    /// Names are durable.
    SyncFolder(PathBuf),
    /// [`SimulatedDisk::note`].
    Note(u64),
}

#[derive(Debug, Clone, Default)]
struct Content {
    /// What is on the platter.
    durable: Vec<u8>,
    /// What a reader sees.
    cached: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<FileId, Content>,
    now: Tree,
    durable: Tree,
    /// Names of folders are durable when they are made; all other changes of names wait here.
    unsynced_names: Vec<NameChange>,
    next_file: FileId,
    /// The machine stopped in the middle of a change ([`Faults::stop_in`]).
    stopped: bool,
    /// Rises with every crash: files that were open before cannot be used.
    life: u64,
    /// Files that the process of now has locked.
    locked: BTreeSet<PathBuf>,
    random: u64,
    faults: Faults,
    journal: Option<Vec<Event>>,
}

/// See the module. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct Open {
    disk: SimulatedDisk,
    file: FileId,
    life: u64,
}

impl SimulatedDisk {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { random: seed, ..State::default() })))
    }

    /// A disk of its own with the same content and the same future.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Changes what goes wrong.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.lock().faults);
    }

    /// Bytes in files.
    pub(crate) fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Keeps what happens, for [`SimulatedDisk::journal`].
    pub(crate) fn record(&self) {
        self.0.lock().journal = Some(Vec::new());
    }

    /// What happened since [`SimulatedDisk::record`].
    pub(crate) fn journal(&self) -> Vec<Event> {
        self.0.lock().journal.clone().unwrap_or_default()
    }

    /// A remark in the journal: what the user of the disk knows at this point.
    pub(crate) fn note(&self, note: u64) {
        self.0.lock().log(|| Event::Note(note));
    }

    /// Does what a journal says.
    pub(crate) fn apply(&self, event: &Event) {
        self.0.lock().apply(event);
    }

    /// How many sectors and names a loss of power may or may not keep.
    pub(crate) fn unsynced(&self) -> usize {
        self.0.lock().unsynced()
    }

    /// The power fails: of what is not synced, by number, only what `keep` says is kept.
    pub(crate) fn lose_power(&self, mut keep: impl FnMut(usize) -> bool) {
        self.0.lock().lose_power(&mut keep);
    }

    /// The power fails, and chance decides.
    pub(crate) fn lose_power_by_chance(&self) {
        let mut state = self.0.lock();
        let mut random = state.next_random();
        state.lose_power(&mut |_| mix(&mut random) & 1 == 0);
        state.random ^= random;
    }

    /// Whether the machine has stopped, so that nothing can be changed until the power was lost or the process killed.
    pub(crate) fn has_stopped(&self) -> bool {
        self.0.lock().stopped
    }

    /// The process is killed: the kernel still has what it wrote.
    pub(crate) fn kill(&self) {
        let mut state = self.0.lock();
        state.life += 1;
        state.locked.clear();
        state.stopped = false;
    }

    /// Inverts bits of one byte, for good.
    pub(crate) fn rot(&self, path: &Path, offset: usize, mask: u8) {
        self.damage(path, |bytes| bytes[offset] ^= mask);
    }

    /// Overwrites a part of a file, for good.
    pub(crate) fn wipe(&self, path: &Path, range: Range<usize>, fill: u8) {
        self.damage(path, |bytes| {
            let end = range.end.min(bytes.len());
            bytes[range.start..end].fill(fill);
        });
    }

    fn damage(&self, path: &Path, damage: impl Fn(&mut [u8])) {
        let mut state = self.0.lock();
        let file = state.now.names[path];
        let content = state.files.get_mut(&file).unwrap();
        damage(&mut content.cached);
        damage(&mut content.durable);
    }
}

impl State {
    fn next_random(&mut self) -> u64 {
        mix(&mut self.random)
    }

    fn log(&mut self, event: impl FnOnce() -> Event) {
        if let Some(journal) = &mut self.journal {
            journal.push(event());
        }
    }

    fn used(&self) -> u64 {
        self.now.names.values().map(|file| self.files[file].cached.len() as u64).sum()
    }

    fn free(&self) -> u64 {
        self.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    fn apply(&mut self, event: &Event) {
        self.log(|| event.clone());
        match event {
            Event::Create(path, file) => {
                self.next_file = self.next_file.max(file + 1);
                self.files.insert(*file, Content::default());
                self.change_name(NameChange::Set(path.clone(), *file));
            }
            Event::Write(file, offset, bytes) => {
                let content = self.files.entry(*file).or_default();
                put(&mut content.cached, *offset, bytes);
                content.unsynced.push((*offset, bytes.clone()));
            }
            Event::Sync(file) => {
                let content = self.files.entry(*file).or_default();
                for (offset, bytes) in std::mem::take(&mut content.unsynced) {
                    put(&mut content.durable, offset, &bytes);
                }
            }
            Event::Rename(from, to) => self.change_name(NameChange::Rename(from.clone(), to.clone())),
            Event::Remove(path) => self.change_name(NameChange::Remove(path.clone())),
            Event::RemoveFolder(path) => self.change_name(NameChange::RemoveFolder(path.clone())),
            Event::SyncFolder(folder) => {
                for change in std::mem::take(&mut self.unsynced_names) {
                    if !change.is_in(folder) {
                        self.unsynced_names.push(change);
                        continue;
                    }
                    change.apply(&mut self.durable);
                    if let NameChange::Rename(from, to) = &change {
                        // What is still to become durable is in the folder, whatever that is called.
                        self.unsynced_names.iter_mut().for_each(|earlier| earlier.follow(from, to));
                    }
                }
            }
            Event::Note(_) => {}
        }
    }

    /// Counts down to where the machine stops.
    fn proceed(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.faults.stop_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.stop_in = None;
                self.stopped = true;
            }
        }
        if self.stopped { Err(io::Error::other("the machine has stopped (simulated)")) } else { Ok(()) }
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.unsynced_names.push(change);
    }

    fn unsynced(&self) -> usize {
        let pieces = |content: &Content| {
            content.unsynced.iter().map(|(offset, bytes)| sectors(*offset, bytes).count()).sum::<usize>()
        };
        self.unsynced_names.len() + self.files.values().map(pieces).sum::<usize>()
    }

    fn lose_power(&mut self, keep: &mut dyn FnMut(usize) -> bool) {
        let mut number = 0;
        let mut kept = || {
            number += 1;
            keep(number - 1)
        };
        for change in std::mem::take(&mut self.unsynced_names) {
            if kept() {
                change.apply(&mut self.durable);
            }
        }
        for content in self.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut content.unsynced) {
                for (position, piece) in sectors(offset, &bytes) {
                    if kept() {
                        put(&mut content.durable, position, piece);
                    }
                }
            }
            content.cached.clone_from(&content.durable);
        }
        self.now.clone_from(&self.durable);
        let named: BTreeSet<FileId> = self.now.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        self.life += 1;
        self.locked.clear();
        self.stopped = false;
    }

    fn write(&mut self, file: FileId, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.proceed()?;
        if self.faults.fail_writes {
            return Err(io::Error::other("input/output error (simulated)"));
        }
        let length = self.files.get(&file).map_or(0, |content| content.cached.len() as u64);
        let grows = (offset + bytes.len() as u64).saturating_sub(length);
        let needs = if self.faults.copy_on_write { bytes.len() as u64 } else { grows };
        let free = self.free();
        if needs > free {
            let fits = bytes.len() - usize::try_from(needs - free).unwrap();
            if fits > 0 {
                self.apply(&Event::Write(file, offset, bytes[..fits].to_vec()));
            }
            return Err(ErrorKind::StorageFull.into());
        }
        self.apply(&Event::Write(file, offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.proceed()?;
        if !std::mem::take(&mut self.faults.fail_sync) {
            self.apply(&Event::Sync(file));
            return Ok(());
        }
        let mut random = self.next_random();
        let content = self.files.entry(file).or_default();
        for (offset, bytes) in std::mem::take(&mut content.unsynced) {
            for (position, piece) in sectors(offset, &bytes) {
                if mix(&mut random) & 1 == 0 {
                    put(&mut content.durable, position, piece);
                }
            }
        }
        Err(io::Error::other("input/output error at sync (simulated)"))
    }

    fn file(&self, path: &Path) -> io::Result<FileId> {
        self.now.names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        for path in folder.ancestors() {
            state.now.folders.insert(path.to_owned());
            state.durable.folders.insert(path.to_owned());
        }
        Ok(())
    }

    fn create(&self, path: &Path, _mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.0.lock();
        if !path.parent().is_some_and(|folder| state.now.folders.contains(folder)) {
            return Err(ErrorKind::NotFound.into());
        }
        state.proceed()?;
        let file = state.next_file;
        state.apply(&Event::Create(path.to_owned(), file));
        Ok(Box::new(Open { disk: self.clone(), file, life: state.life }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.0.lock();
        let file = state.file(path)?;
        Ok(Box::new(Open { disk: self.clone(), file, life: state.life }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        let file = state.file(path)?;
        if state.faults.unreadable.contains(path) {
            return Err(io::Error::other("input/output error (simulated)"));
        }
        Ok(state.files[&file].cached.clone())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.0.lock();
        Ok(state.now.names.contains_key(path) || state.now.folders.contains(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.now.folders.contains(from) {
            state.file(from)?;
        }
        state.proceed()?;
        state.apply(&Event::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.file(path).is_ok() {
            state.proceed()?;
            if state.faults.full_for_removing {
                return Err(ErrorKind::StorageFull.into());
            }
            state.apply(&Event::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.proceed()?;
        if state.faults.full_for_removing && state.now.folders.contains(folder) {
            return Err(ErrorKind::StorageFull.into());
        }
        state.apply(&Event::RemoveFolder(folder.to_owned()));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let mut state = self.0.lock();
        if !state.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock { disk: self.clone(), path: path.to_owned(), life: state.life })))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock();
        if !state.now.folders.contains(folder) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(state.now.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.proceed()?;
        if state.faults.full_for_names {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        state.apply(&Event::SyncFolder(folder.to_owned()));
        Ok(())
    }

    fn free(&self, _folder: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        if state.faults.free_unknown { Err(ErrorKind::Unsupported.into()) } else { Ok(state.free()) }
    }

    fn random(&self) -> u64 {
        self.0.lock().next_random()
    }

    fn threads(&self) -> bool {
        false
    }

    fn delay(&self) -> Duration {
        let mut state = self.0.lock();
        let Some(range) = state.faults.delay.clone() else { return Duration::ZERO };
        let span = u64::try_from((range.end.saturating_sub(range.start)).as_micros()).unwrap_or(0).max(1);
        range.start + Duration::from_micros(state.next_random() % span)
    }
}

/// A locked file; the file itself is not in the picture.
#[derive(Debug)]
struct Lock {
    disk: SimulatedDisk,
    path: PathBuf,
    life: u64,
}

impl Held for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        // The end of a process frees what it held, and the next one may hold it.
        if state.life == self.life {
            state.locked.remove(&self.path);
        }
    }
}

impl Open {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.life != self.life {
            return Err(io::Error::other("the process that opened the file is gone (simulated)"));
        }
        act(&mut state)
    }
}

impl DiskFile for Open {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| state.write(self.file, bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| state.sync(self.file))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.with(|state| state.sync(self.file))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Disk as _, is_full};
    use super::SimulatedDisk;

    #[test]
    fn what_was_not_synced_may_be_lost_sector_by_sector_and_name_by_name() {
        let disk = SimulatedDisk::new(1);
        let folder = Path::new("/data");
        disk.create_folder(folder).unwrap();
        let path = folder.join("a");
        let file = disk.create(&path, 0o600).unwrap();
        file.write_at(&[1; 1024], 0).unwrap();
        file.sync_all().unwrap();
        let unnamed = disk.copy();
        unnamed.lose_power(|_| false);
        assert!(unnamed.read(&path).is_err(), "the folder was not synced");
        disk.sync_folder(folder).unwrap();
        file.write_at(&[2; 1000], 100).unwrap();
        assert_eq!(disk.unsynced(), 3);
        disk.lose_power(|unit| unit == 1);
        let bytes = disk.read(&path).unwrap();
        assert_eq!((bytes[100], bytes[511], bytes[512], bytes[1023], bytes.len()), (1, 1, 2, 2, 1024));
        assert!(file.write_at(&[1], 0).is_err(), "the process is gone");
    }

    #[test]
    fn a_folder_is_renamed_with_what_is_in_it_once_its_own_folder_was_synced() {
        let disk = SimulatedDisk::new(1);
        let (old, new) = (Path::new("/data/raft"), Path::new("/data/raft.retired-0"));
        disk.create_folder(old).unwrap();
        disk.create(&old.join("synced"), 0o600).unwrap();
        disk.sync_folder(old).unwrap();
        disk.create(&old.join("late"), 0o600).unwrap();
        disk.rename(old, new).unwrap();
        assert!(!disk.exists(old).unwrap() && disk.exists(&new.join("late")).unwrap());
        let unsynced = disk.copy();
        unsynced.lose_power(|_| false);
        assert!(unsynced.exists(&old.join("synced")).unwrap() && !unsynced.exists(new).unwrap());
        disk.sync_folder(Path::new("/data")).unwrap();
        disk.create_folder(old).unwrap();
        disk.lose_power(|_| true);
        assert_eq!(disk.list(new).unwrap(), [new.join("late"), new.join("synced")]);
        assert_eq!(disk.list(old).unwrap(), [""; 0].map(Into::<std::path::PathBuf>::into));
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped_or_the_process_ends() {
        let disk = SimulatedDisk::new(1);
        let held = disk.lock(Path::new("/lock")).unwrap().unwrap();
        assert!(disk.lock(Path::new("/lock")).unwrap().is_none());
        disk.kill();
        let next = disk.lock(Path::new("/lock")).unwrap().unwrap();
        drop(held);
        assert!(disk.lock(Path::new("/lock")).unwrap().is_none(), "it is of the next process");
        drop(next);
        assert!(disk.lock(Path::new("/lock")).unwrap().is_some());
    }

    #[test]
    fn after_a_failed_sync_the_reader_sees_what_the_disk_does_not_have() {
        let disk = SimulatedDisk::new(3);
        disk.create_folder(Path::new("/d")).unwrap();
        let path = Path::new("/d/a");
        let file = disk.create(path, 0o600).unwrap();
        disk.sync_folder(Path::new("/d")).unwrap();
        file.write_at(&[7; 8192], 0).unwrap();
        disk.set(|faults| faults.fail_sync = true);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.read(path).unwrap(), vec![7; 8192]);
        disk.lose_power(|_| true);
        assert_ne!(disk.read(path).unwrap(), vec![7; 8192]);
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = SimulatedDisk::new(5);
        disk.create_folder(Path::new("/d")).unwrap();
        disk.set(|faults| faults.capacity = Some(1000));
        let file = disk.create(Path::new("/d/a"), 0o600).unwrap();
        assert!(is_full(&file.write_at(&[1; 1500], 0).unwrap_err()));
        assert_eq!(disk.used(), 1000);
        file.write_at(&[2; 1000], 0).unwrap();
        disk.set(|faults| faults.copy_on_write = true);
        assert!(is_full(&file.write_at(&[3; 10], 0).unwrap_err()));
    }
}
