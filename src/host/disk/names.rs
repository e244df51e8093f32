//! The names of files and folders on a simulated disk, and how they change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(super) type FileId = u64;

#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Set(PathBuf, FileId),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    RemoveFolder(PathBuf),
}

/// The names of a disk: those of its files, and those of its folders.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    pub(super) names: BTreeMap<PathBuf, FileId>,
    pub(super) folders: BTreeSet<PathBuf>,
}

/// The path that `path` has once `from` is called `to`.
fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    path.strip_prefix(from)
        .ok()
        .map(|rest| if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

impl NameChange {
    pub(super) fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Set(path, file) => drop(tree.names.insert(path.clone(), *file)),
            Self::Rename(from, to) if tree.folders.contains(from) => {
                for path in tree.folders.extract_if(.., |path| path.starts_with(from)).collect::<Vec<_>>() {
                    tree.folders.extend(moved(&path, from, to));
                }
                let inside = tree.names.extract_if(.., |path, _| path.starts_with(from)).collect::<Vec<_>>();
                for (path, file) in inside {
                    tree.names.extend(moved(&path, from, to).map(|path| (path, file)));
                }
            }
            Self::Rename(from, to) => {
                if let Some(file) = tree.names.remove(from) {
                    tree.names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => drop(tree.names.remove(path)),
            Self::RemoveFolder(folder) => {
                tree.names.retain(|path, _| !path.starts_with(folder));
                tree.folders.retain(|path| !path.starts_with(folder));
            }
        }
    }

    /// The same change once the folder that it is in has another name.
    pub(super) fn follow(&mut self, from: &Path, to: &Path) {
        let paths: &mut [&mut PathBuf] = match self {
            Self::Set(path, _) | Self::Remove(path) | Self::RemoveFolder(path) => &mut [path],
            Self::Rename(first, second) => &mut [first, second],
        };
        for path in paths {
            if let Some(now) = moved(path, from, to) {
                **path = now;
            }
        }
    }

    pub(super) fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Set(path, _) | Self::Remove(path) | Self::RemoveFolder(path) | Self::Rename(_, path) => {
                path.parent() == Some(folder)
            }
        }
    }
}
