//! Clusters of whole machines: what a user does from blank machines on, and what happens to such a cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod by_ignition;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../it/support/docker.rs"]
mod docker;
mod doctor;
mod fleet;
#[path = "../it/support/ignition.rs"]
mod ignition;
mod machines;
mod over_ssh;
mod released;
mod story;
mod vagrant;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../it/support/wait.rs"]
mod wait;
mod walkthrough;
