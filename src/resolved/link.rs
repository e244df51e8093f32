//! The link of our own: it has no port, carries no packet of others, and exists so that the resolver has settings for it.

use anyhow::{Context as _, bail};
use nix::net::if_::if_nametoindex;

use super::changes::{self, Changes};
use super::system;
use crate::hint::fault;
use crate::host::interfaces;
use crate::model::resolved::{LINK, LINK_ADDRESS, Target, UNMANAGED, unmanaged};

/// Settings for the link beside server and domain: other names do not go there, nor does the agent speak any of these.
/// Where the machine wants DNSSEC or TLS for all names, they would be refused or not even asked.
const PLAIN_DNS: &[(&str, &str)] =
    &[("default-route", "no"), ("llmnr", "no"), ("mdns", "no"), ("dnssec", "no"), ("dnsovertls", "no")];
/// Kinds of links, the first that the kernel has is taken. A bridge is there wherever Docker is.
const KINDS: &[&str] = &["dummy", "bridge"];

pub(super) fn exists() -> bool {
    if_nametoindex(LINK).is_ok()
}

/// The link is there, has its address, and is up.
pub(super) fn make(changes: &mut Changes) -> anyhow::Result<()> {
    if system::has_networkd()? {
        let is_new = changes::set(UNMANAGED, Some(&unmanaged()))?;
        // Without the link an earlier run may have ended between the file and this.
        if is_new || !exists() {
            system::run("networkctl", &["reload"])
                .context("systemd-networkd does not leave our link alone")?;
        }
        if is_new {
            changes.made(format!("wrote {UNMANAGED}"));
        }
    }
    if !exists() {
        add()?;
        changes.made(format!("made the link {LINK}"));
    }
    let has_address =
        interfaces::addresses()?.iter().any(|(name, address)| name == LINK && *address == LINK_ADDRESS);
    if !has_address {
        system::run("ip", &["address", "add", &format!("{LINK_ADDRESS}/32"), "dev", LINK])?;
        changes.made(format!("gave {LINK} the address {LINK_ADDRESS}"));
    }
    // Costs nothing when it is up already.
    system::run("ip", &["link", "set", LINK, "up"]).map(drop)
}

fn add() -> anyhow::Result<()> {
    let mut reasons = Vec::new();
    for kind in KINDS {
        match system::run("ip", &["link", "add", LINK, "type", kind]) {
            Ok(_) => return Ok(()),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(fault(
        format!("cannot make the link {LINK}: {}", reasons.join("; ")),
        "CAP_NET_ADMIN and a kernel with dummy or bridge links are needed; --mode drop-in does without",
    ))
}

/// The resolver asks the agent, through the link, for its domain and nothing else.
pub(super) fn set(target: &Target, changes: &mut Changes) -> anyhow::Result<()> {
    let (server, route) = (target.server(), target.route());
    let wanted = [("dns", server.as_str()), ("domain", route.as_str())];
    let all: Vec<(&str, &str)> = PLAIN_DNS.iter().copied().chain(wanted).collect();
    if wrong(&all)?.is_none() {
        return Ok(());
    }
    // All of them: without a server and a domain the resolver only guesses the others.
    for (setting, value) in &all {
        system::run("resolvectl", &[setting, LINK, value])?;
    }
    if let Some((setting, found)) = wrong(&all)? {
        bail!("the resolver does not keep `{setting}` of {LINK}: it says `{found}`");
    }
    changes.made(format!("{LINK} asks {server} for {route}"));
    Ok(())
}

/// The first setting that the resolver has otherwise, and what it has.
fn wrong<'a>(wanted: &[(&'a str, &str)]) -> anyhow::Result<Option<(&'a str, String)>> {
    for (setting, value) in wanted {
        let found = read(setting)?;
        if found != *value {
            return Ok(Some((setting, found)));
        }
    }
    Ok(None)
}

/// What the resolver has: `Link 3 (cdns0): VALUE`.
pub(super) fn read(setting: &str) -> anyhow::Result<String> {
    let text = system::run("resolvectl", &[setting, LINK])?;
    Ok(text.split_once("): ").map_or("", |(_, value)| value.trim()).to_owned())
}

/// The resolver has no settings for the link; the link itself goes unless containers need its address.
pub(super) fn unset(keep: bool, changes: &mut Changes) -> anyhow::Result<()> {
    if keep {
        if exists() && system::resolves()? && !(read("dns")?.is_empty() && read("domain")?.is_empty()) {
            system::run("resolvectl", &["revert", LINK])?;
            changes.made(format!("took the settings of {LINK} back"));
        }
        return Ok(());
    }
    if exists() {
        system::run("ip", &["link", "delete", LINK])?;
        changes.made(format!("removed the link {LINK}"));
    }
    if changes::set(UNMANAGED, None)? {
        changes.made(format!("removed {UNMANAGED}"));
        if system::has_networkd()? {
            system::run("networkctl", &["reload"])?;
        }
    }
    Ok(())
}
