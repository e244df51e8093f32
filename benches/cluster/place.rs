//! Where a run lives: one folder, loopback addresses of its own, and waiting with a deadline.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Longest wait for anything that starts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at something that starts.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often the disk is asked to keep 512 bytes.
const SYNCS: usize = 200;

/// The folder of this run, removed at its end.
pub(crate) struct Place {
    folder: PathBuf,
    next: Cell<u16>,
    /// The load average of the last minute when the run began: above 0.5 the figures are of a busy machine.
    pub(crate) busy: String,
}

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("corediscover-bench-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let busy = load.split(' ').next().unwrap_or_default().to_owned();
        Ok(Self { folder, next: Cell::new(1), busy })
    }

    fn number(&self) -> u16 {
        self.next.replace(self.next.get() + 1)
    }

    /// A loopback address that nobody else of this run uses.
    pub(crate) fn address(&self) -> Ipv4Addr {
        let [high, low] = self.number().to_be_bytes();
        let run = 226 + u8::try_from(std::process::id() % 24).unwrap_or_default();
        Ipv4Addr::new(127, run, high, low.max(1))
    }

    /// An empty folder.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{name}-{}", self.number()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// A file with this text.
    pub(crate) fn file(&self, name: &str, text: &[u8]) -> Result<PathBuf> {
        let path = self.folder(name)?.join(name);
        File::create(&path)?.write_all(text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Median time of writing 512 bytes in place and of making them durable, on the disk of the data.
    pub(crate) fn sync_time(&self) -> Result<Duration> {
        let mut file = File::create(self.file("sync", &[])?)?;
        file.write_all(&vec![0; 64 * 1024])?;
        file.sync_all()?;
        let mut times = Vec::with_capacity(SYNCS);
        for number in 0..SYNCS {
            file.seek(SeekFrom::Start(u64::try_from(number % 128)? * 512))?;
            let start = Instant::now();
            file.write_all(&[1; 512])?;
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(times[SYNCS / 2])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            super::say(&format!("cannot remove {}: {error}", self.folder.display()));
        }
    }
}

/// The end of a log, for messages.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Asks `look` until it gives a value.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look().await {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
