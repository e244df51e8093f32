//! DNS over TCP (RFC 7766): messages with their length before them, one after the other.

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Counters;
use super::slow::Slow;
use crate::model::dns::Transport;
use crate::tasks::Spawner;

/// Connections at a time over all clients of one address of ours.
const CONNECTIONS_MAX: usize = 1024;
/// Connections at a time of one client address; containers behind one bridge may share one.
const CONNECTIONS_PER_CLIENT_MAX: usize = 128;
/// How long a connection may be without a question (RFC 7766 §6.2.3: "in the order of seconds").
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How long the client may take to read an answer.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection (no more files), so as not to go in circles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections each client has.
#[derive(Default)]
struct Clients {
    total: usize,
    of: HashMap<IpAddr, usize>,
}

/// A place for one connection, given back when dropped.
struct Place {
    clients: Arc<Mutex<Clients>>,
    client: IpAddr,
}

impl Place {
    fn take(clients: &Arc<Mutex<Clients>>, client: IpAddr) -> Option<Self> {
        let mut held = clients.lock();
        let own = held.of.get(&client).copied().unwrap_or(0);
        if held.total >= CONNECTIONS_MAX || own >= CONNECTIONS_PER_CLIENT_MAX {
            return None;
        }
        held.total += 1;
        held.of.insert(client, own + 1);
        Some(Self { clients: clients.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.clients.lock();
        held.total -= 1;
        if let Some(own) = held.of.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                held.of.remove(&self.client);
            }
        }
    }
}

/// Starts to accept connections.
pub(super) fn start(
    listener: TcpListener,
    slow: &Arc<Slow>,
    counters: &Arc<Counters>,
    spawner: &Spawner,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot wait for connections")?;
    let (slow, counters, helpers) = (slow.clone(), counters.clone(), spawner.clone());
    let stop = spawner.stop_token();
    let clients = Arc::new(Mutex::new(Clients::default()));
    spawner.start("dns tcp", async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return Ok(()),
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a DNS connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = Place::take(&clients, peer.ip()) else {
                counters.refuse_connection();
                continue;
            };
            let slow = slow.clone();
            helpers.start_short("dns connection", async move {
                if let Err(error) = serve(stream, peer, &slow).await {
                    tracing::debug!(%peer, %error, "a DNS connection broke");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

/// Answers the questions of one connection in their order, until the client closes it or is silent for too long.
async fn serve(stream: TcpStream, peer: std::net::SocketAddr, slow: &Slow) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut question = Vec::new();
    loop {
        let read = timeout(IDLE_MAX, async {
            let length = stream.read_u16().await?;
            question.resize(usize::from(length), 0);
            stream.read_exact(&mut question).await
        });
        match read.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        }
        // What is not a request ends the connection: its lengths cannot be trusted.
        let Some(answer) = slow.answer(&question, peer, Transport::Tcp).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(WRITE_MAX, stream.write_all(&message)).await??;
    }
}
