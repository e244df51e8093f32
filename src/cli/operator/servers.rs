//! `operator servers`: how many there should be, and what is done about those that are missing.

use serde_json::Value;

use crate::cli::connection::{ConnectionArgs, explain};
use crate::cli::{EXIT_FINE, Output, block_on};
use crate::client::{Client, ClientError, Reply};

/// Arguments of `operator servers`; without a subcommand it shows what there is.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Say how many servers there shall be: clients become servers, or servers clients, one by one.
    Set {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// The number: 3 survive the loss of one, 5 of two.
        count: u32,
    },
    /// Let a client take the place of a server now: what was proposed, or who is named.
    Replace {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// The server that goes; the dead one, if not given.
        #[arg(long)]
        old: Option<String>,
        /// The client that comes; the best one, if not given.
        #[arg(long)]
        new: Option<String>,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    match args.what {
        None => {
            let report = read(&args.connection.client()?)?;
            let text =
                if args.json { serde_json::to_string_pretty(&report)? } else { lines(&report).join("\n") };
            output.data(&(text + "\n"))?;
        }
        Some(What::Set { connection, count }) => {
            let client = connection.client()?;
            let text = count.to_string();
            put(&client, "/v1/operator/servers", &[("count", &text)], "Error setting the number of servers")?;
            output.data(&format!("The cluster is to have {count} servers\n"))?;
        }
        Some(What::Replace { connection, old, new }) => {
            let client = connection.client()?;
            let query = [("old", old.as_deref()), ("new", new.as_deref())];
            let query: Vec<(&str, &str)> =
                query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            put(&client, "/v1/operator/servers/replace", &query, "Error replacing a server")?;
            output.data("The replacement has begun; `operator servers` shows how far it is\n")?;
        }
    }
    Ok(EXIT_FINE)
}

fn put(client: &Client, path: &str, query: &[(&str, &str)], what: &str) -> anyhow::Result<()> {
    let answer = block_on(async { Ok(client.put(path, query, "").await.and_then(Reply::accepted)) })?;
    explain(answer, what).map(drop)
}

/// The leader's report.
pub(super) fn read(client: &Client) -> anyhow::Result<Value> {
    explain(block_on(async { Ok(fetch(client).await) })?, "Error getting the report about the servers")
}

async fn fetch(client: &Client) -> Result<Value, ClientError> {
    client.get_json("/v1/operator/servers", &[]).await
}

/// The report in sentences.
pub(in crate::cli) fn lines(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let none = Vec::new();
    let servers = report["Servers"].as_array().unwrap_or(&none);
    let voters = servers.iter().filter(|server| server["Voter"] == true).count();
    let said = if report["WantedByOperator"] == true { " (set by an operator)" } else { "" };
    let mode = match report["Mode"].as_str() {
        Some("auto") => format!("dead servers are replaced after {}", text(&report["ReplaceAfter"])),
        Some("propose") => "replacements are only proposed".to_owned(),
        _ => "replacement is switched off".to_owned(),
    };
    let mut lines = vec![format!("Servers: {voters} vote, {} wanted{said}; {mode}", report["Wanted"])];
    if let Some(pending) = report["Pending"].as_object() {
        lines.push(format!(
            "Pending: {} becomes a server, {}",
            text(&pending["Node"]),
            text(&pending["Purpose"])
        ));
    }
    if let Some(proposal) = report["Proposal"].as_object() {
        let what = match proposal["Old"].as_str() {
            Some(old) => format!("{} in the place of {old}", text(&proposal["New"])),
            None => format!("{} as one more server", text(&proposal["New"])),
        };
        lines.push(format!("Proposal: {what}; `operator servers replace` carries it out"));
    }
    if let Some(last) = report["Last"].as_object() {
        lines.push(format!(
            "Last change: {} at {}, {}",
            text(&last["New"]),
            text(&last["At"]),
            text(&last["Purpose"])
        ));
    }
    if let Some(reason) = report["Reason"].as_str() {
        lines.push(format!("Nothing is done now: {reason}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::lines;

    #[test]
    fn the_report_says_what_is_pending_what_was_done_and_why_nothing_is_done() {
        let report = json!({
            "Mode": "auto", "ReplaceAfter": "30s", "Wanted": 3, "WantedByOperator": false,
            "Servers": [{"Voter": true}, {"Voter": true}, {"Voter": false}],
            "Pending": {"Node": "c", "Purpose": "in the place of b: it is dead"}, "Proposal": null,
            "Last": {"New": "a", "At": "2026-01-01T00:00:00Z", "Purpose": "one more server"},
            "Reason": "b is dead, and there is no client that could become a server",
        });
        assert_eq!(
            lines(&report),
            [
                "Servers: 2 vote, 3 wanted; dead servers are replaced after 30s",
                "Pending: c becomes a server, in the place of b: it is dead",
                "Last change: a at 2026-01-01T00:00:00Z, one more server",
                "Nothing is done now: b is dead, and there is no client that could become a server",
            ]
        );
    }
}
