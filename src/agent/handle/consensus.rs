//! What the replicated log offers to the other parts, on servers and on other agents alike.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Order, OrderError, OrderReply};
use crate::model::catalog::{CatalogError, Command, KvAnswer, KvQuery, Reply};
use crate::model::names::ClusterId;

/// How fresh a read must be (Consul's consistency modes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadMode {
    /// What the local replica has, leader or not.
    Stale,
    /// At least what the leader had committed when the read began.
    Default,
    /// As default, and a majority confirmed the leader.
    Consistent,
}

/// How fresh an answer is: the `X-Consul-KnownLeader` and `X-Consul-LastContact` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// Whether the answering server knows a leader.
    pub known_leader: bool,
    /// Since it heard of the leader; zero on the leader.
    pub last_contact: Duration,
}

/// There is no leader, and the hold time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("No cluster leader")]
pub struct NoLeader;

/// Why a command was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeError {
    /// Not written; it may be tried again.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// Written and refused; the state did not change.
    #[error(transparent)]
    Rejected(#[from] CatalogError),
    /// Unknown whether it was or will be written (the leader went away while it was asked).
    #[error("{0}")]
    Uncertain(String),
    /// This server cannot write (disk full, limits); nothing was written.
    #[error("{0}")]
    Unavailable(String),
}

/// A read of keys that may be forwarded to a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvRead {
    /// What is read.
    pub query: KvQuery,
    /// How fresh.
    pub mode: ReadMode,
    /// Wait for a change first.
    pub blocking: Option<KvBlocking>,
}

/// A blocking query: answer when the index is larger than `index`, or after `wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvBlocking {
    /// The index that the client has.
    pub index: u64,
    /// Longest time to wait, jitter included.
    pub wait: Duration,
}

/// What this agent's part in consensus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsensusState {
    /// A voter that leads.
    Leader,
    /// A voter that follows.
    Follower,
    /// A voter that asks for votes.
    Candidate,
    /// A server that does not vote (yet).
    Learner,
    /// Not a server.
    Client,
}

/// A server of the raft configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The raft id, derived from the machine's incarnation.
    pub id: u64,
    /// The server's node name.
    pub name: String,
    /// Address of its RPC, `ip:8300`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// The incarnation of its disk, which is its node id.
    #[serde(default)]
    pub incarnation: String,
}

/// A view of consensus for people, `status/*` and `info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusStatus {
    /// What we are.
    pub state: ConsensusState,
    /// Raft term.
    pub term: u64,
    /// `ip:8300` of the leader.
    pub leader_address: Option<String>,
    /// Its node name.
    pub leader_name: Option<String>,
    /// Index of the last entry in the log.
    pub last_log_index: u64,
    /// The term that it was written in; a server of the first release does not tell it.
    #[serde(default)]
    pub last_log_term: Option<u64>,
    /// Index up to which a majority has it.
    pub commit_index: u64,
    /// Index up to which it is applied here.
    pub applied_index: u64,
    /// The servers.
    pub peers: Vec<Peer>,
    /// Why this server cannot keep what is written, for people: its disk is full.
    #[serde(default)]
    pub storage: Option<String>,
}

/// The replicated log as the other parts see it.
#[async_trait]
pub trait Consensus: Send + Sync {
    /// Writes a command and waits until a majority has it on disk and it is applied at the leader.
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError>;

    /// Waits until the local replica is as fresh as `mode` asks.
    async fn barrier(&self, mode: ReadMode) -> Result<Freshness, NoLeader>;

    /// Reads keys here or at a server.
    async fn kv_read(&self, read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader>;

    /// How fresh the local replica is now.
    fn freshness(&self) -> Freshness;

    /// The state of consensus. On an agent that is not a server it is asked from one and may be a moment old.
    async fn status(&self) -> ConsensusStatus;

    /// Makes what this server has the first state of a successor of `cluster`, whose quorum is lost for good; gives
    /// the successor's id. `force`: also where a server that may found one itself is silent, or was promised it.
    async fn recover(&self, _cluster: ClusterId, _force: bool) -> Result<ClusterId, OrderError> {
        Err(OrderError::Refused("this agent is no server that could be recovered".to_owned()))
    }

    /// Asks or orders whoever leads. Who knows no servers has nobody to ask.
    async fn order(&self, _order: Order) -> Result<OrderReply, OrderError> {
        Err(NoLeader.into())
    }
}
