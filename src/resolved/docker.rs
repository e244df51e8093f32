//! Docker's settings: which server containers ask when nobody says another.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use super::changes::{self, Changes};
use super::system;
use crate::hint::{WithHint as _, causes, fault};
use crate::host::files::read_if_there;
use crate::host::{self, interfaces};
use crate::model::resolved::docker::{
    BRIDGE_ADDRESS, DAEMON_FILE, TOLD, UNREAD, bridge, is_all_ours, with_server, without_server,
};
use crate::model::resolved::{LINK_ADDRESS, bridge as chosen};

/// Docker's unit.
const DOCKER: &str = "docker.service";
/// Docker's bridge.
pub(super) const BRIDGE: &str = "docker0";
/// What to do about a file that dockerd would not read.
const FILE_ADVICE: &str =
    "dockerd would not start with it either: correct it, `dockerd --validate` tells more";

/// Whether dockerd is restarted when its settings changed: it reads `dns` at no other time, not on SIGHUP either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never: the user does it, or the next boot.
    Never,
    /// Only while no container runs, so that nobody notices.
    WhenIdle,
    /// Also when containers are stopped by that.
    Always,
}

fn address() -> IpAddr {
    IpAddr::V4(LINK_ADDRESS)
}

fn read() -> anyhow::Result<String> {
    let bytes = read_if_there(Path::new(DAEMON_FILE))?.unwrap_or_default();
    String::from_utf8(bytes).with_context(|| format!("{DAEMON_FILE} is not text")).hint(FILE_ADVICE)
}

/// Refuses before anything is changed: dockerd does not start with a setting both as a flag and in its file, nor with
/// a file that is no JSON.
pub(super) fn must_take_servers() -> anyhow::Result<()> {
    if system::runs_with_flag("dockerd", "--dns")? {
        return Err(fault(
            format!("dockerd runs with --dns, and would not start with `dns` in {DAEMON_FILE} beside it"),
            "take --dns out of dockerd's flags: what it says can stand in `dns` of that file, behind our address",
        ));
    }
    if let Some(file) = system::value_of_flag("dockerd", "--config-file")?
        && file != DAEMON_FILE
    {
        return Err(fault(
            format!("dockerd runs with --config-file {file}, and would not read {DAEMON_FILE}"),
            format!(
                "move that file to {DAEMON_FILE} and take --config-file out of dockerd's flags, or leave --docker out"
            ),
        ));
    }
    with_server(&read()?, address())
        .with_context(|| format!("cannot add to {DAEMON_FILE}"))
        .hint(FILE_ADVICE)
        .map(drop)
}

/// Refuses an address at which others than containers would find an open resolver.
///
/// # Errors
/// Says what the address is; or that the machine's addresses cannot be read.
pub fn check_bridge(address: IpAddr) -> anyhow::Result<()> {
    chosen::check(address, &host::address::facts()?)
        .hint("give the address of a bridge of containers (`ip address show docker0`), or leave --bridge out")
}

/// Addresses of the bridge, now and after dockerd's next start: containers that are given one with `--dns` ask there. None
/// at which others than containers would find an open resolver.
pub(super) fn bridges(asked: Option<IpAddr>, changes: &mut Changes) -> anyhow::Result<Vec<IpAddr>> {
    if let Some(address) = asked {
        return Ok(vec![address]);
    }
    let configured =
        bridge(&read()?).with_context(|| format!("cannot read {DAEMON_FILE}")).hint(FILE_ADVICE)?;
    let present = interfaces::addresses()?
        .into_iter()
        .find_map(|(name, address)| (name == BRIDGE && address.is_ipv4()).then_some(address));
    let mut found: Vec<IpAddr> = configured.into_iter().chain(present).collect();
    found.dedup();
    if found.is_empty() {
        found.push(BRIDGE_ADDRESS);
    }
    let facts = host::address::facts()?;
    found.retain(|address| match chosen::check(*address, &facts) {
        Ok(()) => true,
        Err(error) => {
            changes.note(format!("the resolver does not answer at the bridge's address: {error}"));
            false
        }
    });
    Ok(found)
}

/// Which start of dockerd runs; `None` when it does not run under systemd.
fn started() -> anyhow::Result<Option<String>> {
    if !system::succeeds("systemctl", &["--quiet", "is-active", DOCKER])? {
        return Ok(None);
    }
    let id = system::run("systemctl", &["show", "--property=InvocationID", "--value", DOCKER])?;
    Ok(Some(id.trim().to_owned()))
}

/// Whether our setting came after this start of dockerd.
fn is_unread_by(started: &str) -> anyhow::Result<bool> {
    Ok(read_if_there(Path::new(UNREAD))?.is_some_and(|late| late == started.as_bytes()))
}

/// Containers that start from dockerd's next start on ask the resolver.
pub(super) fn add(restart: Restart, changes: &mut Changes) -> anyhow::Result<()> {
    let text = with_server(&read()?, address())
        .with_context(|| format!("cannot add to {DAEMON_FILE}"))
        .hint(FILE_ADVICE)?;
    let mut late = None;
    if let Some(started) = started()? {
        // An earlier run may have left the restart to the user.
        let is_news = text.is_some() && !still_gives(&started)?;
        if is_news || is_unread_by(&started)? {
            // First, so that a run that ends behind the file is finished by the next one.
            changes::set(UNREAD, Some(&started))?;
            late = Some(started);
        }
    }
    if let Some(text) = &text {
        changes::set(DAEMON_FILE, Some(text))?;
        changes.made(format!("put {LINK_ADDRESS} first in `dns` of {DAEMON_FILE}"));
    }
    changes::set(TOLD, None)?;
    if late.is_none() {
        return changes::set(UNREAD, None).map(drop);
    }
    let restarts = match restart {
        Restart::Never => false,
        Restart::WhenIdle => is_idle(changes),
        Restart::Always => true,
    };
    if restarts {
        system::run("systemctl", &["try-restart", DOCKER]).context("dockerd does not start again").hint(
            "see `journalctl -u docker`; `corediscover resolved remove --docker` takes our setting away",
        )?;
        changes::set(UNREAD, None)?;
        changes.made("restarted dockerd");
    } else {
        changes.note(
            "dockerd reads this when it starts: `systemctl restart docker`, which stops containers unless live-restore \
             is on; until then new containers ask as before",
        );
    }
    Ok(())
}

/// Whether no container runs; if that cannot be known, one may.
fn is_idle(changes: &mut Changes) -> bool {
    match system::run("docker", &["ps", "--quiet"]) {
        Ok(containers) => containers.trim().is_empty(),
        Err(error) => {
            changes.note(format!("dockerd is not restarted: {}", causes(&error)));
            false
        }
    }
}

/// Whether Docker gives containers our address.
pub(super) fn is_told() -> anyhow::Result<bool> {
    let text = read()?;
    // A file that dockerd would not read tells it nothing.
    Ok(without_server(&text, address()).is_ok_and(|left| left.is_some()))
}

/// Whether this start of dockerd gives containers our address although the file no longer says so.
fn still_gives(started: &str) -> anyhow::Result<bool> {
    Ok(read_if_there(Path::new(TOLD))?.is_some_and(|told| told == started.as_bytes()))
}

/// Takes out what [`add`] put in. True: a dockerd runs that read it, and gives containers our address until its next start.
pub(super) fn take(changes: &mut Changes) -> anyhow::Result<bool> {
    let text = read()?;
    let left = without_server(&text, address())
        .with_context(|| format!("cannot take our server out of {DAEMON_FILE}"))
        .hint(FILE_ADVICE)?;
    let giving = match started()? {
        Some(started) if still_gives(&started)? => Some(started),
        Some(started) if left.is_some() && !is_unread_by(&started)? => Some(started),
        _ => None,
    };
    changes::set(TOLD, giving.as_deref())?;
    changes::set(UNREAD, None)?;
    if let Some(left) = left {
        let is_link = Path::new(DAEMON_FILE).is_symlink();
        let ours = is_all_ours(&text, address()) && !is_link;
        changes::set(DAEMON_FILE, if ours { None } else { Some(&left) })?;
        changes.made(format!("took {LINK_ADDRESS} out of `dns` of {DAEMON_FILE}"));
    }
    Ok(giving.is_some())
}
