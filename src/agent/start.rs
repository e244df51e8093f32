//! The composition root: bind, build, start, in this order.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::assembly::{self, Sockets};
use super::birth::{self, Decided};
use super::config::{Settings, Source};
use super::consensus::{Peer, Server};
use super::handle::{AgentHandle, Replica, Topic};
use super::local::LocalState;
use super::members::{self, GossipMembers, ServerPart, TagSource};
use super::membership::{self, BoundGossip, Gossip};
use super::role::{self, Machine, Part, Roles, Running, RunningServer, disk};
use super::{Agent, AgentState, Birth, checks, dns, http, leader, reload, rpc};
use crate::host::descriptors;
use crate::host::disk::HostDisk;
use crate::host::outside::random_bits;
use crate::model::election::{Certificate, Incarnation, SeenServer};
use crate::model::membership::Tags;
use crate::tasks::{Spawner, Tasks};

/// How often it is looked whether the cluster has formed, until it has.
const FORMED_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What every step needs.
struct Start {
    settings: Settings,
    how: Birth,
    source: Arc<Source>,
    spawner: Spawner,
    incarnation: Incarnation,
    node_id: String,
    /// What the disk says that we are.
    role: disk::Start,
    identity: Arc<rpc::Identity>,
    router: Arc<rpc::Router>,
    replica: Arc<Replica>,
    lock: Option<File>,
}

/// All sockets, before anything runs on them.
struct Bound {
    rpc: Option<rpc::Listener>,
    gossip: BoundGossip,
    dns: Option<dns::Bound>,
    http: http::Listeners,
    sockets: Sockets,
}

/// See [`Agent::start`].
pub(super) async fn start(mut settings: Settings, how: Birth, source: Arc<Source>) -> anyhow::Result<Agent> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let tasks = Tasks::default();
    let lock = assembly::lock(&settings)?;
    let incarnation = assembly::incarnation(&settings)?;
    let role = disk::look(settings.data_dir.as_deref(), settings.server, &incarnation)?;
    if role.server != settings.server {
        tracing::info!(server = role.server, "the raft folder says what this machine is, not its flags");
        settings.server = role.server;
    }
    let cluster = match &how {
        // A server that founded a successor knows better than the record of its birth.
        Birth::Decided { .. } if role.server && role.life > 0 => None,
        Birth::Decided { cluster, .. } => cluster.clone(),
        Birth::ByGossip => None,
    };
    let raft_id = incarnation.node_id_in_life(role.life);
    let start = Start {
        node_id: settings.node_id.clone().unwrap_or_else(|| incarnation.to_string()),
        identity: rpc::Identity::new(raft_id, settings.node_name.clone(), cluster),
        router: Arc::default(),
        replica: Arc::default(),
        spawner: tasks.spawner(),
        settings,
        how,
        source,
        incarnation,
        role,
        lock,
    };
    start.run(tasks).await
}

impl Start {
    async fn run(self, tasks: Tasks) -> anyhow::Result<Agent> {
        let Bound { rpc, gossip, dns, http, sockets } = self.bind().await?;
        let tags = self.tag_source(&sockets);
        let gossip = self.start_gossip(gossip, &tags)?;
        let machine = Machine {
            settings: self.settings.clone(),
            incarnation: self.incarnation.clone(),
            node_id: self.node_id.clone(),
            replica: self.replica.clone(),
            spawner: self.spawner.clone(),
            told: self.identity.cluster(),
        };
        let rpc = rpc.map(|listener| (listener, self.router.clone()));
        let (roles, running) =
            Roles::start(machine, gossip.clone(), self.role, rpc, self.identity.clone()).await?;
        let consensus = roles.consensus();
        let local = LocalState::open(assembly::local_settings(&self.settings, &self.node_id)?)?;
        let leave_request = CancellationToken::new();
        let agent = AgentHandle {
            identity: Arc::new(assembly::identity(&self.settings, &self.node_id, &sockets)),
            replica: self.replica.clone(),
            consensus: consensus.clone(),
            members: Arc::new(GossipMembers(gossip.clone())),
            local: local.clone(),
            dead_nodes: Arc::default(),
            shutdown: leave_request.clone(),
        };
        if let Running::Server(server) = &running
            && self.role.by_flags
        {
            self.start_birth(server, &gossip, &tags).await?;
        }
        tasks.start("role", roles.clone().run(running));
        let dead = agent.dead_nodes.clone();
        let name = self.settings.node_name.clone();
        leader::follow_dead_nodes(name, self.replica.clone(), gossip.changes(), dead, &self.spawner);
        local.start(self.replica.clone(), consensus, &self.spawner);
        checks::start(local.clone(), &self.spawner)?;
        if let Some(bound) = dns {
            dns::start(bound, &agent, assembly::dns_settings(&self.settings)?, &self.spawner)?;
        }
        let (asks, requests) = reload::desk();
        let stop = self.spawner.stop_token();
        tasks.start("reload", reload::run(self.source, local.clone(), requests, stop));
        let http_settings = assembly::http_settings(&self.settings, descriptors::raise_limit(), asks);
        tasks.start("http", http::run(http, agent, http_settings, self.spawner.stop_token()));
        if let Some(data_dir) = &self.settings.data_dir {
            let stop = self.spawner.stop_token();
            tasks.start("peers", members::remember(gossip.clone(), data_dir.clone(), stop));
        }
        let (sender, state) = watch::channel(AgentState::default());
        let stop = self.spawner.stop_token();
        let parts = roles.changes();
        tasks.start("state", publish_state(sender, self.replica, parts, gossip.clone(), tags, stop));
        let settings = self.settings;
        let agent =
            Agent { tasks, settings, gossip, local, roles, leave_request, state, sockets, _lock: self.lock };
        agent.announce();
        Ok(agent)
    }

    /// An address in use is an error of the start.
    async fn bind(&self) -> anyhow::Result<Bound> {
        let settings = &self.settings;
        let rpc = if self.role.server {
            let address = role::rpc_address(settings);
            Some(rpc::Listener::bind(address, self.identity.clone(), self.router.clone()).await?)
        } else {
            None
        };
        let gossip = Gossip::bind(SocketAddr::new(settings.bind, settings.ports.serf_lan)).await?;
        let dns = settings.ports.dns.map(|port| dns::bind(&settings.dns, port)).transpose()?;
        let http = http::bind(&assembly::http_addresses(settings)).await?;
        let sockets = Sockets {
            gossip: gossip.address(),
            rpc: rpc.as_ref().map(rpc::Listener::address).transpose()?,
            dns: dns.as_ref().map(dns::Bound::addresses).unwrap_or_default(),
            http: http.addresses(),
        };
        Ok(Bound { rpc, gossip, dns, http, sockets })
    }

    fn tag_source(&self, sockets: &Sockets) -> TagSource {
        let settings = &self.settings;
        TagSource {
            datacenter: settings.datacenter.to_string(),
            node_id: self.node_id.clone(),
            rpc_port: sockets.rpc.map_or(settings.ports.server, |address| address.port()),
            spare: settings.data_dir.is_some(),
            expect: settings.expect,
            bootstrap: settings.bootstrap,
        }
    }

    fn start_gossip(&self, bound: BoundGossip, tags: &TagSource) -> anyhow::Result<Gossip> {
        let settings = &self.settings;
        let raft_id = self.identity.node();
        let part = match self.role {
            disk::Start { server: false, .. } => ServerPart::None,
            disk::Start { by_flags: true, .. } => ServerPart::ByFlags { raft_id },
            disk::Start { .. } => ServerPart::Nominated { raft_id, serial: 0 },
        };
        let gossip_settings = membership::Settings {
            name: settings.node_name.clone(),
            advertise: SocketAddr::new(settings.advertise, bound.address().port()),
            tags: Tags::try_from(tags.tags(part, None, 0)).context("this node's tags are too long")?,
            seed: u64::try_from(random_bits() >> 64).unwrap_or_default(),
            retry_join: settings.retry_join.clone(),
            remembered: members::remembered(settings.data_dir.as_ref())?,
            retry_interval: settings.retry_interval,
            config: crate::model::membership::Config::default(),
        };
        Gossip::start(bound, gossip_settings, &self.spawner)
    }

    /// Begins raft with what was decided elsewhere, or takes part in deciding it.
    async fn start_birth(
        &self,
        running: &RunningServer,
        gossip: &Gossip,
        tags: &TagSource,
    ) -> anyhow::Result<()> {
        let settings = &self.settings;
        let server = &running.server;
        let begun = server.is_initialized().await?;
        match &self.how {
            Birth::Decided { initial: Some(certificate), .. } if !begun => {
                initialise(server, certificate, settings.ports.server).await
            }
            Birth::Decided { .. } => Ok(()),
            Birth::ByGossip => {
                let me = SeenServer {
                    node_id: self.incarnation.node_id(),
                    name: settings.node_name.clone(),
                    incarnation: self.incarnation.clone(),
                    address: SocketAddr::new(settings.advertise, tags.rpc_port).to_string(),
                    expect: settings.expect,
                    cluster: None,
                };
                let (desk, questions) = birth::desk();
                running.router.set_birth(desk);
                let (decided, outcome) = watch::channel(None);
                let group = running.group.clone();
                let context = birth::Context {
                    me,
                    alone: settings.bootstrap,
                    data_dir: settings.data_dir.clone(),
                    disk: Arc::new(HostDisk),
                    raft_state: begun,
                    members: gossip.changes(),
                    identity: self.identity.clone(),
                    replica: self.replica.clone(),
                    spawner: group.clone(),
                };
                group.start("birth", birth::run(context, questions, decided));
                let stop = group.stop_token();
                group.start("initialise", initialise_when_decided(server.clone(), outcome, stop));
                Ok(())
            }
        }
    }
}

/// Waits until the birth is decided, then begins raft if this server may.
pub(super) async fn initialise_when_decided(
    server: Server,
    mut outcome: watch::Receiver<Option<Decided>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let decided = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        decided = outcome.wait_for(Option::is_some) => decided.context("the birth has ended")?.clone(),
    };
    if let Some(Decided::Born(certificate)) = decided {
        // Addresses in certificates made by gossip have their port.
        initialise(&server, &certificate, 0).await?;
    }
    stop.cancelled().await;
    Ok(())
}

pub(super) async fn initialise(server: &Server, certificate: &Certificate, port: u16) -> anyhow::Result<()> {
    let mut peers = BTreeMap::new();
    for member in &certificate.initial {
        let address = assembly::rpc_address(&member.address, port)?;
        let peer = Peer {
            name: member.machine_id.to_string(),
            address,
            incarnation: member.incarnation.to_string(),
        };
        peers.insert(member.incarnation.node_id(), peer);
    }
    server.initialize(&certificate.cluster_id, peers).await
}

/// Tells who started the agent, and gossip, which cluster this is, what we are in it and whether we lead.
pub(super) async fn publish_state(
    state: watch::Sender<AgentState>,
    replica: Arc<Replica>,
    mut parts: watch::Receiver<Part>,
    gossip: Gossip,
    tags: TagSource,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut told = None;
    // A successor's catalog replaces ours.
    let mut servers = replica.watch(Topic::Servers);
    loop {
        let part = parts.borrow_and_update().clone();
        let mut leaders = part.server.as_ref().map(Server::leader_changes);
        let (formed, epoch, predecessors) = {
            let catalog = replica.load();
            let servers = catalog.servers();
            (catalog.cluster().cloned(), servers.epoch, servers.predecessors.clone())
        };
        let leader = leaders
            .as_mut()
            .is_some_and(|leaders| leaders.borrow_and_update().as_ref().is_some_and(|leader| leader.here));
        let wanted =
            tags.tags(shown(&part), formed.as_ref().map(crate::model::names::ClusterId::as_str), epoch);
        if told.as_ref() != Some(&wanted) {
            gossip.set_tags(Tags::try_from(wanted.clone()).context("this node's tags are too long")?).await;
            told = Some(wanted);
        }
        let wait = if formed.is_some() { Duration::from_hours(1) } else { FORMED_LOOK_INTERVAL };
        state.send_if_modified(|before| {
            let now = AgentState { formed, leader, predecessors };
            let changed = *before != now;
            *before = now;
            changed
        });
        let leader_changed = async {
            // A server that has ended tells nothing more; the part changes then.
            if let Some(leaders) = &mut leaders
                && leaders.changed().await.is_ok()
            {
                return;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = leader_changed => {}
            changed = parts.changed() => if changed.is_err() { return Ok(()) },
            () = servers.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn shown(part: &Part) -> ServerPart {
    let raft_id = part.raft_id;
    match (&part.server, part.nomination) {
        (None, _) => ServerPart::None,
        (Some(_), None) => ServerPart::ByFlags { raft_id },
        (Some(_), Some(serial)) => ServerPart::Nominated { raft_id, serial },
    }
}
