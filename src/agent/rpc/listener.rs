//! The answering side: accepts connections, shakes hands, and hands requests to who handles them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
use crate::agent::places::{Place, Places};
use crate::hint::WithHint as _;
use crate::host::net::{self, Stream};
use crate::tasks::Spawner;

/// Connections at once of all but servers. A client has two. Those of 1,000 are 2,000 when only one server is left, and
/// when a power cut takes all machines together, as many dead ones are there until the kernel gives them up.
const CONNECTIONS_MAX: usize = 4096;
/// Connections at once of machines that are known as servers; nobody else can take these places. A server has up to
/// four: what it forwards, entries, heartbeats, snapshots. Of the 65,536 file descriptors of our units, what is
/// allowed here and to HTTP takes a third.
const CONNECTIONS_OF_SERVERS_MAX: usize = 256;
/// Connections at once of one address (Consul's `rpc_max_conns_per_client`): a few agents that share one, and what they
/// have lost without knowing.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 100;
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

    /// Whether a server of our cluster is at `address`, as far as we know.
    fn knows_server_at(&self, address: IpAddr) -> bool {
        self.consensus.load().as_ref().is_some_and(|handler| handler.knows_server_at(address))
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
    servers: Places,
    others: Places,
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
        Ok(Self { socket, identity, router, servers: Places::default(), others: Places::default() })
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
        let mut refused: u64 = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    if let Some(place) = self.place_for(from.ip().to_canonical()) {
                        self.start(stream, from, place, &spawner);
                        continue;
                    }
                    refused += 1;
                    // Powers of two: the first is told at once, a crowd does not fill the log.
                    if refused.is_power_of_two() {
                        let hint = "`ss -tn` tells who has so many";
                        tracing::warn!(%from, times = refused, hint, "too many RPC connections: one is closed");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn place_for(&self, address: IpAddr) -> Option<Arc<Place>> {
        let (places, total) = if self.router.knows_server_at(address) {
            (&self.servers, CONNECTIONS_OF_SERVERS_MAX)
        } else {
            (&self.others, CONNECTIONS_MAX)
        };
        places.enter_in_turn(Some(address), CONNECTIONS_PER_ADDRESS_MAX, total)
    }

    fn start(&self, stream: Stream, from: SocketAddr, place: Arc<Place>, spawner: &Spawner) {
        let (identity, router) = (Arc::clone(&self.identity), Arc::clone(&self.router));
        spawner.start_short("rpc peer", async move {
            let ended = tokio::select! {
                biased;
                // Who used it in this very moment sees it break, and asks again on a new one.
                () = place.must_give_way() => Err(RpcError::Lost("it gave way to a newer one".to_owned())),
                ended = serve(stream, &identity, &router, &place) => ended,
            };
            match ended {
                Ok(()) => {}
                Err(error @ RpcError::Refused(_)) => tracing::warn!(%from, %error, "RPC refused"),
                Err(error) => tracing::debug!(%from, %error, "an RPC connection ended"),
            }
        });
    }
}

async fn serve(stream: Stream, identity: &Identity, router: &Router, place: &Place) -> Result<(), RpcError> {
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
                Some((id, _)) = under_way.next() => {
                    aborts.remove(&id);
                    if under_way.is_empty() { place.end(); }
                }
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
                    if under_way.is_empty() { place.begin(); }
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, Listener, Router};
    use crate::agent::rpc::{Answer, Connection, Handler, Hello, Identity, Method, Request};
    use crate::tasks::Tasks;

    const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));

    struct Knowing;

    #[async_trait]
    impl Handler for Knowing {
        async fn call(&self, _peer: &Hello, request: Request) -> Answer {
            Answer::One(Ok(request.body))
        }

        fn knows_server_at(&self, address: IpAddr) -> bool {
            address == SERVER
        }
    }

    async fn listener() -> Listener {
        let router = Arc::new(Router::default());
        router.set_consensus(Knowing);
        Listener::bind("127.81.0.6:0".parse().unwrap(), Identity::new(1, "one", None), router).await.unwrap()
    }

    #[tokio::test]
    async fn servers_have_places_when_all_others_are_taken_and_busy() {
        let listener = listener().await;
        let clients = (0..CONNECTIONS_MAX).map(|number| {
            let [_, _, high, low] = u32::try_from(number).unwrap().to_be_bytes();
            let place = listener.place_for([10, 2, high, low].into()).unwrap();
            place.begin();
            place
        });
        let clients: Vec<_> = clients.collect();
        assert!(listener.place_for([10, 3, 0, 1].into()).is_none());
        assert!(listener.place_for(SERVER).is_some());
        drop(clients);
        assert!(listener.place_for([10, 3, 0, 1].into()).is_some());
    }

    #[tokio::test]
    async fn an_address_that_has_its_share_loses_what_it_has_not_used_for_longest() {
        let (listener, tasks) = (listener().await, Tasks::default());
        let address = listener.address().unwrap();
        tasks.start("listener", listener.run(tasks.spawner()));
        let identity = Identity::new(2, "two", None);
        let wait = std::time::Duration::from_secs(5);
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS_PER_ADDRESS_MAX {
            open.push(Connection::open(address, &identity, &tasks.spawner()).await.unwrap());
        }
        open[0].call(Method::Propose, Bytes::from("x"), wait).await.unwrap();
        let newest = Connection::open(address, &identity, &tasks.spawner()).await.unwrap();
        assert_eq!(newest.call(Method::Propose, Bytes::from("y"), wait).await.unwrap(), "y");
        assert!(open[1].call(Method::Propose, Bytes::from("z"), wait).await.is_err(), "it was closed");
        assert_eq!(open[0].call(Method::Propose, Bytes::from("z"), wait).await.unwrap(), "z");
    }
}
