//! The answering side: accepts connections, shakes hands, and hands requests to who handles them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::frame::{
    FRAMES_WAITING_MAX, Frame, KIND_ANSWER, KIND_CANCEL, KIND_END, KIND_ERROR, KIND_MORE, read, reader,
    shake_hands, write_all,
};
use super::{Answer, Handler, Hello, Identity, Method, RemoteError, Request, RpcError, encode};
use crate::hint::WithHint as _;
use crate::host::net::{self, Stream};
use crate::tasks::Spawner;

/// Connections at once: a hundred machines with a few each, and room for strangers that never shake hands.
const CONNECTIONS_MAX: usize = 1024;
/// Requests of one connection under way at once, blocking reads of keys included.
const REQUESTS_MAX: usize = 4096;
/// Pause after a failed accept (out of file descriptors).
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Finds the handler of a method. Handlers are put in while the agent starts, before or after it listens.
#[derive(Default)]
pub struct Router {
    birth: ArcSwapOption<Box<dyn Handler>>,
    promises: ArcSwapOption<Box<dyn Handler>>,
    consensus: ArcSwapOption<Box<dyn Handler>>,
}

impl Router {
    /// Puts in who answers [`Method::Birth`].
    pub fn set_birth(&self, handler: impl Handler) {
        self.birth.store(Some(Arc::new(Box::new(handler))));
    }

    /// Puts in who answers [`Method::Promise`].
    pub fn set_promises(&self, handler: impl Handler) {
        self.promises.store(Some(Arc::new(Box::new(handler))));
    }

    /// Puts in who answers all other methods.
    pub fn set_consensus(&self, handler: impl Handler) {
        self.consensus.store(Some(Arc::new(Box::new(handler))));
    }

    async fn call(&self, peer: &Hello, request: Request) -> Answer {
        let slot = match request.method {
            Method::Birth => &self.birth,
            Method::Promise => &self.promises,
            _ => &self.consensus,
        };
        let handler = slot.load_full();
        match handler {
            Some(handler) => handler.call(peer, request).await,
            None => Answer::One(Err(RemoteError::Unavailable(format!("{:?}", request.method)))),
        }
    }
}

/// A bound RPC port.
pub struct Listener {
    socket: net::Listener,
    identity: Arc<Identity>,
    router: Arc<Router>,
    connections: Arc<AtomicUsize>,
}

impl Listener {
    /// Binds the port; nothing is answered before [`Listener::run`].
    ///
    /// # Errors
    /// When the address is in use or not of this machine.
    pub async fn bind(
        address: SocketAddr,
        identity: Arc<Identity>,
        router: Arc<Router>,
    ) -> anyhow::Result<Self> {
        let socket = identity
            .network()
            .listen(address)
            .await
            .hint("is another agent running on this address?")
            .with_context(|| format!("cannot listen for server RPC on {address}"))?;
        Ok(Self { socket, identity, router, connections: Arc::default() })
    }

    /// The address as bound (a port of 0 was replaced).
    ///
    /// # Errors
    /// As the operating system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.address()
    }

    /// Accepts until the process stops.
    ///
    /// # Errors
    /// None; the signature is that of a task.
    pub async fn run(self, spawner: Spawner) -> anyhow::Result<()> {
        let stop = spawner.stop_token();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.start(stream, from, &spawner),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(&self, stream: Stream, from: SocketAddr, spawner: &Spawner) {
        let counted = Counted::new(&self.connections);
        if counted.now > CONNECTIONS_MAX {
            tracing::warn!(%from, "too many RPC connections; this one is closed");
            return;
        }
        let (identity, router) = (Arc::clone(&self.identity), Arc::clone(&self.router));
        spawner.start_short("rpc peer", async move {
            let _counted = counted;
            match serve(stream, &identity, &router).await {
                Ok(()) => {}
                Err(error @ RpcError::Refused(_)) => tracing::warn!(%from, %error, "RPC refused"),
                Err(error) => tracing::debug!(%from, %error, "an RPC connection ended"),
            }
        });
    }
}

struct Counted {
    count: Arc<AtomicUsize>,
    now: usize,
}

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        let now = count.fetch_add(1, Ordering::Relaxed) + 1;
        Self { count: Arc::clone(count), now }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(stream: Stream, identity: &Identity, router: &Router) -> Result<(), RpcError> {
    let lost = |error: std::io::Error| RpcError::Lost(error.to_string());
    let (read_half, mut write_half) = stream.into_split();
    let mut reader = reader(read_half);
    let peer = shake_hands(&mut reader, &mut write_half, &identity.hello()).await?;
    identity.check(&peer)?;
    let (out, frames) = mpsc::channel(FRAMES_WAITING_MAX);
    let answering = async {
        let mut under_way = FuturesUnordered::new();
        let mut aborts: HashMap<u64, AbortHandle> = HashMap::new();
        loop {
            tokio::select! {
                biased;
                Some((id, _)) = under_way.next() => { aborts.remove(&id); }
                frame = read(&mut reader) => {
                    let Some(frame) = frame.map_err(lost)? else { return Ok(()) };
                    if frame.kind == KIND_CANCEL {
                        if let Some(abort) = aborts.remove(&frame.id) { abort.abort(); }
                        continue;
                    }
                    if under_way.len() >= REQUESTS_MAX {
                        send(&out, error(frame.id, &RemoteError::Busy)).await;
                        continue;
                    }
                    let (abort, registration) = AbortHandle::new_pair();
                    aborts.insert(frame.id, abort);
                    let id = frame.id;
                    let work = Abortable::new(answer(router, &peer, frame, &out), registration);
                    under_way.push(async move { (id, work.await) });
                }
            }
        }
    };
    tokio::select! {
        biased;
        ended = answering => ended,
        written = write_all(frames, write_half) => written.map_err(lost),
    }
}

async fn answer(router: &Router, peer: &Hello, frame: Frame, out: &mpsc::Sender<Frame>) {
    let id = frame.id;
    let Some(method) = Method::from_byte(frame.kind) else {
        let unknown = RemoteError::Unavailable(format!("method {}", frame.kind));
        return send(out, error(id, &unknown)).await;
    };
    match router.call(peer, Request { method, body: frame.body }).await {
        Answer::One(Ok(body)) => send(out, Frame { id, kind: KIND_ANSWER, body }).await,
        Answer::One(Err(reason)) => send(out, error(id, &reason)).await,
        Answer::Many(mut stream) => {
            while let Some(body) = stream.recv().await {
                send(out, Frame { id, kind: KIND_MORE, body }).await;
            }
            send(out, Frame { id, kind: KIND_END, body: Bytes::new() }).await;
        }
    }
}

fn error(id: u64, reason: &RemoteError) -> Frame {
    let body = encode(reason).unwrap_or_default();
    Frame { id, kind: KIND_ERROR, body }
}

async fn send(out: &mpsc::Sender<Frame>, frame: Frame) {
    // A closed queue: the connection broke, and with it ends everything that answers on it.
    drop(out.send(frame).await);
}
