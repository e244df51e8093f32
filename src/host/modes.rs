//! Who may change what the units run, and what the agent keeps.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::model::doctor::files::{Entry, Purpose};

/// Most files of a data directory that are looked at: a log has a few dozen.
const FILES_MAX: usize = 10_000;

/// What was looked at.
#[derive(Debug, Default)]
pub struct Modes {
    seen: BTreeSet<PathBuf>,
    /// The files and folders.
    pub entries: Vec<Entry>,
    /// What could not be looked at, and why.
    pub unread: Vec<String>,
}

impl Modes {
    /// Looks at a file and at the folders above it; a link and what it leads to are both looked at. What is not there
    /// cannot be changed.
    pub fn file(&mut self, path: &Path, purpose: Purpose) {
        for part in path.ancestors() {
            self.look(part, purpose);
        }
        match std::fs::canonicalize(path) {
            Ok(real) if real != path => real.ancestors().for_each(|part| self.look(part, purpose)),
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.unread.push(format!("{}: {error}", path.display()));
            }
            _ => {}
        }
    }

    /// The same, with all that is in the folder.
    pub fn tree(&mut self, path: &Path, purpose: Purpose) {
        self.file(path, purpose);
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    self.unread.push(format!("{}: {error}", folder.display()));
                    continue;
                }
            };
            for entry in entries.flatten() {
                if self.seen.len() >= FILES_MAX {
                    self.unread.push(format!("{} has more than {FILES_MAX} files", path.display()));
                    return;
                }
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path.clone());
                }
                self.look(&path, purpose);
            }
        }
    }

    fn look(&mut self, path: &Path, purpose: Purpose) {
        if path.as_os_str().is_empty() || !self.seen.insert(path.to_owned()) {
            return;
        }
        match std::fs::symlink_metadata(path) {
            // The mode of a link means nothing; what it leads to is looked at by its own name.
            Ok(found) if found.is_symlink() => {}
            Ok(found) => self.entries.push(Entry {
                path: path.display().to_string(),
                purpose,
                mode: found.permissions().mode(),
                folder: found.is_dir(),
            }),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => self.unread.push(format!("{}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::Modes;
    use crate::host::files::{MODE_PUBLIC, write_atomic};
    use crate::model::doctor::files::Purpose;

    #[test]
    fn a_file_its_folders_and_what_a_link_leads_to_are_looked_at_once() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("real");
        std::fs::create_dir_all(real.join("deep")).unwrap();
        write_atomic(&real.join("deep/file"), b"", MODE_PUBLIC).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o777)).unwrap();
        symlink(real.join("deep"), root.path().join("link")).unwrap();
        let mut modes = Modes::default();
        modes.file(&root.path().join("link/file"), Purpose::Runs);
        modes.file(&root.path().join("link/file"), Purpose::Runs);
        modes.tree(&real, Purpose::State);
        modes.file(&root.path().join("none"), Purpose::Unit);
        let mode = |name: &str| {
            let name = real.join(name).display().to_string();
            let found: Vec<u32> = modes
                .entries
                .iter()
                .filter(|entry| entry.path == name)
                .map(|entry| entry.mode & 0o777)
                .collect();
            found
        };
        assert_eq!(mode("deep/file"), [0o644]);
        assert_eq!(real.display().to_string(), format!("{}/real", root.path().display()));
        assert!(
            modes
                .entries
                .iter()
                .any(|entry| entry.path == real.display().to_string() && entry.mode & 0o002 != 0)
        );
        assert!(modes.unread.is_empty(), "{:?}", modes.unread);
    }
}
