//! The replicated log of the servers: openraft on our own log, with writes, fresh reads and membership changes.
//!
//! The only place that names openraft. Answers other agents over RPC and this agent through
//! [`crate::agent::handle::Consensus`]; who should be a server is decided elsewhere.

#[cfg(test)]
mod crash_tests;
mod data;
mod directory;
mod feed;
mod follow;
#[cfg(test)]
mod format_tests;
mod forward;
mod full_disk;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod log;
mod membership;
mod network;
mod orders;
#[cfg(test)]
mod runtime;
mod server;
mod service;
#[cfg(test)]
mod simulated;
mod snapshot;
mod state_machine;
mod status;
mod succession;
#[cfg(test)]
mod tests;
mod types;

pub use directory::{FOLDER, owner_of, refuse_copy};
pub use server::{Leader, Server, Settings};
#[cfg(test)]
pub(crate) use simulated::RaftView;
pub use status::{LogEnd, LogState};
pub use succession::{NEXT_FOLDER, prepare_successor};
pub use types::{NodeId, Peer};
