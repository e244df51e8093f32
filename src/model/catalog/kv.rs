//! Keys: writes with conditions, deletes that leave tombstones, and the reads of `/v1/kv`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Catalog;
use super::change::Changes;
use super::command::{Condition, KvDelete, KvWrite};
use super::rows::KvEntry;

/// A read of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvQuery {
    /// One key.
    Get {
        /// The key.
        key: String,
    },
    /// All entries whose key starts with `prefix`.
    List {
        /// The prefix, empty for all.
        prefix: String,
    },
    /// The keys below `prefix`, cut after the first `separator` beyond it.
    Keys {
        /// The prefix, empty for all.
        prefix: String,
        /// Empty for no cutting.
        separator: String,
    },
}

/// What a read of keys found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvRows {
    /// Entries, sorted by key.
    Entries(Vec<Arc<KvEntry>>),
    /// Keys, sorted, each once.
    Keys(Vec<String>),
}

impl KvRows {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Entries(entries) => entries.is_empty(),
            Self::Keys(keys) => keys.is_empty(),
        }
    }
}

/// Rows and the index that a blocking query waits on (`reference` Consul §1.3: per key, per prefix).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvAnswer {
    /// Never 0.
    pub index: u64,
    /// What was found.
    pub rows: KvRows,
}

impl Catalog {
    pub(super) fn kv_write(&mut self, write: &KvWrite, changes: &mut Changes) -> bool {
        let index = self.index;
        let old = self.kv.get(write.key.as_str());
        let allowed = match &write.condition {
            Condition::None => true,
            Condition::ModifyIndex(wanted) => old.map_or(0, |entry| entry.modify_index) == *wanted,
        };
        if !allowed {
            return false;
        }
        let (key, entry) = match self.kv.get_key_value(write.key.as_str()) {
            Some((_, old)) if old.value == write.value && old.flags == write.flags => return true,
            Some((key, old)) => {
                let entry = KvEntry {
                    value: write.value.clone(),
                    flags: write.flags,
                    modify_index: index,
                    ..KvEntry::clone(old)
                };
                (key.clone(), entry)
            }
            None => {
                let entry = KvEntry {
                    key: write.key.clone(),
                    value: write.value.clone(),
                    flags: write.flags,
                    session: None,
                    lock_index: 0,
                    create_index: index,
                    modify_index: index,
                };
                (Arc::from(write.key.as_str()), entry)
            }
        };
        self.kv.insert(key.clone(), Arc::new(entry));
        self.indexes.kv = index;
        changes.keys.insert(key);
        true
    }

    pub(super) fn kv_delete(&mut self, delete: &KvDelete, changes: &mut Changes) -> bool {
        if delete.recurse {
            for key in self.keys_under(&delete.key) {
                self.remove_key(&key, changes);
            }
            return true;
        }
        let Some((key, entry)) = self.kv.get_key_value(delete.key.as_str()) else { return true };
        if delete.modify_index.is_some_and(|wanted| wanted != entry.modify_index) {
            return false;
        }
        let key = key.clone();
        self.remove_key(&key, changes);
        true
    }

    fn remove_key(&mut self, key: &Arc<str>, changes: &mut Changes) {
        self.kv.remove(key);
        self.tombstones.insert(key.clone(), self.index);
        self.indexes.tombstones = self.index;
        changes.keys.insert(key.clone());
    }

    pub(super) fn kv_reap(&mut self, before: u64) {
        self.tombstones =
            std::mem::take(&mut self.tombstones).into_iter().filter(|(_, at)| *at >= before).collect();
    }

    fn keys_under(&self, prefix: &str) -> Vec<Arc<str>> {
        self.kv_range(prefix).map(|(key, _)| key.clone()).collect()
    }

    fn kv_range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<KvEntry>)> {
        self.kv.range(Arc::from(prefix)..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Number of deletes that prefixes still remember.
    pub fn tombstone_count(&self) -> usize {
        self.tombstones.len()
    }

    /// Number of keys.
    pub fn kv_count(&self) -> usize {
        self.kv.len()
    }

    /// Answers a read of keys.
    pub fn kv_query(&self, query: &KvQuery) -> KvAnswer {
        let table = self.indexes.kv.max(self.indexes.tombstones).max(1);
        match query {
            KvQuery::Get { key } => match self.kv.get(key.as_str()) {
                Some(entry) => {
                    KvAnswer { index: entry.modify_index.max(1), rows: KvRows::Entries(vec![entry.clone()]) }
                }
                None => KvAnswer { index: table, rows: KvRows::Entries(Vec::new()) },
            },
            KvQuery::List { prefix } => {
                let entries: Vec<_> = self.kv_range(prefix).map(|(_, entry)| entry.clone()).collect();
                KvAnswer { index: self.kv_prefix_index(prefix), rows: KvRows::Entries(entries) }
            }
            KvQuery::Keys { prefix, separator } => {
                let mut keys: Vec<String> = Vec::new();
                for (key, _) in self.kv_range(prefix) {
                    let cut = cut_at_separator(key, prefix.len(), separator);
                    if keys.last().is_none_or(|last| last != cut) {
                        keys.push(cut.to_owned());
                    }
                }
                KvAnswer { index: self.kv_prefix_index(prefix), rows: KvRows::Keys(keys) }
            }
        }
    }

    /// The largest index under a prefix, deletes included; the table's for the empty prefix or when nothing is there.
    fn kv_prefix_index(&self, prefix: &str) -> u64 {
        let table = self.indexes.kv.max(self.indexes.tombstones).max(1);
        if prefix.is_empty() {
            return table;
        }
        let written = self.kv_range(prefix).map(|(_, entry)| entry.modify_index).max();
        let deleted = self
            .tombstones
            .range(Arc::from(prefix)..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, at)| *at)
            .max();
        written.max(deleted).unwrap_or(table).max(1)
    }
}

fn cut_at_separator<'a>(key: &'a str, prefix_length: usize, separator: &str) -> &'a str {
    if separator.is_empty() {
        return key;
    }
    match key[prefix_length..].find(separator) {
        Some(position) => &key[..prefix_length + position + separator.len()],
        None => key,
    }
}
