//! `corediscover resolved`: this machine's own resolver finds the agent, or does no longer, or how it does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::table::lay_out;
use super::{EXIT_FAILED, EXIT_FINE, Output, Usage};
use crate::hint::fault;
use crate::model::provision::spec::{DnsPort, Domain};
use crate::model::resolved::{LINK_ADDRESS, Mode, Target};
use crate::resolved::{
    Containers, Lookup, Restart, Status, Wanted, apply, check_bridge, remove, restore, status,
};

/// Arguments of `resolved`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Make the resolver ask the agent for names of its domain; done twice it changes nothing more.
    Apply(ApplyArgs),
    /// After a boot, before dockerd starts: the address that Docker's settings name answers containers again.
    Restore,
    /// Leave the resolver as it was before.
    Remove(RemoveArgs),
    /// Show what is set, and whether names get to the agent; exit code 1 when they do not.
    Status(StatusArgs),
}

/// A way to point the resolver at the agent.
#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    /// The best that this version of systemd has.
    Auto,
    /// A dns-delegate file: systemd 258.
    Delegate,
    /// Settings of a link of our own: systemd 246.
    Link,
    /// A drop-in of resolved.conf; other names go to the agent too: systemd 246.
    DropIn,
    /// The same without a port: the agent must be on port 53.
    Plain,
}

impl From<ModeArg> for Option<Mode> {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Auto => None,
            ModeArg::Delegate => Some(Mode::Delegate),
            ModeArg::Link => Some(Mode::Link),
            ModeArg::DropIn => Some(Mode::DropIn),
            ModeArg::Plain => Some(Mode::Plain),
        }
    }
}

/// When dockerd is restarted.
#[derive(Clone, Copy, ValueEnum)]
enum RestartArg {
    /// Not at all: its settings hold from its next start on.
    Never,
    /// If its settings changed since it started, and no container runs.
    Idle,
    /// If its settings changed since it started.
    Always,
}

/// Where the agent is, and what for.
#[derive(clap::Args)]
struct TargetArgs {
    /// The agent's domain.
    #[arg(long, default_value = "consul")]
    domain: Domain,
    /// The address at which the agent's DNS listens.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Its port.
    #[arg(long, value_name = "PORT", default_value = "8600")]
    dns_port: DnsPort,
}

impl TargetArgs {
    fn target(self) -> anyhow::Result<Target> {
        if self.address.is_unspecified() {
            let error =
                fault(format!("nobody can ask {}", self.address), "give one address, such as 127.0.0.1");
            return Err(error.context(Usage("--address is where the agent listens")));
        }
        let agent = SocketAddr::new(self.address, self.dns_port.number());
        Ok(Target { agent, domain: self.domain.as_str().to_owned() })
    }
}

#[derive(clap::Args)]
struct ApplyArgs {
    /// How; anything but auto fails when this machine cannot do it.
    #[arg(long, value_enum, default_value = "auto")]
    mode: ModeArg,
    #[command(flatten)]
    target: TargetArgs,
    /// Also for containers: the resolver answers them, and Docker tells them where.
    #[arg(long)]
    docker: bool,
    /// The address of Docker's bridge, where the resolver answers too [default: what it has, or will have]
    #[arg(long, value_name = "IP", requires = "docker")]
    bridge: Option<IpAddr>,
    /// Whether dockerd may be restarted.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "never", requires = "docker")]
    restart_docker: RestartArg,
}

#[derive(clap::Args)]
struct RemoveArgs {
    /// Also what was done for containers.
    #[arg(long)]
    docker: bool,
    /// Only ask for the restart of the resolver, if one is needed: for units, for which it would wait.
    #[arg(long)]
    no_block: bool,
}

#[derive(clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    match args.command {
        Part::Apply(args) => {
            if let Some(bridge) = args.bridge {
                check_bridge(bridge)
                    .context(Usage("--bridge is where the resolver answers containers, and nobody else"))?;
            }
            let containers = args.docker.then_some(Containers {
                bridge: args.bridge,
                restart: match args.restart_docker {
                    RestartArg::Never => Restart::Never,
                    RestartArg::Idle => Restart::WhenIdle,
                    RestartArg::Always => Restart::Always,
                },
            });
            let wanted = Wanted { mode: args.mode.into(), target: args.target.target()?, containers };
            let done = apply(&wanted)?;
            tell(&done.changes, &done.notes, output)?;
            let Target { agent, domain } = &wanted.target;
            output.note(&format!("names of {domain} go to {agent}, by mode {}", done.mode));
        }
        Part::Restore => {
            let (changes, notes) = restore()?;
            tell(&changes, &notes, output)?;
        }
        Part::Remove(args) => {
            let (changes, notes) = remove(args.docker, !args.no_block)?;
            tell(&changes, &notes, output)?;
        }
        Part::Status(args) => {
            let found = status(&args.target.target()?)?;
            let text = if args.json { format!("{:#}\n", as_json(&found)) } else { as_text(&found) };
            output.data(&text)?;
            if let Some(advice) = advice(&found).filter(|_| !args.json) {
                output.note(&format!("hint: {advice}"));
            }
            return Ok(if found.works() { EXIT_FINE } else { EXIT_FAILED });
        }
    }
    Ok(EXIT_FINE)
}

fn tell(changes: &[String], notes: &[String], output: &mut Output) -> anyhow::Result<()> {
    for change in changes {
        output.data(&format!("{change}\n"))?;
    }
    if changes.is_empty() {
        output.note("nothing to change");
    }
    for note in notes {
        output.note(&format!("note: {note}"));
    }
    Ok(())
}

/// What to do when names do not get to the agent.
fn advice(found: &Status) -> Option<&'static str> {
    match (&found.agent, found.mode) {
        _ if found.works() => None,
        (Lookup::Failed(_) | Lookup::Silent(_), _) => Some(
            "the agent does not answer: `systemctl status corediscover-agent`, or give --address and --dns-port",
        ),
        (_, None) => Some("`corediscover resolved apply` makes the resolver ask the agent"),
        (Lookup::Unknown, _) => {
            Some("the agent knows no server yet: `corediscover status` shows what it waits for")
        }
        (Lookup::Found, _) => {
            Some("`corediscover resolved remove`, then `apply`; `resolvectl status` shows who is asked")
        }
    }
}

fn lookup(found: &Lookup) -> String {
    match found {
        Lookup::Found => "found".to_owned(),
        Lookup::Unknown => "no such name".to_owned(),
        Lookup::Failed(reason) | Lookup::Silent(reason) => reason.clone(),
    }
}

fn as_text(found: &Status) -> String {
    let resolver = if found.resolves { "runs" } else { "does not run" };
    let mode = found.mode.map_or("not applied", Mode::word);
    let mut rows = vec![
        ["systemd-resolved".to_owned(), format!("{} {resolver}", found.systemd)],
        ["mode".to_owned(), mode.to_owned()],
    ];
    rows.extend(found.settings.iter().map(|(place, value)| [place.clone(), value.clone()]));
    if !found.containers.is_empty() {
        let addresses: Vec<String> = found.containers.iter().map(ToString::to_string).collect();
        let docker = if found.docker { "Docker tells them" } else { "Docker does not tell them" };
        let text = format!("{} ({docker} {LINK_ADDRESS})", addresses.join(", "));
        rows.push(["for containers".to_owned(), text]);
    }
    rows.push(["asked for".to_owned(), found.name.clone()]);
    rows.push(["  by the agent".to_owned(), lookup(&found.agent)]);
    rows.push(["  by programs".to_owned(), lookup(&found.machine)]);
    rows.extend(found.container.as_ref().map(|container| ["  by containers".to_owned(), lookup(container)]));
    lay_out(&rows)
}

fn as_json(found: &Status) -> Value {
    let settings: serde_json::Map<String, Value> =
        found.settings.iter().map(|(place, value)| (place.clone(), json!(value))).collect();
    json!({
        "Systemd": found.systemd,
        "Running": found.resolves,
        "Mode": found.mode.map(Mode::word),
        "Settings": settings,
        "Containers": found.containers,
        "DockerTold": found.docker,
        "Name": found.name,
        "Agent": lookup(&found.agent),
        "Machine": lookup(&found.machine),
        "Container": found.container.as_ref().map(lookup),
        "Works": found.works(),
    })
}
