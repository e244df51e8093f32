//! Whether this machine's firewall lets containers ask: questions from networks like theirs, over the same bridge or a link
//! that is called as theirs are. What the machine asks itself goes over loopback, which every firewall lets pass.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;

use super::docker::BRIDGE;
use super::network::Network;
use super::{probe, system};
use crate::hint::{WithHint as _, fault};
use crate::host::files::read_if_there;
use crate::host::interfaces;
use crate::model::resolved::bridge::highest_hosts;
use crate::model::resolved::firewall::{BRIDGE_PREFIX, Firewall, LIST_CHAINS};
use crate::model::resolved::{LINK_ADDRESS, STANDARD_PORT};

/// Where ufw notes whether it is on, and how.
const UFW: &str = "/etc/ufw/ufw.conf";
const UFW_IS_ON: &str = "ENABLED=yes";

/// The link inside, as Docker calls it.
const INSIDE: &str = "eth0";
/// Hardware address of the end outside. A bridge without one of its own takes the lowest of its links, and containers would
/// remember ours when it is gone.
const HIGHEST: &str = "fe:ff:ff:ff:ff:fe";
/// Where no bridge is asked over: this machine's end of the link, and the length of its prefix. Link-local, as
/// [`LINK_ADDRESS`].
const OWN_NETWORK: (Ipv4Addr, u32) = (Ipv4Addr::new(169, 254, 53, 5), 30);
/// How many addresses of the bridge are tried: the kernel knows of those that others use.
const ADDRESSES_MAX: usize = 16;

/// Who decides what comes in. Who may not ask that is told of iptables.
pub fn firewall() -> Firewall {
    let ufw = read_if_there(Path::new(UFW)).ok().flatten().unwrap_or_default();
    if String::from_utf8_lossy(&ufw).lines().any(|line| line == UFW_IS_ON) {
        return Firewall::Ufw;
    }
    // Machines without nft are many.
    let listed = system::run("nft", &LIST_CHAINS).unwrap_or_default();
    Firewall::of_chains(&listed)
}

/// Refuses where a container would not be answered, although the machine itself is: one of Docker's own network, if that is
/// there, or one of a network that a user made.
pub(super) fn must_let_containers_ask() -> anyhow::Result<()> {
    if let Some(network) = interfaces::network(BRIDGE)? {
        must_be_answered(Some(network), &format!("comes over {BRIDGE}"))?;
    }
    must_be_answered(
        None,
        &format!("comes over {BRIDGE_PREFIX}…, as the bridges of Docker's other networks are called"),
    )
}

fn must_be_answered(bridge: Option<(Ipv4Addr, u32)>, what: &str) -> anyhow::Result<()> {
    let asked = Outside::new().and_then(|outside| outside.ask(bridge));
    let asked = asked
        .context("cannot try whether containers would be answered, so Docker is not told of our resolver")?;
    let Err(why) = asked else { return Ok(()) };
    let firewall = firewall();
    let kept = firewall.kept().map_or_else(String::new, |how| format!(", and {how}"));
    Err(fault(
        format!(
            "containers would not be answered by {LINK_ADDRESS}:{STANDARD_PORT}, so Docker is not told of it: a firewall of \
             this machine does not let through what {what} ({why:#})"
        ),
        format!("`{}`{kept}; then `corediscover resolved apply --docker` again", firewall.allow()),
    ))
}

/// The end outside of a link into a network of nobody. It is gone when this is.
struct Outside {
    link: String,
    inside: Network,
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The kernel would remove it with the network inside, but later; where that was quicker, it is gone.
        drop(system::run("ip", &["link", "delete", &self.link]));
    }
}

impl Outside {
    fn new() -> anyhow::Result<Self> {
        let inside = Network::empty()?;
        let process = std::process::id().to_string();
        // Of its own for each process, within the 15 characters that a link's name may have, and one that rules for bridges of
        // users' networks are for.
        let link = format!("{BRIDGE_PREFIX}cd{process}");
        let peer = link.clone();
        // The peer is in this process's network, which is the machine's.
        inside.within(move || {
            let ends = ["link", "add", INSIDE, "type", "veth", "peer", "name", &peer, "address", HIGHEST];
            system::run("ip", &[&ends[..], &["netns", &process]].concat()).map(drop)
        })?;
        Ok(Self { link, inside })
    }

    /// Asks from inside, over the bridge if there is one. The outer error: it could not be tried.
    fn ask(&self, bridge: Option<(Ipv4Addr, u32)>) -> anyhow::Result<anyhow::Result<()>> {
        let (gateway, prefix) = bridge.unwrap_or(OWN_NETWORK);
        if bridge.is_some() {
            system::run("ip", &["link", "set", &self.link, "master", BRIDGE])?;
        } else {
            let address = format!("{gateway}/{prefix}");
            system::run("ip", &["address", "add", &address, "dev", &self.link])?;
        }
        system::run("ip", &["link", "set", &self.link, "up"])?;
        let own = self.free_address(bridge.is_some(), gateway, prefix)?;
        self.inside.within(move || {
            system::run("ip", &["link", "set", INSIDE, "up"])?;
            system::run("ip", &["address", "add", &format!("{own}/{prefix}"), "dev", INSIDE])?;
            system::run("ip", &["route", "add", "default", "via", &gateway.to_string()])?;
            Ok(probe::ask((LINK_ADDRESS, STANDARD_PORT).into(), "localhost").map(drop))
        })
    }

    /// The highest address that nobody is known to have: Docker gives the lowest to containers.
    fn free_address(&self, on_bridge: bool, gateway: Ipv4Addr, prefix: u32) -> anyhow::Result<Ipv4Addr> {
        let dev = if on_bridge { BRIDGE } else { &self.link };
        let known = system::run("ip", &["-4", "neighbour", "show", "dev", dev])?;
        let is_known = |address: &Ipv4Addr| {
            known.lines().any(|line| line.split_whitespace().next() == Some(&address.to_string()))
        };
        let mut candidates = highest_hosts(gateway, prefix).take(ADDRESSES_MAX);
        candidates
            .find(|address| !is_known(address))
            .with_context(|| format!("{dev} has no free address to ask from"))
            .hint("give Docker's bridge a wider network: `bip` in /etc/docker/daemon.json")
    }
}
