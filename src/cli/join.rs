//! `corediscover join`: makes the agent join through other agents.

use super::connection::ConnectionArgs;
use super::{EXIT_FAILED, EXIT_FINE, Output, block_on};
use crate::client::escape;

/// Arguments of `join`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Addresses of agents that are in the cluster.
    #[arg(required = true)]
    addresses: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let client = args.connection.client()?;
    let mut joined = 0;
    for address in &args.addresses {
        let path = format!("/v1/agent/join/{}", escape(address));
        let answer = block_on(async {
            Ok(client.put(&path, &[], "").await.and_then(crate::client::Reply::accepted))
        })?;
        match answer {
            Ok(_) => joined += 1,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                output.note(&format!("Error joining address '{address}': {error}"));
            }
        }
    }
    if joined == 0 {
        output.note("Failed to join any nodes.");
        return Ok(EXIT_FAILED);
    }
    output.data(&format!("Successfully joined cluster by contacting {joined} nodes.\n"))?;
    Ok(EXIT_FINE)
}
