//! A member as everybody outside sees it: name, address, tags, status.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Longest encoded form of one member's tags, in bytes: with them a member still fits twice into a datagram
/// (the same limit as Serf's, which Consul's users know).
pub const TAGS_BYTES_MAX: usize = 512;
/// Longest name of a member in bytes (Serf's limit; a DNS label is shorter).
pub const NAME_BYTES_MAX: usize = 128;

/// The tag with the id of a machine's disk: who has the same is the same machine, wherever it is.
pub const TAG_NODE_ID: &str = "id";

/// What the cluster believes of a member. The numbers are those of `/v1/agent/members`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum MemberStatus {
    /// Nothing known.
    None = 0,
    /// Answers, or is only suspected.
    Alive = 1,
    /// Has said that it is about to leave.
    Leaving = 2,
    /// Left on purpose, or was declared gone by force-leave.
    Left = 3,
    /// Stopped answering without leaving.
    Failed = 4,
}

impl MemberStatus {
    /// Consul's number for it.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Consul's word for it, as `members` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Alive => "alive",
            Self::Leaving => "leaving",
            Self::Left => "left",
            Self::Failed => "failed",
        }
    }
}

/// One member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Unique among the living.
    pub name: String,
    /// The address others use for it.
    pub address: IpAddr,
    /// Its gossip port, UDP and TCP.
    pub port: u16,
    /// What it says about itself.
    pub tags: BTreeMap<String, String>,
    /// What the cluster believes of it.
    pub status: MemberStatus,
    /// Raised only by the member itself, each time that it has something new to say or to deny.
    pub incarnation: u64,
}

/// The tags given are too long to be gossiped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tags take {bytes} bytes when encoded, at most {TAGS_BYTES_MAX} fit")]
pub struct TagsTooLong {
    /// Their encoded size.
    pub bytes: usize,
}

/// Tags known to be short enough for a datagram.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

/// Bytes that the encoding (`MessagePack`) needs at most in front of a string of up to 64 KiB, or of a map.
const ENCODING_OVERHEAD_BYTES: usize = 3;

impl Tags {
    /// The tags.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether these and `others` are said by one machine, as far as they tell.
    pub(super) fn are_of_the_same_machine(&self, others: &Self) -> bool {
        let id = self.0.get(TAG_NODE_ID).filter(|id| !id.is_empty());
        id.is_some() && id == others.0.get(TAG_NODE_ID)
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagsTooLong;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, TagsTooLong> {
        let pairs: usize = tags.iter().map(|(key, value)| encoded_bytes(key) + encoded_bytes(value)).sum();
        let bytes = ENCODING_OVERHEAD_BYTES + pairs;
        if bytes > TAGS_BYTES_MAX { Err(TagsTooLong { bytes }) } else { Ok(Self(tags)) }
    }
}

/// The size of `text` in `MessagePack`, whose strings up to 31 bytes need one byte more, up to 255 two.
fn encoded_bytes(text: &str) -> usize {
    text.len()
        + match text.len() {
            0..=31 => 1,
            32..=255 => 2,
            _ => ENCODING_OVERHEAD_BYTES,
        }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.0
    }
}
