//! What clients did to keys and what they were told, in words that the checker understands.

use std::fmt;

/// What a write writes: every write of a history has a value of its own, so that a value names its write.
pub(super) type Value = u64;

/// What a read found: a value, and the `ModifyIndex` at which it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) value: Value,
    pub(super) index: u64,
}

/// What a client asked for and, where it was told, what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// `PUT`.
    Put(Value),
    /// `PUT ?cas=`: written if the key's index is `expected` (0: if there is no key). `done` is the answer, if any.
    Cas { expected: u64, value: Value, done: Option<bool> },
    /// `DELETE`.
    Delete,
    /// `GET`, default or consistent; only answered ones are recorded.
    Get(Option<Version>),
}

impl Action {
    /// What it may write.
    pub(super) fn value(self) -> Option<Value> {
        match self {
            Self::Put(value) | Self::Cas { value, .. } => Some(value),
            Self::Delete | Self::Get(_) => None,
        }
    }
}

/// One operation on one key. Operations that certainly were not done are not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) client: usize,
    pub(super) action: Action,
    /// Nanoseconds since the beginning of the history.
    pub(super) invoked: u64,
    /// None when nobody knows whether it was done: it may still be, at any later time.
    pub(super) returned: Option<u64>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds =
            |time: u64| format!("{:.3} ms", std::time::Duration::from_nanos(time).as_secs_f64() * 1e3);
        let returned = self.returned.map_or_else(|| "never".to_owned(), milliseconds);
        write!(f, "client {} {:?}, {} to {returned}", self.client, self.action, milliseconds(self.invoked))
    }
}

/// One answered `GET ?stale`. Reads of one client at one server in one life of it are in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StaleRead {
    pub(super) client: usize,
    pub(super) server: usize,
    /// How often the server had been started.
    pub(super) life: u64,
    pub(super) found: Option<Version>,
    /// `X-Consul-Index`.
    pub(super) index: u64,
    /// When the answer was there.
    pub(super) returned: u64,
}

/// All that happened to one key.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    pub(super) stale: Vec<StaleRead>,
}
