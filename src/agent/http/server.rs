//! Sockets: binding, accepting within limits, reading requests before their deadlines, stopping gracefully.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::HttpError;
use super::hurried::Hurried;
use super::request::{Query, Request};
use super::response::Answer;
use super::router::{Endpoint, Target, find};
use super::{Api, Settings, cache, not_found, root};
use crate::agent::handle::AgentHandle;
use crate::agent::places::{self, Place, Places};
use crate::hint::WithHint as _;
use crate::host::files;
use crate::tasks::Spawner;

/// Bytes of a request's head: a key of 60 KiB in the URL fits, more is nobody's honest request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of a request; clients send about ten.
const HEADERS_MAX: usize = 100;
/// Bytes of a refused body that are read and thrown away, so that the client can read why it was refused.
const DRAIN_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long open requests may go on after a stop request; those that wait for a change are answered at once.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no file descriptors left), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause after an idle connection was told to close, so that its descriptor is free.
const CLOSE_PAUSE: Duration = Duration::from_millis(1);
/// How long data that we sent may stay unacknowledged before the kernel ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(1);
/// What a client over its limit reads before its connection is closed.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Limits of the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections in all; when there are as many, an idle one of the client that has most gives way to a new one.
    pub connections: usize,
    /// Open connections of one address, as Consul's `http_max_conns_per_client`. Loopback has no such limit: the
    /// programs of this machine share one address.
    pub connections_per_client: usize,
    /// How long a connection may be without a request.
    pub idle_deadline: Duration,
    /// From the first byte of a request's head until it is complete.
    pub head_deadline: Duration,
    /// Until a body is complete.
    pub body_deadline: Duration,
    /// Bytes of a key's value (`kv_max_value_size`).
    pub value_bytes: usize,
    /// Bytes of any other body; a registration with all its metadata stays under 100 KiB.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_client: 200,
            idle_deadline: Duration::from_mins(2),
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(30),
            value_bytes: 512 * 1024,
            body_bytes: 1024 * 1024,
        }
    }
}

impl Limits {
    fn share_of(&self, client: IpAddr) -> usize {
        if client.is_loopback() { places::ALL } else { self.connections_per_client }
    }
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Not an address to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address to listen at: use IP:PORT, [IPv6]:PORT or unix:///PATH")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => Err(AddressError(text.to_owned())),
            None => text.parse().map(Self::Tcp).map_err(|_| AddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// Bound sockets.
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// The TCP addresses as bound, in the order given.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        };
        self.0.iter().filter_map(address).collect()
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<std::io::Result<Stream>> {
        for listener in &self.0 {
            let accepted = match listener {
                Listener::Tcp(listener) => listener
                    .poll_accept(context)
                    .map_ok(|(stream, peer)| Stream::Tcp(stream, peer.ip().to_canonical())),
                Listener::Unix(listener, _) => {
                    listener.poll_accept(context).map_ok(|(stream, _)| Stream::Unix(stream))
                }
            };
            if accepted.is_ready() {
                return accepted;
            }
        }
        Poll::Pending
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for listener in &self.0 {
            if let Listener::Unix(_, path) = listener
                && let Err(error) = files::remove_if_there(path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
            }
        }
    }
}

/// Binds all addresses; a socket file that a dead process left is replaced.
///
/// # Errors
/// Names the address.
pub async fn bind(addresses: &[Address]) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners(Vec::new());
    for address in addresses {
        let bound = match address {
            Address::Tcp(address) => {
                TcpListener::bind(address).await.map(Listener::Tcp).map_err(anyhow::Error::from)
            }
            Address::Unix(path) => bind_unix(path).await,
        };
        let bound = bound
            .with_context(|| format!("cannot listen for HTTP on {address}"))
            .hint("another agent may be there: see `ss -lntp`; choose an address with -client or a port with -http-port")?;
        listeners.0.push(bound);
    }
    Ok(listeners)
}

async fn bind_unix(path: &Path) -> anyhow::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        anyhow::ensure!(UnixStream::connect(path).await.is_err(), "another process listens there");
        files::remove_if_there(path)?;
    }
    Ok(Listener::Unix(UnixListener::bind(path)?, path.to_owned()))
}

/// Starts to answer requests, with the usual limits.
pub fn start(listeners: Listeners, agent: AgentHandle, spawner: &Spawner) {
    start_with(listeners, agent, Settings::default(), spawner);
}

/// As [`start`], with other limits or somebody who carries out `reload`.
pub fn start_with(listeners: Listeners, agent: AgentHandle, settings: Settings, spawner: &Spawner) {
    spawner.start("http", run(listeners, agent, settings, spawner.stop_token()));
}

/// Answers requests until `stop` is cancelled.
///
/// # Errors
/// None while it runs: a connection's trouble is that connection's.
pub async fn run(
    listeners: Listeners,
    agent: AgentHandle,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let limits = settings.limits.clone();
    let api = Arc::new(Api { agent, settings, cache: cache::Listings::default(), stop: stop.clone() });
    let open = Places::default();
    let (mut failed, mut refused) = (0_u64, 0_u64);
    // Connections are joined here, so that the answers that are on their way get out after the stop.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            accepted = std::future::poll_fn(|context| listeners.poll_accept(context)) => accepted,
        };
        match accepted {
            Err(error) => {
                let out_of_files = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
                let gave_way = out_of_files.contains(&error.raw_os_error()) && open.close_an_idle_one();
                failed += 1;
                // Powers of two: the first is told at once, a crowd does not fill the log.
                if failed.is_power_of_two() {
                    tracing::warn!(%error, times = failed, "cannot accept a connection");
                }
                tokio::time::sleep(if gave_way { CLOSE_PAUSE } else { ACCEPT_PAUSE }).await;
            }
            Ok(Stream::Tcp(stream, peer)) => {
                let Some(place) = open.enter(Some(peer), limits.share_of(peer), limits.connections) else {
                    refused += 1;
                    if refused.is_power_of_two() {
                        tracing::warn!(%peer, times = refused, "too many HTTP connections");
                    }
                    refuse(&stream, peer);
                    continue;
                };
                prepare(&stream);
                connections.spawn(serve(api.clone(), stream, place, stop.clone()));
            }
            Ok(Stream::Unix(stream)) => {
                if let Some(place) = open.enter(None, places::ALL, limits.connections) {
                    connections.spawn(serve(api.clone(), stream, place, stop.clone()));
                }
            }
        }
    }
    drop(listeners);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an HTTP connection panicked");
    }
}

fn refuse(stream: &TcpStream, peer: IpAddr) {
    if let Err(error) = stream.try_write(TOO_MANY) {
        tracing::debug!(%peer, %error, "cannot tell a client that it has too many connections");
    }
}

fn prepare(stream: &TcpStream) {
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX)));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set options of a connection");
    }
}

async fn serve(
    api: Arc<Api>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: Arc<Place>,
    stop: CancellationToken,
) {
    let limits = &api.settings.limits;
    let (idle_deadline, head_deadline) = (limits.idle_deadline, limits.head_deadline);
    let taken = Arc::clone(&place);
    let service = service_fn(move |request| {
        let (api, place) = (api.clone(), Arc::clone(&taken));
        place.begin();
        async move {
            let response = api.handle(request).await;
            place.end();
            Ok::<_, Infallible>(response)
        }
    });
    let stream = Hurried::new(stream, Arc::clone(&place), head_deadline);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_deadline)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.must_give_way() => {
            if !place.is_busy() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

impl Api {
    async fn handle(&self, request: hyper::Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let method = head.method.as_str();
        let answer = match find(method, head.uri.path()) {
            Target::Endpoint(endpoint, rest) => {
                self.enter(endpoint, &head.method, head.uri.query(), rest.into_owned(), body).await
            }
            Target::Options(allow) => Answer::empty().allow(&allow),
            Target::MethodNotAllowed(allow) => Answer::method_not_allowed(method, &allow),
            Target::Moved(mut path) => {
                if let Some(query) = head.uri.query() {
                    path = format!("{path}?{query}");
                }
                Answer::moved_to(&path)
            }
            Target::Root => root(),
            Target::BadPath => Answer::empty_with(StatusCode::BAD_REQUEST),
            Target::NotFound => not_found(),
        };
        answer.into_response()
    }

    async fn enter(
        &self,
        endpoint: Endpoint,
        method: &Method,
        query: Option<&str>,
        rest: String,
        body: Incoming,
    ) -> Answer {
        let Some(query) = Query::parse(query.unwrap_or("")) else {
            return self.refuse(endpoint, &HttpError::invalid("Invalid query parameters"));
        };
        let body = if *method == Method::PUT {
            match self.body(endpoint, body).await {
                Ok(body) => body,
                Err(error) => return self.refuse(endpoint, &error),
            }
        } else {
            Bytes::new()
        };
        self.answer(endpoint, method.as_str(), &Request { rest, query, body }).await
    }

    async fn body(&self, endpoint: Endpoint, body: Incoming) -> Result<Bytes, HttpError> {
        let limits = &self.settings.limits;
        let limit = if endpoint == Endpoint::Kv { limits.value_bytes } else { limits.body_bytes };
        let announced = body.size_hint().lower();
        let reading = async {
            if announced > limit as u64 {
                drain(body).await;
                return Err(HttpError::BodyTooLarge { length: announced, limit });
            }
            let collected = Limited::new(body, limit).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    HttpError::StreamTooLarge(limit)
                } else {
                    HttpError::BodyBroken(error.to_string())
                }
            })?;
            Ok(collected.to_bytes())
        };
        tokio::time::timeout(limits.body_deadline, reading).await.unwrap_or(Err(HttpError::BodyTooSlow))
    }
}

/// Reads what comes and throws it away, up to a limit.
async fn drain(mut body: Incoming) {
    let mut drained = 0;
    while let Some(Ok(frame)) = body.frame().await {
        drained += frame.data_ref().map_or(0, Bytes::len) as u64;
        if drained > DRAIN_BYTES_MAX {
            return;
        }
    }
}
