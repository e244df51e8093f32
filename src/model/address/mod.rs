//! Which of its addresses a machine tells the others: what it has, where to look, which one, and why.
//!
//! Pure: `host::address` reads files and the kernel's tables into [`Facts`]; everything is decided here. A choice says its
//! reason, a refusal names every candidate with what speaks against it.

mod choose;
pub mod networks;
mod objection;
mod source;
pub mod template;
#[cfg(test)]
mod tests;
pub mod variables;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use choose::{Choice, Considered, Refusal, Verdict, choose, choose_private, choose_public_v6};
pub use objection::{Objection, is_container_interface, objection};
pub use source::{AddressSource, AddressSourceError, interface_name};
use variables::Variable;

/// What the kernel says about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are the kernel's flags")]
pub struct Flags {
    /// It is switched on.
    pub up: bool,
    /// It knows broadcasts.
    pub broadcast: bool,
    /// It is the loopback.
    pub loopback: bool,
    /// It has one peer.
    pub point_to_point: bool,
    /// It knows multicasts.
    pub multicast: bool,
}

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Bits of the network's part of the address.
    pub prefix: u8,
    /// The interface's flags.
    pub flags: Flags,
}

/// What a machine knows about its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Addresses of all interfaces, in the kernel's order.
    pub addresses: Vec<InterfaceAddress>,
    /// The interface of the default route: IPv4's, or IPv6's where there is no other.
    pub default_interface: Option<String>,
    /// The address that the kernel uses towards the default route of IPv4.
    pub default_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub default_v6: Option<IpAddr>,
    /// Bridges that no device outside the machine is on, as the kernel lists their ports.
    pub inner_bridges: BTreeSet<String>,
    /// The files that say addresses, and what they say; `None` for one that is not there.
    pub files: Vec<(String, Option<Vec<Variable>>)>,
}

impl Facts {
    /// The interface that has this address.
    pub fn interface_of(&self, address: IpAddr) -> Option<&InterfaceAddress> {
        self.addresses.iter().find(|entry| entry.address == address)
    }
}
