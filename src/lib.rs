//! corediscover: one binary that turns blank machines into one self-healing discovery cluster.
//!
//! Modules in reading order, from the pure centre outwards; a module imports only those above it
//! (`tests/it/architecture.rs` proves it).

pub mod model;

pub mod client;
pub mod hint;
pub mod host;
pub mod tasks;

pub mod agent;
pub mod bootstrap;
pub mod fleet;
pub mod provision_server;
pub mod registrator;
pub mod resolved;

pub mod cli;

#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod simulation;
