//! What a server answers over RPC.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::follow;
use super::forward::HOLD;
use super::network::{SnapshotAnswer, SnapshotPiece};
use super::server::Inner;
use super::types::{TypeConfig, Vote};
use crate::agent::handle::ReadMode;
use crate::agent::rpc::messages::{
    FollowQuestion, KvReadQuestion, ReadIndex, ReadIndexAnswer, ReadIndexQuestion,
};
use crate::agent::rpc::{Answer, Handler, Hello, Method, RemoteError, Request, decode, encode};
use crate::model::catalog::Command;

/// Events of a stream that wait for a slow follower.
const EVENTS_WAITING_MAX: usize = 16;
/// Longest snapshot that is taken from a leader, in bytes: it is put together in memory.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// Hands requests to a server.
pub(super) struct Service {
    inner: Arc<Inner>,
    /// A snapshot on its way in: from whom, and what came so far.
    incoming: Mutex<Option<(Vote, BytesMut)>>,
}

impl Service {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, incoming: Mutex::default() }
    }

    async fn one(&self, peer: &Hello, request: Request) -> Result<Bytes, RemoteError> {
        let (inner, body) = (&self.inner, request.body);
        if request.method.is_raft() {
            inner.admit(peer, request.method)?;
        }
        match request.method {
            Method::RaftAppend => {
                let rpc = decode::<openraft::raft::AppendEntriesRequest<TypeConfig>>(&body)?;
                inner.admit_entries(&rpc)?;
                let answer = raft(inner.patiently(inner.raft.append_entries(rpc)).await?)?;
                if let openraft::raft::AppendEntriesResponse::HigherVote(_) = answer {
                } else {
                    *inner.contact.lock() = Some(Instant::now());
                }
                encode(&answer)
            }
            Method::RaftVote => {
                inner.admit_vote()?;
                encode(&raft(inner.raft.vote(decode(&body)?).await)?)
            }
            Method::RaftPreVote => {
                inner.admit_vote()?;
                encode(&raft(inner.raft.pre_vote(decode(&body)?).await)?)
            }
            Method::RaftTransfer => {
                let request: openraft::raft::TransferLeaderRequest<TypeConfig> = decode(&body)?;
                if *request.to_node_id() == inner.identity.node() {
                    inner.admit_lead()?;
                }
                encode(&raft(inner.raft.handle_transfer_leader(request).await)?)
            }
            Method::RaftSnapshot => encode(&self.take_piece(decode(&body)?).await?),
            Method::Propose | Method::ProposeHere => {
                decode::<Command>(&body)?;
                encode(&match request.method {
                    Method::Propose => inner.propose(body).await,
                    _ => inner.propose_here(body).await,
                })
            }
            Method::ReadIndex => {
                let question: ReadIndexQuestion = decode(&body)?;
                let barrier = if question.mode == ReadMode::Consistent {
                    &inner.reads_consistent
                } else {
                    &inner.reads_default
                };
                let answer: ReadIndexAnswer = barrier.wait(Instant::now() + HOLD).await;
                encode(&answer)
            }
            Method::ReadIndexHere => {
                let question: ReadIndexQuestion = decode(&body)?;
                let answer: ReadIndexAnswer =
                    inner.read_index_here(question.mode).await.map(|index| ReadIndex { index, discovery: 0 });
                encode(&answer)
            }
            Method::KvRead => encode(&inner.kv_read(decode::<KvReadQuestion>(&body)?).await),
            Method::Status => encode(&inner.status()),
            Method::Order => encode(&inner.order(decode(&body)?).await),
            Method::OrderHere => encode(&inner.order_here(decode(&body)?).await),
            Method::Follow | Method::Birth | Method::Promise => {
                Err(RemoteError::Unavailable(format!("{:?}", request.method)))
            }
        }
    }

    /// Puts the pieces of a snapshot together and installs it.
    async fn take_piece(&self, piece: SnapshotPiece) -> Result<SnapshotAnswer, RemoteError> {
        if piece.total > SNAPSHOT_BYTES_MAX {
            return Err(RemoteError::Malformed(format!("a snapshot of {} bytes is too long", piece.total)));
        }
        self.inner.admit_snapshot(piece.total)?;
        let whole = {
            let mut incoming = self.incoming.lock();
            if piece.offset == 0 {
                *incoming = Some((piece.vote, BytesMut::new()));
            }
            match &mut *incoming {
                Some((vote, bytes)) if *vote == piece.vote && bytes.len() as u64 == piece.offset => {
                    bytes.extend_from_slice(&piece.bytes);
                    if (bytes.len() as u64) < piece.total {
                        return Ok(None);
                    }
                }
                _ => {
                    return Err(RemoteError::Failed(
                        "the pieces of the snapshot do not fit together".to_owned(),
                    ));
                }
            }
            incoming.take()
        };
        let Some((vote, bytes)) = whole else { return Ok(None) };
        let snapshot = openraft::type_config::alias::SnapshotOf::<TypeConfig, Bytes> {
            meta: piece.meta,
            snapshot: bytes.freeze(),
        };
        let installed = self.inner.raft.install_full_snapshot(vote, snapshot).await;
        Ok(Some(installed.map_err(|error| RemoteError::Failed(error.to_string()))?))
    }

    fn follow(&self, body: &Bytes) -> Result<mpsc::Receiver<Bytes>, RemoteError> {
        let question: FollowQuestion = decode(body)?;
        let (events, stream) = mpsc::channel(EVENTS_WAITING_MAX);
        let inner = Arc::clone(&self.inner);
        self.inner.spawner.start_short("replica stream", async move {
            if let Err(error) = follow::stream(inner, question.have, events).await {
                tracing::debug!(%error, "a replica stream ended");
            }
        });
        Ok(stream)
    }
}

fn raft<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, RemoteError> {
    result.map_err(|error| RemoteError::Failed(error.to_string()))
}

#[async_trait]
impl Handler for Service {
    async fn call(&self, peer: &Hello, request: Request) -> Answer {
        if request.method == Method::Follow {
            return match self.follow(&request.body) {
                Ok(stream) => Answer::Many(stream),
                Err(error) => Answer::One(Err(error)),
            };
        }
        Answer::One(self.one(peer, request).await)
    }

    fn knows_server_at(&self, address: IpAddr) -> bool {
        self.inner.knows_server_at(address)
    }
}
