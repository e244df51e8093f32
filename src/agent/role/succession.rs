//! After a quorum is lost for good: this machine founds the successor because an operator says so, or joins the one
//! that it meets. The successor is another cluster, so nobody who belongs to the old one can speak raft with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::parts::{self, RunningClient, RunningServer};
use super::switch::{BROKE_OFF, Recovery};
use super::{Part, Roles, Running};
use crate::agent::consensus::{self, Peer};
use crate::agent::handle::{Order, OrderError, OrderReply};
use crate::agent::rpc::messages::OrderAnswer;
use crate::agent::rpc::{Connection, Identity, Listener, Method, Router, decode, encode};
use crate::hint::causes;
use crate::host::outside::{blocking_steps, random_bits};
use crate::model::membership::MemberStatus;
use crate::model::names::ClusterId;
use crate::model::sync::servers::{ServerMember, TAG_EPOCH};

/// How often it is looked whether a successor is there, beside each change of the members.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a server may take for its answer.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Where a cluster comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lineage {
    /// Itself.
    pub(super) cluster: ClusterId,
    /// How often it was recovered.
    epoch: u64,
    /// The clusters that it is the successor of; the youngest last.
    pub(super) predecessors: Vec<ClusterId>,
}

impl Lineage {
    /// Whether it goes before ours and comes of it, or of one that ours comes of as well: two survivors that could not
    /// reach each other were both told to found a successor. It may be ours: an address can pass from one machine to
    /// another.
    fn succeeds(&self, ours: &Self) -> bool {
        let related = |theirs: &ClusterId| *theirs == ours.cluster || ours.predecessors.contains(theirs);
        goes_before(self.rank(), ours.rank()) && self.predecessors.iter().any(related)
    }

    fn rank(&self) -> (u64, &ClusterId) {
        (self.epoch, &self.cluster)
    }
}

/// Of two clusters (how often each was recovered, and its id) that come of the same one, which goes on: the one that was
/// recovered more often, else the one with the smaller id. The machines of the other join it, and what was written there
/// since they parted is lost.
fn goes_before(theirs: (u64, &ClusterId), ours: (u64, &ClusterId)) -> bool {
    theirs.0 > ours.0 || (theirs.0 == ours.0 && theirs.1 < ours.1)
}

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
            // Who has just joined a successor still has the catalog of the old cluster. Who was bound to a cluster by its
            // birth and lost sight of it at once has nothing of it in the catalog.
            let bound = identity.cluster().or_else(|| self.cluster()).or_else(|| self.machine.told.clone());
            let Some(own) = bound else { continue };
            let catalog = self.machine.replica.load();
            let (epoch, predecessors) = match catalog.cluster() {
                Some(cluster) if *cluster == own => {
                    (catalog.servers().epoch, catalog.servers().predecessors.clone())
                }
                _ => (0, Vec::new()),
            };
            drop(catalog);
            let ours = Lineage { cluster: own, epoch, predecessors };
            for address in self.strangers(&ours) {
                match self.ask_lineage(address).await {
                    Ok(theirs) if theirs.succeeds(&ours) => return theirs.cluster,
                    Ok(theirs) => {
                        let cluster = theirs.cluster;
                        tracing::debug!(%cluster, "another cluster is here, and no successor of ours");
                    }
                    Err(error) => tracing::debug!(%address, error = format!("{error:#}"), "no lineage"),
                }
            }
        }
    }

    /// Servers of other clusters that ours would give way to if they came of the same one ([`goes_before`]).
    fn strangers(&self, ours: &Lineage) -> Vec<SocketAddr> {
        let members = self.gossip.members();
        let strangers = members.iter().filter_map(|member| {
            let theirs = member.tags.get(TAG_EPOCH)?.parse().ok()?;
            let server = ServerMember::of(member)?;
            let cluster = server.cluster.as_ref()?;
            let first = *cluster != ours.cluster && goes_before((theirs, cluster), ours.rank());
            (member.status == MemberStatus::Alive && first).then_some(server.address)
        });
        strangers.collect()
    }

    /// What the leader at `address`, or behind it, says where its cluster comes from.
    pub(super) async fn ask_lineage(&self, address: SocketAddr) -> anyhow::Result<Lineage> {
        let asker = self.machine.identity(0, None);
        let connection = Connection::open(address, &asker, &self.machine.spawner).await?;
        let cluster = connection.peer().cluster.clone();
        let answer = connection.call(Method::Order, encode(&Order::Report)?, ANSWER_WAIT).await;
        connection.close();
        match decode::<OrderAnswer>(&answer?)? {
            Ok(OrderReply::Report(report)) => {
                let cluster = cluster.context("the server is in no cluster yet")?;
                Ok(Lineage { cluster, epoch: report.epoch, predecessors: report.predecessors })
            }
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
    pub(super) fn recover_nothing(&self, recovery: Recovery) {
        let refused = || {
            let text = "this machine is a client and keeps no log: recover at a server";
            OrderError::Refused(text.to_owned())
        };
        let outcome = self.successor_of(&recovery.cluster).ok_or_else(refused);
        recovery.tell(outcome);
    }

    /// Founds a successor with what this server has.
    pub(super) async fn recover(&self, running: Running, recovery: Recovery) -> anyhow::Result<Running> {
        if let Some(successor) = self.successor_of(&recovery.cluster) {
            recovery.tell(Ok(successor));
            return Ok(running);
        }
        let Running::Server(server) = &running else {
            self.recover_nothing(recovery);
            return Ok(running);
        };
        let attempt = self.machine.promises.begin();
        if let Err(refusal) = self.may_recover(server, &recovery, &attempt).await {
            recovery.tell(Err(OrderError::Refused(refusal)));
            return Ok(running);
        }
        let successor = ClusterId::from_random(random_bits());
        tracing::warn!(old = %recovery.cluster, new = %successor, "audit: an operator recovers the cluster from this server");
        self.switch.close().await;
        server.group.end().await;
        let opened = match self.found(successor.clone()).await {
            Ok(opened) => opened,
            Err(error) => {
                // It may have taken effect: the agent ends, and its next start says which.
                let text = format!(
                    "{BROKE_OFF}: {}; when the agent runs again, order it here again",
                    causes(&error)
                );
                recovery.tell(Err(OrderError::Refused(text)));
                return Err(error);
            }
        };
        self.show(Part {
            server: Some(opened.server.clone()),
            raft_id: opened.identity.node(),
            nomination: Some(0),
        });
        self.switch.set(Arc::new(opened.server.clone()));
        drop(attempt);
        recovery.tell(Ok(successor));
        Ok(Running::Server(opened))
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

#[cfg(test)]
mod tests {
    use super::{Lineage, goes_before};
    use crate::model::names::ClusterId;

    #[test]
    fn of_two_successors_of_one_cluster_exactly_one_gives_way_and_strangers_never_do() {
        let [first, one, other, stranger] = [1, 2, 3, 4].map(ClusterId::from_random);
        let (smaller, larger) = if one < other { (&one, &other) } else { (&other, &one) };
        assert!(goes_before((1, smaller), (1, larger)) && !goes_before((1, larger), (1, smaller)));
        assert!(goes_before((2, larger), (1, smaller)) && !goes_before((1, smaller), (2, larger)));
        assert!(!goes_before((1, smaller), (1, smaller)), "itself");
        let of = |cluster: &ClusterId, epoch, before: &[&ClusterId]| Lineage {
            cluster: cluster.clone(),
            epoch,
            predecessors: before.iter().copied().cloned().collect(),
        };
        let (small, large) = (of(smaller, 1, &[&first]), of(larger, 1, &[&first]));
        assert!(small.succeeds(&large) && !large.succeeds(&small), "they come of the same one");
        assert!(small.succeeds(&of(&first, 0, &[])), "it comes of ours");
        assert!(!small.succeeds(&of(larger, 1, &[&stranger])) && !small.succeeds(&of(larger, 1, &[])));
        assert!(!small.succeeds(&small), "its servers answer where others were");
    }
}
