//! What a machine remembers of its birth, and the plan that follows from it.

use serde::{Deserialize, Serialize};

use super::certificate::Certificate;
use super::claim::{ClusterTag, Incarnation};
use crate::model::names::ClusterId;

/// Addresses to join that are remembered and handed to the agent: gossip needs one living member and tells the rest.
pub const JOIN_ADDRESSES_MAX: usize = 64;

/// The content of `<data-dir>/birth.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalState {
    /// The cluster that this disk belongs to, or is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
    /// Addresses of other machines, to ask before believing in an empty store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

/// A disk's tie to one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// As what the machine entered it. What it is today only the raft log knows (I3).
    pub role: RecordedRole,
    /// Whether it is known to have formed. Until then the list may be closed, and the tie with it.
    pub formed: bool,
    /// The certificate that was followed, if one was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

/// As what a machine entered its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordedRole {
    /// One of the first servers.
    Server,
    /// It joined.
    Client,
}

impl Record {
    /// The tie as the claim tells it to the others.
    pub fn tag(&self) -> ClusterTag {
        ClusterTag { id: self.cluster_id.clone(), formed: self.formed }
    }
}

/// What to start the agent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// As what.
    pub role: Role,
    /// Addresses to join.
    pub join: Vec<String>,
    /// The only cluster that the agent may belong to; `None`: any formed one that the joined members have.
    pub cluster_id: Option<ClusterId>,
    /// Which life of the disk; the raft node id derives from it.
    pub incarnation: Incarnation,
}

/// As what the agent starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A raft node. With `initial` it may initialise the cluster with exactly this list, if its log is empty;
    /// without, it never does: it goes on with its log, or waits for a leader that has it as a member.
    Server {
        /// The right to initialise.
        initial: Option<Certificate>,
    },
    /// Joins; a leader may make it a server later.
    Client,
}
