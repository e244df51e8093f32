//! The tasks of a server and of a client, each a group that can be ended while the process goes on.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::Machine;
use super::promise::PromiseDesk;
use crate::agent::config::Settings;
use crate::agent::consensus::{self, Peer, Server};
use crate::agent::handle::Replica;
use crate::agent::membership::Gossip;
use crate::agent::replica::{self, Client};
use crate::agent::rpc::{Identity, Listener, Router};
use crate::agent::servers::{self, Stewardship};
use crate::agent::{assembly, leader, members, storage_check};
use crate::model::sync::servers::Policy;
use crate::tasks::Spawner;

/// A server that runs.
pub(in crate::agent) struct RunningServer {
    pub(in crate::agent) server: Server,
    pub(in crate::agent) identity: Arc<Identity>,
    pub(in crate::agent) router: Arc<Router>,
    pub(in crate::agent) group: Spawner,
}

/// A client that runs.
pub(in crate::agent) struct RunningClient {
    pub(super) client: Client,
    pub(super) identity: Arc<Identity>,
    pub(super) group: Spawner,
}

/// Where a server answers RPC.
pub(in crate::agent) fn rpc_address(settings: &Settings) -> SocketAddr {
    SocketAddr::new(settings.bind, settings.ports.server)
}

impl RunningServer {
    /// Opens log and catalog, answers RPC, and does what a leader does while it leads.
    pub(super) async fn open(
        machine: &Machine,
        gossip: &Gossip,
        identity: Arc<Identity>,
        listener: Listener,
        router: Arc<Router>,
        replica: Arc<Replica>,
    ) -> anyhow::Result<Self> {
        let group = machine.spawner.child();
        let opened = Self::open_in(machine, gossip, identity, listener, router, replica, &group).await;
        if opened.is_err() {
            group.end().await;
        }
        opened
    }

    async fn open_in(
        machine: &Machine,
        gossip: &Gossip,
        identity: Arc<Identity>,
        listener: Listener,
        router: Arc<Router>,
        replica: Arc<Replica>,
        group: &Spawner,
    ) -> anyhow::Result<Self> {
        let settings = &machine.settings;
        let address = SocketAddr::new(settings.advertise, listener.address()?.port());
        let incarnation = machine.incarnation.to_string();
        let peer = Peer { name: settings.node_name.clone(), address, incarnation };
        let server_settings =
            consensus::Settings { disk: machine.site.disk.clone(), data: settings.data_dir.clone(), peer };
        let server =
            Server::open(server_settings, identity.clone(), replica.clone(), &router, group.clone()).await?;
        let promises = machine.promises.clone();
        router.set_promises(PromiseDesk { promises, server: server.clone() });
        server.follow_addresses(gossip.changes());
        group.start("rpc", listener.run(group.clone()));
        let (name, full) = (settings.node_name.clone(), server.storage_changes());
        let consensus = Arc::new(server.clone());
        let told = storage_check::run(name, full, replica.clone(), consensus.clone(), group.stop_token());
        group.start("storage check", told);
        let policy = Policy { mode: settings.replace, replace_after: settings.replace_after };
        let stewardship = Stewardship::new(servers::Context {
            server: server.clone(),
            replica: replica.clone(),
            members: gossip.changes(),
            policy,
        });
        server.set_steward(stewardship.clone());
        group.start("servers", stewardship.run(group.stop_token()));
        let leader_settings = leader::Settings {
            node_name: settings.node_name.clone(),
            datacenter: settings.datacenter.to_string(),
        };
        let leading = assembly::leading(&server, group);
        leader::start(leader_settings, replica, consensus, gossip.changes(), leading, group);
        Ok(Self { server, identity, router, group: group.clone() })
    }
}

impl RunningClient {
    /// Follows the servers that gossip shows.
    pub(super) fn open(machine: &Machine, gossip: &Gossip, identity: Arc<Identity>) -> anyhow::Result<Self> {
        let group = machine.spawner.child();
        let settings = &machine.settings;
        let (sender, servers) = watch::channel(Vec::new());
        let name = settings.node_name.clone();
        group.start(
            "known servers",
            members::follow_servers(gossip.changes(), name, sender, group.stop_token()),
        );
        let replica_settings =
            replica::Settings { disk: machine.site.disk.clone(), data: settings.data_dir.clone() };
        let (replica, ours) = (machine.replica.clone(), identity.clone());
        let client = Client::open(replica_settings, ours, replica, servers, group.clone())?;
        Ok(Self { client, identity, group })
    }
}
