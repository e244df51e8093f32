//! `corediscover force-leave`: turns a failed member into one that has left.

use super::connection::{ConnectionArgs, explain};
use super::{EXIT_FINE, Output, block_on};
use crate::client::{Reply, escape};

/// Arguments of `force-leave`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Forget the member at once.
    #[arg(long)]
    prune: bool,
    /// Name of the member.
    node: String,
}

/// Runs the command.
pub(crate) fn run(args: Args, _output: &mut Output) -> anyhow::Result<u8> {
    let client = args.connection.client()?;
    let path = format!("/v1/agent/force-leave/{}", escape(&args.node));
    let query: &[(&str, &str)] = if args.prune { &[("prune", "")] } else { &[] };
    let answer = block_on(async { Ok(client.put(&path, query, "").await.and_then(Reply::accepted)) })?;
    explain(answer, "Error force leaving")?;
    Ok(EXIT_FINE)
}
