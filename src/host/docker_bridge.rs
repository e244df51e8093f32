//! Where containers reach this machine, as far as the kernel knows. The engine's own answer is better where there is one.

use std::net::{IpAddr, Ipv4Addr};

use super::interfaces;

/// The bridge that Docker makes for containers with no network of their own.
const INTERFACE: &str = "docker0";

/// The IPv4 address of Docker's bridge; inside a container, which has no such bridge, its default gateway.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn address() -> anyhow::Result<Option<Ipv4Addr>> {
    let on_bridge = interfaces::addresses()?.into_iter().find_map(|(name, address)| match address {
        IpAddr::V4(address) if name == INTERFACE => Some(address),
        _ => None,
    });
    match on_bridge {
        Some(address) => Ok(Some(address)),
        None => interfaces::default_gateway(),
    }
}
