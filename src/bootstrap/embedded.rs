//! The embedded coordinator: a store in memory, or in a file that several processes of one machine share.
//!
//! For `corediscover up` and for tests; it holds as long as its machine does. Time is injected: the file needs a
//! clock that all its processes share.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::claims::{Changes, ClaimStore, NewClaim};
use crate::host::files::{self, MODE_PRIVATE};
use crate::host::versioned;
use crate::model::election::{Certificate, Claim, ClaimDetails, Revision, View};
use crate::model::names::MachineId;

/// How often a watch looks for another revision. Changes are seldom, and their readers are on this machine.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// The time since some fixed moment, the same for all users of one store.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    revision: Revision,
    next_lease: u64,
    /// When each lease ends, on the injected clock.
    leases: BTreeMap<u64, Duration>,
    claims: BTreeMap<MachineId, StoredClaim>,
    #[serde(default)]
    certificate: Option<(Certificate, Revision)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredClaim {
    address: String,
    details: ClaimDetails,
    created: Revision,
    revision: Revision,
    lease: u64,
}

impl State {
    fn expire(&mut self, now: Duration) -> bool {
        self.leases.retain(|_, ends| *ends > now);
        let before = self.claims.len();
        self.claims.retain(|_, claim| self.leases.contains_key(&claim.lease));
        let expired = self.claims.len() != before;
        if expired {
            self.revision += 1;
        }
        expired
    }

    fn view(&self) -> View {
        let mut claims: Vec<Claim> = self
            .claims
            .iter()
            .map(|(machine_id, claim)| Claim {
                machine_id: machine_id.clone(),
                address: claim.address.clone(),
                details: claim.details.clone(),
                created: claim.created,
                revision: claim.revision,
            })
            .collect();
        claims.sort_by_key(|claim| claim.created);
        View { claims, strangers: Vec::new(), certificate: self.certificate.clone() }
    }
}

enum Backend {
    Memory(Mutex<State>),
    File(PathBuf),
}

/// The coordinator; each machine takes a [`EmbeddedStore`] of its own.
#[derive(Clone)]
pub struct Embedded {
    backend: Arc<Backend>,
    clock: Clock,
    ttl: Duration,
}

impl Embedded {
    /// A coordinator in memory.
    pub fn in_memory(clock: Clock, ttl: Duration) -> Self {
        Self { backend: Arc::new(Backend::Memory(Mutex::default())), clock, ttl }
    }

    /// A coordinator in a file, made when first written; `clock` must be shared by all processes that use it.
    pub fn in_file(path: &Path, clock: Clock, ttl: Duration) -> Self {
        Self { backend: Arc::new(Backend::File(path.to_owned())), clock, ttl }
    }

    /// The connection of one machine.
    pub fn store(&self) -> EmbeddedStore {
        EmbeddedStore { coordinator: self.clone(), lease: Arc::default() }
    }

    /// Removes everything, as a person with `etcdctl del --prefix` would.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn wipe(&self) -> Result<()> {
        self.change(|state| {
            *state = State { revision: state.revision + 1, next_lease: state.next_lease, ..State::default() };
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T> {
        let now = (self.clock)();
        match &*self.backend {
            Backend::Memory(state) => {
                let mut state = state.lock();
                state.expire(now);
                Ok(change(&mut state))
            }
            Backend::File(path) => change_file(path, now, change),
        }
    }

    async fn change_async<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T> {
        match &*self.backend {
            Backend::Memory(_) => self.change(change),
            Backend::File(_) => {
                let coordinator = self.clone();
                tokio::task::spawn_blocking(move || coordinator.change(change))
                    .await
                    .context("the embedded store's thread ended")?
            }
        }
    }
}

fn change_file<T>(path: &Path, now: Duration, change: impl FnOnce(&mut State) -> T) -> Result<T> {
    let lock_path = path.with_extension("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .with_context(|| format!("cannot open {}", lock_path.display()))?;
    flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", lock_path.display()))?;
    let mut state: State = match files::read_if_there(path)? {
        Some(bytes) => versioned::decode(&bytes).map_err(|error| {
            error.about(path, "stop all machines of this coordinator and remove the file")
        })?,
        None => State::default(),
    };
    let before = (state.revision, state.leases.clone());
    let expired = state.expire(now);
    let outcome = change(&mut state);
    if expired || before != (state.revision, state.leases.clone()) {
        let bytes = versioned::encode(&state).context("cannot encode the embedded store")?;
        files::write_atomic(path, &bytes, MODE_PRIVATE)?;
    }
    Ok(outcome)
}

/// One machine's connection to an [`Embedded`] coordinator.
pub struct EmbeddedStore {
    coordinator: Embedded,
    lease: Arc<Mutex<Option<u64>>>,
}

#[async_trait]
impl ClaimStore for EmbeddedStore {
    fn describe(&self) -> String {
        match &*self.coordinator.backend {
            Backend::Memory(_) => "the embedded coordinator".to_owned(),
            Backend::File(path) => format!("the embedded coordinator in {}", path.display()),
        }
    }

    fn ttl(&self) -> Duration {
        self.coordinator.ttl
    }

    async fn snapshot(&self) -> Result<View> {
        self.coordinator.change_async(|state| state.view()).await
    }

    async fn watch(&self) -> Result<Box<dyn Changes>> {
        let coordinator = self.coordinator.clone();
        let seen = coordinator.change_async(|state| state.revision).await?;
        Ok(Box::new(EmbeddedChanges { coordinator, seen }))
    }

    async fn write_claim(&self, claim: NewClaim<'_>) -> Result<bool> {
        let NewClaim { machine_id, address, details, replaces } = claim;
        let (machine_id, address, details) = (machine_id.clone(), address.to_owned(), details.clone());
        let (held, ends) = (*self.lease.lock(), (self.coordinator.clock)() + self.coordinator.ttl);
        let (won, lease) = self
            .coordinator
            .change_async(move |state| {
                let lease = held.filter(|held| state.leases.contains_key(held)).unwrap_or_else(|| {
                    state.next_lease += 1;
                    state.next_lease
                });
                state.leases.insert(lease, ends);
                let stored = state.claims.get(&machine_id).map(|claim| (claim.revision, claim.created));
                if stored.map(|(revision, _)| revision) != replaces {
                    return (false, lease);
                }
                state.revision += 1;
                let revision = state.revision;
                let created = stored.map_or(revision, |(_, created)| created);
                state.claims.insert(machine_id, StoredClaim { address, details, created, revision, lease });
                (true, lease)
            })
            .await?;
        *self.lease.lock() = Some(lease);
        Ok(won)
    }

    async fn renew(&self) -> Result<bool> {
        let Some(lease) = *self.lease.lock() else { return Ok(false) };
        let ends = (self.coordinator.clock)() + self.coordinator.ttl;
        let renewed = self
            .coordinator
            .change_async(move |state| match state.leases.get_mut(&lease) {
                Some(stored) => {
                    *stored = ends;
                    true
                }
                None => false,
            })
            .await?;
        if !renewed {
            *self.lease.lock() = None;
        }
        Ok(renewed)
    }

    async fn write_certificate(&self, certificate: &Certificate, replaces: Option<Revision>) -> Result<bool> {
        let certificate = certificate.clone();
        self.coordinator
            .change_async(move |state| {
                let fits = state.certificate.as_ref().map(|(_, revision)| *revision) == replaces;
                if fits {
                    state.revision += 1;
                    state.certificate = Some((certificate, state.revision));
                }
                fits
            })
            .await
    }

    async fn release(&self) -> Result<()> {
        let Some(lease) = self.lease.lock().take() else { return Ok(()) };
        self.coordinator
            .change_async(move |state| {
                state.leases.remove(&lease);
                let before = state.claims.len();
                state.claims.retain(|_, claim| claim.lease != lease);
                if state.claims.len() != before {
                    state.revision += 1;
                }
            })
            .await
    }
}

struct EmbeddedChanges {
    coordinator: Embedded,
    seen: Revision,
}

#[async_trait]
impl Changes for EmbeddedChanges {
    async fn next(&mut self) -> Result<()> {
        loop {
            let revision = self.coordinator.change_async(|state| state.revision).await?;
            if revision != self.seen {
                self.seen = revision;
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{ClaimStore as _, Embedded};

    #[tokio::test]
    async fn the_coordinator_of_the_first_release_is_read_and_a_newer_one_is_refused() {
        let fixture =
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1/bootstrap/coordinator.json");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.json");
        std::fs::copy(fixture, &path).unwrap();
        let open = || Embedded::in_file(&path, Arc::new(|| Duration::ZERO), Duration::from_mins(1)).store();
        let view = open().snapshot().await.unwrap();
        let certificate = view.certificate.unwrap().0;
        assert_eq!(certificate.cluster_id.as_str(), "f2be65fc-b3e1-40f4-8193-5596f3954f6a");
        crate::host::files::write_atomic(&path, br#"{"format": 2}"#, 0o600).unwrap();
        let report = crate::hint::report(&open().snapshot().await.unwrap_err());
        for word in [&*path.display().to_string(), "format 2", "hint: ", "newer version"] {
            assert!(report.contains(word), "{report}");
        }
    }
}
