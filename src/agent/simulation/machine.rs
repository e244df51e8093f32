//! One machine: a disk that outlives its processes, and the parts of an agent, put together as `start.rs` does, on
//! the simulated network and disk.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::birth;
use crate::agent::consensus::Server;
use crate::agent::handle::{Consensus, Replica};
use crate::agent::members::{self, ServerPart, TagSource};
use crate::agent::membership::{self, Gossip};
use crate::agent::role::Part;
use crate::agent::servers::Stewardship;
use crate::agent::{AgentState, assembly, leader, replica, rpc, servers, start};
use crate::host::disk::Disk as _;
use crate::host::disk::simulated::SimulatedDisk;
use crate::host::net::Network;
use crate::host::outside::random_bits;
use crate::model::election::{Incarnation, SeenServer};
use crate::model::membership::Tags;
use crate::model::names::ClusterId;
use crate::model::sync::servers::{Mode, Policy};
use crate::simulation::network::Net;
use crate::simulation::running;
use crate::tasks::{Spawner, Tasks};

const PORT_RPC: u16 = 8300;
const PORT_GOSSIP: u16 = 8301;
/// Where a machine keeps what it promised about the birth.
const DATA: &str = "/data";

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process alone: the kernel lives on, tells the others, and writes what it has.
    Killed,
    /// The machine lost power: nobody is told, what was not synced may be lost or torn.
    PowerLost,
}

/// One machine.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    /// How many first servers it was told to expect; a client was told nothing.
    expect: Option<usize>,
    pub(super) disk: SimulatedDisk,
    pub(super) incarnation: Incarnation,
    /// What the owner file of the data directory says.
    cluster: Option<ClusterId>,
    pub(super) process: Option<Process>,
}

/// A running agent.
pub(super) struct Process {
    pub(super) number: u64,
    spawner: Spawner,
    supervisor: AbortHandle,
    /// Cancelled when it ends: who asked it hears no more.
    pub(super) gone: CancellationToken,
    /// Why it ended by itself.
    pub(super) ended: watch::Receiver<Option<String>>,
    identity: Arc<rpc::Identity>,
    pub(super) server: Option<Server>,
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) replica: Arc<Replica>,
}

impl Machine {
    pub(super) fn new(number: usize, expect: Option<usize>) -> Self {
        Self {
            name: format!("m{number}"),
            ip: IpAddr::from([10, 0, 0, u8::try_from(number + 1).unwrap()]),
            expect,
            disk: SimulatedDisk::new(seed()),
            incarnation: Incarnation::from_random(random_bits()),
            cluster: None,
            process: None,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        self.expect.is_some()
    }

    /// Its disk is replaced by an empty one.
    pub(super) fn wipe(&mut self) {
        self.disk = SimulatedDisk::new(seed());
        self.incarnation = Incarnation::from_random(random_bits());
        self.cluster = None;
    }

    pub(super) fn end(&mut self, net: &Net, how: End) {
        let Some(process) = self.process.take() else { return };
        self.cluster = process.identity.cluster();
        net.stop(self.ip, how == End::Killed);
        match how {
            End::Killed => self.disk.kill(),
            End::PowerLost => self.disk.lose_power_by_chance(),
        }
        running::note((10, process.number, how == End::Killed));
        process.gone.cancel();
        process.supervisor.abort();
        process.spawner.kill();
        running::kill(process.number);
    }

    /// Starts an agent; one that cannot start is as one that ended.
    pub(super) async fn start(&mut self, number: u64, net: &Net, join: &[SocketAddr]) -> Result<(), String> {
        assert!(self.process.is_none(), "{} runs", self.name);
        let started = running::within(number, self.open(number, net, join)).await;
        running::note((11, number, started.is_ok()));
        match started {
            Ok(process) => {
                self.process = Some(process);
                Ok(())
            }
            Err(error) => {
                net.stop(self.ip, true);
                self.disk.kill();
                running::kill(number);
                Err(format!("{error:#}"))
            }
        }
    }

    async fn open(&self, number: u64, net: &Net, join: &[SocketAddr]) -> anyhow::Result<Process> {
        let network = Network::Simulated(net.start(self.ip));
        let tasks = Tasks::default();
        let spawner = tasks.spawner();
        let node = self.incarnation.node_id();
        let identity = rpc::Identity::on(network.clone(), node, self.name.clone(), self.cluster.clone());
        let (router, replica) = (Arc::new(rpc::Router::default()), Arc::new(Replica::default()));
        let rpc_address = SocketAddr::new(self.ip, PORT_RPC);
        let tags = TagSource {
            datacenter: "dc1".to_owned(),
            node_id: self.incarnation.to_string(),
            rpc_port: PORT_RPC,
            spare: false,
            expect: self.expect,
            bootstrap: false,
        };
        let part = if self.is_server() { ServerPart::ByFlags { raft_id: node } } else { ServerPart::None };
        if self.is_server() {
            let listener = rpc::Listener::bind(rpc_address, identity.clone(), router.clone()).await?;
            tasks.start("rpc", listener.run(spawner.clone()));
        }
        let gossip_address = SocketAddr::new(self.ip, PORT_GOSSIP);
        let bound = Gossip::bind_on(&network, gossip_address).await?;
        let settings = membership::Settings {
            name: self.name.clone(),
            advertise: gossip_address,
            tags: Tags::try_from(tags.tags(part, None, 0))?,
            seed: seed(),
            retry_join: join.iter().map(ToString::to_string).collect(),
            remembered: Vec::new(),
            retry_interval: Duration::from_secs(2),
            config: crate::model::membership::Config::default(),
        };
        let gossip = Gossip::start(bound, settings, &spawner)?;
        let (server, consensus): (Option<Server>, Arc<dyn Consensus>) = if self.is_server() {
            let server = Server::open_simulated(
                &self.disk,
                identity.clone(),
                replica.clone(),
                &router,
                spawner.clone(),
            )
            .await?;
            (Some(server.clone()), Arc::new(server))
        } else {
            let (sender, servers) = watch::channel(Vec::new());
            let follow =
                members::follow_servers(gossip.changes(), self.name.clone(), sender, spawner.stop_token());
            spawner.start("servers", follow);
            let settings = replica::Settings { data: None };
            let client =
                replica::Client::open(settings, identity.clone(), replica.clone(), servers, spawner.clone())?;
            (None, Arc::new(client))
        };
        if let Some(server) = &server {
            self.take_part(server, &gossip, &consensus, (&identity, &router, &replica), &spawner).await?;
        }
        leader::follow_dead_nodes(
            self.name.clone(),
            replica.clone(),
            gossip.changes(),
            Arc::default(),
            &spawner,
        );
        let (sender, _state) = watch::channel(AgentState::default());
        let stop = spawner.stop_token();
        let part = Part { server: server.clone(), raft_id: node, nomination: None };
        let (keep_part, parts) = watch::channel(part);
        let state = start::publish_state(sender, replica.clone(), parts, gossip, tags, stop);
        tasks.start("state", state);
        let (sender, ended) = watch::channel(None);
        let supervisor = running::spawn(running::within(number, async move {
            // The part of a machine does not change here: nobody is nominated.
            let _part = keep_part;
            let ended = tasks.run_until(std::future::pending()).await;
            sender.send_replace(Some(format!("{ended:?}")));
        }));
        Ok(Process {
            number,
            spawner,
            supervisor: supervisor.abort_handle(),
            gone: CancellationToken::new(),
            ended,
            identity,
            server,
            consensus,
            replica,
        })
    }

    /// What a server does beside keeping the log: the birth, and the duties of a leader.
    async fn take_part(
        &self,
        server: &Server,
        gossip: &Gossip,
        consensus: &Arc<dyn Consensus>,
        (identity, router, replica): (&Arc<rpc::Identity>, &Arc<rpc::Router>, &Arc<Replica>),
        spawner: &Spawner,
    ) -> anyhow::Result<()> {
        let me = SeenServer {
            node_id: self.incarnation.node_id(),
            name: self.name.clone(),
            incarnation: self.incarnation.clone(),
            address: SocketAddr::new(self.ip, PORT_RPC).to_string(),
            expect: self.expect,
            cluster: None,
        };
        self.disk.create_folder(Path::new(DATA))?;
        let (desk, questions) = birth::desk();
        router.set_birth(desk);
        let (decided, outcome) = watch::channel(None);
        let context = birth::Context {
            me,
            alone: false,
            data_dir: Some(PathBuf::from(DATA)),
            disk: Arc::new(self.disk.clone()),
            raft_state: server.is_initialized().await?,
            members: gossip.changes(),
            identity: identity.clone(),
            replica: replica.clone(),
            spawner: spawner.clone(),
        };
        spawner.start("birth", birth::run(context, questions, decided));
        let initialise = start::initialise_when_decided(server.clone(), outcome, spawner.stop_token());
        spawner.start("initialise", initialise);
        let stewardship = Stewardship::new(servers::Context {
            server: server.clone(),
            replica: replica.clone(),
            members: gossip.changes(),
            policy: Policy { mode: Mode::Off, replace_after: Duration::from_secs(30) },
        });
        server.set_steward(stewardship.clone());
        spawner.start("servers", stewardship.run(spawner.stop_token()));
        let settings = leader::Settings { node_name: self.name.clone(), datacenter: "dc1".to_owned() };
        let leading = assembly::leading(server, spawner);
        leader::start(settings, replica.clone(), consensus.clone(), gossip.changes(), leading, spawner);
        Ok(())
    }

    /// Where its gossip listens.
    pub(super) fn gossip_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT_GOSSIP)
    }
}

fn seed() -> u64 {
    u64::try_from(random_bits() >> 64).unwrap()
}
