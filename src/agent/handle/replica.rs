//! The catalog as this agent has it: one current snapshot, and wake-ups for those who wait for a resource to change.
//!
//! Readers never wait for writers: a snapshot is taken by pointer. Whoever is not concerned is not woken (I7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::catalog::{Catalog, Changes};

/// What a blocking query waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Any node.
    Nodes,
    /// Any service registration.
    Services,
    /// Any check.
    Checks,
    /// One node or its services (catalog key).
    Node(Arc<str>),
    /// One service: instances, their checks, their nodes (catalog key).
    Service(Arc<str>),
    /// One key.
    Key(Arc<str>),
    /// All keys under a prefix.
    KeyPrefix(Arc<str>),
    /// The table of servers.
    Servers,
}

/// The current catalog and those who wait for its changes.
pub struct Replica {
    current: ArcSwap<Catalog>,
    version: AtomicU64,
    applied: watch::Sender<u64>,
    waiting: Mutex<Waiting>,
    /// Gets what is published here, too.
    downstream: Mutex<Option<Arc<Replica>>>,
}

#[derive(Default)]
struct Waiting {
    /// In order, so that a simulation wakes those who wait in the same order each time.
    exact: BTreeMap<Topic, watch::Sender<()>>,
    prefixes: BTreeMap<Arc<str>, watch::Sender<()>>,
}

impl Default for Replica {
    fn default() -> Self {
        Self::new(Catalog::default())
    }
}

impl Replica {
    /// Starts with a catalog.
    pub fn new(catalog: Catalog) -> Self {
        let (applied, _) = watch::channel(catalog.index());
        Self {
            current: ArcSwap::from_pointee(catalog),
            version: AtomicU64::new(0),
            applied,
            waiting: Mutex::default(),
            downstream: Mutex::default(),
        }
    }

    /// The current catalog, for as long as needed.
    pub fn snapshot(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// The current catalog, for a short read on a hot path.
    pub fn load(&self) -> Guard<Arc<Catalog>> {
        self.current.load()
    }

    /// A number that changes with every change of discovery data: caches compare it.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Makes something that is not in the catalog but in DNS answers (a dead member) count as a change.
    pub fn touch(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Publishes the catalog after one or more applied entries, and wakes those concerned.
    pub fn publish(&self, catalog: Arc<Catalog>, changes: &Changes) {
        let downstream = self.downstream.lock();
        if let Some(other) = &*downstream {
            other.publish(Arc::clone(&catalog), changes);
        }
        let index = catalog.index();
        self.current.store(catalog);
        if changes.node_table || changes.service_table || changes.check_table {
            self.touch();
        }
        self.applied.send_replace(index);
        if !changes.is_empty() {
            self.wake(changes);
        }
    }

    /// Publishes a catalog that replaces the present one (an installed snapshot); everybody is woken.
    pub fn replace(&self, catalog: Arc<Catalog>) {
        let downstream = self.downstream.lock();
        if let Some(other) = &*downstream {
            other.replace(Arc::clone(&catalog));
        }
        let index = catalog.index();
        self.current.store(catalog);
        self.touch();
        self.applied.send_replace(index);
        let waiting = self.waiting.lock();
        for sender in waiting.exact.values().chain(waiting.prefixes.values()) {
            sender.send_replace(());
        }
    }

    /// From now on `other` has what this one has, before waiters here hear of it. Nobody else may publish there, and
    /// this one must not be behind it, or indexes would go backwards.
    pub fn attach(&self, other: Arc<Self>) {
        let mut downstream = self.downstream.lock();
        other.replace(self.snapshot());
        *downstream = Some(other);
    }

    /// Waits until the entry at `index` is in the current catalog.
    pub async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _closed = applied.wait_for(|at| *at >= index).await.is_err();
    }

    /// Watches a topic. Take it before the snapshot that is compared, so that no change is missed.
    pub fn watch(self: &Arc<Self>, topic: Topic) -> Watch {
        let mut waiting = self.waiting.lock();
        let receiver = match &topic {
            Topic::KeyPrefix(prefix) => {
                waiting.prefixes.entry(prefix.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
            }
            topic => waiting.exact.entry(topic.clone()).or_insert_with(|| watch::channel(()).0).subscribe(),
        };
        Watch { receiver, topic, replica: self.clone() }
    }

    /// How many topics are watched; for tests and metrics.
    pub fn watched_topics(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.exact.len() + waiting.prefixes.len()
    }

    fn wake(&self, changes: &Changes) {
        let waiting = self.waiting.lock();
        let wake = |topic: &Topic| {
            if let Some(sender) = waiting.exact.get(topic) {
                sender.send_replace(());
            }
        };
        let tables = [
            (changes.node_table, Topic::Nodes),
            (changes.service_table, Topic::Services),
            (changes.check_table, Topic::Checks),
            (changes.servers, Topic::Servers),
        ];
        for (_, topic) in tables.iter().filter(|(changed, _)| *changed) {
            wake(topic);
        }
        changes.nodes.iter().for_each(|key| wake(&Topic::Node(key.clone())));
        changes.services.iter().for_each(|key| wake(&Topic::Service(key.clone())));
        for key in &changes.keys {
            wake(&Topic::Key(key.clone()));
            for (prefix, sender) in &waiting.prefixes {
                #[cfg(test)]
                if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::WatcherNotWoken) {
                    continue;
                }
                if key.starts_with(&**prefix) {
                    sender.send_replace(());
                }
            }
        }
    }
}

/// One waiter for one topic.
pub struct Watch {
    receiver: watch::Receiver<()>,
    topic: Topic,
    replica: Arc<Replica>,
}

impl Watch {
    /// Waits for the next change of the topic since the watch was taken or this returned.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender went with the last waiter, so we are not the last: cannot happen; never wake falsely.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.replica.waiting.lock();
        // Our own receiver still counts: the last one takes the topic away.
        match &self.topic {
            Topic::KeyPrefix(prefix) => {
                if waiting.prefixes.get(prefix).is_some_and(|sender| sender.receiver_count() <= 1) {
                    waiting.prefixes.remove(prefix);
                }
            }
            topic => {
                if waiting.exact.get(topic).is_some_and(|sender| sender.receiver_count() <= 1) {
                    waiting.exact.remove(topic);
                }
            }
        }
    }
}

/// Runs a blocking query: `read` gives the resource's index and its rows; answers when the index is larger than
/// `min_index` or `wait` is over. `min_index` 0 answers at once. So does one of a cluster that was recovered since: the
/// successor begins with what its founder had, and its indexes may be lower.
pub async fn blocking<T>(
    replica: &Arc<Replica>,
    topic: Topic,
    min_index: u64,
    wait: Duration,
    mut read: impl FnMut(&Catalog) -> (u64, T),
) -> (u64, T) {
    if min_index == 0 {
        return read(&replica.snapshot());
    }
    let deadline = Instant::now() + wait;
    let mut watch = replica.watch(topic);
    let first = replica.snapshot();
    loop {
        let catalog = replica.snapshot();
        let answer = read(&catalog);
        let replaced = first.cluster().is_some_and(|cluster| catalog.cluster() != Some(cluster));
        let is_of_predecessor = catalog.servers().epoch > 0 && catalog.index() < min_index;
        if answer.0 > min_index || replaced || is_of_predecessor {
            return answer;
        }
        if tokio::time::timeout_at(deadline, watch.changed()).await.is_err() {
            return read(&replica.snapshot());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::{Replica, Topic, blocking};
    use crate::model::catalog::{Catalog, Command, Condition, KvQuery, KvWrite};
    use crate::model::names::ClusterId;

    fn write(replica: &Replica, key: &str, value: &str) {
        let mut catalog = replica.snapshot().as_ref().clone();
        let command = Command::KvWrite(KvWrite {
            key: key.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
            flags: 0,
            condition: Condition::None,
        });
        let outcome = catalog.apply(catalog.index() + 1, &command);
        replica.publish(Arc::new(catalog), &outcome.changes);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attached_replica_takes_over_what_is_there_and_all_that_follows_and_wakes_its_readers() {
        let (upstream, shared) = (Arc::new(Replica::default()), Arc::new(Replica::default()));
        write(&upstream, "a", "1");
        let mut watch = shared.watch(Topic::Key("a".into()));
        upstream.attach(shared.clone());
        watch.changed().await;
        write(&upstream, "a", "2");
        watch.changed().await;
        assert_eq!((shared.load().index(), upstream.load().index()), (2, 2));
        shared.wait_applied(2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocking_query_is_answered_when_the_cluster_is_recovered_with_a_lower_index() {
        let of_cluster = |number, index| {
            let mut catalog = Catalog::default();
            catalog.apply(1, &Command::ClusterBorn { cluster_id: ClusterId::from_random(number) });
            catalog.skip_to(index);
            Arc::new(catalog)
        };
        let replica = Arc::new(Replica::default());
        replica.replace(of_cluster(1, 90));
        let read = |catalog: &Catalog| (catalog.index(), catalog.cluster().cloned());
        let topic = Topic::Service("web".into());
        let waiting = blocking(&replica, topic, 90, Duration::from_mins(5), read);
        let recovering = async {
            tokio::task::yield_now().await;
            replica.replace(of_cluster(1, 80));
            tokio::task::yield_now().await;
            replica.replace(of_cluster(2, 80));
        };
        let begin = tokio::time::Instant::now();
        let ((index, cluster), ()) = tokio::join!(waiting, recovering);
        assert_eq!((index, cluster), (80, Some(ClusterId::from_random(2))));
        let topic = Topic::Service("web".into());
        let successor = replica.load().succeeded_by(ClusterId::from_random(3), 1);
        replica.replace(Arc::new(successor));
        let (index, _) = blocking(&replica, topic, 90, Duration::from_mins(5), read).await;
        assert_eq!(index, 80, "who asks later with an index of the cluster before");
        assert!(begin.elapsed() < Duration::from_secs(1), "it was not the wait that ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocking_query_sees_the_change_it_waits_for_and_leaves_no_topic_behind() {
        let replica = Arc::new(Replica::default());
        write(&replica, "a/1", "x");
        let query = KvQuery::List { prefix: "a/".into() };
        let read = |catalog: &Catalog| {
            let answer = catalog.kv_query(&query);
            (answer.index, answer.rows)
        };
        let topic = Topic::KeyPrefix("a/".into());
        let waiting = blocking(&replica, topic.clone(), 1, Duration::from_mins(1), read);
        let writing = async {
            tokio::task::yield_now().await;
            write(&replica, "b", "other");
            tokio::task::yield_now().await;
            write(&replica, "a/2", "y");
        };
        let ((index, _), ()) = tokio::join!(waiting, writing);
        assert_eq!(index, 3);
        assert_eq!(replica.watched_topics(), 0);
        let (index, _) = blocking(&replica, topic, 99, Duration::from_secs(1), read).await;
        assert_eq!(index, 3, "after the wait the answer is what is there");
    }
}
