//! Where an agent lives: its disk and its network, of this machine or (in tests) of a simulated one.

use std::sync::Arc;

use super::disk::{Disk, HostDisk};
use super::net::Network;

/// A disk and a network; clones share them.
#[derive(Debug, Clone)]
pub struct Site {
    /// What durable files are written to.
    pub disk: Arc<dyn Disk>,
    /// What the other machines are reached through.
    pub network: Network,
}

impl Default for Site {
    /// This machine.
    fn default() -> Self {
        Self { disk: Arc::new(HostDisk), network: Network::default() }
    }
}
