//! Deterministic simulation, for tests only: thousands of random histories in which everything goes wrong, each of
//! which can be played again from its number (its seed).
//!
//! * [`chance`]: all chance of a history comes from its seed.
//! * [`explore`]: plays histories on all cores, prints the seeds, shrinks one that fails and tells it.
//!
//! `CDSIM_SEED=123 cargo test --lib births` plays one history of each kind again, `CDSIM_MINUTES=10` plays fresh ones
//! for that long, `CDSIM_PERCENT=10` plays a tenth of the usual number. `CDSIM_ALL=1` goes on after a history that failed
//! and tells the seeds of all that did; `CDSIM_LOG=corediscover=debug` shows what the agents log.

use std::io::Write as _;

pub(crate) mod chance;
pub(crate) mod explore;
mod log;
pub(crate) mod mutants;
pub(crate) mod network;
pub(crate) mod panics;
pub(crate) mod running;
mod seeds;
mod shrink;
mod streams;

/// Says something past the capture of `cargo test`, so that the fresh seeds of every run are seen.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").expect("a screen");
}
