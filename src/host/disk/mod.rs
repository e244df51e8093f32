//! What durable files need from a disk, so that the same code runs on this machine's and on one that fails in every
//! way a disk can fail (`simulated.rs`, tests only).
//!
//! Calls go through `dyn`: each of them is a system call, beside which the table look-up costs nothing.

#[cfg(test)]
mod faults;
#[cfg(test)]
mod names;
#[cfg(test)]
mod sectors;
#[cfg(test)]
pub(crate) mod simulated;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A disk with folders and files.
///
/// What was written is durable once the file was synced, and a name (created, renamed, removed) once its folder was.
/// After a sync that failed nothing is known about what was written before it, and a second one proves nothing.
pub trait Disk: Debug + Send + Sync {
    /// Creates a folder that only its owner may enter, with its parents; one that is there is fine.
    ///
    /// # Errors
    /// As the operating system says, like all others here.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// Creates an empty file, or empties the one that is there.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Whether there is a file or folder with this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Gives a file another name, in the place of the file that has it; or a folder, with all that is in it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; a missing one is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder with all that is in it.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// Locks a file, which is created if need be, until the result is dropped or the process has ended; `None`: another
    /// holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>>;

    /// The files and folders in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes created, renamed and removed names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Bytes that may still be written on the disk of a folder.
    fn free(&self, folder: &Path) -> io::Result<u64>;

    /// A number that nobody can foresee.
    fn random(&self) -> u64;

    /// Whether work on it may be moved to other threads. Not in a simulation, where everything has one order.
    fn threads(&self) -> bool;

    /// How long the next write with its sync takes, where that is not known from doing it.
    #[cfg(test)]
    fn delay(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// A lock on a file, as long as it lives.
pub trait Held: Debug + Send + Sync {}

impl Held for File {}

/// A file open for writing.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bytes` from `offset` on; a part of them may be written when this fails.
    ///
    /// # Errors
    /// As the operating system says, like all others here.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes what was written and the length durable (fsync).
    fn sync_all(&self) -> io::Result<()>;
}

/// This machine's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        Ok(Box::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir_all(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Held>>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        paths.sort();
        Ok(paths)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn free(&self, folder: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn random(&self) -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().0
    }

    fn threads(&self) -> bool {
        true
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        Self::sync_all(self)
    }
}

/// Replaces `path` with `bytes`: written as `temporary` beside it, synced, renamed, and the folder synced.
///
/// # Errors
/// As the disk says. Until the rename the old file is there; after an error of the last step either of them is.
pub fn replace(disk: &dyn Disk, path: &Path, temporary: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = disk
        .create(temporary, mode)
        .and_then(|file| file.write_at(bytes, 0).and_then(|()| file.sync_all()))
        .and_then(|()| disk.rename(temporary, path))
        .and_then(|()| disk.sync_folder(folder));
    if written.is_err() {
        // The first error is the one that says something.
        drop(disk.remove(temporary));
    }
    written
}

/// Whether so many bytes may fit on the disk of a folder. A disk that does not tell is asked by writing.
pub fn may_fit(disk: &dyn Disk, folder: &Path, bytes: u64) -> bool {
    !disk.free(folder).is_ok_and(|free| free < bytes)
}

/// Whether an error says that nothing fits on the disk any more: a write may succeed once there is room again.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
