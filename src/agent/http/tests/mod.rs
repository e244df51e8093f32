//! The API over real sockets, with fakes behind the handle.

mod agent_paths;
mod blocking;
mod catalog_paths;
mod fakes;
mod kv_paths;
mod operator_paths;
mod transport;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use self::fakes::{FakeConsensus, FakeLocal, FakeMembers};
use super::{Address, Settings, bind, run};
use crate::agent::handle::{AgentHandle, Identity, Replica};
use crate::tasks::Spawner;

/// An API on a socket of its own, and what is behind it.
struct Subject {
    address: std::net::SocketAddr,
    consensus: Arc<FakeConsensus>,
    members: Arc<FakeMembers>,
    local: Arc<FakeLocal>,
    replica: Arc<Replica>,
    shutdown: CancellationToken,
    stop: CancellationToken,
    settings: Settings,
    _tasks: Spawner,
}

impl Subject {
    async fn start() -> Self {
        Self::start_with(Settings::default(), &[], false).await
    }

    async fn start_with(settings: Settings, more: &[Address], pretty: bool) -> Self {
        let replica = Arc::new(Replica::default());
        let consensus = Arc::new(FakeConsensus::new(replica.clone()));
        let members = Arc::new(FakeMembers::default());
        let local = Arc::new(FakeLocal::default());
        let shutdown = CancellationToken::new();
        let agent = AgentHandle {
            identity: Arc::new(identity(pretty)),
            replica: replica.clone(),
            consensus: consensus.clone(),
            members: members.clone(),
            local: local.clone(),
            dead_nodes: Arc::default(),
            shutdown: shutdown.clone(),
        };
        let mut addresses = vec!["127.0.0.1:0".parse().unwrap()];
        addresses.extend_from_slice(more);
        let listeners = bind(&addresses).await.unwrap();
        let address = listeners.addresses()[0];
        let stop = CancellationToken::new();
        let tasks = Spawner::default();
        let running = run(listeners, agent, settings.clone(), stop.clone());
        tasks.start_short("http", async move { running.await.unwrap() });
        Self { address, consensus, members, local, replica, shutdown, stop, settings, _tasks: tasks }
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    async fn get(&self, path: &str) -> Reply {
        self.connect().await.send("GET", path, "").await
    }

    async fn put(&self, path: &str, body: &str) -> Reply {
        self.connect().await.send("PUT", path, body).await
    }

    /// Asserts status and body of a GET.
    async fn expect(&self, path: &str, status: u16, body: &str) -> Reply {
        let reply = self.get(path).await;
        assert_eq!((reply.status, reply.text()), (status, body), "GET {path}");
        reply
    }

    /// Asserts status and body of a PUT.
    async fn expect_put(&self, path: &str, sent: &str, status: u16, body: &str) -> Reply {
        let reply = self.put(path, sent).await;
        assert_eq!((reply.status, reply.text()), (status, body), "PUT {path} {sent}");
        reply
    }
}

fn identity(pretty: bool) -> Identity {
    Identity {
        node_id: "40e4a748-2192-161a-0510-9bf59fe950b5".into(),
        node_name: "n1".into(),
        datacenter: "dc1".into(),
        domain: "consul".into(),
        advertise: "10.0.0.1".parse().unwrap(),
        server: true,
        node_meta: [("rack".to_owned(), "7".to_owned())].into(),
        listeners: [].into(),
        pretty,
        debug_config: [("NodeName".to_owned(), "n1".into())].into(),
    }
}

/// One connection, used request by request.
struct Client<S> {
    stream: S,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn index(&self) -> u64 {
        self.header("X-Consul-Index").unwrap().parse().unwrap()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn new(stream: S) -> Self {
        Self { stream }
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn try_write(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes()).await
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.write(&format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{length}\r\n{body}")).await;
        self.read(method == "HEAD").await
    }

    async fn read(&mut self, no_body: bool) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.expect("a whole head"));
        }
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        reply.body = vec![0; if no_body { 0 } else { length }];
        self.stream.read_exact(&mut reply.body).await.unwrap();
        reply
    }

    /// Reads until the other side closes, politely or not.
    async fn read_to_end(&mut self) -> String {
        let mut rest = Vec::new();
        while self.stream.read_buf(&mut rest).await.is_ok_and(|read| read > 0) {}
        String::from_utf8(rest).unwrap()
    }
}
