//! The asking side of one connection: requests go out, answers find who asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::frame::{
    FRAMES_WAITING_MAX, Frame, KIND_ANSWER, KIND_CANCEL, KIND_END, KIND_ERROR, KIND_MORE, read, reader,
    shake_hands, write_all,
};
use super::{CONNECT_WAIT, FRAME_BYTES_MAX, Hello, Identity, Method, RemoteError, RpcError, decode};
use crate::tasks::Spawner;

/// Answers of one stream that wait for their reader; then the connection waits, and with it the sender.
const STREAM_WAITING_MAX: usize = 64;

enum Waiter {
    One(oneshot::Sender<Result<Bytes, RpcError>>),
    Many(mpsc::Sender<Bytes>),
}

struct Shared {
    out: mpsc::Sender<Frame>,
    waiting: Mutex<BTreeMap<u64, Waiter>>,
    next: AtomicU64,
    closed: CancellationToken,
}

/// One connection to one agent; clones share it. It closes when it breaks or the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    peer: Arc<Hello>,
}

/// Forgets a request whose asker is gone, and tells the other side.
struct Pending<'a> {
    shared: &'a Shared,
    id: Option<u64>,
}

impl Pending<'_> {
    /// Leaves the request to its stream.
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if self.shared.waiting.lock().remove(&id).is_some() {
            // A full queue or a closed connection: the answer will find nobody, which is fine.
            drop(self.shared.out.try_send(Frame { id, kind: KIND_CANCEL, body: Bytes::new() }));
        }
    }
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// Unreachable, or another cluster.
    pub async fn open(address: SocketAddr, identity: &Identity, spawner: &Spawner) -> Result<Self, RpcError> {
        let unreachable = |error: std::io::Error| RpcError::Unreachable(format!("{address}: {error}"));
        let stream = tokio::time::timeout(CONNECT_WAIT, identity.connect(address))
            .await
            .map_err(|_| RpcError::Unreachable(format!("{address}: no connection within {CONNECT_WAIT:?}")))?
            .map_err(unreachable)?;
        let (read_half, mut write_half) = stream.into_split();
        let mut reader = reader(read_half);
        let peer = shake_hands(&mut reader, &mut write_half, &identity.hello()).await?;
        identity.check(&peer)?;
        let (out, frames) = mpsc::channel(FRAMES_WAITING_MAX);
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            out,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            closed: closed.clone(),
        });
        let theirs = Arc::downgrade(&shared);
        spawner.start_short("rpc connection", async move {
            let reading = async {
                loop {
                    match read(&mut reader).await {
                        Ok(Some(frame)) => {
                            let Some(shared) = theirs.upgrade() else { return "nobody needs it".to_owned() };
                            shared.deliver(frame).await;
                        }
                        Ok(None) => return "closed by the other side".to_owned(),
                        Err(error) => return error.to_string(),
                    }
                }
            };
            let reason = tokio::select! {
                biased;
                reason = reading => reason,
                written = write_all(frames, write_half) => match written {
                    Ok(()) => "no longer used".to_owned(),
                    Err(error) => error.to_string(),
                },
                () = closed.cancelled() => "closed by us".to_owned(),
            };
            closed.cancel();
            if let Some(shared) = theirs.upgrade() {
                shared.fail_all(&reason);
            }
        });
        Ok(Self { shared, peer: Arc::new(peer) })
    }

    /// What the other side said of itself.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// Whether it broke.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Asks, and waits for the one answer.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn call(&self, method: Method, body: Bytes, wait: Duration) -> Result<Bytes, RpcError> {
        let asked = async {
            let (answer, answered) = oneshot::channel();
            let _pending = self.send(method, body, Waiter::One(answer)).await?;
            answered.await.unwrap_or_else(|_| Err(RpcError::Lost("closed".to_owned())))
        };
        tokio::time::timeout(wait, asked).await.unwrap_or(Err(RpcError::Timeout(wait)))
    }

    /// Closes it for all who share it; what waits for an answer fails.
    pub fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Asks, and gives the stream of answers; it ends when the other side ends it or the connection breaks.
    ///
    /// The reader must keep up: answers to other requests of this connection wait behind a full stream.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn follow(&self, method: Method, body: Bytes) -> Result<mpsc::Receiver<Bytes>, RpcError> {
        let (answers, stream) = mpsc::channel(STREAM_WAITING_MAX);
        self.send(method, body, Waiter::Many(answers)).await?.keep();
        Ok(stream)
    }

    async fn send(&self, method: Method, body: Bytes, waiter: Waiter) -> Result<Pending<'_>, RpcError> {
        if body.len() > FRAME_BYTES_MAX / 2 {
            return Err(
                RemoteError::Malformed(format!("a request of {} bytes is too long", body.len())).into()
            );
        }
        let shared = &*self.shared;
        let gone = || RpcError::Unreachable("the connection is closed".to_owned());
        let place = shared.out.reserve().await.map_err(|_| gone())?;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = shared.waiting.lock();
            // Under this lock `fail_all` either sees the waiter or we see that it ran.
            if shared.closed.is_cancelled() {
                return Err(gone());
            }
            waiting.insert(id, waiter);
        }
        place.send(Frame { id, kind: method as u8, body });
        Ok(Pending { shared, id: Some(id) })
    }
}

impl Shared {
    async fn deliver(&self, frame: Frame) {
        if frame.kind == KIND_MORE {
            let sender = match self.waiting.lock().get(&frame.id) {
                Some(Waiter::Many(sender)) => sender.clone(),
                _ => return,
            };
            if sender.send(frame.body).await.is_err() {
                self.waiting.lock().remove(&frame.id);
                // Nobody reads the stream any more; a full queue only delays this to the next answer.
                drop(self.out.try_send(Frame { id: frame.id, kind: KIND_CANCEL, body: Bytes::new() }));
            }
            return;
        }
        let Some(waiter) = self.waiting.lock().remove(&frame.id) else { return };
        let Waiter::One(answer) = waiter else { return };
        let result = match frame.kind {
            KIND_ANSWER => Ok(frame.body),
            KIND_ERROR => Err(decode(&frame.body).unwrap_or_else(std::convert::identity).into()),
            KIND_END => {
                Err(RemoteError::Malformed("a stream was answered to a single question".to_owned()).into())
            }
            kind => Err(RemoteError::Malformed(format!("unknown kind of answer {kind}")).into()),
        };
        // The asker may have given up meanwhile.
        drop(answer.send(result));
    }

    fn fail_all(&self, reason: &str) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for waiter in waiting.into_values() {
            if let Waiter::One(answer) = waiter {
                drop(answer.send(Err(RpcError::Lost(reason.to_owned()))));
            }
        }
    }
}
