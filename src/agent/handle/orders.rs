//! What can be asked of whoever leads, from any agent: a report about the servers, and changes of them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::NoLeader;
use crate::model::sync::servers::{Report, Standing};

/// A question or an order for the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// How are the servers?
    Report,
    /// What is the server with this raft id?
    Standing {
        /// Its raft id.
        id: u64,
        /// The nomination by which it is a server; `None` when its flags say so.
        nomination: Option<u64>,
    },
    /// This server is about to leave: another one may take its place first.
    Depart {
        /// Its raft id.
        id: u64,
    },
    /// This server is to be one no more.
    Retire(Which),
    /// Another server is to lead.
    Transfer(Option<Which>),
    /// A client is to take the place of a server.
    Replace {
        /// The server's name; `None`: the dead one.
        old: Option<String>,
        /// The client's name; `None`: the best.
        new: Option<String>,
    },
    /// There shall be so many servers.
    Want(u32),
}

/// One server, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// By the node id that `list-peers` shows, by raft id (16 hexadecimal digits), or by node name.
    Id(String),
    /// By the address of its RPC.
    Address(String),
}

/// What the leader answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderReply {
    /// It was done, or it is under way.
    Done,
    /// To [`Order::Report`].
    Report(Box<Report>),
    /// To [`Order::Standing`].
    Standing(Standing),
    /// To [`Order::Depart`]: whether somebody takes the place, so that leaving should wait.
    Departing(bool),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum OrderError {
    /// Nobody leads.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// The leader says no, for now.
    #[error("{0}")]
    Refused(String),
}

/// Answers orders where this server leads.
#[async_trait]
pub trait Steward: Send + Sync {
    /// Carries one out.
    async fn carry_out(&self, order: Order) -> Result<OrderReply, OrderError>;
}
