//! What goes in and out of a machine's birth: values only.

use std::time::Duration;

use crate::model::election::certificate::Certificate;
use crate::model::election::claim::{ClaimDetails, Incarnation, Revision, View};
use crate::model::election::record::{LocalState, Plan};
use crate::model::election::waiting::Waiting;
use crate::model::names::{ClusterId, MachineId};

/// This machine, as it claims.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its id; the key of its claim.
    pub machine_id: MachineId,
    /// Where others reach it.
    pub address: String,
    /// Which life of its disk this is.
    pub incarnation: Incarnation,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The node's name.
    pub name: String,
    /// Version of this program.
    pub version: String,
    /// How many first servers it was told to expect.
    pub expect: usize,
}

/// How patient a machine is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long another claim on our machine-id may live before it is taken for a clone: the lease's time to live
    /// (a machine that lost power leaves its claim for that long) and half of it more for a store that restarts.
    pub other_claim: Duration,
    /// How long a birth must have been stalled before it is replaced: longer than a service manager's restart.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { other_claim: Duration::from_secs(90), stall: Duration::from_secs(10) }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The process started; the first event.
    Started,
    /// The store was read.
    StoreChanged(View),
    /// The store cannot be asked.
    StoreLost {
        /// What its client says.
        reason: String,
    },
    /// The last [`Action::PutClaim`] has an outcome; a failure with unknown outcome counts as not won.
    ClaimWritten {
        /// Whether the claim is ours, with a lease.
        won: bool,
    },
    /// The last write of the certificate has an outcome, as above.
    CertificateWritten {
        /// Whether it was written. The decision never depends on it, only on what the store shows afterwards.
        won: bool,
    },
    /// The lease of our claim has expired; the store is to be read again.
    LeaseLost,
    /// The agent's state changed.
    Agent {
        /// The cluster in which it has seen a committed entry.
        formed: Option<ClusterId>,
        /// Whether it leads.
        leader: bool,
    },
    /// The agent is in a cluster that is the successor of others, which lost their quorums for good.
    Succeeded {
        /// The successor.
        cluster_id: ClusterId,
        /// The others; the youngest last.
        predecessors: Vec<ClusterId>,
    },
    /// The agent was stopped and its raft state put away, as asked.
    AgentStopped,
    /// The known peers were asked.
    Probed {
        /// The formed cluster that one of them belongs to.
        cluster: Option<ClusterId>,
    },
    /// Time passed; sent about once a second.
    Timer,
}

/// What the shell shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write our claim with a lease: create it, or replace our own earlier one at this revision.
    PutClaim {
        /// The second half of the claim.
        details: ClaimDetails,
        /// `None`: only if there is no such key.
        replaces: Option<Revision>,
    },
    /// Write the certificate only if there is none.
    CreateCertificate(Certificate),
    /// Write the certificate only if the stored one still has this revision.
    SwapCertificate {
        /// The revision it was read at.
        revision: Revision,
        /// What to write.
        certificate: Certificate,
    },
    /// Write this to disk before anything that follows.
    Persist(LocalState),
    /// The disk lost its raft log: be another incarnation from now on, on disk too.
    BecomeIncarnation(Incarnation),
    /// Start the agent.
    StartAgent(Plan),
    /// Stop the agent and put its raft state away; it belongs to a list that is closed.
    StopAgentAndArchive {
        /// The closed cluster.
        cluster_id: ClusterId,
    },
    /// Ask these addresses whether they belong to a formed cluster.
    Probe(Vec<String>),
    /// Tell the people what is being waited for; sent when it changes.
    Wait(Waiting),
    /// Nothing is being waited for any more.
    Settled,
    /// End with this error.
    Refuse(Refusal),
}

/// Why a machine gives up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two living machines have one machine-id.
    #[error(
        "machine-id {machine_id} is in use twice: by {name} at boot {other_boot}, and by this machine at boot {own_boot}"
    )]
    ClonedMachineId {
        /// The id.
        machine_id: MachineId,
        /// Name of the other machine.
        name: String,
        /// Boot id of the other machine.
        other_boot: String,
        /// Our boot id.
        own_boot: String,
    },
}
