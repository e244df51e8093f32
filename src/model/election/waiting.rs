//! Why a machine waits, in words for the person who looks at its journal.

use std::fmt;

use super::certificate::Certificate;
use super::claim::{Claim, ClaimDetails};
use crate::model::names::{ClusterId, MachineId};

/// What a machine waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// The store cannot be asked.
    Store {
        /// What the store's client says.
        reason: String,
    },
    /// Another claim holds our machine-id; if its machine is dead, the claim expires.
    OtherClaim {
        /// The machine-id.
        machine_id: MachineId,
        /// Whose it is.
        other: ClaimDetails,
    },
    /// Our key was written by another program.
    Stranger {
        /// The machine-id.
        machine_id: MachineId,
    },
    /// Fewer machines than expected have claimed.
    Machines {
        /// How many have.
        have: usize,
        /// How many are needed.
        expect: usize,
    },
    /// Known peers are being asked whether a cluster lives.
    Probe {
        /// How many.
        peers: usize,
    },
    /// The store is empty, but a machine belongs to a cluster: its leader will write the certificate again.
    Restore {
        /// A claim that says so.
        member: Claim,
    },
    /// The first servers are at work.
    Birth {
        /// Their certificate.
        certificate: Certificate,
        /// How many of the list are alive.
        alive: usize,
    },
    /// A majority is bound, but no majority is alive: only machines of the list can go on.
    Stuck {
        /// Their certificate.
        certificate: Certificate,
        /// The first servers that do not claim.
        missing: Vec<MachineId>,
    },
    /// Our disk belongs to one cluster, the store speaks of another.
    Conflict {
        /// Ours.
        own: ClusterId,
        /// The store's.
        stored: ClusterId,
        /// Whether ours is known to have formed.
        formed: bool,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store { reason } => write!(f, "the store cannot be reached: {reason}"),
            Self::OtherClaim { machine_id, other } => write!(
                f,
                "machine-id {machine_id} is claimed by {} (boot {}); waiting for that claim to expire",
                other.name, other.boot_id
            ),
            Self::Stranger { machine_id } => write!(
                f,
                "the key of machine-id {machine_id} was written by another program; waiting for it to be removed"
            ),
            Self::Machines { have, expect } => {
                write!(f, "have {have} of {expect} machines, waiting for {}", expect.saturating_sub(*have))
            }
            Self::Probe { peers } => {
                write!(f, "the store is empty; asking {peers} known peers whether a cluster lives")
            }
            Self::Restore { member } => {
                let cluster = member.details.cluster.as_ref().map_or("?", |cluster| cluster.id.as_str());
                write!(
                    f,
                    "the store is empty, but {} belongs to cluster {cluster}; waiting for its leader to write the certificate again",
                    member.details.name
                )
            }
            Self::Birth { certificate, alive } => write!(
                f,
                "cluster {} is being born: {} of {} first servers are bound, {alive} alive",
                certificate.cluster_id,
                certificate.bound.len(),
                certificate.initial.len()
            ),
            Self::Stuck { certificate, missing } => {
                let missing: Vec<&str> = missing.iter().map(MachineId::as_str).collect();
                write!(
                    f,
                    "cluster {} needs {} of its first servers, missing are {}: start these machines with their disks (if those are lost for ever, stop all machines, remove their data directories and the certificate key)",
                    certificate.cluster_id,
                    certificate.majority(),
                    missing.join(", ")
                )
            }
            Self::Conflict { own, stored, formed } => {
                let tie = if *formed { "belongs" } else { "is bound" };
                write!(
                    f,
                    "this machine {tie} to cluster {own}, but the store speaks of cluster {stored}; it stays with its own (to move it, stop it and remove its data directory)"
                )
            }
        }
    }
}
