//! An agent that is not a server: a replica of the discovery part that follows any one server, and writes and
//! fresh reads that are handed to it.
//!
//! With all servers gone the replica still answers, also after a restart (I5). Keys are never kept here.

mod store;
mod stream;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::store::ReplicaFile;
use crate::agent::handle::{
    Consensus, ConsensusState, ConsensusStatus, Freshness, KvRead, NoLeader, Order, OrderError, OrderReply,
    ProposeError, ReadMode, Replica,
};
use crate::agent::rpc::messages::{
    KvReadAnswer, OrderAnswer, ProposeAnswer, ReadIndexAnswer, ReadIndexQuestion,
};
use crate::agent::rpc::{Barrier, Channel, Identity, Method, RpcError, decode, encode};
use crate::host::disk::Disk;
use crate::model::catalog::{Command, KvAnswer, Reply};
use crate::tasks::Spawner;

/// How long a request waits for a server that answers: Consul's `rpc_hold_timeout`.
const HOLD: Duration = Duration::from_secs(7);
/// How long a server may take for a write: its own wait for a leader, then for a majority.
const WRITE_WAIT: Duration = Duration::from_secs(20);
/// How long a server may take for its state.
const STATUS_WAIT: Duration = Duration::from_secs(2);
/// Pause before the same server is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What a client must know to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The disk that the data directory is on.
    pub disk: Arc<dyn Disk>,
    /// Where the replica is kept for the next start; none keeps it in memory only.
    pub data: Option<PathBuf>,
}

/// A running client; clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    replica: Arc<Replica>,
    file: Option<ReplicaFile>,
    servers: watch::Receiver<Vec<SocketAddr>>,
    /// The server that we follow; requests go there.
    server: watch::Sender<Option<Arc<Channel>>>,
    /// What the server last said of its own freshness, and when.
    heard: Mutex<Option<(Instant, Freshness)>>,
    reads_default: Barrier,
    reads_consistent: Barrier,
    spawner: Spawner,
    /// Ends the following, and nothing else.
    retire: CancellationToken,
    retired: CancellationToken,
}

impl Client {
    /// Starts with the replica of the last run, if there is one, and follows one of `servers` (their RPC
    /// addresses, which may change and may be empty for now).
    ///
    /// # Errors
    /// When the folder of the replica cannot be used.
    pub fn open(
        settings: Settings,
        identity: Arc<Identity>,
        replica: Arc<Replica>,
        servers: watch::Receiver<Vec<SocketAddr>>,
        spawner: Spawner,
    ) -> anyhow::Result<Self> {
        let file = settings.data.map(|data| ReplicaFile::open(settings.disk, &data)).transpose()?;
        if let Some(catalog) = file.as_ref().and_then(ReplicaFile::load)
            && identity.cluster().is_none_or(|ours| catalog.cluster() == Some(&ours))
            // A server that has become a client has newer things.
            && catalog.index() > replica.load().index()
        {
            replica.replace(Arc::new(catalog));
        }
        let stop = spawner.stop_token();
        let inner = Arc::new_cyclic(|weak| {
            let (reads_default, task) = barrier(weak, ReadMode::Default, stop.clone());
            spawner.start("default reads", task);
            let (reads_consistent, task) = barrier(weak, ReadMode::Consistent, stop.clone());
            spawner.start("consistent reads", task);
            Inner {
                identity,
                replica,
                file,
                servers,
                server: watch::channel(None).0,
                heard: Mutex::default(),
                reads_default,
                reads_consistent,
                spawner: spawner.clone(),
                retire: CancellationToken::new(),
                retired: CancellationToken::new(),
            }
        });
        spawner.start("replica", stream::run(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// Writes the replica no more; returns when that is so. Questions are still handed to the server that was followed.
    pub async fn stop_following(&self) {
        self.inner.retire.cancel();
        self.inner.retired.cancelled().await;
    }

    /// The address of the server that this client follows now.
    pub fn followed(&self) -> Option<SocketAddr> {
        self.inner.server.borrow().as_ref().map(|channel| channel.address())
    }
}

fn barrier(
    weak: &std::sync::Weak<Inner>,
    mode: ReadMode,
    stop: CancellationToken,
) -> (Barrier, impl Future<Output = anyhow::Result<()>> + Send + use<>) {
    let weak = weak.clone();
    Barrier::new(stop, move |deadline| {
        let inner = weak.upgrade();
        async move {
            let inner = inner.ok_or(NoLeader)?;
            let question = encode(&ReadIndexQuestion { mode }).map_err(|_| NoLeader)?;
            let answer =
                inner.ask(Method::ReadIndex, question, deadline, HOLD, |_| true).await.map_err(|error| {
                    tracing::debug!(%error, "no read index");
                    NoLeader
                })?;
            let read = decode::<ReadIndexAnswer>(&answer).map_err(|_| NoLeader)??;
            let applied = inner.replica.wait_applied(read.discovery);
            tokio::time::timeout_at(deadline, applied).await.map_err(|_| NoLeader)?;
            Ok(read)
        }
    })
}

impl Inner {
    /// Asks the server that we follow; another one when that fails, as long as `again` allows, there is time, and this
    /// machine is a client: nobody watches that server for one that is no client any more.
    async fn ask(
        &self,
        method: Method,
        body: Bytes,
        deadline: Instant,
        wait: Duration,
        again: impl Fn(&RpcError) -> bool,
    ) -> Result<Bytes, RpcError> {
        let mut servers = self.server.subscribe();
        let stop = self.spawner.stop_token();
        let mut last = RpcError::Unreachable("no server is known".to_owned());
        loop {
            let server = servers.borrow_and_update().clone();
            let known = server.is_some();
            if let Some(server) = server {
                let asked = tokio::select! {
                    biased;
                    asked = server.call(method, body.clone(), wait) => asked,
                    // A dead machine does not close its connections; that it is silent shows in the stream.
                    _ = servers.changed() => Err(RpcError::Lost("the server is no longer followed".to_owned())),
                    () = stop.cancelled() => return Err(RpcError::Lost("this machine stops, or is a client no more".to_owned())),
                };
                match asked {
                    Ok(answer) => return Ok(answer),
                    Err(error) if again(&error) => last = error,
                    Err(error) => return Err(error),
                }
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(last);
            }
            let until = if known { deadline.min(now + RETRY_PAUSE) } else { deadline };
            // Whichever comes first, the present server is asked.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(last),
                _ = tokio::time::timeout_at(until, servers.changed()) => {}
            }
        }
    }

    fn freshness(&self) -> Freshness {
        let heard = *self.heard.lock();
        match heard {
            Some((at, freshness)) => {
                let since = at.elapsed();
                Freshness {
                    known_leader: freshness.known_leader && since < stream::SILENCE_MAX,
                    last_contact: freshness.last_contact.saturating_add(since),
                }
            }
            None => Freshness { known_leader: false, last_contact: Duration::MAX },
        }
    }
}

#[async_trait]
impl Consensus for Client {
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::UncommittedShown) {
            let mut catalog = self.inner.replica.snapshot().as_ref().clone();
            let changes = catalog.apply(catalog.index() + 1, &command).changes;
            self.inner.replica.publish(Arc::new(catalog), &changes);
        }
        let body = encode(&command).map_err(|error| ProposeError::Unavailable(error.to_string()))?;
        let deadline = Instant::now() + HOLD;
        let asked = self.inner.ask(Method::Propose, body, deadline, WRITE_WAIT, RpcError::nothing_done).await;
        match asked {
            Ok(answer) => decode::<ProposeAnswer>(&answer)
                .unwrap_or_else(|error| Err(ProposeError::Uncertain(error.to_string())))
                .map(|(_, reply)| reply),
            Err(error) if error.nothing_done() => {
                tracing::debug!(%error, "no server took a write");
                Err(NoLeader.into())
            }
            Err(error) => Err(ProposeError::Uncertain(format!("the server did not answer: {error}"))),
        }
    }

    async fn barrier(&self, mode: ReadMode) -> Result<Freshness, NoLeader> {
        let deadline = Instant::now() + HOLD;
        match mode {
            ReadMode::Stale => return Ok(self.inner.freshness()),
            ReadMode::Default => self.inner.reads_default.wait(deadline).await?,
            ReadMode::Consistent => self.inner.reads_consistent.wait(deadline).await?,
        };
        Ok(Freshness { known_leader: true, last_contact: Duration::ZERO })
    }

    async fn kv_read(&self, read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        let body = encode(&read).map_err(|_| NoLeader)?;
        let wait = HOLD.saturating_mul(2) + read.blocking.map_or(Duration::ZERO, |blocking| blocking.wait);
        let deadline = Instant::now() + HOLD;
        let answer =
            self.inner.ask(Method::KvRead, body, deadline, wait, |_| true).await.map_err(|error| {
                tracing::debug!(%error, "no server read the keys");
                NoLeader
            })?;
        decode::<KvReadAnswer>(&answer).map_err(|_| NoLeader)?
    }

    fn freshness(&self) -> Freshness {
        self.inner.freshness()
    }

    async fn order(&self, order: Order) -> Result<OrderReply, OrderError> {
        let body = encode(&order).map_err(|error| OrderError::Refused(error.to_string()))?;
        let deadline = Instant::now() + HOLD;
        let asked = self.inner.ask(Method::Order, body, deadline, WRITE_WAIT, RpcError::nothing_done).await;
        match asked {
            Ok(answer) => decode::<OrderAnswer>(&answer)
                .unwrap_or_else(|error| Err(OrderError::Refused(error.to_string()))),
            Err(error) if error.nothing_done() => Err(NoLeader.into()),
            Err(error) => Err(OrderError::Refused(format!("the server did not answer: {error}"))),
        }
    }

    async fn status(&self) -> ConsensusStatus {
        let deadline = Instant::now() + STATUS_WAIT;
        let asked = self.inner.ask(Method::Status, Bytes::new(), deadline, STATUS_WAIT, |_| true).await;
        let answered = asked.and_then(|answer| decode::<ConsensusStatus>(&answer).map_err(RpcError::from));
        let applied_index = self.inner.replica.load().index();
        match answered {
            Ok(status) => {
                ConsensusStatus { state: ConsensusState::Client, applied_index, storage: None, ..status }
            }
            Err(error) => {
                tracing::debug!(%error, "no server told its state");
                ConsensusStatus {
                    state: ConsensusState::Client,
                    term: 0,
                    leader_address: None,
                    leader_name: None,
                    last_log_index: 0,
                    last_log_term: None,
                    commit_index: 0,
                    applied_index,
                    peers: Vec::new(),
                    storage: None,
                }
            }
        }
    }
}
