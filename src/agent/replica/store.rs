//! The replica on disk: a cache that lets a restarted client answer while no server is there.
//!
//! Losing or damaging it costs nothing but that; so a damaged file is dropped, with a warning.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::disk::Disk;
use crate::host::files::{MODE_PRIVATE, create_private_folder_on, read_if_there_on, write_atomic_on};
use crate::model::catalog::{Catalog, Depth};

const MAGIC: [u8; 8] = *b"CDREPLIC";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;

/// The file.
pub(super) struct ReplicaFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl ReplicaFile {
    /// Creates the folder for it.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(super) fn open(disk: Arc<dyn Disk>, data: &Path) -> anyhow::Result<Self> {
        let folder = data.join("replica");
        create_private_folder_on(&*disk, &folder)?;
        Ok(Self { disk, path: folder.join("discovery.snapshot") })
    }

    /// The catalog as it was saved, if it can be read.
    pub(super) fn load(&self) -> Option<Catalog> {
        let read = read_if_there_on(&*self.disk, &self.path)
            .and_then(|bytes| bytes.map(|bytes| decode(&bytes)).transpose());
        read.unwrap_or_else(|error| {
            tracing::warn!(path = %self.path.display(), %error, "the replica of the last run is dropped");
            None
        })
    }

    /// Saves a catalog. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self, catalog: &Catalog) -> anyhow::Result<()> {
        let tables = catalog.to_bytes(Depth::Discovery)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + tables.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&tables).to_le_bytes());
        bytes.extend_from_slice(&tables);
        write_atomic_on(&*self.disk, &self.path, &bytes, MODE_PRIVATE)
    }
}

fn decode(bytes: &[u8]) -> anyhow::Result<Catalog> {
    anyhow::ensure!(bytes.len() >= HEADER_BYTES && bytes[0..8] == MAGIC, "it is not a replica");
    let number = |from: usize| u32::from_le_bytes(std::array::from_fn(|at| bytes[from + at]));
    anyhow::ensure!(
        number(8) == FORMAT_VERSION,
        "it has format {}; this program reads {FORMAT_VERSION}",
        number(8)
    );
    anyhow::ensure!(crc32fast::hash(&bytes[HEADER_BYTES..]) == number(12), "its checksum is wrong");
    Ok(Catalog::from_bytes(&bytes[HEADER_BYTES..])?)
}
