//! A connection to one address that is made when needed and made again when it broke.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Connection, Identity, Method, RpcError};
use crate::tasks::Spawner;

/// Wait after the first failed attempt; doubles up to [`RETRY_WAIT_MAX`]. A restarted server is reached again
/// well within one election timeout.
const RETRY_WAIT_FIRST: Duration = Duration::from_millis(20);
/// Longest wait between attempts: shorter than a quarter of the time in which a new leader must be found.
const RETRY_WAIT_MAX: Duration = Duration::from_millis(250);

struct State {
    connection: Option<Connection>,
    failures: u32,
    retry_at: Option<(Instant, RpcError)>,
}

/// Reconnecting requests to one address.
pub struct Channel {
    address: SocketAddr,
    /// The raft id that must answer there.
    expected: Option<u64>,
    identity: Arc<Identity>,
    spawner: Spawner,
    state: Mutex<State>,
    abandoned: CancellationToken,
}

impl Channel {
    /// A channel; nothing is connected yet. With `expected`, another node at the address is refused.
    pub fn new(
        address: SocketAddr,
        expected: Option<u64>,
        identity: Arc<Identity>,
        spawner: Spawner,
    ) -> Self {
        let state = Mutex::new(State { connection: None, failures: 0, retry_at: None });
        Self { address, expected, identity, spawner, state, abandoned: CancellationToken::new() }
    }

    /// Where it leads.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks, and waits for the answer; `wait` covers connecting too.
    ///
    /// # Errors
    /// See [`RpcError`]; after a failure to connect, requests fail at once for a short while.
    pub async fn call(&self, method: Method, body: Bytes, wait: Duration) -> Result<Bytes, RpcError> {
        let begin = Instant::now();
        let connection = tokio::time::timeout(wait, self.connection()).await.map_err(|_| {
            RpcError::Unreachable(format!("{}: no connection within {wait:?}", self.address))
        })??;
        tokio::select! {
            biased;
            answer = connection.call(method, body, wait.saturating_sub(begin.elapsed())) => answer,
            () = self.abandoned.cancelled() => {
                Err(RpcError::Lost(format!("who was at {} is elsewhere now", self.address)))
            }
        }
    }

    /// Gives the channel up for good, because who is asked is no longer at this address: what waits for a connection or
    /// an answer fails now, and not when its time is over.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Whether it was given up.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.is_cancelled()
    }

    /// Drops the connection, so that the next request makes a new one: for a peer that does not answer, whose
    /// connection may be a dead one that TCP has not given up yet.
    pub async fn reset(&self) {
        if let Some(connection) = self.state.lock().await.connection.take() {
            connection.close();
        }
    }

    /// The open connection, made if need be.
    ///
    /// # Errors
    /// Unreachable or refused.
    pub async fn connection(&self) -> Result<Connection, RpcError> {
        tokio::select! {
            biased;
            () = self.abandoned.cancelled() => {
                Err(RpcError::Unreachable(format!("who was at {} is elsewhere now", self.address)))
            }
            connection = self.open_connection() => connection,
        }
    }

    async fn open_connection(&self) -> Result<Connection, RpcError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        state.connection = None;
        if let Some((at, error)) = &state.retry_at
            && Instant::now() < *at
        {
            return Err(error.clone());
        }
        let opened =
            Connection::open(self.address, &self.identity, &self.spawner).await.and_then(|connection| {
                match self.expected {
                    Some(expected) if connection.peer().node != expected => Err(RpcError::Refused(format!(
                        "{} is now node {:016x} ({}), not {expected:016x}",
                        self.address,
                        connection.peer().node,
                        connection.peer().name
                    ))),
                    _ => Ok(connection),
                }
            });
        match opened {
            Ok(connection) => {
                state.failures = 0;
                state.retry_at = None;
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let wait = RETRY_WAIT_FIRST.saturating_mul(1 << state.failures.min(8)).min(RETRY_WAIT_MAX);
                state.failures += 1;
                state.retry_at = Some((Instant::now() + wait, error.clone()));
                Err(error)
            }
        }
    }
}
