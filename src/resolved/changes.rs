//! What is changed, what for, and what has to be told of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::system::{self, Again};
use crate::hint::WithHint as _;
use crate::host::files::{MODE_PUBLIC, read_if_there, remove_if_there, write_atomic};
use crate::model::resolved::DELEGATE;

/// Mode of folders that everybody may look into.
const MODE_PUBLIC_FOLDER: u32 = 0o755;

/// Collects changes; the resolver is told once, about all of them.
#[derive(Debug)]
pub(super) struct Changes {
    made: Vec<String>,
    notes: Vec<String>,
    again: Option<Again>,
    wait: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self { made: Vec::new(), notes: Vec::new(), again: None, wait: true }
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
        if set(path, text)? {
            self.made(if text.is_some() { format!("wrote {path}") } else { format!("removed {path}") });
            let needed = if path == DELEGATE { Again::Reload } else { Again::Restart };
            self.again = self.again.max(Some(needed));
        }
        Ok(())
    }

    /// Makes the resolver read its files if one of them changed.
    pub(super) fn settle(&mut self) -> anyhow::Result<()> {
        let Some(how) = self.again.take() else { return Ok(()) };
        system::read_again(how, self.wait)?;
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

/// The resolver is not root, and must read what is in it: whatever this process's umask is, here and for files.
fn make_public(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(MODE_PUBLIC_FOLDER))
}

/// The mode of a file that is there: an operator may have chosen it.
fn mode_of(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o777)
}

/// Whether the file had to be changed. A folder that is empty afterwards goes too: it may be ours.
pub(super) fn set(path: &str, text: Option<&str>) -> anyhow::Result<bool> {
    let path = Path::new(path);
    let before = read_if_there(path)?;
    if before.as_deref() == text.map(str::as_bytes) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    if let Some(text) = text {
        if !folder.exists() {
            make_public(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))
                .hint("in a unit, name it in ReadWritePaths=")?;
        }
        let mode = mode_of(path).unwrap_or(MODE_PUBLIC);
        write_atomic(path, text.as_bytes(), mode)?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))
            .with_context(|| format!("cannot let others read {}", path.display()))?;
    } else {
        remove_if_there(path).with_context(|| format!("cannot remove {}", path.display()))?;
        // Fails when others have files there, which is fine.
        drop(std::fs::remove_dir(folder));
    }
    Ok(true)
}
