//! The binary that is served: read once, with its digest, and again when its file is another one.
//!
//! The binary before the last change is kept too: machines that were given its digest before still want it.
//!
//! All answers of one look come from one copy in memory, so a file that is replaced or written to while machines download
//! is never sent half old and half new.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use ring::digest::{SHA512, digest};

/// Largest file that is served, in bytes: ten of our binaries.
const PROGRAM_BYTES_MAX: u64 = 256 << 20;
/// How often a file that changes while it is read is read again.
const READS_MAX: usize = 3;

/// One state of the file.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its content.
    pub content: Bytes,
    /// The SHA-512 of the content, in hexadecimal digits.
    pub digest: Arc<str>,
    stamp: Stamp,
}

/// What differs when a file was replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The file, and what is known of it.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    last: Snapshot,
    /// What the file was before, with other content.
    before: Option<Snapshot>,
}

impl Known {
    fn with_digest(&self, digest: &str) -> Option<Snapshot> {
        let all = std::iter::once(&self.last).chain(&self.before);
        all.into_iter().find(|snapshot| &*snapshot.digest == digest).cloned()
    }
}

impl Program {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it is no file that can be served.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        let known = Known { last: read(&path)?, before: None };
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// The file as it is now. It reads the disk when the file is another one than before.
    ///
    /// # Errors
    /// When the file is gone, or is written to all the time.
    pub fn look(&self) -> anyhow::Result<Snapshot> {
        let found = std::fs::metadata(&self.path)
            .with_context(|| format!("cannot look at {}", self.path.display()))?;
        let mut known = self.known.lock();
        if known.last.stamp != Stamp::of(&found) {
            let now = read(&self.path)?;
            tracing::info!(sha512 = &*now.digest, "{} has changed", self.path.display());
            let last = std::mem::replace(&mut known.last, now);
            if last.digest != known.last.digest {
                known.before = Some(last);
            }
        }
        Ok(known.last.clone())
    }

    /// What has this digest: the file as it is, or as it was before.
    ///
    /// # Errors
    /// As [`Program::look`], if it was not known already.
    pub fn with_digest(&self, digest: &str) -> anyhow::Result<Option<Snapshot>> {
        if let Some(found) = self.known.lock().with_digest(digest) {
            return Ok(Some(found));
        }
        self.look()?;
        Ok(self.known.lock().with_digest(digest))
    }
}

fn read(path: &Path) -> anyhow::Result<Snapshot> {
    let name = path.display();
    for _ in 0..READS_MAX {
        let mut file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let before = file.metadata().with_context(|| format!("cannot look at {name}"))?;
        ensure!(before.is_file(), "{name} is no file");
        ensure!(before.size() > 0, "{name} is empty");
        ensure!(before.size() <= PROGRAM_BYTES_MAX, "{name} has more than {PROGRAM_BYTES_MAX} bytes");
        let mut content = Vec::new();
        file.by_ref()
            .take(PROGRAM_BYTES_MAX + 1)
            .read_to_end(&mut content)
            .with_context(|| format!("cannot read {name}"))?;
        let after = file.metadata().with_context(|| format!("cannot look at {name}"))?;
        let stamp = Stamp::of(&before);
        if stamp == Stamp::of(&after) && content.len() as u64 == stamp.bytes {
            let digest: String =
                digest(&SHA512, &content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(Snapshot { content: content.into(), digest: digest.into(), stamp });
        }
    }
    bail!("{name} is written to just now")
}

#[cfg(test)]
mod tests {
    use super::Program;
    use crate::host::files::{MODE_PUBLIC, write_atomic};

    #[test]
    fn a_file_that_is_replaced_has_another_digest_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        write_atomic(&path, b"abc", MODE_PUBLIC).unwrap();
        let program = Program::open(path.clone()).unwrap();
        let first = program.look().unwrap();
        // The example of FIPS 180-4.
        assert!(first.digest.starts_with("ddaf35a193617abacc417349ae204131") && first.digest.len() == 128);
        write_atomic(&path, b"abd", MODE_PUBLIC).unwrap();
        let second = program.look().unwrap();
        assert_ne!(first.digest, second.digest);
        assert_eq!((&first.content[..], &second.content[..]), (&b"abc"[..], &b"abd"[..]));
        std::fs::remove_file(&path).unwrap();
        assert!(program.look().is_err());
        for snapshot in [&first, &second] {
            let found = program.with_digest(&snapshot.digest).unwrap().unwrap();
            assert_eq!(found.content, snapshot.content, "machines that know its digest still get it");
        }
        write_atomic(&path, b"abe", MODE_PUBLIC).unwrap();
        program.look().unwrap();
        assert!(program.with_digest(&first.digest).unwrap().is_none(), "only the last two are kept");
        assert!(program.with_digest(&second.digest).unwrap().is_some());
    }

    #[test]
    fn what_is_no_program_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = Program::open(folder.path().to_owned()).unwrap_err().to_string();
        assert!(error.ends_with("is no file"), "{error}");
        let empty = folder.path().join("empty");
        write_atomic(&empty, b"", MODE_PUBLIC).unwrap();
        assert!(Program::open(empty).unwrap_err().to_string().ends_with("is empty"));
        assert!(Program::open(folder.path().join("none")).is_err());
    }
}
