//! What members say to each other. The short field names on the wire are a matter of [`super::codec`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::member::Tags;

/// What a failed probe showed; later variants are stronger signs of life and win over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Evidence {
    /// The machine answers that nobody listens.
    #[serde(rename = "r")]
    Refused,
    /// Nothing came back at all.
    #[serde(rename = "s")]
    Silent,
    /// The connection was accepted, and then nothing came.
    #[serde(rename = "a")]
    Stalled,
}

/// One piece of news about one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Claim {
    /// Said by the member itself.
    #[serde(rename = "a")]
    Alive { name: String, address: SocketAddr, incarnation: u64, tags: Tags, leaving: bool },
    /// `accuser` could not reach it.
    #[serde(rename = "s")]
    Suspect { name: String, incarnation: u64, accuser: String, evidence: Evidence },
    /// It did not deny the suspicion in time.
    #[serde(rename = "f")]
    Failed { name: String, incarnation: u64 },
    /// It left, or was declared gone. `address`: where it was; a namesake elsewhere, which was never let in, cannot leave
    /// in its stead.
    #[serde(rename = "l")]
    Left { name: String, address: SocketAddr, incarnation: u64 },
    /// It is to be forgotten.
    #[serde(rename = "p")]
    Pruned { name: String, incarnation: u64 },
}

impl Claim {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Alive { name, .. }
            | Self::Suspect { name, .. }
            | Self::Failed { name, .. }
            | Self::Left { name, .. }
            | Self::Pruned { name, .. } => name,
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        match self {
            Self::Alive { incarnation, .. }
            | Self::Suspect { incarnation, .. }
            | Self::Failed { incarnation, .. }
            | Self::Left { incarnation, .. }
            | Self::Pruned { incarnation, .. } => *incarnation,
        }
    }
}

/// What a datagram is for; claims ride on all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// Only claims.
    #[serde(rename = "g")]
    Gossip,
    /// "Are you there, and are you `target`?"
    #[serde(rename = "p")]
    Ping {
        sequence: u32,
        target: String,
        /// Digest of whom the sender knows to live.
        digest: u64,
    },
    /// Answers a ping, or a ping request when the target answered.
    #[serde(rename = "a")]
    Ack { sequence: u32 },
    /// "I cannot reach `target`, can you?"
    #[serde(rename = "r")]
    PingRequest { sequence: u32, target: String, address: SocketAddr },
    /// "I am there, but I cannot reach it either."
    #[serde(rename = "n")]
    Nack { sequence: u32 },
}

/// The head of a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) from: String,
    pub(super) message: Message,
}

/// What a full exchange says about one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) incarnation: u64,
    pub(super) tags: Tags,
    pub(super) state: State,
    pub(super) leaving: bool,
    /// Seconds that it has been in this state, for the sender.
    pub(super) age: u64,
}

/// What a member is believed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    #[serde(rename = "a")]
    Alive,
    #[serde(rename = "s")]
    Suspect,
    #[serde(rename = "f")]
    Failed,
    #[serde(rename = "l")]
    Left,
    #[serde(rename = "p")]
    Pruned,
}

/// One side of a conversation over TCP: each has one request and one reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// All that the sender knows, itself included. Answered by the same.
    #[serde(rename = "s")]
    Sync { from: String, entries: Vec<Entry> },
    /// As the datagram.
    #[serde(rename = "p")]
    Ping { target: String },
    /// "I am the one you asked for" or not.
    #[serde(rename = "o")]
    Pong { right_name: bool },
}
