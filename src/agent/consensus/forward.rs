//! Writes and fresh reads: here when this server leads, else at the leader, with patience while there is none.
//!
//! A write is never sent twice unless it certainly was not done before. When the leader goes away between the
//! question and the answer the writer hears [`ProposeError::Uncertain`]: whoever wrote a check-and-set must
//! read before writing again; whoever wrote something that may be repeated may repeat it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::error::{ClientWriteError, RaftError};
use tokio::time::Instant;

use super::server::{Inner, LEADER_SILENCE_MAX, Leader, Server};
use super::types::{Proposal, Reply};
use crate::agent::handle::{
    Consensus, ConsensusStatus, Freshness, KvRead, NoLeader, Order, OrderError, OrderReply, ProposeError,
    ReadMode, Topic, blocking,
};
use crate::agent::rpc::messages::{
    KvReadAnswer, ProposeAnswer, ReadIndex, ReadIndexAnswer, ReadIndexQuestion,
};
use crate::agent::rpc::{Method, RpcError, decode, encode};
use crate::model::catalog::{self, Command, KvAnswer, KvQuery};

/// How long writes and reads wait for a leader: Consul's `rpc_hold_timeout`.
pub(super) const HOLD: Duration = Duration::from_secs(7);
/// How long a majority may take for a write before the writer is told that its fate is uncertain.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How long the leader may take for a read index, which asks a majority once.
const READ_WAIT: Duration = Duration::from_secs(2);
/// How long a leader that was replaced may still take for its answer: a handed over leadership is answered
/// within milliseconds, a dead machine never.
const REPLACED_WAIT: Duration = Duration::from_millis(250);
/// Pause before a leader that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

impl Inner {
    /// Writes an encoded command, here or at the leader.
    pub(super) async fn propose(&self, command: Bytes) -> ProposeAnswer {
        let deadline = Instant::now() + HOLD;
        let stop = self.spawner.stop_token();
        let mut leaders = self.leader.subscribe();
        loop {
            let leader = leaders.borrow_and_update().clone();
            let tried = match &leader {
                Some(leader) if leader.here => self.propose_here(command.clone()).await,
                Some(leader) => self.propose_at(leader, command.clone()).await,
                None => Err(NoLeader.into()),
            };
            match tried {
                Err(ProposeError::NoLeader(_)) if Instant::now() < deadline => {}
                tried => return tried,
            }
            tokio::select! {
                biased;
                // A server that has ended hears of no leader any more: what the machine is now takes the write.
                () = stop.cancelled() => return Err(NoLeader.into()),
                () = wait_for_change(&mut leaders, leader.is_some(), deadline) => {}
            }
        }
    }

    async fn propose_at(&self, leader: &Leader, command: Bytes) -> ProposeAnswer {
        let channel = self.channels.to(leader.id, &leader.peer);
        let asked = tokio::select! {
            biased;
            asked = channel.call(Method::ProposeHere, command, WRITE_WAIT) => asked,
            () = self.replaced(leader, REPLACED_WAIT) => Err(RpcError::Lost("it was replaced".to_owned())),
        };
        match asked {
            Ok(answer) => {
                decode(&answer).unwrap_or_else(|error| Err(ProposeError::Uncertain(error.to_string())))
            }
            Err(error) if error.nothing_done() => {
                tracing::debug!(leader = %leader.peer.name, %error, "the leader did not take a write");
                Err(NoLeader.into())
            }
            Err(error) => Err(ProposeError::Uncertain(format!("the leader did not answer: {error}"))),
        }
    }

    /// Ends some time after another server has taken the lead: a dead machine does not close its connections.
    async fn replaced(&self, leader: &Leader, patience: Duration) {
        let mut leaders = self.leader.subscribe();
        let other = leaders.wait_for(|now| now.as_ref().is_some_and(|now| now.id != leader.id));
        // The sender lives as long as `self`, so this cannot fail.
        let _closed = other.await.is_err();
        tokio::time::sleep(patience).await;
    }

    /// Writes an encoded command if this server leads; otherwise nothing was done.
    pub(super) async fn propose_here(&self, command: Bytes) -> ProposeAnswer {
        self.admit_write(&command)?;
        let write = tokio::time::timeout(WRITE_WAIT, self.raft.client_write(Proposal(command)));
        match write.await {
            #[cfg(test)]
            Ok(Ok(written)) if self.leaves_untold(written.log_id) => {
                Err(ProposeError::Uncertain("a planted fault".to_owned()))
            }
            Ok(Ok(written)) => match written.data {
                Reply::Applied(Ok(reply)) => Ok((written.log_id.index, reply)),
                Reply::Applied(Err(error)) => Err(ProposeError::Rejected(error)),
                Reply::Nothing => Ok((written.log_id.index, catalog::Reply::Done)),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(NoLeader.into()),
            Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => {
                Err(ProposeError::Uncertain("leadership lost while committing log".to_owned()))
            }
            Ok(Err(error)) => Err(ProposeError::Uncertain(error.to_string())),
            Err(_) => Err(ProposeError::Uncertain(format!(
                "a majority did not take the write within {WRITE_WAIT:?}"
            ))),
        }
    }

    /// An index that everything acknowledged so far is at or below of, applied here when this returns.
    pub(super) async fn read_index(&self, mode: ReadMode, deadline: Instant) -> ReadIndexAnswer {
        let mut leaders = self.leader.subscribe();
        loop {
            let leader = leaders.borrow_and_update().clone();
            let tried = match &leader {
                Some(leader) if leader.here => self.read_index_here(mode).await,
                Some(leader) => self.read_index_at(leader, mode).await,
                None => Err(NoLeader),
            };
            if let Ok(index) = tried {
                tokio::time::timeout_at(deadline, self.replica.wait_applied(index))
                    .await
                    .map_err(|_| NoLeader)?;
                let discovery = *self.feed.discovery().borrow();
                return Ok(ReadIndex { index, discovery });
            }
            if Instant::now() >= deadline {
                return Err(NoLeader);
            }
            wait_for_change(&mut leaders, leader.is_some(), deadline).await;
        }
    }

    async fn read_index_at(&self, leader: &Leader, mode: ReadMode) -> Result<u64, NoLeader> {
        let question = encode(&ReadIndexQuestion { mode }).map_err(|_| NoLeader)?;
        let channel = self.channels.to(leader.id, &leader.peer);
        let asked = tokio::select! {
            biased;
            asked = channel.call(Method::ReadIndexHere, question, READ_WAIT) => asked,
            () = self.replaced(leader, Duration::ZERO) => Err(RpcError::Lost("it was replaced".to_owned())),
        };
        let answer = asked.map_err(|error| {
            tracing::debug!(leader = %leader.peer.name, %error, "the leader gave no read index");
            NoLeader
        })?;
        decode::<ReadIndexAnswer>(&answer).map_err(|_| NoLeader)?.map(|read| read.index)
    }

    /// The read index if this server leads.
    pub(super) async fn read_index_here(&self, mode: ReadMode) -> Result<u64, NoLeader> {
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::ReadWithoutLease) {
            return Ok(self.replica.load().index());
        }
        let policy = match mode {
            ReadMode::Consistent => ReadPolicy::ReadIndex,
            ReadMode::Default | ReadMode::Stale => ReadPolicy::LeaseRead,
        };
        let asked = tokio::time::timeout(READ_WAIT, self.raft.get_read_linearizer(policy)).await;
        let linearizer = asked.map_err(|_| NoLeader)?.map_err(|error| {
            tracing::debug!(%error, "no read index");
            NoLeader
        })?;
        Ok(linearizer.read_log_id().index())
    }

    /// How fresh our replica is.
    pub(super) fn freshness(&self) -> Freshness {
        match &*self.leader.borrow() {
            Some(leader) if leader.here => Freshness { known_leader: true, last_contact: Duration::ZERO },
            leader => {
                let last_contact = self.contact.lock().map_or(Duration::MAX, |at| at.elapsed());
                Freshness {
                    known_leader: leader.is_some() && last_contact < LEADER_SILENCE_MAX,
                    last_contact,
                }
            }
        }
    }

    /// Waits until the replica is as fresh as asked.
    pub(super) async fn barrier(&self, mode: ReadMode) -> Result<Freshness, NoLeader> {
        let deadline = Instant::now() + HOLD;
        match mode {
            ReadMode::Stale => {}
            ReadMode::Default => drop(self.reads_default.wait(deadline).await?),
            ReadMode::Consistent => drop(self.reads_consistent.wait(deadline).await?),
        }
        Ok(self.freshness())
    }

    /// Reads keys from our replica.
    pub(super) async fn kv_read(&self, read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        if let Some(leader) = self.read_instead(read.mode) {
            return self.kv_read_at(&leader, &read).await;
        }
        self.barrier(read.mode).await?;
        let query = &read.query;
        #[cfg(test)]
        if let (None, Some(told)) = (&read.blocking, self.only_told(read.mode)) {
            return Ok((told.kv_query(query), self.freshness()));
        }
        let answer = match read.blocking {
            None => self.replica.load().kv_query(query),
            Some(wanted) => {
                let look = |catalog: &catalog::Catalog| {
                    let answer = catalog.kv_query(query);
                    (answer.index, answer)
                };
                let stop = self.spawner.stop_token();
                let change = blocking(&self.replica, topic_of(query), wanted.index, wanted.wait, look);
                tokio::select! {
                    // A server that ends (it may become a client) has no say about keys.
                    biased;
                    () = stop.cancelled() => return Err(NoLeader),
                    (_, answer) = change => answer,
                }
            }
        };
        Ok((answer, self.freshness()))
    }
}

impl Inner {
    /// Reads keys at the leader, where this server cannot keep up.
    async fn kv_read_at(&self, leader: &Leader, read: &KvRead) -> KvReadAnswer {
        let question = encode(read).map_err(|_| NoLeader)?;
        let wait = read.blocking.map_or(Duration::ZERO, |blocking| blocking.wait) + HOLD;
        let channel = self.channels.to(leader.id, &leader.peer);
        let answer = channel.call(Method::KvRead, question, wait).await.map_err(|error| {
            tracing::debug!(leader = %leader.peer.name, %error, "the leader did not read the keys");
            NoLeader
        })?;
        decode::<KvReadAnswer>(&answer).map_err(|_| NoLeader)?
    }
}

fn topic_of(query: &KvQuery) -> Topic {
    match query {
        KvQuery::Get { key } => Topic::Key(key.as_str().into()),
        KvQuery::List { prefix } | KvQuery::Keys { prefix, .. } => Topic::KeyPrefix(prefix.as_str().into()),
    }
}

/// Waits for another leader; not for long when there is one that may just be slow.
pub(super) async fn wait_for_change(
    leaders: &mut tokio::sync::watch::Receiver<Option<Leader>>,
    known: bool,
    deadline: Instant,
) {
    let until = if known { deadline.min(Instant::now() + RETRY_PAUSE) } else { deadline };
    // Whichever comes first, the leader is looked at again.
    drop(tokio::time::timeout_at(until, leaders.changed()).await);
}

impl Server {
    /// Writes what this server has decided as the leader. Another leader has not: it is not asked to write it.
    ///
    /// # Errors
    /// When this server does not lead, or it is not certain that it was written.
    pub async fn propose_here(&self, command: Command) -> Result<(), ProposeError> {
        let bytes = encode(&command).map_err(|error| ProposeError::Unavailable(error.to_string()))?;
        self.inner.propose_here(bytes).await.map(drop)
    }
}

#[async_trait]
impl Consensus for Server {
    async fn propose(&self, command: Command) -> Result<catalog::Reply, ProposeError> {
        let bytes = encode(&command).map_err(|error| ProposeError::Unavailable(error.to_string()))?;
        self.inner.propose(bytes).await.map(|(_, reply)| reply)
    }

    async fn barrier(&self, mode: ReadMode) -> Result<Freshness, NoLeader> {
        self.inner.barrier(mode).await
    }

    async fn kv_read(&self, read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        self.inner.kv_read(read).await
    }

    fn freshness(&self) -> Freshness {
        self.inner.freshness()
    }

    async fn status(&self) -> ConsensusStatus {
        self.inner.status()
    }

    async fn order(&self, order: Order) -> Result<OrderReply, OrderError> {
        self.inner.order(order).await
    }
}
