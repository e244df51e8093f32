//! The long-running discovery agent. The parts meet only in [`handle`] and here: bind, build, start, wait.

mod assembly;
mod birth;
pub mod checks;
pub mod config;
pub mod consensus;
pub mod dns;
pub mod handle;
mod home;
pub mod http;
pub mod leader;
pub mod local;
mod members;
pub mod membership;
mod participant;
mod places;
mod reload;
pub mod replica;
mod role;
pub mod rpc;
mod servers;
#[cfg(test)]
mod simulation;
mod start;
mod storage_check;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::host::disk::{Held, HostDisk};
use crate::model::election::Certificate;
use crate::model::names::ClusterId;
use crate::tasks::{StopRequest, Tasks};
use assembly::Sockets;
pub use birth::GOSSIP_BIRTH_FILE;
use config::{Settings, Source};
use local::LocalState;
pub use members::PEERS_FILE;
use role::Roles;

/// How long a machine that is probed may take for its state.
const PROBE_WAIT: Duration = Duration::from_secs(2);

/// How this agent comes to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Birth {
    /// As the flags say: `-bootstrap`, `-bootstrap-expect`, `-join`.
    ByGossip,
    /// As was decided elsewhere (through etcd).
    Decided {
        /// The only cluster that it may belong to, if known.
        cluster: Option<ClusterId>,
        /// The right to initialise it.
        initial: Option<Certificate>,
    },
}

/// What an agent says about itself to who started it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentState {
    /// The cluster, once its birth was committed.
    pub formed: Option<ClusterId>,
    /// Whether this agent leads.
    pub leader: bool,
    /// The clusters that this one is the successor of; the youngest last.
    pub predecessors: Vec<ClusterId>,
}

/// A running agent.
pub struct Agent {
    tasks: Tasks,
    settings: Settings,
    local: Arc<LocalState>,
    roles: Arc<Roles>,
    leave_request: CancellationToken,
    state: watch::Receiver<AgentState>,
    sockets: Sockets,
    /// Keeps other agents off the data directory.
    _lock: Option<Box<dyn Held>>,
}

impl Agent {
    /// Binds all sockets, builds the parts, starts their tasks. `source` is where the settings came from.
    ///
    /// # Errors
    /// Sockets in use, a data directory that cannot be used, services of the configuration that are not valid.
    pub async fn start(settings: Settings, how: Birth, source: Arc<Source>) -> anyhow::Result<Self> {
        start::start(settings, how, source).await
    }

    /// What this agent is, as it changes.
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    /// Runs until `stop` completes, somebody asks the agent to leave, or a task fails; then stops everything.
    ///
    /// # Errors
    /// The failure of a task, or that tasks did not stop.
    pub async fn run_until(self, stop: impl Future<Output = StopRequest>) -> anyhow::Result<()> {
        let Self { tasks, settings, local, roles, leave_request, .. } = self;
        let ending = async {
            let leave = tokio::select! {
                request = stop => settings.leaves_on(request, roles.part().server.is_some()),
                () = leave_request.cancelled() => true,
            };
            assembly::notify(sd_notify::NotifyState::Stopping);
            roles.hand_over_leadership().await;
            if leave {
                tracing::info!("leaving the cluster");
                roles.leave(|| local.stop_sync()).await;
            }
        };
        tasks.run_until(ending).await
    }

    fn announce(&self) {
        let settings = &self.settings;
        let join = |list: &[SocketAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(
            node = settings.node_name,
            datacenter = %settings.datacenter,
            server = settings.server,
            http = join(&self.sockets.http),
            dns = join(&self.sockets.dns),
            cluster = %SocketAddr::new(settings.advertise, self.sockets.gossip.port()),
            "agent running!"
        );
        assembly::notify(sd_notify::NotifyState::Ready);
    }
}

/// Whether the machine with this data directory was a server and is none, or became one again: then its flags and the
/// record of its birth say nothing about what it is.
///
/// # Errors
/// When the directory cannot be read.
pub fn was_server(data_dir: &std::path::Path) -> anyhow::Result<bool> {
    role::disk::is_past_first_life(&HostDisk, data_dir)
}

/// Asks the machines at `addresses` (with or without the port of their RPC) which cluster they are in; `None` when
/// none that answers belongs to one that has committed anything.
///
/// # Errors
/// When an address is none.
pub async fn probe(addresses: &[String], port: u16) -> anyhow::Result<Option<ClusterId>> {
    let tasks = Tasks::default();
    let asker = rpc::Identity::new(0, "probe", None);
    for text in addresses {
        let address = assembly::rpc_address(text, port)?;
        let connection = match rpc::Connection::open(address, &asker, &tasks.spawner()).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%address, %error, "a known machine does not answer");
                continue;
            }
        };
        let cluster = connection.peer().cluster.clone();
        let status = connection.call(rpc::Method::Status, bytes::Bytes::new(), PROBE_WAIT).await;
        let committed = status
            .ok()
            .and_then(|body| rpc::decode::<handle::ConsensusStatus>(&body).ok())
            .is_some_and(|status| status.commit_index > 0);
        connection.close();
        if cluster.is_some() && committed {
            return Ok(cluster);
        }
    }
    Ok(None)
}
