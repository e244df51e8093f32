//! The replicated state: applies committed entries to the catalog and publishes each new one.
//!
//! Readers see a write before its writer gets the answer. Nothing here decides anything: `Catalog::apply` does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::feed::Feed;
use super::snapshot::SnapshotStore;
use super::types::{LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::agent::handle::Replica;
use crate::agent::rpc::decode;
use crate::model::catalog::{Catalog, Changes, Command, Depth};

/// Entries applied before they are published and answered.
const ENTRIES_TOGETHER_MAX: usize = 512;

/// A routine snapshot waits this many times as long as the last one took: a twentieth of one core at most goes
/// into snapshots, however fast the log grows.
const REST_PER_SNAPSHOT: u32 = 20;

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;

/// The catalog with its position in the log.
pub(super) struct StateMachine {
    catalog: Catalog,
    applied: Option<LogId>,
    membership: StoredMembership,
    replica: Arc<Replica>,
    feed: Arc<Feed>,
    store: SnapshotStore,
    last_build: Arc<Mutex<Option<LastBuild>>>,
    #[cfg(test)]
    number: u64,
}

/// When the last snapshot was done and how long it took.
#[derive(Debug, Clone, Copy)]
struct LastBuild {
    done: Instant,
    took: Duration,
}

impl StateMachine {
    /// Starts from the last snapshot.
    ///
    /// # Errors
    /// When the snapshot is damaged.
    pub(super) fn open(store: SnapshotStore, replica: Arc<Replica>, feed: Arc<Feed>) -> anyhow::Result<Self> {
        let loaded = store.load()?;
        let mut machine = Self {
            catalog: Catalog::default(),
            applied: None,
            membership: StoredMembership::default(),
            replica,
            feed,
            store,
            last_build: Arc::default(),
            #[cfg(test)]
            number: crate::simulation::running::new_machine(),
        };
        if let Some((meta, bytes)) = loaded {
            machine.restore(&meta, Catalog::from_bytes(&bytes)?);
        }
        Ok(machine)
    }

    fn restore(&mut self, meta: &SnapshotMeta, mut catalog: Catalog) {
        if let Some(last) = &meta.last_log_id {
            catalog.skip_to(last.index);
        }
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.feed.restart(catalog.index());
        self.replica.replace(Arc::new(catalog.clone()));
        self.catalog = catalog;
    }

    #[cfg(test)]
    fn tell_simulation(&self, entry: &super::types::Entry) {
        let (command, voters) = match &entry.payload {
            EntryPayload::Normal(proposal) => (Some(proposal.0.clone()), None),
            EntryPayload::Membership(membership) => (None, Some(membership.get_joint_config().clone())),
            EntryPayload::Blank => (None, None),
        };
        let at = (entry.log_id.index, entry.log_id.leader_id.term);
        let cluster = self.catalog.cluster().cloned();
        crate::simulation::running::applied(self.number, cluster, at, command, voters);
    }

    fn publish(&self, changes: &Changes, commands: &mut Vec<(u64, Bytes)>) {
        // First announced, then shown: a fresh read that waited for the entry here says by the feed up to where a
        // client has to wait.
        self.feed.push(commands.drain(..), self.catalog.index());
        self.replica.publish(Arc::new(self.catalog.clone()), changes);
    }
}

/// What a snapshot is made of.
pub(super) struct Builder {
    catalog: Catalog,
    meta: SnapshotMeta,
    store: SnapshotStore,
    last_build: Arc<Mutex<Option<LastBuild>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let begin = Instant::now();
        let (catalog, meta) = (self.catalog.clone(), self.meta.clone());
        let bytes = self.store.off_thread(move |_| catalog.to_bytes(Depth::Full).map_err(io::Error::other));
        let snapshot = Bytes::from(bytes.await?);
        self.store.save_patiently(&meta, &snapshot).await?;
        let built = Snapshot { meta, snapshot };
        *self.last_build.lock() = Some(LastBuild { done: Instant::now(), took: begin.elapsed() });
        Ok(built)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut commands = Vec::new();
        let mut changes = Changes::default();
        loop {
            let next = entries.next().await.transpose()?;
            let ended = next.is_none();
            if let Some((entry, responder)) = next {
                let index = entry.log_id.index;
                #[cfg(test)]
                self.tell_simulation(&entry);
                let reply = match entry.payload {
                    EntryPayload::Blank => Reply::Nothing,
                    EntryPayload::Membership(membership) => {
                        self.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Reply::Nothing
                    }
                    EntryPayload::Normal(proposal) => {
                        let command: Command = decode(&proposal.0).map_err(|error| {
                            let text =
                                format!("entry {index} of the log is not a command that this version knows");
                            io::Error::new(io::ErrorKind::InvalidData, format!("{text}: {error}"))
                        })?;
                        let mut outcome = self.catalog.apply(index, &command);
                        if !command.is_kv() {
                            commands.push((index, proposal.0));
                        }
                        changes.merge(std::mem::take(&mut outcome.changes));
                        Reply::Applied(outcome.result)
                    }
                };
                self.catalog.skip_to(index);
                self.applied = Some(entry.log_id);
                answers.push((responder, reply));
            }
            if answers.len() >= ENTRIES_TOGETHER_MAX || (ended && !answers.is_empty()) {
                self.publish(&std::mem::take(&mut changes), &mut commands);
                for (responder, reply) in answers.drain(..) {
                    if let Some(responder) = responder {
                        responder.send(reply);
                    }
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        let due = self
            .last_build
            .lock()
            .is_none_or(|last| last.done.elapsed() >= last.took.saturating_mul(REST_PER_SNAPSHOT));
        if force || due { Some(self.get_snapshot_builder().await) } else { None }
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        Builder {
            catalog: self.catalog.clone(),
            meta,
            store: self.store.clone(),
            last_build: Arc::clone(&self.last_build),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let bytes = snapshot.clone();
        let decoded = self.store.off_thread(move |_| Catalog::from_bytes(&bytes).map_err(io::Error::other));
        let catalog = decoded.await?;
        self.store.save_patiently(meta, &snapshot).await?;
        self.restore(meta, catalog);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let loaded = self.store.off_thread(|store| store.load().map_err(io::Error::other)).await?;
        Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::StateMachine;
    use crate::agent::consensus::feed::Feed;
    use crate::agent::consensus::snapshot::SnapshotStore;
    use crate::agent::handle::Replica;
    use crate::model::catalog::Changes;

    /// Entries that one thread publishes while another looks: enough for many looks between the two halves of one.
    const ENTRIES: u64 = 100_000;

    #[test]
    fn whoever_sees_an_entry_finds_that_those_who_follow_are_told_to_wait_for_it() {
        let (replica, feed) = (Arc::new(Replica::default()), Arc::new(Feed::default()));
        let store = SnapshotStore::in_memory();
        let mut machine = StateMachine::open(store, Arc::clone(&replica), Arc::clone(&feed)).unwrap();
        let discovery = feed.discovery();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for index in 1..=ENTRIES {
                    machine.catalog.skip_to(index);
                    machine.publish(&Changes::default(), &mut vec![(index, Bytes::new())]);
                }
            });
            let mut seen = 0;
            while seen < ENTRIES {
                seen = replica.load().index();
                let announced = *discovery.borrow();
                assert!(announced >= seen, "entry {seen} is shown, and announced is {announced}");
            }
        });
    }
}
