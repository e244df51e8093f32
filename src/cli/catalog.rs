//! `corediscover catalog`: datacenters, nodes, services.

use std::collections::BTreeMap;

use serde_json::Value;

use super::connection::{ConnectionArgs, explain};
use super::{EXIT_FINE, Output, block_on, table};

/// Arguments of `catalog`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the datacenters.
    Datacenters {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the nodes.
    Nodes {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Show everything.
        #[arg(long)]
        detailed: bool,
        /// Only nodes that offer this service.
        #[arg(long)]
        service: Option<String>,
        /// Only nodes with this metadata, key=value; may be repeated.
        #[arg(long)]
        node_meta: Vec<String>,
        /// Sort by distance from this node.
        #[arg(long)]
        near: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the services.
    Services {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Show the tags too.
        #[arg(long)]
        tags: bool,
        /// Only services on this node.
        #[arg(long)]
        node: Option<String>,
        /// Only services on nodes with this metadata, key=value; may be repeated.
        #[arg(long)]
        node_meta: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let text = match args.what {
        What::Datacenters { connection, json } => {
            let client = connection.client()?;
            let names = explain(
                block_on(async { Ok(client.catalog_datacenters().await) })?,
                "Error listing datacenters",
            )?;
            if json { pretty(&names)? } else { lines(&names) }
        }
        What::Nodes { connection, detailed, service, node_meta, near, json } => {
            let metas = meta_pairs(&node_meta);
            let mut query = connection.query();
            query.extend(metas.iter().map(|pair| ("node-meta", pair.as_str())));
            query.extend(near.as_deref().map(|near| ("near", near)));
            let client = connection.client()?;
            let rows = block_on(async {
                Ok(match &service {
                    Some(name) => client.catalog_service(name, &query).await,
                    None => client.catalog_nodes(&query).await,
                })
            })?;
            let rows = once_each(explain(rows, "Error listing nodes")?);
            if json { pretty(&rows)? } else { nodes(&rows, detailed) }
        }
        What::Services { connection, tags, node, node_meta, json } => {
            let metas = meta_pairs(&node_meta);
            let mut query = connection.query();
            query.extend(metas.iter().map(|pair| ("node-meta", pair.as_str())));
            let client = connection.client()?;
            let services = block_on(async {
                Ok(match &node {
                    Some(node) => services_of(&client, node, &query).await,
                    None => client.catalog_services(&query).await,
                })
            })?;
            let services = explain(services, "Error listing services")?;
            if json { pretty(&services)? } else { services_text(&services, tags) }
        }
    };
    output.data(&text)?;
    Ok(EXIT_FINE)
}

async fn services_of(
    client: &crate::client::Client,
    node: &str,
    query: &[(&str, &str)],
) -> Result<BTreeMap<String, Vec<String>>, crate::client::ClientError> {
    let path = format!("/v1/catalog/node/{}", crate::client::escape(node));
    let row: Value = client.get_json(&path, query).await?;
    let mut services = BTreeMap::<String, Vec<String>>::new();
    for service in row["Services"].as_object().into_iter().flat_map(|map| map.values()) {
        let tags = services.entry(word(service, "Service")).or_default();
        for tag in service["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.to_owned());
            }
        }
    }
    Ok(services)
}

fn meta_pairs(list: &[String]) -> Vec<String> {
    list.iter().map(|pair| pair.replacen('=', ":", 1)).collect()
}

/// A service may have several instances on a node; the node is listed once.
fn once_each(rows: Vec<Value>) -> Vec<Value> {
    let mut seen = std::collections::BTreeSet::new();
    rows.into_iter().filter(|row| seen.insert(word(row, "Node"))).collect()
}

fn word(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap_or_default().to_owned()
}

fn pairs(row: &Value, field: &str) -> String {
    let map = row[field].as_object();
    let words =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    words.collect::<Vec<_>>().join(", ")
}

fn nodes(rows: &[Value], detailed: bool) -> String {
    let mut table = Vec::new();
    if detailed {
        table.push(["Node", "ID", "Address", "DC", "TaggedAddresses", "Meta"].map(str::to_owned).to_vec());
    } else {
        table.push(["Node", "ID", "Address", "DC"].map(str::to_owned).to_vec());
    }
    for row in rows {
        let id = word(row, "ID");
        let short: String = if detailed { id } else { id.chars().take(8).collect() };
        let mut cells = vec![word(row, "Node"), short, word(row, "Address"), word(row, "Datacenter")];
        if detailed {
            cells.push(pairs(row, "TaggedAddresses"));
            cells.push(pairs(row, "Meta"));
        }
        table.push(cells);
    }
    table::lay_out(&table)
}

fn services_text(services: &BTreeMap<String, Vec<String>>, with_tags: bool) -> String {
    if !with_tags {
        return lines(&services.keys().cloned().collect::<Vec<_>>());
    }
    let rows: Vec<[String; 2]> = services
        .iter()
        .map(|(name, tags)| {
            let mut tags = tags.clone();
            tags.sort();
            [name.clone(), tags.join(",")]
        })
        .collect();
    table::lay_out(&rows)
}

fn lines(words: &[String]) -> String {
    words.iter().map(|word| format!("{word}\n")).collect()
}

fn pretty(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
