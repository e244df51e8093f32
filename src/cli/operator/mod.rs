//! `corediscover operator`: the servers. Raft and autopilot as Consul prints them, and what is ours.

mod autopilot;
mod raft;
mod recover;
mod servers;

use super::Output;

pub(super) use servers::lines as server_lines;

/// Arguments of `operator`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The servers of the raft configuration.
    Raft(raft::Args),
    /// Consul's autopilot settings and its judgement of the servers.
    Autopilot(autopilot::Args),
    /// How many servers there are and should be, and who replaces whom.
    Servers(servers::Args),
    /// Go on after a majority of the servers was lost for good.
    Recover(recover::Args),
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    match args.what {
        What::Raft(args) => raft::run(args, output),
        What::Autopilot(args) => autopilot::run(args, output),
        What::Servers(args) => servers::run(args, output),
        What::Recover(args) => recover::run(args, output),
    }
}
