//! An agent's part in its cluster: gossip, its role (server or client), the birth, and what it says about itself. All
//! of an agent but its own services, DNS and HTTP; a simulated machine runs exactly this.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::birth::{self, Decided};
use super::config::Settings;
use super::consensus::{self, Peer, Server};
use super::handle::{Replica, Topic};
use super::members::{self, ServerPart, TagSource};
use super::membership::{self, BoundGossip, Gossip};
use super::role::{self, Machine, Part, Roles, Running, RunningServer, disk};
use super::{AgentState, Birth, assembly, home, leader, rpc};
use crate::host::outside::random_bits;
use crate::host::site::Site;
use crate::model::election::{Certificate, Incarnation, SeenServer};
use crate::model::membership::Tags;
use crate::tasks::Spawner;

/// How often it is looked whether the cluster has formed, until it has.
const FORMED_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// An agent that knows what it is, before anything runs.
pub(super) struct Participant {
    /// Its `server` is what the disk says.
    pub(super) settings: Settings,
    how: Birth,
    site: Site,
    pub(super) spawner: Spawner,
    incarnation: Incarnation,
    pub(super) node_id: String,
    /// What the disk says that we are.
    role: disk::Start,
    identity: Arc<rpc::Identity>,
    router: Arc<rpc::Router>,
    pub(super) replica: Arc<Replica>,
}

/// The sockets between agents, before anything runs on them.
pub(super) struct Bound {
    pub(super) rpc: Option<rpc::Listener>,
    pub(super) gossip: BoundGossip,
}

/// What runs.
pub(super) struct Participation {
    pub(super) gossip: Gossip,
    pub(super) roles: Arc<Roles>,
    pub(super) dead_nodes: Arc<ArcSwap<BTreeSet<Arc<str>>>>,
    pub(super) state: watch::Receiver<AgentState>,
}

impl Participant {
    /// Reads from the disk what this agent is.
    pub(super) fn look(
        mut settings: Settings,
        how: Birth,
        site: Site,
        spawner: Spawner,
    ) -> anyhow::Result<Self> {
        let incarnation = assembly::incarnation(&settings, &*site.disk)?;
        let role = disk::look(&*site.disk, settings.data_dir.as_deref(), settings.server, &incarnation)?;
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
        let name = settings.node_name.clone();
        Ok(Self {
            node_id: settings.node_id.clone().unwrap_or_else(|| incarnation.to_string()),
            identity: rpc::Identity::on(site.network.clone(), Some(settings.bind), raft_id, name, cluster),
            router: Arc::default(),
            replica: Arc::default(),
            settings,
            how,
            site,
            spawner,
            incarnation,
            role,
        })
    }

    /// An address in use is an error of the start.
    pub(super) async fn bind(&self) -> anyhow::Result<Bound> {
        let settings = &self.settings;
        let rpc = if self.role.server {
            let address = role::rpc_address(settings);
            Some(rpc::Listener::bind(address, self.identity.clone(), self.router.clone()).await?)
        } else {
            None
        };
        let address = SocketAddr::new(settings.bind, settings.ports.serf_lan);
        let gossip = Gossip::bind_on(&self.site.network, address).await?;
        Ok(Bound { rpc, gossip })
    }

    /// Starts all of it.
    pub(super) async fn start(&self, bound: Bound) -> anyhow::Result<Participation> {
        let Bound { rpc, gossip } = bound;
        let rpc_address = rpc.as_ref().map(rpc::Listener::address).transpose()?;
        if let (Some(address), Some(data)) = (rpc_address, &self.settings.data_dir) {
            let here = SocketAddr::new(self.settings.advertise, address.port());
            // Before anybody hears of this machine.
            consensus::refuse_copy(&*self.site.disk, data, here, &self.identity, &self.spawner).await?;
        }
        if let Some(data) = &self.settings.data_dir {
            let address = SocketAddr::new(self.settings.advertise, gossip.address().port());
            let me = home::Me { name: &self.settings.node_name, node_id: &self.node_id, address };
            home::refuse_copy(&*self.site.disk, data, me, &gossip).await?;
        }
        let tags = self.tag_source(rpc_address);
        let gossip = self.start_gossip(gossip, &tags)?;
        let machine = Machine {
            settings: self.settings.clone(),
            site: self.site.clone(),
            incarnation: self.incarnation.clone(),
            node_id: self.node_id.clone(),
            replica: self.replica.clone(),
            spawner: self.spawner.clone(),
            told: self.identity.cluster(),
            promises: Arc::new(role::Promises::new(
                self.settings.node_name.clone(),
                self.site.disk.clone(),
                self.settings.data_dir.clone(),
            )),
        };
        let rpc = rpc.map(|listener| (listener, self.router.clone()));
        let (roles, running) =
            Roles::start(machine, gossip.clone(), self.role, rpc, self.identity.clone()).await?;
        if let Running::Server(server) = &running
            && self.role.by_flags
        {
            self.start_birth(server, &gossip, &tags).await?;
        }
        self.spawner.start("role", roles.clone().run(running));
        let dead_nodes = Arc::<ArcSwap<BTreeSet<Arc<str>>>>::default();
        let (name, members) = (self.settings.node_name.clone(), gossip.changes());
        leader::follow_dead_nodes(name, self.replica.clone(), members, dead_nodes.clone(), &self.spawner);
        let stop = self.spawner.stop_token();
        if let Some(data_dir) = self.settings.data_dir.clone() {
            let disk = self.site.disk.clone();
            self.spawner.start("peers", members::remember(gossip.clone(), disk, data_dir, stop.clone()));
        }
        let (sender, state) = watch::channel(AgentState::default());
        let (replica, parts) = (self.replica.clone(), roles.changes());
        self.spawner.start("state", publish_state(sender, replica, parts, gossip.clone(), tags, stop));
        Ok(Participation { gossip, roles, dead_nodes, state })
    }

    fn tag_source(&self, rpc: Option<SocketAddr>) -> TagSource {
        let settings = &self.settings;
        TagSource {
            datacenter: settings.datacenter.to_string(),
            node_id: self.node_id.clone(),
            rpc_port: rpc.map_or(settings.ports.server, |address| address.port()),
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
            remembered: members::remembered(&*self.site.disk, settings.data_dir.as_ref())?,
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
                    disk: self.site.disk.clone(),
                    raft_state: begun,
                    members: gossip.changes(),
                    looked: gossip.first_look(),
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
async fn initialise_when_decided(
    server: Server,
    mut outcome: watch::Receiver<Option<Decided>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let decided = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        decided = outcome.wait_for(Option::is_some) => decided.ok().map(|decided| decided.clone()),
    };
    let Some(decided) = decided else {
        // The birth has ended, and tells why itself.
        stop.cancelled().await;
        return Ok(());
    };
    if let Some(Decided::Born(certificate)) = decided {
        // Addresses in certificates made by gossip have their port.
        initialise(&server, &certificate, 0).await?;
    }
    stop.cancelled().await;
    Ok(())
}

async fn initialise(server: &Server, certificate: &Certificate, port: u16) -> anyhow::Result<()> {
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
async fn publish_state(
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
