//! `corediscover reload`: makes the agent read its configuration again.

use super::connection::ConnectionArgs;
use super::{EXIT_FINE, Output};

/// Arguments of `reload`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    args.connection.order("/v1/agent/reload", "Error reloading")?;
    output.data("Configuration reload triggered\n")?;
    Ok(EXIT_FINE)
}
