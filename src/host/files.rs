//! Files that are either the old or the new version, never half of one.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;

use super::disk::{self, Disk, Held, HostDisk};
use crate::hint::{WithHint as _, fault};

/// Mode of files that may hold addresses and tokens: the owner alone reads them.
pub const MODE_PRIVATE: u32 = 0o600;
/// Mode of files that every user may read (units, drop-ins).
pub const MODE_PUBLIC: u32 = 0o644;

/// What to do about a file that a newer version wrote.
pub const ADVICE_NEWER: &str =
    "it was written by a newer version of this program: start that one, or give this one an empty -data-dir";

/// Replaces `path` with `bytes`: temporary file beside it, fsync, rename, fsync of the folder.
///
/// # Errors
/// Names the path; the old content is still there.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    write_atomic_on(&HostDisk, path, bytes, mode)
}

/// As [`write_atomic`], on any disk.
///
/// # Errors
/// Names the path; the old content is still there.
pub fn write_atomic_on(disk: &dyn Disk, path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().with_context(|| format!("{} is not a file name", path.display()))?;
    let temporary = folder.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    disk::replace(disk, path, &temporary, bytes, mode)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Makes created, renamed and removed names in `folder` survive a power loss.
///
/// # Errors
/// As the operating system says.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    HostDisk.sync_folder(folder)
}

/// The content of `path`, or `None` when there is no such file.
///
/// # Errors
/// Names the path, for every other reason.
pub fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    read_if_there_on(&HostDisk, path)
}

/// As [`read_if_there`], on any disk.
///
/// # Errors
/// Names the path, for every other reason.
pub fn read_if_there_on(disk: &dyn Disk, path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Removes `path`; a missing file is fine.
///
/// # Errors
/// As the operating system says.
pub fn remove_if_there(path: &Path) -> std::io::Result<()> {
    HostDisk.remove(path)
}

/// Takes `folder` for this process by locking the file `path` in it, until the result is dropped.
///
/// # Errors
/// When another process holds it, or the file cannot be made.
pub fn lock(disk: &dyn Disk, folder: &Path, path: &Path) -> anyhow::Result<Box<dyn Held>> {
    let held = disk
        .lock(path)
        .with_context(|| format!("cannot lock {}", path.display()))
        .hint("give a folder that this user may write to with -data-dir")?;
    held.ok_or_else(|| {
        fault(
            format!("the data directory {} is in use by another process", folder.display()),
            "stop the other agent, or give this one a folder of its own with -data-dir",
        )
    })
}

/// Creates a folder that only its owner may enter, with its parents.
///
/// # Errors
/// Names the folder.
pub fn create_private_folder(path: &Path) -> anyhow::Result<()> {
    create_private_folder_on(&HostDisk, path)
}

/// As [`create_private_folder`], on any disk.
///
/// # Errors
/// Names the folder.
pub fn create_private_folder_on(disk: &dyn Disk, path: &Path) -> anyhow::Result<()> {
    disk.create_folder(path).with_context(|| format!("cannot create the folder {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{MODE_PRIVATE, read_if_there, write_atomic};

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_atomic(&path, b"old old old", MODE_PRIVATE).unwrap();
        write_atomic(&path, b"new", MODE_PRIVATE).unwrap();
        assert_eq!(read_if_there(&path).unwrap().unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(read_if_there(&folder.path().join("none")).unwrap(), None);
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomic(&folder.path().join("no/such/file"), b"", MODE_PRIVATE).unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
    }
}
