//! A server: opens its data, starts raft, keeps an eye on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::data::{Data, open_data};
use super::directory::Directory;
use super::feed::Feed;
use super::full_disk;
use super::log::{Log, Room, Space};
use super::network::{Channels, Networks};
use super::service::Service;
use super::snapshot::SnapshotStore;
use super::state_machine::StateMachine;
use super::types::{LogId, NodeId, Peer, Raft};
use crate::agent::handle::{ReadMode, Replica, Steward};
use crate::agent::rpc::{Barrier, Hello, Identity, Method, RemoteError, Router, encode};
use crate::hint::WithHint as _;
use crate::host::disk::Disk;
use crate::host::outside::{blocking, random_share};
use crate::model::catalog::Command;
use crate::model::names::ClusterId;
use crate::tasks::Spawner;

/// Time between heartbeats of the leader. Two of three may be lost or late before its lease ends, three of four
/// before anyone asks for votes. Openraft wakes up five times as often, which is most of what an idle server does.
const HEARTBEAT: Duration = Duration::from_millis(130);
/// A follower doubts the leader after [`ELECTION_MAX`] of silence and asks for votes a random time between
/// these later: the next leader is there 0.5 to 0.8 s after the death of the old one. If two ask at the same moment and
/// neither wins, they ask again so much later, and the first write still keeps its goal of 1.2 s.
const ELECTION_MIN: Duration = Duration::from_millis(160);
/// See [`ELECTION_MIN`]. Also how long a leader may answer reads on its lease.
pub(super) const ELECTION_MAX: Duration = Duration::from_millis(400);
/// Entries after which a snapshot is made: replaying this many takes a fraction of a second.
const SNAPSHOT_ENTRIES: u64 = 16_384;
/// Entries kept behind a snapshot, so that a server that was away for a moment needs no snapshot.
const ENTRIES_KEPT: u64 = 10_000;
/// A server that lags more than this gets a snapshot; must exceed [`SNAPSHOT_ENTRIES`].
const LAG_ENTRIES_MAX: u64 = 40_000;
/// Bytes of commands in the log (and so in memory) above which it is compacted whatever their number.
const LOG_BYTES_MAX: usize = 64 << 20;
/// How long a snapshot may take on its way.
const SNAPSHOT_WAIT: Duration = Duration::from_mins(1);
/// Entries in one message of replication; their bytes are limited by the log's reader.
const ENTRIES_TOGETHER_MAX: u64 = 512;
/// Time between looks at raft's health and the log's size.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Pause before the birth of a cluster is proposed again.
const BIRTH_RETRY: Duration = Duration::from_millis(50);
/// Without a word from the leader for this long a follower says that it knows none: more than the time after
/// which it would ask for votes.
pub(super) const LEADER_SILENCE_MAX: Duration = Duration::from_secs(1);

/// What a server must know to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The disk that the data directory is on.
    pub disk: Arc<dyn Disk>,
    /// The data directory; none keeps everything in memory (`-dev`).
    pub data: Option<PathBuf>,
    /// Name, RPC address and incarnation of this machine. The raft id is the [`Identity`]'s.
    pub peer: Peer,
}

/// The leader, as far as this server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its raft id.
    pub id: NodeId,
    /// Its name and RPC address.
    pub peer: Peer,
    /// Whether it is this server.
    pub here: bool,
}

/// A running server; clones share it.
#[derive(Clone)]
pub struct Server {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) raft: Raft,
    pub(super) identity: Arc<Identity>,
    pub(super) replica: Arc<Replica>,
    pub(super) feed: Arc<Feed>,
    pub(super) channels: Arc<Channels>,
    pub(super) leader: watch::Sender<Option<Leader>>,
    pub(super) spawner: Spawner,
    /// When the leader was last heard.
    pub(super) contact: Mutex<Option<Instant>>,
    pub(super) reads_default: Barrier,
    pub(super) reads_consistent: Barrier,
    pub(super) steward: Mutex<Option<Arc<dyn Steward>>>,
    /// See [`silence_after_start`].
    votes_from: Instant,
    pub(super) store: SnapshotStore,
    pub(super) space: watch::Receiver<Space>,
    /// The folder that needs room, for people.
    pub(super) folder: String,
    /// Why the disk takes no more, for people.
    pub(super) storage: watch::Sender<Option<String>>,
    /// The lead is being handed over, for lack of room.
    pub(super) handing_over: AtomicBool,
    /// No other server can lead in the place of this one, which has no room.
    pub(super) alone: AtomicBool,
    /// For a planted fault: the last entry that a writer was told of, and the catalog then.
    #[cfg(test)]
    pub(super) told: Mutex<Option<(LogId, Arc<crate::model::catalog::Catalog>)>>,
    log: Log,
    directory: Mutex<Option<Directory>>,
}

impl Server {
    /// Opens the data and starts raft. A server that never was in a cluster waits for [`Server::initialize`] or
    /// for a leader that takes it in. From now on `router` answers for it.
    ///
    /// # Errors
    /// When the data directory is in use, damaged, or of another node or cluster.
    pub async fn open(
        settings: Settings,
        identity: Arc<Identity>,
        replica: Arc<Replica>,
        router: &Router,
        spawner: Spawner,
    ) -> anyhow::Result<Self> {
        let folder = settings.data.as_ref().map(|data| data.display().to_string()).unwrap_or_default();
        let (directory, log, store): Data = open_data(&settings, &identity)?;
        let feed = Arc::new(Feed::default());
        let machine = StateMachine::open(store.clone(), Arc::clone(&replica), Arc::clone(&feed))?;
        let channels = Channels::new(Arc::clone(&identity), spawner.clone());
        let config = Arc::new(config().validate().context("the timing of elections is inconsistent")?);
        let networks = Networks(Arc::clone(&channels));
        let raft = Raft::new(identity.node(), config, networks, log.clone(), machine)
            .await
            .context("cannot start raft")?;
        let votes_from = Instant::now() + silence_after_start(&raft).await?;
        start_elections(&raft, votes_from, &spawner);
        let stop = spawner.stop_token();
        let inner = Arc::new_cyclic(|weak: &std::sync::Weak<Inner>| {
            let ask = |mode: ReadMode| {
                let weak = weak.clone();
                move |deadline| {
                    let inner = weak.upgrade();
                    async move {
                        match inner {
                            Some(inner) => inner.read_index(mode, deadline).await,
                            None => Err(crate::agent::handle::NoLeader),
                        }
                    }
                }
            };
            let (reads_default, task) = Barrier::new(stop.clone(), ask(ReadMode::Default));
            spawner.start("default reads", task);
            let (reads_consistent, task) = Barrier::new(stop.clone(), ask(ReadMode::Consistent));
            spawner.start("consistent reads", task);
            Inner {
                raft,
                identity,
                replica,
                feed,
                channels,
                leader: watch::channel(None).0,
                spawner: spawner.clone(),
                contact: Mutex::new(None),
                reads_default,
                reads_consistent,
                steward: Mutex::default(),
                votes_from,
                store,
                space: log.space(),
                folder,
                storage: watch::channel(None).0,
                handing_over: AtomicBool::new(false),
                alone: AtomicBool::new(false),
                #[cfg(test)]
                told: Mutex::default(),
                log,
                directory: Mutex::new(directory),
            }
        });
        inner.see_leader();
        spawner.start("consensus", Arc::clone(&inner).run());
        router.set_consensus(Service::new(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// Begins a new cluster with exactly these voters. Every one of them may call this, with the same members;
    /// where raft has begun already it does nothing.
    ///
    /// # Errors
    /// When this server belongs to another cluster, or is not among the members.
    pub async fn initialize(
        &self,
        cluster: &ClusterId,
        members: BTreeMap<NodeId, Peer>,
    ) -> anyhow::Result<()> {
        self.inner.adopt(cluster)?;
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error).context("cannot begin the cluster"),
        }
    }

    /// Whether raft has begun here: there is a vote or an entry.
    ///
    /// # Errors
    /// When raft has stopped.
    pub async fn is_initialized(&self) -> anyhow::Result<bool> {
        self.inner.raft.is_initialized().await.context("raft has stopped")
    }

    /// The leader as it changes.
    pub fn leader_changes(&self) -> watch::Receiver<Option<Leader>> {
        self.inner.leader.subscribe()
    }
}

fn config() -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "corediscover".to_owned(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        install_snapshot_timeout: millis(SNAPSHOT_WAIT),
        max_payload_entries: ENTRIES_TOGETHER_MAX,
        replication_lag_threshold: LAG_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        enable_pre_vote: Some(true),
        // A leader that was killed and is back at once would lead on in its old term without an entry that proves how
        // far the majority is, and answer reads as of what it had noted on disk, before writes that it acknowledged.
        // Entries leave for the followers before they are on our own disk. A leader that was killed meanwhile must not
        // lead on in its term: it would write other entries in the place of those that it has lost.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    // Histories of seconds shall see snapshots, and followers that need one.
    #[cfg(test)]
    let config = if crate::simulation::running::is_on() {
        Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(48),
            max_in_snapshot_log_to_keep: 24,
            replication_lag_threshold: 64,
            ..config
        }
    } else {
        config
    };
    config
}

/// For how long a server that has just started neither votes nor asks for votes.
///
/// A leader answers reads without asking anybody as long as a majority was with it less than [`ELECTION_MAX`] ago,
/// because that majority elects nobody else meanwhile. Raft does not remember over a restart when it heard its leader,
/// so a voter that was quickly restarted could help another one to the lead while the old leader still answers.
async fn silence_after_start(raft: &Raft) -> anyhow::Result<Duration> {
    let voters = raft.with_raft_state(|state| state.membership_state.effective().voter_ids().count()).await;
    // Blank servers have promised nothing, and one that votes alone promised it to nobody else.
    Ok(if voters.context("raft has stopped")? > 1 { ELECTION_MAX } else { Duration::ZERO })
}

/// Lets this server ask for votes from `votes_from` on; not all servers of a restarted cluster at the same moment.
fn start_elections(raft: &Raft, votes_from: Instant, spawner: &Spawner) {
    if votes_from <= Instant::now() {
        return;
    }
    raft.runtime_config().elect(false);
    let begin = votes_from + ELECTION_MIN.mul_f64(random_share());
    let raft = raft.clone();
    spawner.start_short("first election", async move {
        tokio::time::sleep_until(begin).await;
        raft.runtime_config().elect(true);
    });
}

impl Inner {
    /// Takes `cluster` as ours for good, on disk first.
    pub(super) fn adopt(&self, cluster: &ClusterId) -> anyhow::Result<()> {
        let directory = self.directory.lock();
        match self.identity.cluster() {
            Some(ours) if ours == *cluster => {}
            Some(ours) => bail!("this server belongs to cluster {ours}, not to {cluster}"),
            None => {}
        }
        if let Some(directory) = &*directory {
            let known = directory.owner()?.and_then(|owner| owner.cluster);
            if known.as_ref() != Some(cluster) {
                directory.set_owner(self.identity.node(), Some(cluster.clone()))?;
            }
        }
        self.identity.adopt(cluster);
        Ok(())
    }

    /// Lets only members of our cluster speak raft. An elected leader takes a server without a cluster into its
    /// own. A mere candidate does not: its cluster may never be born, and who was not bound to it by
    /// [`Server::initialize`] must not help (I1).
    pub(super) fn admit(&self, peer: &Hello, method: Method) -> Result<(), RemoteError> {
        let refused = |text: String| Err(RemoteError::Unavailable(text));
        if matches!(method, Method::RaftVote | Method::RaftPreVote) && Instant::now() < self.votes_from {
            return refused(
                "this server has just started and may have promised its vote to a leader".to_owned(),
            );
        }
        if peer.cluster.as_ref().is_some_and(|theirs| self.identity.is_of(theirs)) {
            return Ok(());
        }
        match (self.identity.cluster(), &peer.cluster) {
            (None, Some(theirs)) if matches!(method, Method::RaftAppend | Method::RaftSnapshot) => {
                self.adopt(theirs).map_err(|error| RemoteError::Unavailable(format!("{error:#}")))
            }
            (Some(ours), Some(theirs)) => refused(format!("{theirs} is not our cluster {ours}")),
            (None, Some(theirs)) => refused(format!("we are not bound to cluster {theirs}")),
            (_, None) => refused(format!("{} is in no cluster", peer.name)),
        }
    }

    async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let stop = self.spawner.stop_token();
        let mut changes = self.raft.server_metrics();
        let mut look = tokio::time::interval(LOOK_PAUSE);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut compacted = None;
        let mut room = full_disk::Watch::default();
        let mut space = self.space.clone();
        let ended = loop {
            self.see_leader();
            self.mind_the_room(&mut room);
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                // In memory (`-dev`) nothing changes it.
                Ok(()) = space.changed() => {}
                changed = changes.changed() => if changed.is_err() { break self.health() },
                _ = look.tick() => {
                    if let Err(error) = self.health() { break Err(error) }
                    self.compact(&mut compacted).await;
                }
            }
        };
        self.store.close();
        if self.space.borrow().room == Room::Stuck {
            // Raft may be waiting for what waits for room.
            self.log.give_up();
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        let log = self.log.clone();
        blocking(move || log.close()).await.context("the log did not close")?;
        #[cfg(test)]
        self.log.written().await;
        *self.directory.lock() = None;
        ended
    }

    fn health(&self) -> anyhow::Result<()> {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        state.context("raft has stopped").hint(
            "if the disk is broken, replace it and start the agent again: what was acknowledged is on the other servers",
        )
    }

    /// Publishes the leader when it has changed.
    fn see_leader(self: &Arc<Self>) {
        let now = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics.current_leader.and_then(|id| {
                let peer = metrics.membership_config.membership().get_node(&id)?.clone();
                Some(Leader { id, peer, here: id == self.identity.node() })
            })
        };
        let changed = self.leader.send_if_modified(|leader| {
            let changed = *leader != now;
            leader.clone_from(&now);
            changed
        });
        let leads = now.as_ref().is_some_and(|leader| leader.here);
        if changed {
            tracing::info!(leader = now.as_ref().map(|leader| leader.peer.name.as_str()), "leader");
        }
        if changed && leads {
            self.spawner.start_short("cluster birth", Arc::clone(self).give_birth());
        }
    }

    /// As the first leader of a new cluster: says so in the log.
    async fn give_birth(self: Arc<Self>) {
        loop {
            let leads = self.leader.borrow().as_ref().is_some_and(|leader| leader.here);
            let (true, Some(cluster_id)) = (leads, self.identity.cluster()) else { return };
            match self.try_birth(cluster_id).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(error = format!("{error:#}"), "the cluster is not born yet"),
            }
            tokio::time::sleep(BIRTH_RETRY).await;
        }
    }

    async fn try_birth(&self, cluster_id: ClusterId) -> anyhow::Result<()> {
        self.read_index(ReadMode::Default, Instant::now() + ELECTION_MAX).await?;
        if self.replica.load().cluster().is_none() {
            self.propose_here(encode(&Command::ClusterBorn { cluster_id })?).await?;
        }
        Ok(())
    }

    /// Compacts a log that holds few but large entries.
    async fn compact(&self, last: &mut Option<LogId>) {
        if self.log.bytes() <= LOG_BYTES_MAX {
            return;
        }
        let (snapshot, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot, metrics.last_applied)
        };
        let trigger = self.raft.trigger();
        let begun = if *last == applied { Ok(()) } else { trigger.snapshot().await };
        *last = applied;
        let purged = match snapshot {
            Some(snapshot) => trigger.purge_log(snapshot.index).await,
            None => Ok(()),
        };
        if let Err(error) = begun.and(purged) {
            tracing::warn!(%error, "the log cannot be compacted");
        }
    }
}
