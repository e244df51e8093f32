//! The files of systemd's units on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where units are, the first one that has a unit of a name counts (systemd.unit(5)).
pub const FOLDERS: [&str; 7] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/fleet/units",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/transient",
];

/// A unit's file with its drop-ins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// The unit's own file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The drop-ins, in the order in which they are read.
    pub drop_ins: Vec<(PathBuf, String)>,
}

impl UnitFile {
    /// All texts, in the order in which they count.
    pub fn texts(&self) -> Vec<&str> {
        let drop_ins = self.drop_ins.iter().map(|(_, text)| text.as_str());
        std::iter::once(self.text.as_str()).chain(drop_ins).collect()
    }

    /// All files.
    pub fn paths(&self) -> Vec<&Path> {
        let drop_ins = self.drop_ins.iter().map(|(path, _)| path.as_path());
        std::iter::once(self.path.as_path()).chain(drop_ins).collect()
    }
}

/// The file of a unit, if it is installed and can be read.
pub fn find(name: &str) -> Option<UnitFile> {
    find_in(&FOLDERS.map(Path::new), name)
}

fn find_in(folders: &[&Path], name: &str) -> Option<UnitFile> {
    let (path, text) = folders.iter().find_map(|folder| {
        let path = folder.join(name);
        Some((path.clone(), std::fs::read_to_string(path).ok()?))
    })?;
    // Of drop-ins with one name, that of the first folder counts; all are read in the order of their names.
    let mut drop_ins: BTreeMap<String, (PathBuf, String)> = BTreeMap::new();
    for folder in folders {
        for (path, text) in texts(&folder.join(format!("{name}.d")), "conf") {
            let file = path.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
            drop_ins.entry(file).or_insert((path, text));
        }
    }
    Some(UnitFile { path, text, drop_ins: drop_ins.into_values().collect() })
}

/// Units whose names end so, with their texts: `socket`.
pub fn all(ending: &str) -> Vec<(PathBuf, String)> {
    FOLDERS.iter().flat_map(|folder| texts(Path::new(folder), ending)).collect()
}

/// The files of a folder with this ending that can be read. A folder that is not there has none.
fn texts(folder: &Path, ending: &str) -> Vec<(PathBuf, String)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    paths.into_iter().filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::find_in;
    use crate::host::files::{MODE_PUBLIC, write_atomic};

    #[test]
    fn the_first_folder_counts_and_drop_ins_of_all_are_read_in_order() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        for (folder, file, text) in [
            (&one, "a.service", "first"),
            (&two, "a.service", "second"),
            (&two, "a.service.d/10.conf", "ten"),
            (&one, "a.service.d/20.conf", "twenty"),
            (&one, "a.service.d/note.txt", "none"),
        ] {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
        }
        let found = find_in(&[&one, &two], "a.service").unwrap();
        assert_eq!(found.texts(), ["first", "ten", "twenty"]);
        assert_eq!(found.paths().len(), 3);
        assert_eq!(find_in(&[&one], "b.service"), None);
    }
}
