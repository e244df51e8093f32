//! A client that keeps its connection, waits no longer than it is told, and says what it knows about a lost request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Consul-Index`, if there.
    pub(crate) index: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// There was no connection, so nobody has seen the request.
    NotSent,
    /// It may have been worked on, or will be.
    Unknown,
}

/// One client of one server.
pub(crate) struct Client {
    address: SocketAddr,
    wait: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// No connection yet; each step of a request may take `wait`.
    pub(crate) fn new(address: SocketAddr, wait: Duration) -> Self {
        Self { address, wait, connection: None }
    }

    /// One request, on the old connection if it still stands.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Lost> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().ok_or(Lost::NotSent)?,
        };
        let answer = exchange(&mut connection, method, path, body).map_err(|_| Lost::Unknown)?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn connect(&self) -> Option<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.wait).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(self.wait)).ok()?;
        stream.set_write_timeout(Some(self.wait)).ok()?;
        Some(BufReader::new(stream))
    }
}

fn exchange(
    connection: &mut BufReader<TcpStream>,
    method: &str,
    path: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let length = body.len();
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    request.extend_from_slice(body);
    connection.get_mut().write_all(&request)?;
    let broken = || std::io::Error::other("not an HTTP answer");
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    let (mut length, mut index) = (None, None);
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(broken());
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok(),
            "x-consul-index" => index = value.parse().ok(),
            _ => {}
        }
    }
    let mut body = vec![0; length.ok_or_else(broken)?];
    connection.read_exact(&mut body)?;
    Ok(Answer { status, index, body })
}
