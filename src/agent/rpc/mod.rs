//! Agents' RPC (port 8300): framed TCP, many requests at once on one connection, streams of answers.
//!
//! Knows connections, deadlines and limits; what a request means is its handler's business. The first frame
//! in each direction says which cluster its sender belongs to, and different clusters do not talk (I1).

mod barrier;
mod channel;
mod connection;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod listener;
pub mod messages;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::host::net::{Network, Stream};
use crate::model::names::ClusterId;

pub use barrier::Barrier;
pub use channel::Channel;
pub use connection::Connection;
pub use listener::{Listener, Router};

/// How deep values may nest. Ours have ten levels; a batch of batches of batches would take the stack that decodes it.
const DEPTH_MAX: usize = 64;
/// Version of frames and requests. Both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest frame in bytes: a recursive read of keys, or a group of log entries with values of 512 KiB.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// How long the other side may take for the first frame.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(3);
/// How long a connection may take to be made.
pub const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Raft: entries and heartbeats.
    RaftAppend = 1,
    /// Raft: a vote.
    RaftVote = 2,
    /// Raft: would you vote for me?
    RaftPreVote = 3,
    /// Raft: a piece of a snapshot.
    RaftSnapshot = 4,
    /// Raft: become the leader.
    RaftTransfer = 5,
    /// Write an encoded command.
    Propose = 6,
    /// Which index must a fresh read have seen?
    ReadIndex = 7,
    /// Read keys.
    KvRead = 8,
    /// The discovery part as it is and as it changes; answered by a stream.
    Follow = 9,
    /// The state of consensus.
    Status = 10,
    /// The protocol by which servers meet without etcd.
    Birth = 11,
    /// As `Propose`, but only the leader itself answers: forwarded once, never in circles.
    ProposeHere = 12,
    /// As `ReadIndex`, but only the leader itself answers.
    ReadIndexHere = 13,
    /// An order or a question for whoever leads.
    Order = 14,
    /// As `Order`, but only the leader itself answers.
    OrderHere = 15,
    /// Would you let me found the successor of our cluster?
    Promise = 16,
}

impl Method {
    fn from_byte(byte: u8) -> Option<Self> {
        use Method::{
            Birth, Follow, KvRead, Order, OrderHere, Promise, Propose, ProposeHere, RaftAppend, RaftPreVote,
            RaftSnapshot, RaftTransfer, RaftVote, ReadIndex, ReadIndexHere, Status,
        };
        [
            RaftAppend,
            RaftVote,
            RaftPreVote,
            RaftSnapshot,
            RaftTransfer,
            Propose,
            ReadIndex,
            KvRead,
            Follow,
            Status,
            Birth,
            ProposeHere,
            ReadIndexHere,
            Order,
            OrderHere,
            Promise,
        ]
        .into_iter()
        .find(|method| *method as u8 == byte)
    }

    /// Whether it belongs to the raft protocol itself, which only members of one cluster speak.
    pub fn is_raft(self) -> bool {
        matches!(
            self,
            Self::RaftAppend | Self::RaftVote | Self::RaftPreVote | Self::RaftSnapshot | Self::RaftTransfer
        )
    }
}

/// The first frame of each side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// See [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The sender's cluster, once it has one.
    pub cluster: Option<ClusterId>,
    /// The sender's raft id.
    pub node: u64,
    /// The sender's name in the catalog.
    pub name: String,
}

/// Who this agent is on the wire; shared by everything that listens or connects.
#[derive(Debug)]
pub struct Identity {
    node: u64,
    name: String,
    cluster: RwLock<Option<ClusterId>>,
    network: Network,
    /// Where connections come from: other servers know us by this address. `None`: as the system chooses.
    from: Option<IpAddr>,
}

impl Identity {
    /// An identity, perhaps not yet of any cluster.
    pub fn new(node: u64, name: impl Into<String>, cluster: Option<ClusterId>) -> Arc<Self> {
        Self::on(Network::default(), None, node, name, cluster)
    }

    /// The same on any network, from the address that the agent is bound to.
    pub fn on(
        network: Network,
        from: Option<IpAddr>,
        node: u64,
        name: impl Into<String>,
        cluster: Option<ClusterId>,
    ) -> Arc<Self> {
        Arc::new(Self { node, name: name.into(), cluster: RwLock::new(cluster), network, from })
    }

    /// One on the same network who says only its name.
    pub fn stranger(&self) -> Arc<Self> {
        Self::on(self.network.clone(), self.from, 0, self.name.clone(), None)
    }

    fn network(&self) -> &Network {
        &self.network
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<Stream> {
        self.network.connect(self.from, to).await
    }

    /// The raft id.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The name of our machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster, once there is one.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.read().clone()
    }

    /// Whether our cluster is `cluster`.
    pub fn is_of(&self, cluster: &ClusterId) -> bool {
        self.cluster.read().as_ref() == Some(cluster)
    }

    /// Takes a cluster for good, unless there is one already. True when the cluster now is `cluster`.
    pub fn adopt(&self, cluster: &ClusterId) -> bool {
        let mut own = self.cluster.write();
        own.get_or_insert_with(|| cluster.clone()) == cluster
    }

    fn hello(&self) -> Hello {
        Hello { version: PROTOCOL_VERSION, cluster: self.cluster(), node: self.node, name: self.name.clone() }
    }

    /// Whether we may talk to `other`.
    fn check(&self, other: &Hello) -> Result<(), RpcError> {
        if other.version != PROTOCOL_VERSION {
            return Err(RpcError::Refused(format!(
                "{} speaks RPC version {}, we speak {PROTOCOL_VERSION}",
                other.name, other.version
            )));
        }
        match (self.cluster(), &other.cluster) {
            (Some(ours), Some(theirs)) if ours != *theirs => Err(RpcError::Refused(format!(
                "{} belongs to cluster {theirs}, we belong to cluster {ours}: different clusters do not talk",
                other.name
            ))),
            _ => Ok(()),
        }
    }
}

/// A request, still encoded.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// The question, as the method's owner encodes it.
    pub body: Bytes,
}

/// What a handler gives back.
pub enum Answer {
    /// One answer, or why there is none.
    One(Result<Bytes, RemoteError>),
    /// Answers until the sender is dropped.
    Many(mpsc::Receiver<Bytes>),
}

/// Answers requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request of `peer`. Dropped when the peer gives up or goes away.
    async fn call(&self, peer: &Hello, request: Request) -> Answer;

    /// Whether a server of our cluster is at `address`, as far as this handler knows: its connections have places of
    /// their own.
    fn knows_server_at(&self, _address: IpAddr) -> bool {
        false
    }
}

/// Why the other side did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RemoteError {
    /// Nobody handles this method there (yet); nothing was done.
    #[error("not handled by that agent: {0}")]
    Unavailable(String),
    /// Too many requests of ours are under way there; nothing was done.
    #[error("too many requests at once")]
    Busy,
    /// The question was not understood; nothing was done.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The other side does not talk to us, or we not to it.
    #[error("refused: {0}")]
    Refused(String),
    /// There is no connection; the request was not sent.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The connection broke while the answer was awaited: what became of the request is unknown.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// No answer in time: what became of the request is unknown.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The other side said no.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl RpcError {
    /// Whether the other side certainly did nothing, so that asking again cannot do it twice.
    pub fn nothing_done(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unreachable(_) => true,
            Self::Remote(error) => !matches!(error, RemoteError::Failed(_)),
            Self::Lost(_) | Self::Timeout(_) => false,
        }
    }
}

/// Encodes a value as `MessagePack` with named fields, so that fields can be added.
///
/// # Errors
/// When the value cannot be encoded, which means a defect.
pub fn encode<T: Serialize>(value: &T) -> Result<Bytes, RemoteError> {
    rmp_serde::to_vec_named(value).map(Bytes::from).map_err(|error| RemoteError::Malformed(error.to_string()))
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// When the bytes are something else, or nest deeper than anything that we send.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RemoteError> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut decoder).map_err(|error| RemoteError::Malformed(error.to_string()))
}
