//! `corediscover reload`: makes the agent read its configuration again.

use super::connection::{ConnectionArgs, explain};
use super::{EXIT_FINE, Output, block_on};
use crate::client::Reply;

/// Arguments of `reload`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let client = args.connection.client()?;
    let answer =
        block_on(async { Ok(client.put("/v1/agent/reload", &[], "").await.and_then(Reply::accepted)) })?;
    explain(answer, "Error reloading")?;
    output.data("Configuration reload triggered\n")?;
    Ok(EXIT_FINE)
}
