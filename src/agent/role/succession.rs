//! After a quorum is lost for good: this machine founds the successor because an operator says so, or joins the one
//! that it meets. The successor is another cluster, so nobody who belongs to the old one can speak raft with it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::parts::{self, RunningClient, RunningServer};
use super::switch::Recovery;
use super::{Part, Roles, Running};
use crate::agent::consensus::{self, Peer};
use crate::agent::handle::{Consensus as _, ConsensusStatus, Order, OrderError, OrderReply};
use crate::agent::rpc::messages::OrderAnswer;
use crate::agent::rpc::{Connection, Identity, Listener, Method, Router, decode, encode};
use crate::host::outside::{blocking_steps, random_bits};
use crate::model::membership::MemberStatus;
use crate::model::names::ClusterId;
use crate::model::sync::servers::{ServerMember, TAG_EPOCH};

/// How often it is looked whether a successor is there, beside each change of the members.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a server may take for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

impl Roles {
    /// Waits until a successor of our cluster is there, which its own leader says with a majority.
    pub(super) async fn until_succeeded(&self, identity: &Identity) -> ClusterId {
        let mut members = self.gossip.changes();
        loop {
            // At once when gossip shows somebody new: a majority that was given up and comes back would go on as the old
            // cluster until then.
            let somebody_new = async {
                if members.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _timed_out = tokio::time::timeout(LOOK_INTERVAL, somebody_new).await.is_err();
            // Who was bound to a cluster by its birth and lost sight of it at once has nothing of it in the catalog.
            let bound = || identity.cluster().or_else(|| self.machine.told.clone());
            let Some(own) = self.cluster().or_else(bound) else { continue };
            for (address, cluster) in self.strangers(&own) {
                match self.ask_lineage(address).await {
                    Ok(predecessors) if predecessors.contains(&own) => return cluster,
                    Ok(_) => tracing::debug!(%cluster, "another cluster is here, and no successor of ours"),
                    Err(error) => tracing::debug!(%address, error = format!("{error:#}"), "no lineage"),
                }
            }
        }
    }

    /// Servers of other clusters that were recovered more often than ours.
    fn strangers(&self, own: &ClusterId) -> Vec<(SocketAddr, ClusterId)> {
        let epoch = self.machine.replica.load().servers().epoch;
        let members = self.gossip.members();
        let later = members.iter().filter(|member| {
            let theirs = member.tags.get(TAG_EPOCH).and_then(|text| text.parse::<u64>().ok());
            member.status == MemberStatus::Alive && theirs.is_some_and(|theirs| theirs > epoch)
        });
        let servers = later.filter_map(ServerMember::of);
        servers
            .filter_map(|server| Some((server.address, server.cluster?)))
            .filter(|(_, cluster)| cluster != own)
            .collect()
    }

    /// The clusters that the one at `address` is the successor of.
    async fn ask_lineage(&self, address: SocketAddr) -> anyhow::Result<Vec<ClusterId>> {
        let asker = self.machine.identity(0, None);
        let connection = Connection::open(address, &asker, &self.machine.spawner).await?;
        let answer = connection.call(Method::Order, encode(&Order::Report)?, ANSWER_WAIT).await;
        connection.close();
        match decode::<OrderAnswer>(&answer?)? {
            Ok(OrderReply::Report(report)) => Ok(report.predecessors),
            other => anyhow::bail!("the answer was {other:?}"),
        }
    }

    /// Becomes a client of the successor. What this machine had as a server is archived.
    pub(super) async fn join_successor(
        &self,
        running: &Running,
        successor: ClusterId,
    ) -> anyhow::Result<RunningClient> {
        tracing::warn!(%successor, "audit: our cluster was recovered: this machine joins its successor as a client");
        self.switch.close().await;
        self.drop_nominee().await?;
        self.show(Part { server: None, raft_id: 0, nomination: None });
        match running {
            Running::Server(server) => {
                server.group.end().await;
                self.end_life()?;
            }
            Running::Client(client) => client.group.end().await,
        }
        self.open_client(Some(successor))
    }

    /// The successor of this cluster, if it is there: asked again, because the answer got lost.
    fn successor_of(&self, cluster: &ClusterId) -> Option<ClusterId> {
        let catalog = self.machine.replica.load();
        let is_it = catalog.servers().predecessors.last() == Some(cluster);
        if is_it { catalog.cluster().cloned() } else { None }
    }

    /// A client's answer to who orders it to recover.
    pub(super) fn recover_nothing(&self, (named, outcome): Recovery) {
        let refused = || {
            let text = "this machine is a client and keeps no log: recover at a server";
            OrderError::Refused(text.to_owned())
        };
        // Who asked may have gone away.
        drop(outcome.send(self.successor_of(&named).ok_or_else(refused)));
    }

    /// Founds a successor with what this server has.
    pub(super) async fn recover(&self, running: Running, recovery: Recovery) -> anyhow::Result<Running> {
        let (named, outcome) = recovery;
        if let Some(successor) = self.successor_of(&named) {
            drop(outcome.send(Ok(successor)));
            return Ok(running);
        }
        let Running::Server(server) = &running else {
            self.recover_nothing((named, outcome));
            return Ok(running);
        };
        if let Err(refusal) = self.may_recover(server, &named).await {
            drop(outcome.send(Err(OrderError::Refused(refusal))));
            return Ok(running);
        }
        let successor = ClusterId::from_random(random_bits());
        tracing::warn!(old = %named, new = %successor, "audit: an operator recovers the cluster from this server");
        self.switch.close().await;
        server.group.end().await;
        let opened = self.found(successor.clone()).await?;
        self.show(Part {
            server: Some(opened.server.clone()),
            raft_id: opened.identity.node(),
            nomination: Some(0),
        });
        self.switch.set(Arc::new(opened.server.clone()));
        drop(outcome.send(Ok(successor)));
        Ok(Running::Server(opened))
    }

    /// Why it must not be done here and now.
    async fn may_recover(&self, server: &RunningServer, named: &ClusterId) -> Result<(), String> {
        let Some(own) = self.cluster() else { return Err("the cluster was never born".to_owned()) };
        if own != *named {
            return Err(format!("this machine is in cluster {own}, not in {named}"));
        }
        if self.machine.settings.data_dir.is_none() {
            return Err("this server keeps nothing on disk".to_owned());
        }
        if server.server.is_in_touch() {
            return Err("the cluster has a leader: there is nothing to recover".to_owned());
        }
        let mine = server.server.status().await;
        // Gossip may have lost sight of a survivor, and raft's configuration may have it at an old address.
        let (known, _) = server.server.configuration();
        let known = known.iter().filter(|other| other.id != server.identity.node());
        let mut others: BTreeSet<SocketAddr> = known.filter_map(|other| other.address.parse().ok()).collect();
        others.extend(self.other_servers());
        for address in others {
            match self.ask_status(address, server).await {
                Ok(theirs) if is_ahead(&theirs, &mine) => {
                    return Err(format!(
                        "the log of the server at {address} is more up to date ({} against {}): recover there",
                        last_entry(&theirs),
                        last_entry(&mine)
                    ));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(%address, error = format!("{error:#}"), "a server tells nothing");
                }
            }
        }
        Ok(())
    }

    async fn ask_status(
        &self,
        address: SocketAddr,
        server: &RunningServer,
    ) -> anyhow::Result<ConsensusStatus> {
        let connection = Connection::open(address, &server.identity, &self.machine.spawner).await?;
        let answer = connection.call(Method::Status, bytes::Bytes::new(), ANSWER_WAIT).await;
        connection.close();
        Ok(decode(&answer?)?)
    }

    async fn found(&self, successor: ClusterId) -> anyhow::Result<RunningServer> {
        let machine = &self.machine;
        let settings = &machine.settings;
        let Some(data) = settings.data_dir.clone() else { anyhow::bail!("there is no data directory") };
        let life = *self.life.lock();
        let id = machine.incarnation.node_id_in_life(life + 1);
        let peer = Peer {
            name: settings.node_name.clone(),
            address: SocketAddr::new(settings.advertise, settings.ports.server),
            incarnation: machine.incarnation.to_string(),
        };
        let (disk, folder, cluster) = (machine.site.disk.clone(), data.clone(), successor.clone());
        let prepared = blocking_steps(async move {
            consensus::prepare_successor(&disk, &folder, &cluster, id, peer).await?;
            super::disk::succeed(&*disk, &folder, life)
        });
        *self.life.lock() = prepared.await??;
        let identity = machine.identity(id, Some(successor));
        let router = Arc::new(Router::default());
        let listener = Listener::bind(parts::rpc_address(settings), identity.clone(), router.clone()).await?;
        RunningServer::open(machine, &self.gossip, identity, listener, router, machine.replica.clone()).await
    }
}

/// Whether `theirs` may hold what was acknowledged and is missing in `mine`. As raft compares logs: the later last term
/// wins whatever the lengths are, because entries of an older term behind it were never acknowledged.
fn is_ahead(theirs: &ConsensusStatus, mine: &ConsensusStatus) -> bool {
    match (theirs.last_log_term, mine.last_log_term) {
        (Some(their_term), Some(my_term)) => {
            (their_term, theirs.last_log_index) > (my_term, mine.last_log_index)
        }
        // A server of the first release tells its index only.
        _ => theirs.last_log_index > mine.last_log_index,
    }
}

fn last_entry(status: &ConsensusStatus) -> String {
    let index = status.last_log_index;
    status
        .last_log_term
        .map_or_else(|| format!("index {index}"), |term| format!("term {term}, index {index}"))
}

#[cfg(test)]
mod tests {
    use super::{is_ahead, last_entry};
    use crate::agent::handle::{ConsensusState, ConsensusStatus};

    fn log(term: Option<u64>, index: u64) -> ConsensusStatus {
        ConsensusStatus {
            state: ConsensusState::Follower,
            term: 9,
            leader_address: None,
            leader_name: None,
            last_log_index: index,
            last_log_term: term,
            commit_index: 0,
            applied_index: 0,
            peers: Vec::new(),
            storage: None,
        }
    }

    #[test]
    fn of_two_survivors_the_one_with_the_later_last_term_is_ahead_however_long_the_other_log_is() {
        let (longer, later) = (log(Some(2), 500), log(Some(3), 100));
        assert!(is_ahead(&later, &longer) && !is_ahead(&longer, &later));
        assert!(is_ahead(&log(Some(3), 101), &later) && !is_ahead(&later, &log(Some(3), 101)));
        assert!(!is_ahead(&later, &later), "either may be recovered");
        assert_eq!(last_entry(&later), "term 3, index 100");
    }

    #[test]
    fn a_survivor_that_tells_no_term_is_compared_by_its_index() {
        let old = log(None, 200);
        assert!(is_ahead(&old, &log(Some(7), 100)) && is_ahead(&log(Some(1), 300), &old));
        assert!(!is_ahead(&old, &log(Some(1), 200)));
        assert_eq!(last_entry(&old), "index 200");
    }
}
