//! `corediscover version`, and `consul version` when called under that name.

use super::{EXIT_FINE, Output};
use crate::model::version::{CONSUL_VERSION, REVISION, VERSION};

/// Arguments of `version`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `pretty` or `json`.
    #[arg(long, default_value = "pretty", value_parser = ["pretty", "json"])]
    format: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Speak as Consul does; set when called under that name.
    #[arg(long, hide = true)]
    as_consul: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let text = if args.json || args.format == "json" {
        // Consul's test harnesses read this shape.
        format!(
            "{{\n   \"Version\": \"{CONSUL_VERSION}\",\n   \"Revision\": \"{REVISION}\",\n   \"Prerelease\": \"\",\n   \
             \"RPC\": {{\n      \"Default\": 2,\n      \"Min\": 2,\n      \"Max\": 3\n   }}\n}}\n"
        )
    } else if args.as_consul {
        format!(
            "Consul v{CONSUL_VERSION}\nRevision {REVISION}\nProtocol 2 spoken by default, understands 2 to 3 (agent \
             will automatically use protocol >2 when speaking to compatible agents)\n\n"
        )
    } else {
        format!("corediscover {VERSION} (compatible with clients of Consul {CONSUL_VERSION})\n")
    };
    output.data(&text)?;
    Ok(EXIT_FINE)
}
