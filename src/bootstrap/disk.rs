//! What a machine remembers in its data directory: `incarnation`, `birth.json`. One process at a time.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::hint::{WithHint as _, fault};
use crate::host::disk::{Held, HostDisk};
use crate::host::files::{self, MODE_PRIVATE};
use crate::host::versioned;
use crate::model::election::{Incarnation, LocalState};

pub(super) const INCARNATION_FILE: &str = "incarnation";
pub(super) const BIRTH_FILE: &str = "birth.json";
const LOCK_FILE: &str = "bootstrap.lock";

/// The data directory, locked for this process.
pub(super) struct Disk {
    data_dir: PathBuf,
    /// Locked while it is open.
    _lock: Box<dyn Held>,
}

impl Disk {
    /// Opens the data directory, and makes it if there is none.
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<Self> {
        files::create_private_folder(data_dir)
            .hint("the data directory must be writable: choose another with --data-dir")?;
        let lock = files::lock(&HostDisk, data_dir, &data_dir.join(LOCK_FILE))?;
        Ok(Self { data_dir: data_dir.to_owned(), _lock: lock })
    }

    /// Reads what is remembered; a blank disk gets its incarnation here.
    pub(super) fn load(&self) -> anyhow::Result<(Incarnation, LocalState)> {
        let local = self.load_state()?;
        let path = self.data_dir.join(INCARNATION_FILE);
        let advice = format!(
            "restore the file, or remove {} to let this machine join as a new one",
            self.data_dir.display()
        );
        if let Some(bytes) = files::read_if_there(&path)? {
            let incarnation = String::from_utf8_lossy(&bytes)
                .trim()
                .parse()
                .with_context(|| format!("{} is damaged", path.display()))
                .hint(advice)?;
            return Ok((incarnation, local));
        }
        if local.record.is_some() {
            let birth = self.data_dir.join(BIRTH_FILE);
            return Err(fault(
                format!("{} is there, but {} is not", birth.display(), path.display()),
                advice,
            ));
        }
        let incarnation = Incarnation::from_random(rand::random());
        self.save_incarnation(&incarnation)?;
        Ok((incarnation, local))
    }

    fn load_state(&self) -> anyhow::Result<LocalState> {
        let path = self.data_dir.join(BIRTH_FILE);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(LocalState::default()) };
        let advice = format!(
            "restore the file, or remove {} to let this machine join as a new one",
            self.data_dir.display()
        );
        versioned::decode(&bytes).map_err(|error| error.about(&path, &advice))
    }

    /// Remembers, durably.
    pub(super) fn save(&self, local: &LocalState) -> anyhow::Result<()> {
        let bytes = versioned::encode(local).context("cannot encode the birth record")?;
        files::write_atomic(&self.data_dir.join(BIRTH_FILE), &bytes, MODE_PRIVATE)
    }

    /// Remembers the incarnation, durably.
    pub(super) fn save_incarnation(&self, incarnation: &Incarnation) -> anyhow::Result<()> {
        let text = format!("{incarnation}\n");
        files::write_atomic(&self.data_dir.join(INCARNATION_FILE), text.as_bytes(), MODE_PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use super::Disk;
    use crate::model::election::LocalState;

    #[test]
    fn a_blank_disk_gets_an_incarnation_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let (first, local) = Disk::open(&data_dir).unwrap().load().unwrap();
        assert_eq!(local, LocalState::default());
        assert_eq!(Disk::open(&data_dir).unwrap().load().unwrap().0, first);
    }

    #[test]
    fn a_second_process_on_the_same_directory_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Disk::open(folder.path()).unwrap();
        let error = Disk::open(folder.path()).err().unwrap();
        assert!(crate::hint::report(&error).contains("is in use by another process"), "{error:?}");
    }

    #[test]
    fn the_birth_record_of_the_first_release_is_read_and_a_newer_one_is_refused() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1/bootstrap");
        let folder = tempfile::tempdir().unwrap();
        for file in ["birth.json", "incarnation"] {
            std::fs::copy(format!("{fixture}/{file}"), folder.path().join(file)).unwrap();
        }
        let disk = Disk::open(folder.path()).unwrap();
        let (incarnation, local) = disk.load().unwrap();
        assert_eq!(incarnation.to_string(), "a1eace80-ce69-4bd0-9cb1-1f237fef0d2f");
        let record = local.record.unwrap();
        assert_eq!(record.cluster_id.as_str(), "f2be65fc-b3e1-40f4-8193-5596f3954f6a");
        let certificate = record.certificate.unwrap();
        assert!(record.formed && certificate.initial[0].incarnation == incarnation);
        let path = folder.path().join("birth.json");
        crate::host::files::write_atomic(&path, br#"{"format": 2, "record": 7}"#, 0o600).unwrap();
        let report = crate::hint::report(&disk.load().unwrap_err());
        for word in [&*path.display().to_string(), "format 2", "hint: ", "newer version"] {
            assert!(report.contains(word), "{report}");
        }
    }

    #[test]
    fn a_record_without_its_incarnation_is_no_blank_disk() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let record = r#"{"record": {"cluster_id": "00000000-0000-4000-8000-000000000001", "role": "server", "formed": true}}"#;
        crate::host::files::write_atomic(&folder.path().join("birth.json"), record.as_bytes(), 0o600)
            .unwrap();
        let error = disk.load().unwrap_err();
        assert!(crate::hint::report(&error).contains("remove"), "{error:?}");
    }
}
