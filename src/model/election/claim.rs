//! Claims: who is there, as the store shows it. Only values; `bootstrap` reads and writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::certificate::Certificate;
use crate::model::names::{ClusterId, MachineId, is_uuid, uuid_text};

/// Version number of a stored key, as the store counts them; only equality means anything.
pub type Revision = i64;

/// One life of a machine's disk: a UUID made with the data directory and lost with it.
///
/// A machine that lost its disk comes back as another incarnation, hence as another raft node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation(String);

/// The text is no UUID: the file or key that held it was damaged or made by another program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an incarnation (a UUID is expected)")]
pub struct NotAnIncarnation(String);

impl Incarnation {
    /// An incarnation from 128 random bits (a version 4 UUID).
    pub fn from_random(bits: u128) -> Self {
        Self(uuid_text(bits))
    }

    /// The incarnation as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The node id that this incarnation has in raft; never 0.
    pub fn node_id(&self) -> u64 {
        let hex: String = self.0.chars().filter(char::is_ascii_hexdigit).collect();
        let (high, low) = hex.split_at(hex.len() / 2);
        // Both halves are 16 hexadecimal digits by construction.
        let word = |half: &str| u64::from_str_radix(half, 16).unwrap_or(0);
        // The steps of SplitMix64: version and variant bits are the same in every UUID, so the halves are mixed.
        let mut mixed = word(high).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(low);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

impl Incarnation {
    /// The raft node id in one life of the raft log. A machine that was a server, ceased to be one and becomes one
    /// again has lost log and vote on purpose: it must be another node then. The first life is 0.
    pub fn node_id_in_life(&self, life: u32) -> u64 {
        if life == 0 {
            return self.node_id();
        }
        // A Weyl sequence under SplitMix64's last steps: lives of one machine never share an id with each other.
        let mut mixed = self.node_id().wrapping_add(u64::from(life).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }
}

impl FromStr for Incarnation {
    type Err = NotAnIncarnation;
    fn from_str(text: &str) -> Result<Self, NotAnIncarnation> {
        if is_uuid(text) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(NotAnIncarnation(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Incarnation {
    type Error = NotAnIncarnation;
    fn try_from(text: String) -> Result<Self, NotAnIncarnation> {
        text.parse()
    }
}

impl From<Incarnation> for String {
    fn from(incarnation: Incarnation) -> String {
        incarnation.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The cluster that a machine already belongs to, or is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTag {
    /// Which cluster.
    pub id: ClusterId,
    /// Whether the machine knows that it formed. If not, its list may have been closed since.
    pub formed: bool,
}

/// The JSON value of `<prefix>/incarnations/<machine-id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimDetails {
    /// Which life of the machine's disk claims.
    pub incarnation: Incarnation,
    /// The node's name, for messages.
    pub name: String,
    /// The kernel's boot id: tells a restarted process from another machine with the same machine-id.
    pub boot_id: String,
    /// Version of corediscover that wrote the claim.
    pub version: String,
    /// Set when the machine's disk remembers a cluster: then it is no candidate for another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterTag>,
}

/// A live claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose claim; the last element of the key.
    pub machine_id: MachineId,
    /// The advertised address, plain text, as the originals wrote it.
    pub address: String,
    /// The claim's other half.
    pub details: ClaimDetails,
    /// The order of creation: the store's revision at which the key was created.
    pub created: Revision,
    /// The store's revision of the last change of the claim.
    pub revision: Revision,
}

impl Claim {
    /// Whether the claimant may become one of the first servers: its disk remembers no cluster.
    pub fn is_blank(&self) -> bool {
        self.details.cluster.is_none()
    }

    /// Whether the claimant is a member of a cluster that has formed.
    pub fn is_member(&self) -> bool {
        self.details.cluster.as_ref().is_some_and(|cluster| cluster.formed)
    }
}

/// All that the store holds under the prefix, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The live claims, in order of creation.
    pub claims: Vec<Claim>,
    /// Machines whose key was written by another program (the originals'), so that no details exist.
    pub strangers: Vec<MachineId>,
    /// The birth certificate with its revision, once a birth has begun.
    pub certificate: Option<(Certificate, Revision)>,
}

impl View {
    /// The claim of one machine.
    pub fn claim_of(&self, machine_id: &MachineId) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.machine_id == *machine_id)
    }

    /// Whether this incarnation claims now.
    pub fn is_alive(&self, incarnation: &Incarnation) -> bool {
        self.claims.iter().any(|claim| claim.details.incarnation == *incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::Incarnation;

    #[test]
    fn node_ids_differ_between_incarnations_and_stay_the_same_for_ever() {
        let mut ids: Vec<u64> = (0..10_000).map(|bits| Incarnation::from_random(bits).node_id()).collect();
        assert_eq!(ids[1], 4_219_653_895_735_454_446, "raft logs on disk hold node ids");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 10_000);
        assert!(!ids.contains(&0));
    }

    #[test]
    fn an_incarnation_is_a_uuid_in_lower_case() {
        let text = "00000000-0000-4000-8000-00000000000A";
        assert_eq!(text.parse::<Incarnation>().unwrap().as_str(), text.to_ascii_lowercase());
        assert!("a".parse::<Incarnation>().is_err());
    }
}
