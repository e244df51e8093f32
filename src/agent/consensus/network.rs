//! Raft's own messages to the other servers, over the agents' RPC.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::RaftNetworkV2;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::types::{NodeId, Peer, SnapshotMeta, TypeConfig, Vote};
use crate::agent::rpc::{Channel, Identity, Method, RpcError, decode, encode};
use crate::model::membership::{Member, MemberStatus};
use crate::model::sync::servers::ServerMember;
use crate::tasks::Spawner;

/// Longest wait for the answer to entries, which come after the other side's fdatasync. Then its connection
/// is given up. Longer than a slow disk's write, shorter than an election.
const APPEND_WAIT: Duration = Duration::from_millis(500);
/// Bytes of a snapshot in one message: a heartbeat never waits for more than this.
const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;
/// Longest wait for the answer to one piece; the last is answered when the snapshot is installed.
const SNAPSHOT_PIECE_WAIT: Duration = Duration::from_secs(30);
/// Waits before an unreachable server is tried again.
const BACKOFF: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// Channels to servers, shared between raft and what forwards requests.
pub(super) struct Channels {
    identity: Arc<Identity>,
    spawner: Spawner,
    known: Mutex<BTreeMap<NodeId, Arc<Channel>>>,
    /// All channels that anybody holds, also those that are not shared.
    opened: Mutex<Vec<(NodeId, Weak<Channel>)>>,
    book: Mutex<AddressBook>,
}

/// Where gossip has the servers. Raft's configuration learns of a new address from a leader only: without this, servers
/// of which a majority has changed its addresses would never find each other to elect one.
#[derive(Default)]
struct AddressBook {
    members: Option<watch::Receiver<Arc<Vec<Member>>>>,
    known: BTreeMap<NodeId, SocketAddr>,
}

impl AddressBook {
    /// The address of a server that is alive. A wrong one does no harm: who answers there must prove to be `node`.
    fn find(&mut self, node: NodeId, identity: &Identity) -> Option<SocketAddr> {
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::AddressesNotFollowed) {
            return None;
        }
        self.refresh(identity);
        self.known.get(&node).copied()
    }

    fn refresh(&mut self, identity: &Identity) {
        let Some(members) = &mut self.members else { return };
        if members.has_changed().unwrap_or(false) {
            let members = members.borrow_and_update();
            let servers = members.iter().filter_map(ServerMember::of);
            let ours = servers.filter(|server| {
                // One that leaves helps to commit that it is gone.
                matches!(server.status, MemberStatus::Alive | MemberStatus::Leaving | MemberStatus::Left)
                    && server.cluster.as_ref().is_none_or(|cluster| identity.is_of(cluster))
            });
            self.known = ours.map(|server| (server.id, server.address)).collect();
        }
    }
}

impl Channels {
    pub(super) fn new(identity: Arc<Identity>, spawner: Spawner) -> Arc<Self> {
        Arc::new(Self {
            identity,
            spawner,
            known: Mutex::default(),
            opened: Mutex::default(),
            book: Mutex::default(),
        })
    }

    /// From now on servers are looked for where `members` have them; who waits for one that has moved hears at once that
    /// nobody answers at the old address.
    pub(super) fn follow(self: &Arc<Self>, mut members: watch::Receiver<Arc<Vec<Member>>>) {
        members.mark_changed();
        self.book.lock().members = Some(members.clone());
        let this = Arc::clone(self);
        self.spawner.start_short("addresses of servers", async move {
            while members.changed().await.is_ok() {
                this.abandon_old_addresses();
            }
        });
    }

    fn abandon_old_addresses(&self) {
        self.opened.lock().retain(|(node, channel)| {
            let Some(channel) = channel.upgrade() else { return false };
            let address = self.book.lock().find(*node, &self.identity);
            let moved = address.is_some_and(|address| address != channel.address());
            if moved {
                tracing::debug!(from = %channel.address(), to = ?address, "a server has moved");
                channel.abandon();
            }
            !moved
        });
    }

    /// The channel to a server; made anew when its address has changed.
    pub(super) fn to(&self, node: NodeId, peer: &Peer) -> Arc<Channel> {
        let address = self.address_of(node, peer);
        let mut known = self.known.lock();
        let channel = known.entry(node).or_insert_with(|| self.open(node, address));
        if is_stale(channel, address) {
            channel.abandon();
            *channel = self.open(node, address);
        }
        Arc::clone(channel)
    }

    /// Whether gossip has a living server at `address`.
    pub(super) fn knows_server_at(&self, address: IpAddr) -> bool {
        let mut book = self.book.lock();
        book.refresh(&self.identity);
        book.known.values().any(|known| known.ip() == address)
    }

    fn address_of(&self, node: NodeId, peer: &Peer) -> SocketAddr {
        self.book.lock().find(node, &self.identity).unwrap_or(peer.address)
    }

    fn open(&self, node: NodeId, address: SocketAddr) -> Arc<Channel> {
        let identity = Arc::clone(&self.identity);
        let channel = Arc::new(Channel::new(address, Some(node), identity, self.spawner.clone()));
        let mut opened = self.opened.lock();
        opened.retain(|(_, channel)| channel.strong_count() > 0);
        opened.push((node, Arc::downgrade(&channel)));
        channel
    }
}

/// Whether a channel leads to where a server was, or was given up because it did, and the server is back there.
fn is_stale(channel: &Channel, address: SocketAddr) -> bool {
    channel.address() != address || channel.is_abandoned()
}

/// Makes [`Network`]s for openraft.
pub(super) struct Networks(pub(super) Arc<Channels>);

impl RaftNetworkFactory<TypeConfig> for Networks {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Network {
        self.network(target, node, None)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Peer) -> Network {
        self.network(target, node, Some(self.0.open(target, self.0.address_of(target, node))))
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Peer) -> Network {
        self.network(target, node, Some(self.0.open(target, self.0.address_of(target, node))))
    }
}

impl Networks {
    fn network(&self, target: NodeId, peer: &Peer, own: Option<Arc<Channel>>) -> Network {
        Network { channels: Arc::clone(&self.0), target, peer: peer.clone(), own }
    }
}

/// One other server.
pub(super) struct Network {
    channels: Arc<Channels>,
    target: NodeId,
    peer: Peer,
    /// A channel that is not shared.
    own: Option<Arc<Channel>>,
}

/// A piece of a snapshot on the wire.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotPiece {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    /// Where the piece begins.
    pub(super) offset: u64,
    /// Length of the snapshot.
    pub(super) total: u64,
    pub(super) bytes: Bytes,
}

/// The answer to a piece: nothing, until the last.
pub(super) type SnapshotAnswer = Option<SnapshotResponse<TypeConfig>>;

impl Network {
    /// The channel to where the server is now.
    fn channel(&mut self) -> Arc<Channel> {
        let Some(own) = &mut self.own else { return self.channels.to(self.target, &self.peer) };
        let address = self.channels.address_of(self.target, &self.peer);
        if is_stale(own, address) {
            own.abandon();
            *own = self.channels.open(self.target, address);
        }
        Arc::clone(own)
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        method: Method,
        question: &Q,
        wait: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let unreachable = |error: &RpcError| RPCError::Unreachable(Unreachable::from_string(error));
        let body = encode(question).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let channel = self.channel();
        match channel.call(method, body, wait).await {
            Ok(answer) => decode(&answer).map_err(|error| RPCError::Network(NetworkError::new(&error))),
            Err(error) => {
                if matches!(error, RpcError::Timeout(_)) {
                    channel.reset().await;
                }
                if matches!(error, RpcError::Refused(_)) {
                    tracing::warn!(address = %channel.address(), %error, "a server refuses us");
                }
                Err(unreachable(&error))
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Method::RaftAppend, &rpc, APPEND_WAIT).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Method::RaftVote, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Method::RaftPreVote, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = async {
            let total = snapshot.snapshot.len();
            let mut offset = 0;
            loop {
                let end = total.min(offset + SNAPSHOT_PIECE_BYTES);
                let piece = SnapshotPiece {
                    vote,
                    meta: snapshot.meta.clone(),
                    offset: offset as u64,
                    total: total as u64,
                    bytes: snapshot.snapshot.slice(offset..end),
                };
                let answer: SnapshotAnswer =
                    self.ask(Method::RaftSnapshot, &piece, SNAPSHOT_PIECE_WAIT).await?;
                if let Some(answer) = answer {
                    return Ok(answer);
                }
                if end == total {
                    let text = "the last piece of a snapshot was not answered";
                    return Err(StreamingError::Network(NetworkError::from_string(text)));
                }
                offset = end;
            }
        };
        tokio::select! {
            biased;
            sent = sending => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(Method::RaftTransfer, &request, option.soft_ttl()).await
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF[BACKOFF.len() - 1];
        Some(Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last))))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::watch;

    use super::super::types::Peer;
    use super::Channels;
    use crate::agent::rpc::Identity;
    use crate::model::membership::{Member, MemberStatus};
    use crate::tasks::Tasks;

    /// Where gossip has the server.
    fn seen_at(address: SocketAddr) -> Arc<Vec<Member>> {
        let tags = [("role", "consul"), ("rid", "2"), ("port", "8300"), ("id", "i"), ("dc", "dc1")];
        Arc::new(vec![Member {
            name: "two".to_owned(),
            address: address.ip(),
            port: 8301,
            tags: tags.map(|(tag, value)| (tag.to_owned(), value.to_owned())).into(),
            status: MemberStatus::Alive,
            incarnation: 0,
        }])
    }

    #[tokio::test]
    async fn a_server_that_has_moved_away_and_back_is_asked_again() {
        let [here, there] =
            ["127.0.0.1:8300", "127.0.0.2:8300"].map(|text| text.parse::<SocketAddr>().unwrap());
        let tasks = Tasks::default();
        let (gossip, members) = watch::channel(seen_at(here));
        let channels = Channels::new(Identity::new(1, "one", None), tasks.spawner());
        channels.follow(members);
        let peer = Peer { name: "two".to_owned(), address: here, incarnation: "i".to_owned() };
        let before = channels.to(2, &peer);
        gossip.send_replace(seen_at(there));
        tokio::time::timeout(Duration::from_mins(1), async {
            while !before.is_abandoned() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("who waits there hears of it");
        gossip.send_replace(seen_at(here));
        let again = channels.to(2, &peer);
        assert_eq!((again.address(), again.is_abandoned()), (here, false));
    }
}
