//! `operator autopilot`: Consul's settings for servers, as far as they mean something here.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::connection::{ConnectionArgs, explain};
use crate::cli::{EXIT_FINE, Output, block_on};
use crate::client::{Client, ClientError, Reply};

const PATH: &str = "/v1/operator/autopilot/configuration";

/// Arguments of `operator autopilot`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Print the settings.
    GetConfig {
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Change settings; those not given stay as they are.
    SetConfig {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Replace dead servers; `false` only proposes it.
        #[arg(long)]
        cleanup_dead_servers: Option<bool>,
        /// Entries that a healthy server may miss.
        #[arg(long)]
        max_trailing_logs: Option<u64>,
        /// How long ago a healthy server was heard, at most.
        #[arg(long)]
        last_contact_threshold: Option<String>,
        /// Never have fewer servers than this.
        #[arg(long)]
        min_quorum: Option<u64>,
        /// Kept, and has no effect.
        #[arg(long)]
        server_stabilization_time: Option<String>,
    },
    /// Print what autopilot thinks of the servers.
    State {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// `pretty` or `json`.
        #[arg(long, default_value = "pretty")]
        format: String,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    match args.what {
        What::GetConfig { connection } => {
            let config = get(&connection.client()?, PATH, "Error querying Autopilot configuration")?;
            output.data(&settings(&config)?)?;
        }
        What::SetConfig {
            connection,
            cleanup_dead_servers,
            max_trailing_logs,
            last_contact_threshold,
            min_quorum,
            server_stabilization_time,
        } => {
            let client = connection.client()?;
            let mut config = get(&client, PATH, "Error querying Autopilot configuration")?;
            let given = [
                ("CleanupDeadServers", cleanup_dead_servers.map(Value::from)),
                ("MaxTrailingLogs", max_trailing_logs.map(Value::from)),
                ("LastContactThreshold", last_contact_threshold.map(Value::from)),
                ("MinQuorum", min_quorum.map(Value::from)),
                ("ServerStabilizationTime", server_stabilization_time.map(Value::from)),
            ];
            for (key, value) in given {
                if let Some(value) = value {
                    config[key] = value;
                }
            }
            let index = config["ModifyIndex"].as_u64().unwrap_or(0).to_string();
            let written = block_on(async {
                let answer = client.put(PATH, &[("cas", &index)], config.to_string()).await;
                Ok(answer.and_then(Reply::accepted))
            })?;
            let written = explain(written, "Error setting Autopilot configuration")?;
            if written.text().trim() != "true" {
                anyhow::bail!("Configuration could not be atomically updated, please try again");
            }
            output.data("Configuration updated!\n")?;
        }
        What::State { connection, format } => {
            let client = connection.client()?;
            let state = get(&client, "/v1/operator/autopilot/state", "Error querying Autopilot state")?;
            let text = match format.as_str() {
                "json" => serde_json::to_string_pretty(&state)? + "\n",
                _ => pretty(&state)?,
            };
            output.data(&text)?;
        }
    }
    Ok(EXIT_FINE)
}

fn get(client: &Client, path: &str, what: &str) -> anyhow::Result<Value> {
    let answer: Result<Value, ClientError> = block_on(async { Ok(client.get_json(path, &[]).await) })?;
    explain(answer, what)
}

/// One line each, in Consul's order.
fn settings(config: &Value) -> Result<String, std::fmt::Error> {
    let plain = |key: &str| match &config[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = String::new();
    for key in [
        "CleanupDeadServers",
        "LastContactThreshold",
        "MaxTrailingLogs",
        "MinQuorum",
        "ServerStabilizationTime",
        "RedundancyZoneTag",
        "DisableUpgradeMigration",
        "UpgradeVersionTag",
    ] {
        let quoted = matches!(key, "RedundancyZoneTag" | "UpgradeVersionTag");
        let value = if quoted { format!("{:?}", plain(key)) } else { plain(key) };
        writeln!(text, "{key} = {value}")?;
    }
    Ok(text)
}

fn pretty(state: &Value) -> Result<String, std::fmt::Error> {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = String::new();
    writeln!(text, "Healthy:                      {}", state["Healthy"])?;
    writeln!(text, "Failure Tolerance:            {}", state["FailureTolerance"])?;
    writeln!(text, "Optimistic Failure Tolerance: {}", state["OptimisticFailureTolerance"])?;
    writeln!(text, "Leader:                       {}", plain(&state["Leader"]))?;
    writeln!(text, "Voters:")?;
    for voter in state["Voters"].as_array().into_iter().flatten() {
        writeln!(text, "   {}", plain(voter))?;
    }
    writeln!(text, "Servers:")?;
    for (id, server) in state["Servers"].as_object().into_iter().flatten() {
        writeln!(text, "   {id}")?;
        for (label, key) in [
            ("Name", "Name"),
            ("Address", "Address"),
            ("Version", "Version"),
            ("Status", "Status"),
            ("Node Type", "NodeType"),
            ("Node Status", "NodeStatus"),
            ("Healthy", "Healthy"),
            ("Last Contact", "LastContact"),
            ("Last Term", "LastTerm"),
            ("Last Index", "LastIndex"),
            ("Stable Since", "StableSince"),
        ] {
            writeln!(text, "      {:<14}{}", format!("{label}:"), plain(&server[key]))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::settings;

    #[test]
    fn settings_are_printed_as_consul_prints_them() {
        let config = json!({
            "CleanupDeadServers": true, "LastContactThreshold": "200ms", "MaxTrailingLogs": 250, "MinQuorum": 0,
            "ServerStabilizationTime": "10s", "RedundancyZoneTag": "", "DisableUpgradeMigration": false,
            "UpgradeVersionTag": "",
        });
        assert_eq!(
            settings(&config).unwrap(),
            "CleanupDeadServers = true\nLastContactThreshold = 200ms\nMaxTrailingLogs = 250\nMinQuorum = 0\n\
             ServerStabilizationTime = 10s\nRedundancyZoneTag = \"\"\nDisableUpgradeMigration = false\n\
             UpgradeVersionTag = \"\"\n"
        );
    }
}
