//! Snapshot files: the whole catalog at one log position, with a checksum, written beside and renamed.
//!
//! `magic 8 | version u32 | checksum u32 | meta length u32 | meta | catalog`, little endian; the checksum is over
//! all that follows it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::types::{LogId, SnapshotMeta};
use crate::agent::rpc::decode as decode_value;
use crate::hint::WithHint as _;
use crate::host::disk::{self, Disk};
use crate::host::files::{ADVICE_NEWER, MODE_PRIVATE};

const MAGIC: [u8; 8] = *b"CDSNAPSH";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;
const FILE: &str = "catalog.snapshot";

/// The file as it is written; one that is found was never finished.
const FILE_UNFINISHED: &str = "catalog.snapshot.new";

/// Time between attempts to write a snapshot for which there was no room.
const ROOM_PAUSE: Duration = Duration::from_secs(1);
const ADVICE: &str =
    "if other servers live, move this server's data directory away and let it join again as a new machine";

/// Where the last snapshot is kept: a file, or memory for `-dev`.
#[derive(Clone)]
pub(super) struct SnapshotStore {
    place: Option<Place>,
    memory: Arc<Mutex<Option<(SnapshotMeta, Bytes)>>>,
    /// The position of what is kept: a snapshot that took long to build must not replace a later one that was
    /// installed meanwhile, behind which the log is already gone.
    saved: Arc<Mutex<Option<LogId>>>,
    closed: CancellationToken,
}

#[derive(Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
}

impl SnapshotStore {
    /// Keeps the snapshot in memory.
    pub(super) fn in_memory() -> Self {
        Self { place: None, memory: Arc::default(), saved: Arc::default(), closed: CancellationToken::new() }
    }

    /// Keeps the snapshot in a file of `folder`, which is created.
    ///
    /// # Errors
    /// When the folder cannot be created.
    #[cfg(test)]
    pub(super) fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        Self::on(Arc::new(crate::host::disk::HostDisk), folder)
    }

    /// As [`SnapshotStore::in_folder`], on any disk.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub(super) fn on(disk: Arc<dyn Disk>, folder: &Path) -> anyhow::Result<Self> {
        let shown = folder.display();
        disk.create_folder(folder).with_context(|| format!("cannot create the folder {shown}"))?;
        disk.remove(&folder.join(FILE_UNFINISHED))
            // A process that was killed may have left a name that the disk does not have; raft will trust it.
            .and_then(|()| disk.sync_folder(folder))
            .with_context(|| format!("cannot prepare the folder {shown}"))?;
        let place = Some(Place { disk, folder: folder.to_owned() });
        Ok(Self { place, memory: Arc::default(), saved: Arc::default(), closed: CancellationToken::new() })
    }

    /// Whether a snapshot of so many bytes fits on the disk now, beside the present one.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.place.as_ref().is_none_or(|place| disk::may_fit(&*place.disk, &place.folder, bytes))
    }

    /// Lets what waits for room fail: the server stops.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Makes a snapshot durable. On a full disk it waits for room: to raft, an error of the storage is the end.
    ///
    /// # Errors
    /// As the disk says, or when the server stops.
    pub(super) async fn save_patiently(&self, meta: &SnapshotMeta, catalog: &Bytes) -> io::Result<()> {
        let mut told = false;
        loop {
            let (meta, catalog) = (meta.clone(), catalog.clone());
            let saved = self.off_thread(move |store| store.save(&meta, &catalog)).await;
            match saved {
                Err(error) if disk::is_full(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("there is no room for a snapshot; it waits: {error}");
                    }
                }
                saved => return saved,
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(ROOM_PAUSE) => {}
                () = self.closed.cancelled() => return Err(io::Error::other("the server stops")),
            }
        }
    }

    /// Runs what blocks, where it may.
    ///
    /// # Errors
    /// As `work`.
    pub(super) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let store = self.clone();
        if self.place.as_ref().is_none_or(|place| place.disk.threads()) {
            return tokio::task::spawn_blocking(move || work(&store)).await.map_err(io::Error::other)?;
        }
        work(&store)
    }

    /// Replaces an older snapshot; durable on return. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there.
    pub(super) fn save(&self, meta: &SnapshotMeta, catalog: &Bytes) -> io::Result<()> {
        let mut saved = self.saved.lock();
        if meta.last_log_id < *saved {
            return Ok(());
        }
        self.write(meta, catalog)?;
        *saved = meta.last_log_id;
        Ok(())
    }

    fn write(&self, meta: &SnapshotMeta, catalog: &Bytes) -> io::Result<()> {
        let Some(place) = &self.place else {
            *self.memory.lock() = Some((meta.clone(), catalog.clone()));
            return Ok(());
        };
        let meta = rmp_serde::to_vec_named(meta).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + meta.len() + catalog.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&meta);
        bytes.extend_from_slice(catalog);
        let checksum = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        let (path, unfinished) = (place.folder.join(FILE), place.folder.join(FILE_UNFINISHED));
        disk::replace(&*place.disk, &path, &unfinished, &bytes, MODE_PRIVATE).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
        })
    }

    /// The snapshot, if there is one. Blocks.
    ///
    /// # Errors
    /// When it is damaged or of another version.
    pub(super) fn load(&self) -> anyhow::Result<Option<(SnapshotMeta, Bytes)>> {
        let Some(place) = &self.place else { return Ok(self.memory.lock().clone()) };
        let path = place.folder.join(FILE);
        let bytes = match place.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display())).hint(ADVICE);
            }
        };
        let loaded =
            decode(Bytes::from(bytes)).with_context(|| format!("{} cannot be used", path.display()))?;
        let mut saved = self.saved.lock();
        *saved = loaded.0.last_log_id.max(*saved);
        Ok(Some(loaded))
    }
}

pub(super) fn decode(bytes: Bytes) -> anyhow::Result<(SnapshotMeta, Bytes)> {
    let number = |from: usize| u32::from_le_bytes(std::array::from_fn(|at| bytes[from + at]));
    let read = || {
        ensure!(bytes.len() >= HEADER_BYTES && bytes[0..8] == MAGIC, "it is not a snapshot (offset 0)");
        ensure!(
            crc32fast::hash(&bytes[16..]) == number(12),
            "it is damaged: the checksum of what follows offset 16 is wrong"
        );
        let meta_end = HEADER_BYTES + number(16) as usize;
        ensure!(meta_end <= bytes.len(), "it is damaged at offset 16: the header is too long");
        let meta = decode_value(&bytes[HEADER_BYTES..meta_end])
            .context("it is damaged at offset 20: its header is unreadable")?;
        Ok((meta, bytes.slice(meta_end..)))
    };
    if bytes.len() >= HEADER_BYTES && bytes[0..8] == MAGIC && number(8) != FORMAT_VERSION {
        let version = number(8);
        return Err(anyhow::anyhow!(
            "it has format {version} (at offset 8); this program reads {FORMAT_VERSION}"
        ))
        .hint(ADVICE_NEWER);
    }
    read().hint(ADVICE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::{FILE, SnapshotStore};
    use crate::agent::consensus::types::{LogId, SnapshotMeta};
    use crate::host::disk::simulated::SimulatedDisk;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_waits_for_room_and_the_old_one_is_there_meanwhile() {
        let disk = SimulatedDisk::new(1);
        let store = SnapshotStore::on(Arc::new(disk.clone()), Path::new("/data/snapshots")).unwrap();
        let meta = |index| SnapshotMeta {
            last_log_id: Some(LogId::new_term_index(1, index)),
            ..SnapshotMeta::default()
        };
        store.save(&meta(1), &Bytes::from_static(b"old")).unwrap();
        disk.set(|faults| faults.capacity = Some(500));
        assert!(!store.fits(1000) && store.fits(10));
        let new = Bytes::from(vec![1; 1000]);
        {
            let second = meta(2);
            let saving = store.save_patiently(&second, &new);
            tokio::pin!(saving);
            tokio::select! {
                saved = &mut saving => panic!("{saved:?}"),
                () = tokio::time::sleep(Duration::from_mins(1)) => {}
            }
            assert_eq!(store.load().unwrap().unwrap().1, "old");
            disk.set(|faults| faults.capacity = None);
            saving.await.unwrap();
        }
        assert_eq!(store.load().unwrap().unwrap(), (meta(2), new.clone()));
        disk.set(|faults| faults.capacity = Some(500));
        let third = meta(3);
        let saving = store.save_patiently(&third, &new);
        store.close();
        assert!(saving.await.unwrap_err().to_string().contains("the server stops"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_taken_where_the_disk_does_not_tell_its_room() {
        let disk = SimulatedDisk::new(1);
        let store = SnapshotStore::on(Arc::new(disk.clone()), Path::new("/data/snapshots")).unwrap();
        disk.set(|faults| faults.free_unknown = true);
        assert!(store.fits(1000), "writing it will tell");
        let snapshot = Bytes::from(vec![1; 1000]);
        store.save_patiently(&SnapshotMeta::default(), &snapshot).await.unwrap();
        assert_eq!(store.load().unwrap().unwrap().1, snapshot);
    }

    #[test]
    fn a_snapshot_survives_and_every_flipped_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::in_folder(folder.path()).unwrap();
        assert!(store.load().unwrap().is_none());
        let meta = SnapshotMeta { last_log_id: Some(LogId::new_term_index(3, 9)), ..SnapshotMeta::default() };
        store.save(&meta, &Bytes::from_static(b"catalog")).unwrap();
        let (loaded, catalog) = store.load().unwrap().unwrap();
        assert_eq!((loaded, &catalog[..]), (meta, &b"catalog"[..]));
        let path = folder.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            crate::host::files::write_atomic(&path, &bad, 0o600).unwrap();
            let error = store.load().unwrap_err();
            assert!(format!("{error:#}").contains(FILE), "{error:#}");
        }
    }
}
