//! Points this machine's own resolver at the agent, and takes that back; the same for containers.
//!
//! What is decided and written is in `model::resolved`; here are files, programs and sockets. Everything is done only
//! where something differs, so that doing it twice changes nothing and the resolver is restarted at most once.

mod changes;
mod docker;
mod firewall;
mod inside;
mod link;
mod network;
mod probe;
mod state;
mod system;

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use crate::hint::{WithHint as _, causes, fault};
use crate::host::files::read_if_there;
use crate::model::resolved::{
    CONTAINERS, CONTAINERS_SINCE, DELEGATE, DROP_IN, LINK, LINK_ADDRESS, Mode, Target, containers,
};
use changes::Changes;

pub use docker::{Restart, check_bridge};
pub use firewall::firewall;
pub use inside::{Asked, ask_inside};
pub use state::{Lookup, Status, status};

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The way to do it; the best one when nothing is said.
    pub mode: Option<Mode>,
    /// What is asked for what.
    pub target: Target,
    /// The same for containers.
    pub containers: Option<Containers>,
}

/// How containers are served.
#[derive(Debug, Clone, Copy)]
pub struct Containers {
    /// The address of Docker's bridge, where it is not to be found out.
    pub bridge: Option<IpAddr>,
    /// Whether dockerd is restarted when its settings changed.
    pub restart: Restart,
}

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// How the resolver finds the agent now.
    pub mode: Mode,
    /// Each thing that was changed.
    pub changes: Vec<String>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Makes the resolver ask the agent for its domain.
///
/// # Errors
/// When this is not root, there is no resolver, it is too old, or a program fails.
pub fn apply(wanted: &Wanted) -> anyhow::Result<Done> {
    system::must_be_root("resolved apply")?;
    let version = system::version()?;
    system::must_resolve()?;
    let target = &wanted.target;
    let chosen = Mode::choose(wanted.mode, version, target.agent.port())
        .map_err(|error| fault(&error, error.advice()))?;
    if wanted.containers.is_some() {
        must_serve_containers(version)?;
    }
    let mut changes = Changes::default();
    let mut mode = chosen;
    // Only a way that nobody asked for may be replaced by another.
    let may_fall_back = wanted.mode.is_none();
    if mode == Mode::Link
        && let Err(error) = link::make(&mut changes)
    {
        mode = fall_back(may_fall_back, error, &mut changes)?;
    }
    let serve = match wanted.containers {
        Some(wanted) => Some(prepare_containers(wanted, &mut changes)?),
        None => read_if_there(Path::new(CONTAINERS))?
            .map(|text| String::from_utf8(text).context("the file for containers is not text"))
            .transpose()?,
    };
    set_files(mode, target, serve.as_deref(), &mut changes)?;
    changes.settle()?;
    if mode == Mode::Link
        && let Err(error) = link::set(target, &mut changes)
    {
        mode = fall_back(may_fall_back, error, &mut changes)?;
        set_files(mode, target, serve.as_deref(), &mut changes)?;
        changes.settle()?;
    }
    if mode != Mode::Link {
        link::unset(serve.is_some(), &mut changes)?;
    }
    if let Some(containers) = wanted.containers {
        must_answer_containers()?;
        firewall::must_let_containers_ask()?;
        docker::add(containers.restart, &mut changes)?;
    }
    let (changes, notes) = changes.into_parts();
    Ok(Done { mode, changes, notes })
}

/// After a boot, before dockerd starts: where Docker's settings name our address, the resolver answers there, so that
/// containers that start with dockerd find it. Nothing where they name none.
///
/// # Errors
/// When this is not root, there is no resolver, it is too old, or a program fails.
pub fn restore() -> anyhow::Result<(Vec<String>, Vec<String>)> {
    system::must_be_root("resolved restore")?;
    let mut changes = Changes::default();
    if docker::is_told()? {
        let version = system::version()?;
        system::must_resolve()?;
        must_serve_containers(version)?;
        // One that is there may have a bridge that was asked for.
        if read_if_there(Path::new(CONTAINERS))?.is_some() {
            link::make(&mut changes)?;
        } else {
            let serve =
                prepare_containers(Containers { bridge: None, restart: Restart::Never }, &mut changes)?;
            changes.file(CONTAINERS, Some(&serve))?;
        }
        changes.settle()?;
        must_answer_containers()?;
    }
    Ok(changes.into_parts())
}

/// Takes back what [`apply`] did, whatever the way was; what was done for containers only with `containers`. Without
/// `wait` a restart of the resolver is only asked for, which units need: it would wait for them, and they for it.
///
/// # Errors
/// When this is not root, or a program fails.
pub fn remove(containers: bool, wait: bool) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    system::must_be_root("resolved remove")?;
    let mut changes = if wait { Changes::default() } else { Changes::without_waiting() };
    let mut docker = Ok(());
    if containers {
        // First, so that nobody starts a container that asks an address where nobody is.
        let giving = docker::take(&mut changes).unwrap_or_else(|error| {
            docker = Err(error);
            false
        });
        if giving {
            changes.note(format!(
                "dockerd gives containers {LINK_ADDRESS} until it starts again, so the resolver goes on answering there: \
                 `systemctl restart docker`, which stops containers unless live-restore is on, then \
                 `corediscover resolved remove --docker` once more; containers that run through that restart ask \
                 {LINK_ADDRESS} until they are started again themselves"
            ));
        } else {
            changes.file(CONTAINERS, None)?;
        }
    }
    changes.file(DROP_IN, None)?;
    changes.file(DELEGATE, None)?;
    changes.settle()?;
    let serves = read_if_there(Path::new(CONTAINERS))?.is_some();
    link::unset(serves, &mut changes)?;
    if serves && !containers {
        changes.note(format!(
            "containers still ask the resolver at {LINK_ADDRESS}; `corediscover resolved remove --docker` ends that too"
        ));
    }
    // A file that only its owner can correct does not keep the rest from being taken back.
    docker?;
    Ok(changes.into_parts())
}

fn fall_back(may: bool, error: anyhow::Error, changes: &mut Changes) -> anyhow::Result<Mode> {
    if !may {
        return Err(error);
    }
    changes.note(format!("no link of our own, a drop-in instead: {}", causes(&error)));
    Ok(Mode::DropIn)
}

/// The resolver's files are those of this mode, and no others of ours.
fn set_files(mode: Mode, target: &Target, serve: Option<&str>, changes: &mut Changes) -> anyhow::Result<()> {
    let drop_in = matches!(mode, Mode::DropIn | Mode::Plain).then(|| target.drop_in());
    let delegate = (mode == Mode::Delegate).then(|| target.delegate());
    changes.file(DROP_IN, drop_in.as_deref())?;
    changes.file(DELEGATE, delegate.as_deref())?;
    changes.file(CONTAINERS, serve)
}

/// Refuses what would fail later, before anything is changed.
fn must_serve_containers(version: u32) -> anyhow::Result<()> {
    if version < CONTAINERS_SINCE {
        return Err(fault(
            format!("--docker needs systemd {CONTAINERS_SINCE}, this machine has {version}"),
            "let the agent answer containers: `-client \"127.0.0.1 172.17.0.1\" -dns-port 53 -recursor ADDRESS`",
        ));
    }
    docker::must_take_servers()
}

/// The link whose address containers ask, and the text that makes the resolver answer there.
fn prepare_containers(wanted: Containers, changes: &mut Changes) -> anyhow::Result<String> {
    link::make(changes).context("containers need an address that they reach on every bridge")?;
    let mut addresses = vec![IpAddr::V4(LINK_ADDRESS)];
    addresses.extend(docker::bridges(wanted.bridge, changes)?);
    addresses.dedup();
    Ok(containers(&addresses))
}

/// Docker is told the address only when somebody answers there: otherwise containers would resolve nothing at all. Whether
/// the answer gets to them is [`firewall`]'s to say.
fn must_answer_containers() -> anyhow::Result<()> {
    probe::ask((LINK_ADDRESS, 53).into(), "localhost")
        .with_context(|| format!("the resolver does not answer at {LINK_ADDRESS}:53, on {LINK}"))
        .hint("see who is there with `ss -lnptu`, and what the resolver says with `journalctl -u systemd-resolved`")
        .map(drop)
}
