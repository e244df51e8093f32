//! `corediscover info`: what the agent says about itself, by section.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;

use super::connection::{ConnectionArgs, explain};
use super::{EXIT_FINE, Output, block_on};

/// Arguments of `info`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let client = args.connection.client()?;
    let own = explain(block_on(async { Ok(client.agent_self().await) })?, "Error querying agent")?;
    let sections: Sections =
        serde_json::from_value(own["Stats"].clone()).context("the agent's Stats are not understood")?;
    if args.json {
        output.data(&(serde_json::to_string_pretty(&sections)? + "\n"))?;
        return Ok(EXIT_FINE);
    }
    let mut text = String::new();
    for (name, values) in &sections {
        writeln!(text, "{name}:")?;
        for (key, value) in values {
            writeln!(text, "\t{key} = {value}")?;
        }
    }
    output.data(&text)?;
    Ok(EXIT_FINE)
}
