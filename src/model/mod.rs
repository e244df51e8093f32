//! The pure centre: what corediscover decides and computes.
//!
//! Nothing here is async, opens a file or a socket, reads a clock, the environment or a random source, or logs.
//! Time, chance and order come in as values.

pub mod duration;
pub mod names;

pub mod address;
pub mod api;
pub mod catalog;
pub mod dns;
pub mod doctor;
pub mod election;
pub mod fleet;
pub mod hcl;
pub mod health;
pub mod membership;
pub mod provision;
pub mod registration;
pub mod resolved;
pub mod sync;
pub mod version;
