//! The command line: one file per command, `output.rs` the only place that prints.
//!
//! Exit codes: 0 fine, 1 failed, 2 usage. Consul's flags work with one dash or two ([`arguments`]).

mod address;
mod agent;
mod arguments;
mod bootstrap;
mod butane;
mod catalog;
mod cloud_config;
mod cloud_init;
mod cmd_run;
mod compose;
mod connection;
mod diff;
mod doctor;
mod fleet;
mod force_leave;
mod ignition;
mod info;
mod join;
mod kv;
mod leave;
mod lint;
mod local_agent;
mod logging;
mod members;
mod operator;
mod output;
mod registrator;
mod reload;
mod resolved;
mod serve_provision;
mod signals;
mod spec_args;
mod status;
mod sysext;
mod table;
mod units;
mod up;
mod vagrant;
mod version;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

pub(crate) use output::Output;

/// Everything went well.
pub(crate) const EXIT_FINE: u8 = 0;
/// The command could not do what was asked.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command was not understood.
pub(crate) const EXIT_USAGE: u8 = 2;

/// One static binary that turns blank machines into one self-healing discovery cluster.
#[derive(Parser)]
#[command(name = "corediscover", disable_version_flag = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print user-data for blank machines with `CoreOS`: `corediscover cloud-config > user-data`.
    CloudConfig(cloud_config::Args),
    /// Print user-data for blank machines with Debian or Ubuntu.
    CloudInit(cloud_init::Args),
    /// Print user-data for blank machines with Flatcar or Fedora `CoreOS`.
    Ignition(ignition::Args),
    /// Print the same in Butane's language, to be merged with what you have.
    Butane(butane::Args),
    /// Write the unit files, global for fleet or plain for systemd, into a folder.
    Units(units::Args),
    /// Print a compose file: agent and registrator as containers.
    Compose(compose::Args),
    /// Write the tree of a system extension, for Flatcar, with this binary in it.
    Sysext(sysext::Args),
    /// Write a Vagrantfile for a cluster on one desk.
    Vagrant(vagrant::Args),
    /// Serve the binary and user-data to booting machines, over HTTP.
    ServeProvision(serve_provision::Args),
    /// Find what machines would read differently than it was meant, in user-data and units.
    Lint(lint::Args),
    /// Show what two spec files do differently.
    Diff(diff::Args),
    /// Print the docker command that starts an agent container: `$(… cmd:run 10.0.0.1 -d)`.
    #[command(name = "cmd:run")]
    CmdRun(cmd_run::Args),
    /// Show which address this machine tells the others, and why.
    Address(address::Args),
    /// Bring the binary and units onto machines over SSH, and see what runs there.
    Fleet(Box<fleet::Args>),
    /// Meet the other machines in etcd, find this machine's role, run the agent with it.
    Bootstrap(bootstrap::Args),
    /// Run the discovery agent.
    Agent(Box<agent::Args>),
    /// Register what Docker runs, with no change to the containers.
    Registrator(registrator::Args),
    /// Make this machine's own resolver, and Docker's containers, find names of the domain through the agent.
    Resolved(resolved::Args),
    /// Run a whole cluster of machines on loopback, for a look or a test.
    Up(up::Args),
    /// List the members of the cluster.
    Members(members::Args),
    /// Make the agent join a cluster.
    Join(join::Args),
    /// Make the agent leave the cluster gracefully, and end.
    Leave(leave::Args),
    /// Make the agent read its configuration files again.
    Reload(reload::Args),
    /// Turn a failed member into one that has left.
    ForceLeave(force_leave::Args),
    /// Print what the agent knows about itself.
    Info(info::Args),
    /// Read and write keys.
    Kv(kv::Args),
    /// List datacenters, nodes and services.
    Catalog(catalog::Args),
    /// See and change the servers: raft, autopilot, how many.
    Operator(operator::Args),
    /// Look for what commonly goes wrong on this machine, and tell what to do; exit code 1 when there is an error.
    Doctor(Box<doctor::Args>),
    /// Show the cluster on one screen.
    Status(status::Args),
    /// Print the version.
    Version(version::Args),
}

/// Runs the command line `args` (the program's name first).
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut output = Output::standard();
    let args = match arguments::normalise(args) {
        Ok(args) => args,
        Err(error) => return output.failure(&error, EXIT_USAGE),
    };
    let command = match CommandLine::try_parse_from(args) {
        Ok(line) => line.command,
        Err(error) => return output.usage(&error),
    };
    match run(command, &mut output) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.downcast_ref::<Usage>().map_or(EXIT_FAILED, |_| EXIT_USAGE);
            output.failure(&error, code)
        }
    }
}

fn run(command: Command, output: &mut Output) -> anyhow::Result<u8> {
    match command {
        Command::CloudConfig(args) => cloud_config::run(args, output),
        Command::CloudInit(args) => cloud_init::run(args, output),
        Command::Ignition(args) => ignition::run(args, output),
        Command::Butane(args) => butane::run(args, output),
        Command::Units(args) => units::run(args, output),
        Command::Compose(args) => compose::run(args, output),
        Command::Sysext(args) => sysext::run(args, output),
        Command::Vagrant(args) => vagrant::run(args, output),
        Command::ServeProvision(args) => serve_provision::run(args, output),
        Command::Lint(args) => lint::run(args, output),
        Command::Diff(args) => diff::run(args, output),
        Command::CmdRun(args) => cmd_run::run(args, output),
        Command::Address(args) => address::run(args, output),
        Command::Fleet(args) => fleet::run(*args, output),
        Command::Bootstrap(args) => bootstrap::run(args, output),
        Command::Agent(args) => agent::run(*args, output),
        Command::Registrator(args) => registrator::run(args, output),
        Command::Resolved(args) => resolved::run(args, output),
        Command::Up(args) => up::run(args, output),
        Command::Members(args) => members::run(args, output),
        Command::Join(args) => join::run(args, output),
        Command::Leave(args) => leave::run(args, output),
        Command::Reload(args) => reload::run(args, output),
        Command::ForceLeave(args) => force_leave::run(args, output),
        Command::Info(args) => info::run(args, output),
        Command::Kv(args) => kv::run(args, output),
        Command::Catalog(args) => catalog::run(args, output),
        Command::Operator(args) => operator::run(args, output),
        Command::Doctor(args) => doctor::run(*args, output),
        Command::Status(args) => status::run(args, output),
        Command::Version(args) => version::run(args, output),
    }
}

/// A context layer that turns a failure into a usage error (exit code 2).
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) &'static str);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// Runs a command that waits for the network.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime's threads")?
        .block_on(future)
}
