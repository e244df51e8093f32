//! Who should be a server: what the leader of raft changes, and when, so that the servers agree with who is there (I4).
//!
//! One change at a time. [`Steward`] decides from raft's configuration, gossip and the catalog; time comes in as a value.
//! A dead server stays a voter until a client that can take its place has caught up.

mod candidate;
mod change;
mod orders;
mod pace;
mod report;
#[cfg(test)]
mod simulation;
mod steward;

use std::net::SocketAddr;
use std::time::Duration;

use crate::model::membership::{Member, MemberStatus};
use crate::model::names::ClusterId;
#[cfg(test)]
use crate::simulation::mutants::{self, Mutant};

pub use crate::model::membership::TAG_NODE_ID;
pub use change::ServerChange;
pub use orders::{NotNow, Standing};
pub use pace::{COOL_DOWN, REPLACEMENTS_PER_HOUR_MAX, Replacement};
pub use report::{Proposal, Report, ServerReport};
pub use steward::{Action, Steward, View};

/// Most servers of one cluster: each write waits for a majority of them, so more make it slower, not safer.
pub const SERVERS_MAX: u8 = 9;
/// Tag that says what a member is: `consul` for servers, `node` for others (Consul's words).
pub const TAG_ROLE: &str = "role";
/// Role of a server.
pub const ROLE_SERVER: &str = "consul";
/// Role of every other agent.
pub const ROLE_CLIENT: &str = "node";
/// Tag with the raft id of a server.
pub const TAG_RAFT_ID: &str = "rid";
/// Tag with the port of a server's RPC.
pub const TAG_RPC_PORT: &str = "port";
/// Tag with the cluster that a member belongs to, once it has formed.
pub const TAG_CLUSTER: &str = "cluster";
/// Tag with the number of servers that a server was told to expect.
pub const TAG_EXPECT: &str = "expect";
/// Tag with the datacenter.
pub const TAG_DATACENTER: &str = "dc";
/// Tag of a client that can become a server: it keeps its state on disk.
pub const TAG_SPARE: &str = "spare";
/// Tag of a server that is one by nomination and not by its flags: the nomination's serial, 0 after a restart.
pub const TAG_NOMINATION: &str = "nom";

/// Tag with the number of times that a server's cluster was recovered; absent for 0.
pub const TAG_EPOCH: &str = "epoch";

/// What is done about servers that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are replaced.
    Auto,
    /// It is said what would be done; an operator orders it.
    Propose,
    /// It is only said that they are missing.
    Off,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "propose" => Ok(Self::Propose),
            "off" => Ok(Self::Off),
            other => Err(format!("`{other}` is not one of auto, propose, off")),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Propose => "propose",
            Self::Off => "off",
        })
    }
}

/// The leader's settings for replacements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What is done.
    pub mode: Mode,
    /// How long a server must have been dead.
    pub replace_after: Duration,
}

/// A server that gossip shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMember {
    /// Its raft id.
    pub id: u64,
    /// Its node name.
    pub name: String,
    /// `ip:port` of its RPC.
    pub address: SocketAddr,
    /// The incarnation of its disk.
    pub incarnation: String,
    /// Its state.
    pub status: MemberStatus,
    /// The cluster that it belongs to, if it says so.
    pub cluster: Option<ClusterId>,
    /// How many servers it was told to expect.
    pub expect: Option<usize>,
    /// The nomination by which it is a server; `None` when its flags say so.
    pub nomination: Option<u64>,
}

impl ServerMember {
    /// Reads a member's tags; `None` when it is no server or its tags make no sense.
    pub fn of(member: &Member) -> Option<Self> {
        let tag = |name: &str| member.tags.get(name).map(String::as_str);
        if tag(TAG_ROLE) != Some(ROLE_SERVER) {
            return None;
        }
        Some(Self {
            id: tag(TAG_RAFT_ID)?.parse().ok()?,
            name: member.name.clone(),
            address: (member.address, tag(TAG_RPC_PORT)?.parse().ok()?).into(),
            incarnation: tag(TAG_NODE_ID)?.to_owned(),
            status: member.status,
            cluster: tag(TAG_CLUSTER).and_then(|text| text.parse().ok()),
            expect: tag(TAG_EXPECT).and_then(|text| text.parse().ok()),
            nomination: tag(TAG_NOMINATION).and_then(|text| text.parse().ok()),
        })
    }

    fn is_alive(&self) -> bool {
        self.status == MemberStatus::Alive
    }
}

/// A server of the raft configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredServer {
    /// Its raft id.
    pub id: u64,
    /// Its name, as the configuration has it.
    pub name: String,
    /// Its RPC address, as the configuration has it.
    pub address: String,
    /// The incarnation of its disk.
    pub incarnation: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it has all but a few entries.
    pub caught_up: bool,
    /// Whether it is the leader, who decides this.
    pub leader: bool,
    /// The last entry that it is known to have.
    pub last_index: Option<u64>,
    /// How long ago it answered the leader.
    pub heard: Option<Duration>,
}

/// A server that answered the leader no longer ago than this is not dead, whatever gossip says: four heartbeats
/// and a slow disk.
const HEARD_MAX: Duration = Duration::from_secs(2);

/// Whether the servers can go on without this one: a majority of those that are left is up. The change that removes it
/// would else never be committed, and nothing after it, also when this one came back.
fn can_spare(id: u64, configured: &[ConfiguredServer], members: &[Member]) -> bool {
    #[cfg(test)]
    if mutants::is(Mutant::AnybodySpared) {
        return true;
    }
    let left = || configured.iter().filter(|server| server.voter && server.id != id);
    let up = left().filter(|server| is_up(server, members)).count();
    up * 2 > left().count()
}

/// Whether a server lives, as far as the leader or gossip hears it.
fn is_up(server: &ConfiguredServer, members: &[Member]) -> bool {
    server.leader
        || server.heard.is_some_and(|ago| ago <= HEARD_MAX)
        || members.iter().any(|member| {
            member.status == MemberStatus::Alive
                && ServerMember::of(member).is_some_and(|found| found.id == server.id)
        })
}
