//! The local state on disk: one file for each service with its checks, one for each check of the node, and one with
//! the state of all checks.
//!
//! A file is written whole or not at all. One that cannot be read is set aside, named in the log, and does not keep
//! the agent from starting.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::files::{
    MODE_PRIVATE, create_private_folder, read_if_there, remove_if_there, sync_folder, write_atomic,
};
use crate::host::versioned::{self, VersionedError};
use crate::model::catalog::{Service, Status};
use crate::model::sync::CheckRegistration;

/// Longest file name in bytes that is made from an id as it is; file systems allow 255 with the ending.
const FILE_NAME_BYTES_MAX: usize = 160;

/// Where a check comes from, which is all that is needed to have it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum CheckOrigin {
    /// Registered by a client or a configuration file.
    Registered(Box<CheckRegistration>),
    /// Maintenance of a service, or of the node when `service_id` is empty.
    Maintenance { service_id: String, reason: String },
}

/// A service file. Without `service`: checks that were added to a service of a configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ServiceRecord {
    pub(super) service_id: String,
    pub(super) service: Option<Service>,
    pub(super) checks: Vec<CheckOrigin>,
}

/// The file of a check of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CheckRecord {
    pub(super) check: CheckOrigin,
}

/// What a check said last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StateRecord {
    pub(super) check_id: String,
    pub(super) status: Status,
    pub(super) output: String,
    /// TTL checks: until when that holds, in milliseconds since 1970.
    pub(super) expires: Option<u64>,
}

/// All that was on disk.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) services: Vec<ServiceRecord>,
    pub(super) checks: Vec<CheckRecord>,
    pub(super) states: Vec<StateRecord>,
}

/// The folders.
#[derive(Debug)]
pub(super) struct Store {
    services: PathBuf,
    checks: PathBuf,
    states: PathBuf,
}

impl Store {
    /// Creates the folders where missing, and reads what is there.
    pub(super) fn open(data_dir: &Path) -> anyhow::Result<(Self, Loaded)> {
        let checks = data_dir.join("checks");
        let store = Self { services: data_dir.join("services"), states: checks.join("state"), checks };
        for folder in [&store.services, &store.checks, &store.states] {
            create_private_folder(folder)?;
        }
        let loaded = Loaded {
            services: read_all(&store.services)?,
            checks: read_all(&store.checks)?,
            states: read_all::<Vec<StateRecord>>(&store.states)?.into_iter().flatten().collect(),
        };
        Ok((store, loaded))
    }

    pub(super) fn put_service(&self, record: &ServiceRecord) -> anyhow::Result<()> {
        if record.service.is_none() && record.checks.is_empty() {
            return remove(&self.services, &record.service_id);
        }
        write(&self.services, &record.service_id, record)
    }

    pub(super) fn put_check(&self, check_id: &str, record: Option<&CheckRecord>) -> anyhow::Result<()> {
        match record {
            Some(record) => write(&self.checks, check_id, record),
            None => remove(&self.checks, check_id),
        }
    }

    pub(super) fn put_states(&self, states: &[StateRecord]) -> anyhow::Result<()> {
        write(&self.states, "all", &states)
    }
}

fn write(folder: &Path, id: &str, record: &impl Serialize) -> anyhow::Result<()> {
    let bytes = versioned::encode(record).with_context(|| format!("cannot encode {id:?}"))?;
    write_atomic(&folder.join(file_name(id)), &bytes, MODE_PRIVATE)
}

fn remove(folder: &Path, id: &str) -> anyhow::Result<()> {
    let path = folder.join(file_name(id));
    remove_if_there(&path)
        .and_then(|()| sync_folder(folder))
        .with_context(|| format!("cannot remove {}", path.display()))
}

/// Reads every record of a folder; what cannot be read is set aside.
fn read_all<T: DeserializeOwned>(folder: &Path) -> anyhow::Result<Vec<T>> {
    let mut records = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("json") => paths.push(path),
            // A write that a crash interrupted; the old file is still there.
            Some("new") => {
                remove_if_there(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            _ => {}
        }
    }
    paths.sort();
    for path in paths {
        let Some(bytes) = read_if_there(&path)? else { continue };
        match versioned::decode(&bytes) {
            Ok(record) => records.push(record),
            Err(newer @ VersionedError::Newer(_)) => return Err(newer.about(&path, "")),
            Err(VersionedError::Damaged(error)) => set_aside(&path, &error),
        }
    }
    Ok(records)
}

fn set_aside(path: &Path, error: &serde_json::Error) {
    let aside = path.with_extension("json.corrupt");
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            "{} is not readable and was set aside as {}: {error}",
            path.display(),
            aside.display()
        ),
        Err(rename) => tracing::error!(
            "{} is not readable ({error}) and could not be set aside: {rename}",
            path.display()
        ),
    }
}

/// A file name for an id, which may hold anything: unusual bytes as `%41`; ids that become too long end in a hash.
fn file_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len() + ".json".len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_:".contains(&byte) {
            name.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _infallible = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > FILE_NAME_BYTES_MAX {
        name.truncate(FILE_NAME_BYTES_MAX - 33);
        let _infallible = write!(name, "-{:032x}", fnv1a(id.as_bytes()));
    }
    name.push_str(".json");
    name
}

/// FNV-1a with 128 bits (draft-eastlake-fnv): far enough from collisions for the ids of one machine.
fn fnv1a(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn every_id_has_a_file_name_of_its_own() {
        assert_eq!(file_name("web-1"), "web-1.json");
        assert_eq!(file_name("host:web:80"), "host:web:80.json");
        assert_eq!(file_name("../etc/é"), "%2E%2E%2Fetc%2F%C3%A9.json");
        let long = "x".repeat(5000);
        assert!(file_name(&long).len() < 200);
        assert_ne!(file_name(&long), file_name(&format!("{long}y")));
    }
}
