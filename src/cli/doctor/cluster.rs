//! What the agent says: about the cluster, and about itself.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::status;
use crate::client::{Client, Member};
use crate::hint::causes;
use crate::model::doctor::cluster::Told;
use crate::model::doctor::identity;
use crate::model::names::ClusterId;
use crate::model::sync::servers::{TAG_CLUSTER, TAG_NODE_ID};

/// How long the agent may take for everything: a hung one takes no connection, or gives no answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// An agent that answers.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    /// What it says about the cluster.
    pub(super) told: Told,
    /// The members, as they are told apart.
    pub(super) members: Vec<identity::Member>,
    /// Its cluster.
    pub(super) cluster: Option<ClusterId>,
    /// The address that it tells the others.
    pub(super) address: IpAddr,
}

/// Asks it for everything; says why there is no answer.
pub(super) async fn ask(client: anyhow::Result<Client>) -> Result<Agent, String> {
    let asking = async { read(&client?).await };
    match tokio::time::timeout(ANSWER_WAIT, asking).await {
        Ok(Ok(agent)) => Ok(agent),
        Ok(Err(error)) => Err(causes(&error)),
        Err(_) => Err(format!("no answer within {ANSWER_WAIT:?}")),
    }
}

async fn read(client: &Client) -> anyhow::Result<Agent> {
    let own = client.agent_self().await?;
    let status = status::read(client).await?;
    let heard_millis_ago = client.leader_heard_millis_ago().await?;
    let members = client.agent_members().await?.into_iter().map(member).collect();
    let address = own["Member"]["Addr"].as_str().context("the agent does not tell its address")?;
    let address = address.parse().with_context(|| format!("`{address}` is no address"))?;
    let cluster = own["Member"]["Tags"][TAG_CLUSTER].as_str().map(str::to_owned);
    Ok(Agent {
        cluster: cluster.as_deref().and_then(|cluster| cluster.parse().ok()),
        told: Told {
            voters: status.voters.len(),
            disagreements: status.disagreements,
            cluster,
            peers: status.peers,
            heard_millis_ago,
        },
        members,
        address,
    })
}

fn member(mut member: Member) -> identity::Member {
    identity::Member {
        alive: member.status == 1,
        disk: member.tags.remove(TAG_NODE_ID),
        cluster: member.tags.remove(TAG_CLUSTER),
        name: member.name,
        address: member.addr,
    }
}
