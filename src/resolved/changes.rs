//! What is changed, what for, and what has to be told of it.

use std::fs::{Metadata, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::system::{self, Again};
use crate::hint::WithHint as _;
use crate::host::files::{MODE_PUBLIC, read_if_there, remove_if_there, sync_folder, write_atomic};
use crate::model::resolved::{DELEGATE, UNSETTLED};

/// Mode of folders that everybody may look into.
const MODE_PUBLIC_FOLDER: u32 = 0o755;

/// Collects changes; the resolver is told once, about all of them.
#[derive(Debug)]
pub(super) struct Changes {
    made: Vec<String>,
    notes: Vec<String>,
    wait: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self { made: Vec::new(), notes: Vec::new(), wait: true }
    }
}

impl Changes {
    pub(super) fn without_waiting() -> Self {
        Self { wait: false, ..Self::default() }
    }

    pub(super) fn made(&mut self, what: impl Into<String>) {
        self.made.push(what.into());
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// A file of the resolver has this text, or does not exist.
    pub(super) fn file(&mut self, path: &str, text: Option<&str>) -> anyhow::Result<()> {
        if !differs(Path::new(path), text)? {
            return Ok(());
        }
        let needed = if path == DELEGATE { Again::Reload } else { Again::Restart };
        // First, so that a run that ends between file and resolver is finished by the next one.
        if unsettled()? < Some(needed) {
            set(UNSETTLED, Some(needed.word()))?;
        }
        set(path, text)?;
        self.made(if text.is_some() { format!("wrote {path}") } else { format!("removed {path}") });
        Ok(())
    }

    /// Makes the resolver read its files if one of them changed, now or in an earlier run that did not get that far.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        let Some(how) = unsettled()? else { return Ok(()) };
        system::read_again(how, self.wait)?;
        set(UNSETTLED, None)?;
        self.made(match how {
            Again::Reload => "the resolver read its files again",
            Again::Restart => "restarted the resolver",
        });
        Ok(())
    }

    /// What was changed, and what the user should know.
    pub(super) fn into_parts(self) -> (Vec<String>, Vec<String>) {
        (self.made, self.notes)
    }
}

/// How the resolver has to read its files that it has not read yet.
fn unsettled() -> anyhow::Result<Option<Again>> {
    let word = read_if_there(Path::new(UNSETTLED))?;
    Ok(word.map(|word| if word == Again::Reload.word().as_bytes() { Again::Reload } else { Again::Restart }))
}

/// The resolver is not root, and must read what is in it: whatever this process's umask is, here and for files.
fn make_public(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(MODE_PUBLIC_FOLDER))
}

/// Whether the file has another text.
fn differs(path: &Path, text: Option<&str>) -> anyhow::Result<bool> {
    Ok(read_if_there(path)?.as_deref() != text.map(str::as_bytes))
}

/// Whether the file had to be changed. A folder that is empty afterwards goes too: it may be ours.
pub(super) fn set(path: &str, text: Option<&str>) -> anyhow::Result<bool> {
    let path = Path::new(path);
    if !differs(path, text)? {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    if let Some(text) = text {
        if !folder.exists() {
            make_public(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))
                .hint("in a unit, name it in ReadWritePaths=")?;
        }
        match std::fs::canonicalize(path) {
            // Where it stands, with owner and mode: an operator may have chosen them.
            Ok(place) => replace(&place, text)?,
            Err(_) => write_as(path, text, MODE_PUBLIC)?,
        }
    } else {
        remove_if_there(path).with_context(|| format!("cannot remove {}", path.display()))?;
        // Fails when others have files there, which is fine.
        drop(std::fs::remove_dir(folder));
    }
    Ok(true)
}

/// Writes a file with this mode, whatever this process's umask is.
fn write_as(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    write_atomic(path, text.as_bytes(), mode)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot let others read {}", path.display()))
}

/// Replaces a file that is there; owner, group and mode stay as they are.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let found = std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let mode = found.permissions().mode() & 0o777;
    if is_ours(&found) {
        return write_as(path, text, mode);
    }
    let beside = beside(path);
    let written = write_as(&beside, text, mode).and_then(|()| {
        chown(&beside, Some(found.uid()), Some(found.gid()))
            .with_context(|| format!("cannot give {} the owner that it has now", path.display()))
            .hint("units may not do that: run it once as root, or make root the owner of the file")?;
        std::fs::rename(&beside, path).with_context(|| format!("cannot write {}", path.display()))?;
        sync_folder(path.parent().unwrap_or(Path::new("/")))
            .with_context(|| format!("cannot write {}", path.display()))
    });
    if written.is_err() {
        remove_if_there(&beside).with_context(|| format!("cannot remove {}", beside.display()))?;
    }
    written
}

/// Whether a new file of this process has the same owner and group.
fn is_ours(found: &Metadata) -> bool {
    (found.uid(), found.gid()) == (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// A name in the same folder that nobody reads.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.corediscover"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::set;
    use crate::host::files::{MODE_PUBLIC, write_atomic};

    #[test]
    fn a_file_of_an_operator_keeps_its_place_its_owner_and_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.json"), folder.path().join("etc/daemon.json"));
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        write_atomic(&real, b"{}\n", MODE_PUBLIC).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        // Only root may give files away; the mode and the link hold for everybody.
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            chown(&real, Some(1234), Some(2345)).unwrap();
        }
        symlink("../real.json", &link).unwrap();
        assert!(set(link.to_str().unwrap(), Some("{ }\n")).unwrap());
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is still one");
        let found = std::fs::metadata(&real).unwrap();
        assert_eq!(
            (std::fs::read(&real).unwrap(), found.permissions().mode() & 0o777),
            (b"{ }\n".to_vec(), 0o640)
        );
        if is_root {
            assert_eq!((found.uid(), found.gid()), (1234, 2345));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside it");
    }
}
