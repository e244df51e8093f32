//! The types that fill in openraft's blanks, and the few conversions around them.
//!
//! A command is encoded once, by whoever proposes it; from there the same bytes go into the log, over the
//! network and to the state machine, which alone decodes them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::state_machine::StateMachine;
use crate::model::catalog::{self, CatalogError};

/// Identifies a server in the log: derived from the incarnation of its machine, so that a machine that lost
/// its disk is another node (a node id must never come back without its data).
pub type NodeId = u64;

/// An encoded [`crate::model::catalog::Command`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proposal(pub(super) Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// What applying one entry gave; handed to the proposer on the leader only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The entry held no command (a new leader's first entry, a membership change).
    Nothing,
    /// The catalog's answer; whom it wakes is known where it was applied.
    Applied(Result<catalog::Reply, CatalogError>),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Applied(_) => "applied",
        })
    }
}

/// A server as the log's membership knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name of the machine in the catalog.
    pub name: String,
    /// Where it answers RPC (port 8300).
    pub address: SocketAddr,
    /// The uuid of its data directory.
    pub incarnation: String,
}

impl Default for Peer {
    fn default() -> Self {
        Self { name: String::new(), address: (Ipv4Addr::UNSPECIFIED, 0).into(), incarnation: String::new() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

#[cfg(not(test))]
type Runtime = openraft::impls::TokioRuntime;
#[cfg(test)]
type Runtime = super::runtime::Runtime;

openraft::declare_raft_types!(
    /// corediscover's choice of openraft's types: one leader a term, as in the paper.
    pub(super) TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = NodeId,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// The consensus engine with our storage.
pub(super) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(super) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(super) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
