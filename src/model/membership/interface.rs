//! What the state machine is told, and what it wants done.

use std::net::SocketAddr;
use std::time::Duration;

use super::member::{Member, Tags};

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The time asked for by [`super::Swim::next_deadline`] has come.
    Tick,
    /// A datagram came in.
    Datagram {
        /// Its source.
        from: SocketAddr,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// Somebody connected and sent one frame; answered by one [`Output::Reply`].
    StreamRequest {
        /// The shell's number for the connection.
        stream: u64,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// The connection of an [`Output::Exchange`] stands.
    StreamConnected {
        /// Its number.
        exchange: u64,
    },
    /// The reply to an [`Output::Exchange`].
    StreamReply {
        /// Its number.
        exchange: u64,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// An [`Output::Exchange`] came to nothing.
    StreamFailed {
        /// Its number.
        exchange: u64,
        /// Why.
        failure: StreamFailure,
    },
    /// Exchange everything with the agent at an address; ends in [`Event::JoinEnded`].
    Join {
        /// The caller's number.
        request: u64,
        /// Where.
        to: SocketAddr,
    },
    /// Leave the cluster; ends in [`Event::LeaveEnded`].
    Leave,
    /// Declare a failed member to have left.
    ForceLeave {
        /// Whom.
        name: String,
        /// Forget it, too.
        prune: bool,
    },
    /// Say something else about this member.
    SetTags(Tags),
}

/// Why a conversation over TCP came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamFailure {
    /// The machine is there, the agent is not.
    #[error("connection refused")]
    Refused,
    /// No connection.
    #[error("no connection")]
    Unreachable,
    /// A connection, but no (whole) reply.
    #[error("connected, but no reply")]
    NoReply,
}

/// Why a join came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinFailure {
    /// On the way.
    #[error(transparent)]
    Stream(#[from] StreamFailure),
    /// Somebody else's port.
    #[error("what answers there is no agent: {0}")]
    NoAgent(String),
    /// This agent is about to leave.
    #[error("this agent is leaving")]
    Leaving,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// At most [`super::DATAGRAM_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// Connect, send this frame, report the connection, then the reply or the failure.
    Exchange {
        /// Number of the exchange.
        exchange: u64,
        /// To whom.
        to: SocketAddr,
        /// The frame.
        bytes: Vec<u8>,
        /// For all of it.
        timeout: Duration,
    },
    /// Answer an [`Input::StreamRequest`] and close.
    Reply {
        /// The shell's number for the connection.
        stream: u64,
        /// Nothing when the request deserves no answer.
        bytes: Option<Vec<u8>>,
    },
    /// Something that others want to know.
    Event(Event),
}

/// How a member changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// New, or back.
    Joined,
    /// Other tags, or another address.
    Updated,
    /// About to leave.
    Leaving,
    /// Left.
    Left,
    /// Stopped answering.
    Failed,
    /// Suspected; to the outside it is still alive.
    Suspected,
    /// Denied a suspicion.
    Cleared,
    /// Forgotten.
    Reaped,
}

/// Something that others want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member changed.
    Member {
        /// How.
        change: Change,
        /// What it is now.
        member: Member,
    },
    /// An [`Input::Join`] ended.
    JoinEnded {
        /// The caller's number.
        request: u64,
        /// Well or not.
        result: Result<(), JoinFailure>,
    },
    /// An [`Input::Leave`] ended: as far as possible, everybody knows.
    LeaveEnded,
    /// Somebody is not let in (told at most once in 30 s).
    Refused {
        /// Its name.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// Why not.
        refusal: Refusal,
    },
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two machines with one name: the one that is there stays.
    #[error("a living member at {0} has this name")]
    NameTaken(SocketAddr),
    /// The name of this agent itself.
    #[error("it has this agent's own name")]
    OwnName,
    /// More than a cluster can have.
    #[error("the cluster is full")]
    Full,
    /// Nobody can reach it there.
    #[error("the address is not one that can be reached")]
    Address,
}
