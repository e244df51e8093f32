//! `/v1/kv`: entries with their value in base64.

use super::{catalog, json};
use crate::model::catalog::{KvEntry, KvRows};

/// Writes one entry.
pub fn entry(out: &mut Vec<u8>, entry: &KvEntry) {
    json::number_field(out, "{\"LockIndex\":", entry.lock_index);
    json::field(out, ",\"Key\":", &entry.key);
    json::number_field(out, ",\"Flags\":", entry.flags);
    json::raw(out, ",\"Value\":");
    json::base64(out, &entry.value);
    if let Some(session) = &entry.session {
        json::field(out, ",\"Session\":", session);
    }
    catalog::indexes(out, entry.create_index, entry.modify_index);
}

/// Writes what a read of keys found.
pub fn rows(out: &mut Vec<u8>, rows: &KvRows) {
    match rows {
        KvRows::Entries(entries) => json::list(out, entries, |out, one| entry(out, one)),
        KvRows::Keys(keys) => json::texts(out, keys),
    }
}
