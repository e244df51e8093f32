//! `corediscover leave`: the agent leaves the cluster gracefully, and ends.

use super::connection::ConnectionArgs;
use super::{EXIT_FINE, Output};

/// Arguments of `leave`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    args.connection.order("/v1/agent/leave", "Error leaving")?;
    output.data("Graceful leave complete\n")?;
    Ok(EXIT_FINE)
}
