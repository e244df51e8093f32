//! `operator raft`: the voters, as Consul prints them.

use serde_json::Value;

use super::servers;
use crate::cli::connection::{ConnectionArgs, explain};
use crate::cli::{EXIT_FINE, Output, Usage, block_on, table};
use crate::client::{Client, Reply};
use crate::hint::fault;

/// Arguments of `operator raft`; without a subcommand all there is to say.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the servers.
    ListPeers {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a server; it goes on as a client.
    RemovePeer {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// `ip:port` of its RPC.
        #[arg(long)]
        address: Option<String>,
        /// Its id.
        #[arg(long)]
        id: Option<String>,
    },
    /// Let another server lead.
    TransferLeader {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Its id; the one that has most, if not given.
        #[arg(long)]
        id: Option<String>,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    match args.what {
        None => {
            let client = args.connection.client()?;
            output.data(&peers(&client, &args.connection)?)?;
            output.data("\n")?;
            let report = servers::read(&client)?;
            output.data(&(servers::lines(&report).join("\n") + "\n"))?;
        }
        Some(What::ListPeers { connection, json }) => {
            let client = connection.client()?;
            if json {
                let configuration = configuration(&client, &connection)?;
                output.data(&(serde_json::to_string_pretty(&configuration)? + "\n"))?;
            } else {
                output.data(&peers(&client, &connection)?)?;
            }
        }
        Some(What::RemovePeer { connection, address, id }) => {
            let (key, value) = match (&address, &id) {
                (Some(address), None) => ("address", address),
                (None, Some(id)) => ("id", id),
                (None, None) => {
                    return Err(fault(
                        "an address or id is required for the peer to remove",
                        "`operator raft list-peers` shows both",
                    )
                    .context(Usage("operator raft remove-peer")));
                }
                _ => anyhow::bail!("cannot give both an address and id"),
            };
            let client = connection.client()?;
            let removed = block_on(async {
                Ok(client.delete("/v1/operator/raft/peer", &[(key, value)]).await.and_then(Reply::accepted))
            })?;
            explain(removed, "Error removing peer")?;
            output.data(&format!("Removed peer with {key} \"{value}\"\n"))?;
        }
        Some(What::TransferLeader { connection, id }) => {
            let client = connection.client()?;
            let query: Vec<(&str, &str)> = id.iter().map(|id| ("id", id.as_str())).collect();
            let moved = block_on(async {
                let answer = client.put("/v1/operator/raft/transfer-leader", &query, "").await;
                Ok(answer.and_then(Reply::accepted))
            })?;
            explain(moved, "Error transferring leadership")?;
            output.data("Success\n")?;
        }
    }
    Ok(EXIT_FINE)
}

fn configuration(client: &Client, connection: &ConnectionArgs) -> anyhow::Result<Value> {
    let query = connection.query();
    let answer =
        block_on(async { Ok(client.get_json::<Value>("/v1/operator/raft/configuration", &query).await) })?;
    explain(answer, "Error getting peers: Failed to retrieve raft configuration")
}

fn peers(client: &Client, connection: &ConnectionArgs) -> anyhow::Result<String> {
    Ok(rows(&configuration(client, connection)?))
}

/// Consul's table.
fn rows(configuration: &Value) -> String {
    let none = Vec::new();
    let servers = configuration["Servers"].as_array().unwrap_or(&none);
    let index = |server: &Value| server["LastIndex"].as_u64().unwrap_or(0);
    let leads = |server: &Value| server["Leader"].as_bool().unwrap_or(false);
    let last = servers.iter().find(|server| leads(server)).map_or(0, index);
    let mut table = vec![
        ["Node", "ID", "Address", "State", "Voter", "RaftProtocol", "Commit Index", "Trails Leader By"]
            .map(str::to_owned),
    ];
    for server in servers {
        let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
        let behind = match last.saturating_sub(index(server)) {
            _ if leads(server) => "-".to_owned(),
            1 => "1 commit".to_owned(),
            count => format!("{count} commits"),
        };
        table.push([
            text("Node"),
            text("ID"),
            text("Address"),
            if leads(server) { "leader" } else { "follower" }.to_owned(),
            server["Voter"].as_bool().unwrap_or(false).to_string(),
            text("ProtocolVersion"),
            index(server).to_string(),
            behind,
        ]);
    }
    table::lay_out(&table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::rows;

    #[test]
    fn peers_are_printed_as_consul_prints_them() {
        let server = |node: &str, leader: bool, index: u64| {
            json!({
                "ID": format!("id-{node}"), "Node": node, "Address": "10.0.0.1:8300", "Leader": leader,
                "ProtocolVersion": "3", "Voter": true, "LastIndex": index,
            })
        };
        let configuration = json!({ "Servers": [server("a", true, 9), server("b", false, 8)] });
        assert_eq!(
            rows(&configuration),
            "Node  ID    Address        State     Voter  RaftProtocol  Commit Index  Trails Leader By\n\
             a     id-a  10.0.0.1:8300  leader    true   3             9             -\n\
             b     id-b  10.0.0.1:8300  follower  true   3             8             1 commit\n"
        );
    }
}
