//! The questions and answers between servers and other agents, beyond raft's own.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::agent::handle::{Freshness, KvRead, NoLeader, OrderError, OrderReply, ProposeError, ReadMode};
use crate::model::catalog::{KvAnswer, Reply};
use crate::model::names::ClusterId;

/// Answer to [`super::Method::Propose`] and [`super::Method::ProposeHere`], whose question is a bare encoded
/// command: the log index and the catalog's reply.
pub type ProposeAnswer = Result<(u64, Reply), ProposeError>;

/// Question of [`super::Method::ReadIndex`] and [`super::Method::ReadIndexHere`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndexQuestion {
    /// `Default` or `Consistent`.
    pub mode: ReadMode,
}

/// What a replica must have applied to be as fresh as was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndex {
    /// For a replica that holds everything.
    pub index: u64,
    /// For a replica of the discovery part: the last entry up to `index` that concerns it. Zero when the
    /// answering server did not look.
    pub discovery: u64,
}

/// Answer to [`ReadIndexQuestion`].
pub type ReadIndexAnswer = Result<ReadIndex, NoLeader>;

/// Answer to [`super::Method::Order`] and [`super::Method::OrderHere`].
pub type OrderAnswer = Result<OrderReply, OrderError>;

/// Question of [`super::Method::Promise`]: the asker wants to found the successor of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseQuestion {
    /// The cluster whose quorum is lost.
    pub cluster: ClusterId,
    /// Whom you promised it before has given way to the asker, or an operator insists.
    pub released: bool,
}

/// Answer to [`PromiseQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PromiseAnswer {
    /// The answering server founds none, also after a restart, unless the asker gives way.
    Promised,
    /// It promised that to another server before.
    Taken {
        /// The other's node name.
        founder: String,
    },
    /// It is about to found one itself.
    Recovering,
    /// It hears a leader: the quorum is not lost.
    InTouch,
}

/// Question of [`super::Method::KvRead`].
pub type KvReadQuestion = KvRead;

/// Answer to [`super::Method::KvRead`].
pub type KvReadAnswer = Result<(KvAnswer, Freshness), NoLeader>;

/// Question of [`super::Method::Follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowQuestion {
    /// The asker's replica has everything up to this index; `None` for nothing.
    pub have: Option<u64>,
}

/// One answer of the stream to [`FollowQuestion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FollowEvent {
    /// The next piece of a snapshot of the discovery part; complete at `total` bytes.
    Snapshot {
        /// Bytes of all pieces together.
        total: u64,
        /// This piece.
        piece: Bytes,
    },
    /// Encoded commands with their indexes, in order, none left out that concerns discovery.
    Commands(Vec<(u64, Bytes)>),
    /// Everything up to `index` was sent; comes when idle too, as a sign of life.
    Alive {
        /// Index of the last applied entry.
        index: u64,
        /// How fresh the server itself is.
        freshness: Freshness,
    },
}
