//! `corediscover status`: the cluster on one screen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::connection::{ConnectionArgs, explain};
use super::members::status_text;
use super::{EXIT_FAILED, EXIT_FINE, Output, block_on, table};
use crate::client::{Client, ClientError, Member};
use crate::model::doctor::cluster::{Disagreement, Peer, disagreements};
use crate::model::sync::STORAGE_CHECK;

/// Arguments of `status`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What the cluster looks like from one agent.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// Address of the leader's RPC, empty without one.
    pub(super) leader: String,
    /// Addresses of the voters' RPC.
    pub(super) voters: Vec<String>,
    /// How many voters may fail now without losing the quorum.
    pub(super) fault_tolerance: usize,
    /// Members by name.
    pub(super) members: Vec<MemberLine>,
    /// Service names and how many instances pass.
    pub(super) services: BTreeMap<String, usize>,
    /// What is done about servers that are missing, in sentences.
    pub(super) servers: Vec<String>,
    /// What does not fit together, as sentences.
    pub(super) warnings: Vec<String>,
    /// The same, for who does something about it.
    #[serde(skip)]
    pub(super) disagreements: Vec<Disagreement>,
    /// The members, as far as that needs them.
    #[serde(skip)]
    pub(super) peers: Vec<Peer>,
}

/// One member for the table.
#[derive(Debug, Serialize)]
pub(super) struct MemberLine {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) role: String,
    pub(super) status: String,
}

/// Runs the command; exit code 1 when there is no leader.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let client = args.connection.client()?;
    let status = explain(block_on(async { Ok(read(&client).await) })?, "cannot read the cluster's state")?;
    let text = if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { status.text()? };
    output.data(&text)?;
    Ok(if status.leader.is_empty() { EXIT_FAILED } else { EXIT_FINE })
}

/// Asks one agent for everything; reads are stale so that it works without a leader too.
pub(super) async fn read(client: &Client) -> Result<Status, ClientError> {
    let leader = client.status_leader().await?.unwrap_or_default();
    let voters: Vec<String> = client.get_json("/v1/status/peers", &[]).await?;
    let members = client.agent_members().await?;
    let names = client.catalog_services(&[("stale", "")]).await?;
    let mut services = BTreeMap::new();
    for name in names.into_keys() {
        let passing = client.health_service(&name, &[("stale", ""), ("passing", "")]).await?;
        services.insert(name, passing.len());
    }
    let mut status = assess(leader, voters, &members, services);
    if !status.leader.is_empty() {
        // Only the leader knows; without an answer the rest is still worth showing.
        match client.get_json::<serde_json::Value>("/v1/operator/servers", &[]).await {
            Ok(report) => status.servers = super::operator::server_lines(&report),
            Err(error) => status.disagreements.push(Disagreement::NoReport(error.to_string())),
        }
    }
    status.disagreements.extend(full_disks(client).await?.into_iter().map(Disagreement::Disk));
    status.warnings = status.disagreements.iter().map(ToString::to_string).collect();
    Ok(status)
}

/// What servers say whose disks are full: in the catalog, and the asked one itself, for the catalog may not be written.
async fn full_disks(client: &Client) -> Result<BTreeSet<String>, ClientError> {
    let checks: Vec<Value> = client.get_json("/v1/health/state/warning", &[("stale", "")]).await?;
    let own = client.agent_self().await?;
    let said = checks.iter().filter(|check| check["CheckID"] == STORAGE_CHECK).map(|check| &check["Output"]);
    let texts = said.chain([&own["Stats"]["raft"]["storage"]]);
    Ok(texts.filter_map(Value::as_str).map(str::to_owned).collect())
}

fn assess(
    leader: String,
    voters: Vec<String>,
    members: &[Member],
    services: BTreeMap<String, usize>,
) -> Status {
    let rpc_address = |member: &Member| {
        let port = member.tags.get("port").map_or("8300", String::as_str);
        if member.addr.contains(':') {
            format!("[{}]:{port}", member.addr)
        } else {
            format!("{}:{port}", member.addr)
        }
    };
    let peers: Vec<Peer> = members
        .iter()
        .map(|member| Peer {
            name: member.name.clone(),
            rpc: rpc_address(member),
            alive: member.status == 1,
            cluster: member.tags.get("cluster").cloned(),
        })
        .collect();
    let is_alive = |address: &&String| peers.iter().any(|peer| peer.alive && peer.rpc == **address);
    let alive = voters.iter().filter(is_alive).count();
    let quorum = voters.len() / 2 + 1;
    let disagreements = disagreements(&leader, &voters, &peers);
    let lines = members.iter().map(|member| MemberLine {
        name: member.name.clone(),
        address: member.addr.clone(),
        role: role(member, &rpc_address(member), &leader, &voters),
        status: status_text(member.status).to_owned(),
    });
    Status {
        fault_tolerance: alive.saturating_sub(quorum),
        members: lines.collect(),
        leader,
        voters,
        services,
        servers: Vec::new(),
        warnings: Vec::new(),
        disagreements,
        peers,
    }
}

fn role(member: &Member, address: &String, leader: &str, voters: &[String]) -> String {
    let server = member.tags.get("role").is_some_and(|role| role == "consul");
    let role = match (server, address == leader, voters.contains(address)) {
        (true, true, _) => "leader",
        (true, false, true) => "server",
        (true, false, false) => "server (not voting)",
        (false, ..) => "client",
    };
    role.to_owned()
}

impl Status {
    /// The screen.
    pub(super) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let leader = if self.leader.is_empty() { "none" } else { &self.leader };
        writeln!(text, "Leader {leader}, {} voters, {} may fail", self.voters.len(), self.fault_tolerance)?;
        for line in &self.servers {
            writeln!(text, "{line}")?;
        }
        text.push('\n');
        let mut rows = vec![["Machine", "Address", "Role", "Status"].map(str::to_owned)];
        for member in &self.members {
            rows.push([
                member.name.clone(),
                member.address.clone(),
                member.role.clone(),
                member.status.clone(),
            ]);
        }
        text.push_str(&table::lay_out(&rows));
        let mut rows = vec![["Service", "Passing"].map(str::to_owned)];
        rows.extend(self.services.iter().map(|(name, passing)| [name.clone(), passing.to_string()]));
        writeln!(text, "\n{}", table::lay_out(&rows).trim_end())?;
        for warning in &self.warnings {
            writeln!(text, "\nwarning: {warning}")?;
        }
        Ok(text)
    }
}
