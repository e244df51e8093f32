//! This machine: its files, its identity, its network interfaces.

pub mod address;
pub mod clock;
pub mod descriptors;
pub mod disk;
pub mod docker_bridge;
pub mod docker_socket;
pub mod files;
pub mod interfaces;
pub mod machine_id;
pub mod modes;
pub mod net;
pub mod outside;
pub mod program;
pub mod site;
pub mod sockets;
pub mod unit_files;
pub mod versioned;

use anyhow::Context as _;
use rustix::process::{Signal, set_parent_process_death_signal};

/// The host's name, as uname(2) tells it.
///
/// # Errors
/// When it is not UTF-8.
pub fn name() -> anyhow::Result<String> {
    let name = rustix::system::uname();
    Ok(name.nodename().to_str().context("the host's name is not UTF-8")?.to_owned())
}

/// Makes the kernel stop this process (SIGTERM) when the one that started it ends.
///
/// # Errors
/// As the kernel says.
pub fn end_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the parent process")
}
