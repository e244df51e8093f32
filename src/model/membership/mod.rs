//! Who is in the cluster: SWIM gossip with Lifeguard, as a state machine without sockets, clock or chance.
//!
//! [`Swim`] is given what happened and when, and says what to send. `agent::membership` owns the sockets.
//! Rules follow the papers (SWIM, Das et al. 2002; Lifeguard, arXiv 1707.00788) and what Consul's users see
//! (names, statuses, `left` against `failed`). The wire format is our own.
//!
//! Four things differ from the papers, all to find a dead machine sooner without killing slow ones:
//! each member is also probed by a fixed neighbour (its predecessor on a ring of name hashes), so that nobody waits
//! for chance to be probed; neighbours that hear a suspicion probe the suspect at once to confirm it or not;
//! what a TCP connection shows (refused, accepted but silent, nothing) decides how long a suspect has to answer;
//! and a member whose own timers run late gives everybody that much more time.

mod awareness;
mod broadcast;
mod chance;
mod claims;
mod codec;
mod config;
mod departure;
mod interface;
mod member;
mod message;
mod probe;
mod question;
mod record;
mod suspicion;
mod swim;
mod sync;

#[cfg(test)]
mod scenario;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thousand;

pub use codec::{DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, PROTOCOL_VERSION};
pub use config::Config;
pub use interface::{Change, Event, Input, JoinFailure, Output, Refusal, StreamFailure};
pub use member::{Member, MemberStatus, NAME_BYTES_MAX, TAG_NODE_ID, TAGS_BYTES_MAX, Tags, TagsTooLong};
pub use question::{who_answered, who_are_you};
pub use swim::Swim;
