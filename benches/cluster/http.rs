//! The least HTTP/1.1 that measures a server and not itself: requests from prepared bytes on kept connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::load::Client;

/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// One kept connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; READ_BYTES], filled: 0 })
    }

    /// Sends the request and reads its whole answer; gives the body. Anything but 200 is an error.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let (head, body) = loop {
            self.read().await?;
            let seen = &self.buffer[..self.filled];
            if let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break (head + 4, length(&seen[..head])?);
            }
        };
        while self.filled < head + body {
            self.read().await?;
        }
        if !self.buffer.starts_with(b"HTTP/1.1 200") {
            bail!("refused: {}", String::from_utf8_lossy(&self.buffer[..self.filled]));
        }
        Ok(&self.buffer[head..head + body])
    }

    async fn read(&mut self) -> Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if count == 0 {
            bail!("the connection was closed");
        }
        self.filled += count;
        Ok(())
    }
}

fn length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    for line in head.split("\r\n") {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(value.trim().parse()?);
        }
    }
    bail!("an answer without Content-Length: {head}")
}

/// The bytes of a request.
pub(crate) fn bytes(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    request.extend_from_slice(body);
    request
}

/// One request on a connection of its own; `None` when it was not answered with 200.
pub(crate) async fn once(address: Ipv4Addr, method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
    let exchange = async {
        let mut connection = Connection::open((address, 8500).into()).await?;
        anyhow::Ok(connection.exchange(&bytes(method, path, body)).await?.to_vec())
    };
    tokio::time::timeout(ANSWER_DEADLINE, exchange).await.ok()?.ok()
}

/// A connection that sends prepared requests, one after the other, again and again.
pub(crate) struct Requests {
    connection: Connection,
    prepared: Vec<Vec<u8>>,
    next: usize,
}

impl Requests {
    pub(crate) async fn open(address: SocketAddr, prepared: Vec<Vec<u8>>) -> Result<Self> {
        Ok(Self { connection: Connection::open(address).await?, prepared, next: 0 })
    }
}

impl Client for Requests {
    async fn request(&mut self) -> Result<()> {
        let request = &self.prepared[self.next];
        self.next = (self.next + 1) % self.prepared.len();
        self.connection.exchange(request).await.map(drop)
    }
}
