//! What goes in and out of a birth by gossip: values only. Requests and replies travel between servers.

use serde::{Deserialize, Serialize};

use crate::model::election::certificate::{Certificate, InitialMember};
use crate::model::election::claim::Incarnation;
use crate::model::names::{ClusterId, MachineId};

/// A server as gossip shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenServer {
    /// Its raft node id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Which life of its disk it is.
    pub incarnation: Incarnation,
    /// Where its RPC listens.
    pub address: String,
    /// How many first servers it was told to expect, if it was.
    pub expect: Option<usize>,
    /// The formed cluster that it belongs to.
    pub cluster: Option<ClusterId>,
}

impl SeenServer {
    pub(super) fn member(&self) -> Option<InitialMember> {
        let machine_id: Result<MachineId, _> = self.name.parse();
        // A name that cannot be a machine-id (spaces) gives way to the incarnation, which always can.
        let machine_id = machine_id.or_else(|_| self.incarnation.as_str().parse()).ok()?;
        Some(InitialMember {
            machine_id,
            incarnation: self.incarnation.clone(),
            address: self.address.clone(),
        })
    }
}

/// What a server must remember on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BirthRecord {
    /// The one certificate that was accepted and not killed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Certificate>,
    /// Whether all have accepted it.
    #[serde(default)]
    pub born: bool,
    /// No certificate up to this number (its epoch) is ever accepted any more, but for the one above.
    #[serde(default)]
    pub refused_through: u64,
    /// The formed cluster that this disk belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
}

/// A question between servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BirthRequest {
    /// Accept this certificate.
    Accept {
        /// What to accept.
        certificate: Certificate,
        /// Who proposes.
        proposer: Incarnation,
        /// Who is asked; another incarnation at the same address must not answer for it.
        to: Incarnation,
    },
    /// Say that you have accepted this certificate, or refuse it for ever.
    Settle {
        /// What to settle.
        certificate: Certificate,
        /// Who is asked.
        to: Incarnation,
    },
    /// The proposer has not accepted its own proposal, and never will: it is dead.
    Withdraw {
        /// What is dead.
        certificate: Certificate,
        /// Who is told.
        to: Incarnation,
    },
    /// All have accepted.
    Proclaim {
        /// What is born.
        certificate: Certificate,
        /// Who is told.
        to: Incarnation,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BirthReply {
    /// Accepted, durably.
    Accepted {
        /// Which certificate.
        cluster_id: ClusterId,
        /// Whether the answering server knows that all have.
        born: bool,
    },
    /// Refused, durably: this certificate is dead.
    Refused {
        /// Which certificate.
        cluster_id: ClusterId,
        /// The highest number that the answering server refuses; a new proposal needs a higher one.
        refused_through: u64,
        /// Why, for people.
        because: String,
    },
    /// The incarnation that was asked is not here; this says nothing about what it did.
    NotMe,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum GossipEvent {
    /// The process started; the first event.
    Started,
    /// Everybody whom this server was told to join, or knew before, was asked once: who answered is among the seen.
    Looked,
    /// The other living servers, as gossip shows them now.
    Seen(Vec<SeenServer>),
    /// A server asks; the reply goes back by the same number.
    Request {
        /// Chosen by the shell.
        number: u64,
        /// The question.
        request: BirthRequest,
    },
    /// A server has answered.
    Reply {
        /// Who was asked.
        from: Incarnation,
        /// Its answer.
        reply: BirthReply,
    },
    /// The own raft log holds the entry that says which cluster this is.
    Formed(ClusterId),
    /// Time passed; sent a few times a second.
    Timer,
}

/// What the shell shall do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GossipAction {
    /// Write this to disk before anything that follows; end the process if that fails.
    Persist(BirthRecord),
    /// Answer a request.
    Reply {
        /// The request's number.
        number: u64,
        /// The answer.
        reply: BirthReply,
    },
    /// Ask a server; a lost request or reply is fine.
    Send {
        /// Whom.
        to: InitialMember,
        /// What.
        request: BirthRequest,
    },
    /// Run raft for this certificate; initialise it with exactly this list if the log is empty.
    Born(Certificate),
    /// Be a raft node of this formed cluster without initialising; its leader decides about membership.
    Join(ClusterId),
    /// Tell the people what is being waited for; sent when it changes.
    Wait(String),
}
