//! What this machine is in its cluster, server or client, and the change from one to the other while it runs.
//!
//! Nobody decides here: a client becomes a server when the log nominates it, a server ceases to be one when the
//! living cluster says that it is none. DNS and HTTP keep answering from the one shared replica all the while.

pub(super) mod disk;
mod leaving;
mod parts;
mod promise;
mod standing;
mod succession;
mod survivors;
mod switch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use self::parts::RunningClient;
pub(super) use self::parts::{RunningServer, rpc_address};
pub(super) use self::promise::Promises;
use self::standing::Asker;
#[cfg(test)]
pub(super) use self::switch::BROKE_OFF;
use self::switch::{Recovery, Switch};
use super::config::Settings;
use super::consensus::Server;
use super::handle::{Consensus, Replica, Topic};
use super::membership::Gossip;
use super::rpc::{Identity, Listener, Router};
use crate::host::site::Site;
use crate::model::catalog::Nomination;
use crate::model::election::Incarnation;
use crate::model::names::ClusterId;
use crate::model::sync::servers::Standing;
use crate::tasks::Spawner;

/// How often a server that hears no leader asks whether it still is one.
const STANDING_INTERVAL: Duration = Duration::from_secs(1);
/// How often a nominated machine looks whether it votes.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(50);
/// Pause after a promotion that failed here (the RPC port is in use, the disk is full).
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long questions that a client handed on may take after it has become a server: longer than an election. Nobody
/// watches that server any more: if it dies or moves now, who asked waits this long.
const CLIENT_GRACE: Duration = Duration::from_secs(3);

/// What does not change while the machine runs.
pub(super) struct Machine {
    pub(super) settings: Settings,
    pub(super) site: Site,
    pub(super) incarnation: Incarnation,
    /// The node id of the catalog.
    pub(super) node_id: String,
    pub(super) replica: Arc<Replica>,
    pub(super) spawner: Spawner,
    /// The cluster that it was told to be in when it started.
    pub(super) told: Option<ClusterId>,
    pub(super) promises: Arc<Promises>,
}

impl Machine {
    /// What it is on the wire under a raft id.
    fn identity(&self, raft_id: u64, cluster: Option<ClusterId>) -> Arc<Identity> {
        let (network, name) = (self.site.network.clone(), self.settings.node_name.clone());
        Identity::on(network, Some(self.settings.bind), raft_id, name, cluster)
    }
}

/// What the machine is now.
#[derive(Clone)]
pub(super) struct Part {
    /// The server, if it is one.
    pub(super) server: Option<Server>,
    /// Its raft id.
    pub(super) raft_id: u64,
    /// The nomination by which it is a server; `None`: its flags say so.
    pub(super) nomination: Option<u64>,
}

/// The machine and its part.
pub(super) struct Roles {
    machine: Machine,
    gossip: Gossip,
    switch: Arc<Switch>,
    part: watch::Sender<Part>,
    life: Mutex<u32>,
    leaving: AtomicBool,
    /// The tasks of a server that does not vote yet, beside the client that goes on.
    nominee: Mutex<Option<Spawner>>,
    recoveries: tokio::sync::Mutex<mpsc::Receiver<Recovery>>,
}

/// What follows in the life of the machine.
enum Next {
    Promoted(Box<RunningServer>),
    Dismissed(Standing),
    Join(ClusterId),
    Recover(Recovery),
}

/// What runs now.
pub(super) enum Running {
    /// A server.
    Server(RunningServer),
    /// A client.
    Client(RunningClient),
}

impl Running {
    /// What it is on the wire.
    fn identity(&self) -> &Identity {
        match self {
            Self::Server(server) => &server.identity,
            Self::Client(client) => &client.identity,
        }
    }

    /// Its tasks.
    fn group(&self) -> &Spawner {
        match self {
            Self::Server(server) => &server.group,
            Self::Client(client) => &client.group,
        }
    }
}

impl Roles {
    /// Starts as what the disk says. `rpc` is the bound port of a server, with the identity it was bound for.
    pub(super) async fn start(
        machine: Machine,
        gossip: Gossip,
        start: disk::Start,
        rpc: Option<(Listener, Arc<Router>)>,
        identity: Arc<Identity>,
    ) -> anyhow::Result<(Arc<Self>, Running)> {
        let raft_id = identity.node();
        let (running, part, inner): (_, _, Arc<dyn Consensus>) = if let Some((listener, router)) = rpc {
            let replica = machine.replica.clone();
            let running = RunningServer::open(&machine, &gossip, identity, listener, router, replica).await?;
            let nomination = (!start.by_flags).then_some(0);
            let server = running.server.clone();
            let part = Part { server: Some(server.clone()), raft_id, nomination };
            (Running::Server(running), part, Arc::new(server))
        } else {
            let running = RunningClient::open(&machine, &gossip, identity)?;
            let inner = Arc::new(running.client.clone());
            (Running::Client(running), Part { server: None, raft_id, nomination: None }, inner)
        };
        let (switch, recoveries) = Switch::new(inner);
        let roles = Self {
            machine,
            gossip,
            switch: Arc::new(switch),
            part: watch::channel(part).0,
            life: Mutex::new(start.life),
            leaving: AtomicBool::new(false),
            nominee: Mutex::default(),
            recoveries: tokio::sync::Mutex::new(recoveries),
        };
        Ok((Arc::new(roles), running))
    }

    /// The part, and each change of it.
    pub(super) fn changes(&self) -> watch::Receiver<Part> {
        self.part.subscribe()
    }

    /// The part now.
    pub(super) fn part(&self) -> Part {
        self.part.borrow().clone()
    }

    /// Changes the part when the cluster says so, until the process stops.
    pub(super) async fn run(self: Arc<Self>, mut running: Running) -> anyhow::Result<()> {
        let stop = self.machine.spawner.stop_token();
        let mut recoveries = self.recoveries.lock().await;
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                next = self.next(&running, &mut recoveries) => next?,
            };
            // Nothing else comes between while the part changes.
            running = match next {
                Next::Promoted(server) => Running::Server(*server),
                Next::Dismissed(standing) => Running::Client(self.demote(running.group(), standing).await?),
                Next::Join(successor) => Running::Client(self.join_successor(&running, successor).await?),
                Next::Recover(recovery) => self.recover(running, recovery).await?,
            };
        }
    }

    /// Waits for what follows. A client that is becoming a server goes on with it, whatever it is ordered meanwhile.
    async fn next(
        &self,
        running: &Running,
        recoveries: &mut mpsc::Receiver<Recovery>,
    ) -> anyhow::Result<Next> {
        let change = async {
            match running {
                Running::Server(server) => Ok(Next::Dismissed(self.until_dismissed(server).await)),
                Running::Client(client) => {
                    self.until_promoted(client).await.map(|server| Next::Promoted(Box::new(server)))
                }
            }
        };
        tokio::pin!(change);
        loop {
            tokio::select! {
                biased;
                successor = self.until_succeeded(running.identity()) => return Ok(Next::Join(successor)),
                Some(recovery) = recoveries.recv() => match running {
                    Running::Server(_) => return Ok(Next::Recover(recovery)),
                    Running::Client(_) => self.recover_nothing(recovery),
                },
                change = &mut change => return change,
            }
        }
    }

    /// Whether the shared replica is that of a server, keys included.
    #[cfg(test)]
    pub(super) fn is_whole_server(&self) -> bool {
        self.part.borrow().server.is_some() && self.nominee.lock().is_none()
    }

    fn raft_id(&self) -> u64 {
        self.machine.incarnation.node_id_in_life(*self.life.lock())
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.machine.replica.load().cluster().cloned()
    }

    /// Waits until the living cluster says that this server is none.
    async fn until_dismissed(&self, running: &RunningServer) -> Standing {
        let asker = Asker::new(running.identity.clone(), running.group.clone());
        let part = self.part();
        let mut look = tokio::time::interval(STANDING_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let settled = running.server.is_in_touch() && running.server.votes();
            // A blank machine asks too: who has no place by now waits for ever otherwise. Nobody leads before the birth.
            if settled || self.leaving.load(Ordering::Relaxed) {
                continue;
            }
            let standing = asker.ask(&self.other_servers(), part.raft_id, part.nomination).await;
            if let Some(standing @ (Standing::Retired | Standing::Unknown)) = standing {
                return standing;
            }
        }
    }

    fn other_servers(&self) -> Vec<std::net::SocketAddr> {
        super::members::server_addresses(&self.gossip.members(), &self.machine.settings.node_name)
    }

    /// Server to client: raft ends, its folder is archived, the replica goes on with what it has.
    async fn demote(&self, server: &Spawner, standing: Standing) -> anyhow::Result<RunningClient> {
        let reason = match standing {
            Standing::Retired => "another machine has taken its place, or it was removed",
            _ => "the cluster does not know it as a server",
        };
        tracing::warn!(reason, "audit: this machine is a server no more: it goes on as a client");
        self.switch.close().await;
        self.show(Part { server: None, raft_id: 0, nomination: None });
        server.end().await;
        self.end_life()?;
        self.open_client(self.cluster())
    }

    fn open_client(&self, cluster: Option<ClusterId>) -> anyhow::Result<RunningClient> {
        let identity = self.machine.identity(self.raft_id(), cluster);
        let client = RunningClient::open(&self.machine, &self.gossip, identity)?;
        self.switch.set(Arc::new(client.client.clone()));
        Ok(client)
    }

    fn end_life(&self) -> anyhow::Result<()> {
        let mut life = self.life.lock();
        *life = disk::retire(&*self.machine.site.disk, self.machine.settings.data_dir.as_deref(), *life)?;
        Ok(())
    }

    fn show(&self, part: Part) {
        self.part.send_replace(part);
    }

    /// Waits for a nomination and follows it; again, when it comes to nothing.
    async fn until_promoted(&self, client: &RunningClient) -> anyhow::Result<RunningServer> {
        let mut watch = self.machine.replica.watch(Topic::Servers);
        loop {
            // Who has just joined a successor still has the catalog of the old cluster, and a nomination there is void.
            let ours = client.identity.cluster().is_none_or(|ours| self.cluster() == Some(ours));
            let nomination = self.own_nomination().filter(|_| ours);
            match nomination {
                Some(nomination) if !self.leaving.load(Ordering::Relaxed) => {
                    match self.promote(client, &nomination).await {
                        Ok(Some(server)) => return Ok(server),
                        Ok(None) => {}
                        Err(error) => {
                            let error = crate::hint::causes(&error);
                            tracing::warn!(error, "this machine was nominated and cannot become a server");
                            tokio::time::sleep(RETRY_PAUSE).await;
                        }
                    }
                }
                _ => watch.changed().await,
            }
        }
    }

    /// The nomination of this very machine, if it can follow one: without a disk it could not keep a promise.
    fn own_nomination(&self) -> Option<Nomination> {
        self.machine.settings.data_dir.as_ref()?;
        let catalog = self.machine.replica.load();
        let nomination = catalog.servers().nomination.as_ref()?;
        let mine = nomination.node == self.machine.settings.node_name
            && nomination.incarnation == self.machine.node_id;
        mine.then(|| nomination.clone())
    }

    /// Client to server. `None` when the nomination came to nothing.
    async fn promote(
        &self,
        client: &RunningClient,
        nomination: &Nomination,
    ) -> anyhow::Result<Option<RunningServer>> {
        let raft_id = self.raft_id();
        let identity = self.machine.identity(raft_id, self.cluster());
        let router = Arc::new(Router::default());
        let address = parts::rpc_address(&self.machine.settings);
        let listener = Listener::bind(address, identity.clone(), router.clone()).await?;
        tracing::info!(why = %nomination.purpose, "audit: this machine is nominated: it becomes a server");
        // Until it has everything, the shared replica is the client's: its index must not go back.
        let staging = Arc::new(Replica::default());
        let opened = RunningServer::open(
            &self.machine,
            &self.gossip,
            identity.clone(),
            listener,
            router,
            staging.clone(),
        );
        let running = match opened.await {
            Ok(running) => running,
            Err(error) => {
                self.end_life()?;
                return Err(error);
            }
        };
        *self.nominee.lock() = Some(running.group.clone());
        self.show(Part {
            server: Some(running.server.clone()),
            raft_id,
            nomination: Some(nomination.serial),
        });
        if !self.until_it_votes(&running, &staging, nomination.serial).await {
            tracing::warn!("audit: the nomination of this machine came to nothing: it stays a client");
            self.drop_nominee().await?;
            return Ok(None);
        }
        client.client.stop_following().await;
        staging.wait_applied(self.machine.replica.load().index()).await;
        staging.attach(self.machine.replica.clone());
        self.switch.set(Arc::new(running.server.clone()));
        self.nominee.lock().take();
        tracing::info!("audit: this machine is a server now");
        let group = client.group.clone();
        self.machine.spawner.start_short("former client", async move {
            tokio::time::sleep(CLIENT_GRACE).await;
            group.end().await;
        });
        Ok(Some(running))
    }

    /// Ends a server that was to be, if there is one.
    async fn drop_nominee(&self) -> anyhow::Result<()> {
        let Some(group) = self.nominee.lock().take() else { return Ok(()) };
        self.show(Part { server: None, raft_id: 0, nomination: None });
        group.end().await;
        self.end_life()
    }

    /// Whether the new server has come to vote and has all that the client had.
    async fn until_it_votes(&self, running: &RunningServer, staging: &Replica, serial: u64) -> bool {
        let asker = Asker::new(running.identity.clone(), running.group.clone());
        let mut look = tokio::time::interval(PROMOTION_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let shared = self.machine.replica.load().index();
            if running.server.votes() && staging.load().index() >= shared {
                return true;
            }
            if self.own_nomination().is_some_and(|nomination| nomination.serial == serial) {
                continue;
            }
            let standing = asker.ask(&self.other_servers(), self.raft_id(), Some(serial)).await;
            if matches!(standing, Some(Standing::Retired | Standing::Unknown)) {
                return false;
            }
        }
    }

    /// What the other parts of the agent hold.
    pub(super) fn consensus(&self) -> Arc<dyn Consensus> {
        self.switch.clone()
    }
}
