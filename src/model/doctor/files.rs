//! Files and folders that others than root could change, or read, and should not.

use super::{Check, Finding};
use crate::model::fleet::shell::quote;

/// The check's name.
pub const NAME: &str = "files";
/// Everybody may write.
const OTHERS_WRITE: u32 = 0o002;
/// In this folder only the owner of a file may remove it.
const STICKY: u32 = 0o1000;
/// Everybody may read.
const OTHERS_READ: u32 = 0o004;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// It is run, as root or as the agent.
    Runs,
    /// It says what is run.
    Unit,
    /// The agent's state.
    State,
    /// The key of a certificate.
    Key,
}

/// One file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path.
    pub path: String,
    /// What it, or what is in it, is for.
    pub purpose: Purpose,
    /// The bits of its mode.
    pub mode: u32,
    /// It is a folder.
    pub folder: bool,
}

/// Judges them; `unread` says what could not be looked at, and why.
pub fn judge(entries: &[Entry], unread: &[String]) -> Check {
    let mut findings = Vec::new();
    for entry in entries {
        let kept = entry.folder && entry.mode & STICKY != 0;
        if entry.mode & OTHERS_WRITE != 0 && !kept {
            let cause = match entry.purpose {
                Purpose::Runs => "what is there is run by the units: whoever changes it runs what he likes",
                Purpose::Unit => "units are run as root: whoever changes them is root",
                Purpose::State => "the agent believes what is there",
                Purpose::Key => "whoever changes it decides whom etcd believes",
            };
            findings.push(Finding::error(
                format!("every user of this machine may write to {}", entry.path),
                format!("its mode is {:04o}; {cause}", entry.mode & 0o7777),
                format!("chmod o-w {}", quote(&entry.path)),
            ));
        }
        if entry.purpose == Purpose::Key && !entry.folder && entry.mode & OTHERS_READ != 0 {
            findings.push(Finding::error(
                format!("every user of this machine may read the key {}", entry.path),
                format!(
                    "its mode is {:04o}; with it others can be this machine for etcd",
                    entry.mode & 0o7777
                ),
                format!("chmod o-r {}", quote(&entry.path)),
            ));
        }
    }
    unread.iter().fold(Check::of(NAME, findings), Check::but_not)
}

#[cfg(test)]
mod tests {
    use super::{Entry, Purpose, judge};

    fn entry(path: &str, purpose: Purpose, mode: u32, folder: bool) -> Entry {
        Entry { path: path.to_owned(), purpose, mode, folder }
    }

    #[test]
    fn files_that_only_their_owner_writes_are_fine() {
        let entries = [
            entry("/opt/bin/corediscover", Purpose::Runs, 0o100_755, false),
            entry("/tmp", Purpose::Runs, 0o041_777, true),
            entry("/etc/key.pem", Purpose::Key, 0o100_640, false),
        ];
        assert!(judge(&entries, &[]).is_fine());
    }

    #[test]
    fn what_everybody_may_write_is_an_error_with_its_mode_and_the_command() {
        for purpose in [Purpose::Runs, Purpose::Unit, Purpose::State, Purpose::Key] {
            let found = judge(&[entry("/a b", purpose, 0o100_602, false)], &[]);
            let [finding] = &found.findings[..] else { panic!("{found:?}") };
            assert!(finding.cause.starts_with("its mode is 0602"), "{finding:?}");
            assert_eq!(finding.fix, "chmod o-w '/a b'");
        }
        assert_eq!(judge(&[entry("/opt/bin", Purpose::Runs, 0o040_777, true)], &[]).findings.len(), 1);
    }

    #[test]
    fn a_key_that_everybody_may_read_is_an_error() {
        let found = judge(&[entry("/k", Purpose::Key, 0o100_644, false)], &[]);
        assert_eq!(found.findings[0].fix, "chmod o-r /k");
    }

    #[test]
    fn what_could_not_be_looked_at_is_said() {
        assert_eq!(judge(&[], &["/x: denied".to_owned()]).not_checked, ["/x: denied"]);
    }
}
