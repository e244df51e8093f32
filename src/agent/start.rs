//! The composition root: bind, build, start, in this order.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::assembly::{self, Sockets};
use super::config::{Settings, Source};
use super::handle::AgentHandle;
use super::local::LocalState;
use super::members::GossipMembers;
use super::participant::{self, Participant};
use super::{Agent, Birth, checks, dns, http, reload, rpc};
use crate::host::descriptors;
use crate::host::site::Site;
use crate::tasks::Tasks;

/// All sockets, before anything runs on them.
struct Bound {
    cluster: participant::Bound,
    dns: Option<dns::Bound>,
    http: http::Listeners,
    sockets: Sockets,
}

/// See [`Agent::start`].
pub(super) async fn start(settings: Settings, how: Birth, source: Arc<Source>) -> anyhow::Result<Agent> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(reason) = &settings.advertise_reason {
        tracing::info!("this machine tells the others the address {}: {reason}", settings.advertise);
    }
    let tasks = Tasks::default();
    let spawner = tasks.spawner();
    let lock = assembly::lock(&settings)?;
    let participant = Participant::look(settings, how, Site::default(), spawner.clone())?;
    let Bound { cluster, dns, http, sockets } = bind(&participant).await?;
    let participation = participant.start(cluster).await?;
    let Participant { settings, node_id, replica, .. } = participant;
    let consensus = participation.roles.consensus();
    let local = LocalState::open(assembly::local_settings(&settings, &node_id)?)?;
    let leave_request = CancellationToken::new();
    let agent = AgentHandle {
        identity: Arc::new(assembly::identity(&settings, &node_id, &sockets)),
        replica: replica.clone(),
        consensus: consensus.clone(),
        members: Arc::new(GossipMembers(participation.gossip.clone())),
        local: local.clone(),
        dead_nodes: participation.dead_nodes,
        shutdown: leave_request.clone(),
    };
    local.start(replica, consensus, &spawner);
    checks::start(local.clone(), &spawner)?;
    if let Some(bound) = dns {
        dns::start(bound, &agent, assembly::dns_settings(&settings)?, &spawner)?;
    }
    let (asks, requests) = reload::desk();
    tasks.start("reload", reload::run(source, local.clone(), requests, spawner.stop_token()));
    let http_settings = assembly::http_settings(&settings, descriptors::raise_limit(), asks);
    tasks.start("http", http::run(http, agent, http_settings, spawner.stop_token()));
    let agent = Agent {
        tasks,
        settings,
        local,
        roles: participation.roles,
        leave_request,
        state: participation.state,
        sockets,
        _lock: lock,
    };
    agent.announce();
    Ok(agent)
}

/// An address in use is an error of the start.
async fn bind(participant: &Participant) -> anyhow::Result<Bound> {
    let settings = &participant.settings;
    let cluster = participant.bind().await?;
    let dns = settings.ports.dns.map(|port| dns::bind(&settings.dns, port)).transpose()?;
    let http = http::bind(&assembly::http_addresses(settings)).await?;
    let sockets = Sockets {
        gossip: cluster.gossip.address(),
        rpc: cluster.rpc.as_ref().map(rpc::Listener::address).transpose()?,
        dns: dns.as_ref().map(dns::Bound::addresses).unwrap_or_default(),
        http: http.addresses(),
    };
    Ok(Bound { cluster, dns, http, sockets })
}
