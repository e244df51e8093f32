//! The integration tests: one binary, one module per feature, real parts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod address;
mod architecture;
mod bad_input;
mod bootstrap;
mod cli;
mod cluster;
mod containers;
mod dns;
mod docs;
mod doctor;
mod faults;
mod fleet;
mod formats;
mod http;
mod image;
mod linearizability;
mod provision;
mod registrator;
mod reload;
mod replacement;
mod replication;
mod resolved;
mod serve_provision;
mod stress;
mod support;
mod up;
