//! Questions for others: bytes go to the recursors as they came, and the answer comes back as it is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::model::dns::Transport;
use crate::model::dns::wire::{HEADER_BYTES, MESSAGE_BYTES_MAX, question_end};

/// In which order recursors are asked (`recursor_strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// As configured; the next one only when one fails.
    Sequential,
    /// Any order, so that all have the same work.
    Random,
}

/// Asks recursors.
pub(super) struct Forwarder {
    recursors: Vec<SocketAddr>,
    strategy: Strategy,
    timeout: Duration,
}

impl Forwarder {
    pub(super) fn new(recursors: Vec<SocketAddr>, strategy: Strategy, timeout: Duration) -> Self {
        Self { recursors, strategy, timeout }
    }

    /// The first answer that says "here it is" or "no such name"; `None` when no recursor says either.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut recursors = self.recursors.clone();
        if self.strategy == Strategy::Random {
            recursors.shuffle(&mut rand::rng());
        }
        for recursor in recursors {
            match tokio::time::timeout(self.timeout, ask_one(recursor, question, transport)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%recursor, "recursor failed: {error:#}"),
                Err(_) => tracing::debug!(%recursor, "recursor did not answer in time"),
            }
        }
        None
    }
}

async fn ask_one(recursor: SocketAddr, question: &[u8], transport: Transport) -> anyhow::Result<Vec<u8>> {
    let mut sent = question.to_vec();
    let end = question_end(&sent).context("the question is not one")?;
    // Our own number: who cannot see our questions cannot answer them.
    sent[..2].copy_from_slice(&rand::random::<u16>().to_be_bytes());
    let mut answer = match transport {
        Transport::Udp => over_udp(recursor, &sent, end).await?,
        Transport::Tcp => over_tcp(recursor, &sent, end).await?,
    };
    let rcode = answer[3] & 0x0f;
    if rcode != 0 && rcode != 3 {
        bail!("answered with code {rcode}");
    }
    answer[..2].copy_from_slice(&question[..2]);
    // Some servers forget to copy RD; and recursion is available: it was just done.
    answer[2] = answer[2] & !1 | question[2] & 1;
    answer[3] |= 0x80;
    Ok(answer)
}

/// An answer has our number and our question.
fn is_answer(sent: &[u8], end: usize, answer: &[u8]) -> bool {
    answer.len() >= end
        && answer[..2] == sent[..2]
        && answer[2] & 0x80 != 0
        && answer[HEADER_BYTES..end].eq_ignore_ascii_case(&sent[HEADER_BYTES..end])
}

async fn over_udp(recursor: SocketAddr, sent: &[u8], end: usize) -> anyhow::Result<Vec<u8>> {
    let any: IpAddr = if recursor.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await.context("cannot get a socket")?;
    // Connected: the kernel drops what comes from elsewhere.
    socket.connect(recursor).await.context("cannot reach it")?;
    socket.send(sent).await.context("cannot send")?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await.context("cannot receive")?;
        if is_answer(sent, end, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(recursor: SocketAddr, sent: &[u8], end: usize) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(recursor).await.context("cannot connect")?;
    let length = u16::try_from(sent.len()).context("the question is too long")?;
    stream.write_all(&[&length.to_be_bytes(), sent].concat()).await.context("cannot send")?;
    let length = stream.read_u16().await.context("cannot receive")?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.context("cannot receive")?;
    if !is_answer(sent, end, &answer) {
        bail!("answered something else");
    }
    Ok(answer)
}
