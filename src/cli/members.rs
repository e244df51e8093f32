//! `corediscover members`: who gossip sees.

use anyhow::Context as _;
use regex::Regex;

use super::connection::{ConnectionArgs, explain};
use super::{EXIT_FINE, EXIT_USAGE, Output, block_on, table};
use crate::client::Member;

/// Arguments of `members`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Show all tags.
    #[arg(long)]
    detailed: bool,
    /// Only members whose status matches this regular expression.
    #[arg(long, default_value = ".*")]
    status: String,
    /// Accepted for Consul's sake: there are no segments.
    #[arg(long, hide = true)]
    segment: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command; exit code 2 when nobody matches, as in Consul.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let status = Regex::new(&args.status)
        .with_context(|| format!("-status: `{}` is not a regular expression", args.status))?;
    let client = args.connection.client()?;
    let mut members =
        explain(block_on(async { Ok(client.agent_members().await) })?, "Error retrieving members")?;
    members.retain(|member| status.is_match(status_text(member.status)));
    members.sort_by(|one, other| one.name.cmp(&other.name));
    if members.is_empty() {
        return Ok(EXIT_USAGE);
    }
    if args.json {
        output.data(&json(&members)?)?;
    } else if args.detailed {
        output.data(&detailed(&members))?;
    } else {
        output.data(&standard(&members))?;
    }
    Ok(EXIT_FINE)
}

/// Consul's word for the number in `/v1/agent/members`.
pub(super) fn status_text(status: u8) -> &'static str {
    match status {
        1 => "alive",
        2 => "leaving",
        3 => "left",
        4 => "failed",
        _ => "none",
    }
}

fn json(members: &[Member]) -> anyhow::Result<String> {
    let rows: Vec<_> = members
        .iter()
        .map(|member| {
            serde_json::json!({
                "name": member.name, "address": address(member), "status": status_text(member.status),
                "tags": member.tags,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}

fn address(member: &Member) -> String {
    if member.addr.contains(':') {
        format!("[{}]:{}", member.addr, member.port)
    } else {
        format!("{}:{}", member.addr, member.port)
    }
}

fn standard(members: &[Member]) -> String {
    let mut rows = vec![
        ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Partition", "Segment"]
            .map(str::to_owned),
    ];
    for member in members {
        let tag = |name: &str| member.tags.get(name).cloned().unwrap_or_default();
        let server = tag("role") == "consul";
        rows.push([
            member.name.clone(),
            address(member),
            status_text(member.status).to_owned(),
            if server { "server" } else { "client" }.to_owned(),
            tag("build").split(':').next().unwrap_or_default().to_owned(),
            "2".to_owned(),
            tag("dc"),
            "default".to_owned(),
            if server { "<all>" } else { "<default>" }.to_owned(),
        ]);
    }
    table::lay_out(&rows)
}

fn detailed(members: &[Member]) -> String {
    let mut rows = vec![["Node", "Address", "Status", "Tags"].map(str::to_owned)];
    for member in members {
        let tags: Vec<String> = member.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        rows.push([
            member.name.clone(),
            address(member),
            status_text(member.status).to_owned(),
            tags.join(","),
        ]);
    }
    table::lay_out(&rows)
}
