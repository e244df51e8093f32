//! UDP workers: threads that receive questions in batches, answer them from their cache, and send in batches.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use futures_util::future::{join_all, select_all};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendmsg,
};
use tokio::sync::{mpsc, oneshot};

use super::Counters;
use super::backlog::Backlog;
use super::cache::{Cache, Served};
use super::responder::Responder;
use super::shares::Shares;
use super::slow::{UNUSUAL_WAITING_PER_CLIENT_MAX, UnusualQuestion};
use super::unusual::error_reply;
use crate::model::dns::Rcode;
use crate::model::dns::wire::parse_query;
use crate::tasks::Spawner;

/// Questions that are received with one system call.
const BATCH_MAX: usize = 32;
/// Calls in a row that only receive: what waits in the kernel is taken out before more is answered, because the kernel
/// cannot tell who floods us and loses anybody's questions. After that many it is time to answer some.
const RECEIVES_MAX: usize = 64;
/// Longest question in bytes; a longer one is cut by the kernel and then answered with FORMERR.
const QUESTION_BYTES_MAX: usize = 1536;
/// Answers per send buffer that is kept; one that grew larger (a huge answer) is given back.
const KEPT_BUFFER_BYTES: usize = 16 << 10;

/// The address of ours that a datagram was sent to, and so where its answer must come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedAt {
    /// The one that the socket is bound to.
    Bound,
    /// One of all.
    V4(Ipv4Addr),
    /// One of all, and the interface, which link-local addresses need.
    V6(Ipv6Addr, u32),
}

/// The kernel's words for [`AskedAt`].
enum Control {
    None,
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl AskedAt {
    fn of(message: &ControlMessageOwned) -> Option<Self> {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Self::V4(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Self::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex))
            }
            _ => None,
        }
    }

    fn control(self) -> Control {
        match self {
            Self::Bound => Control::None,
            Self::V4(address) => {
                let address = in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
                // The interface is left to routing.
                Control::V4(in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address })
            }
            Self::V6(address, interface) => {
                let ipi6_ifindex = if address.is_unicast_link_local() { interface } else { 0 };
                Control::V6(in6_pktinfo { ipi6_addr: in6_addr { s6_addr: address.octets() }, ipi6_ifindex })
            }
        }
    }
}

impl Control {
    fn messages(&self) -> Vec<ControlMessage<'_>> {
        match self {
            Self::None => Vec::new(),
            Self::V4(info) => vec![ControlMessage::Ipv4PacketInfo(info)],
            Self::V6(info) => vec![ControlMessage::Ipv6PacketInfo(info)],
        }
    }
}

/// Where a UDP answer goes.
#[derive(Clone)]
pub(super) struct ReplyTo {
    socket: Arc<UdpSocket>,
    peer: SockaddrStorage,
    asked_at: AskedAt,
}

impl ReplyTo {
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        socket_address(&self.peer)
    }

    /// Sends without waiting. What the system refuses is lost, as datagrams may be.
    pub(super) fn send(&self, bytes: &[u8]) {
        let control = self.asked_at.control();
        let slices = [IoSlice::new(bytes)];
        let fd = self.socket.as_raw_fd();
        if let Err(error) =
            sendmsg(fd, &slices, &control.messages(), MsgFlags::MSG_DONTWAIT, Some(&self.peer))
        {
            tracing::debug!(%error, "a DNS answer could not be sent");
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

/// Starts one worker per socket, and a task that ends when they have.
pub(super) fn start(
    sockets: Vec<UdpSocket>,
    responder: &Arc<Responder>,
    unusual: &mpsc::Sender<UnusualQuestion>,
    counters: &Arc<Counters>,
    spawner: &Spawner,
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut ends = Vec::new();
    let unusual_of = Shares::default();
    for (number, socket) in sockets.into_iter().enumerate() {
        let (end, ended) = oneshot::channel::<()>();
        let (responder, stop) = (responder.clone(), stop.clone());
        let (unusual, unusual_of, counters) = (unusual.clone(), unusual_of.clone(), counters.clone());
        let family = match socket.local_addr().context("cannot tell a socket's address")?.ip() {
            address if !address.is_unspecified() => Family::OneAddress,
            IpAddr::V4(_) => Family::AllV4,
            IpAddr::V6(_) => Family::AllV6,
        };
        std::thread::Builder::new()
            .name(format!("dns-{number}"))
            .spawn(move || {
                let cache = Cache::new(responder);
                let socket = Arc::new(socket);
                let backlog = Backlog::default();
                Worker { socket, cache, unusual, unusual_of, counters, backlog }.run(family, &stop);
                drop(end);
            })
            .context("cannot start a thread")?;
        ends.push(ended);
    }
    let token = spawner.stop_token();
    spawner.start("dns udp", async move {
        let stopped = {
            let early = select_all(&mut ends);
            tokio::select! {
                _ = early => false,
                () = token.cancelled() => true,
            }
        };
        stop.store(true, Ordering::Relaxed);
        if !stopped {
            bail!("a DNS worker ended");
        }
        // Each sender is dropped when its worker ends, so that these are errors, and that is what we wait for.
        drop(join_all(ends).await);
        Ok(())
    });
    Ok(())
}

struct Worker {
    socket: Arc<UdpSocket>,
    cache: Cache,
    unusual: mpsc::Sender<UnusualQuestion>,
    unusual_of: Shares,
    counters: Arc<Counters>,
    backlog: Backlog<Waiting>,
}

/// A question in the backlog.
struct Waiting {
    bytes: Vec<u8>,
    peer: SockaddrStorage,
    asked_at: AskedAt,
}

/// Answers to be sent together.
struct Outgoing {
    headers: MultiHeaders<SockaddrStorage>,
    answers: Vec<Vec<u8>>,
    peers: Vec<Option<SockaddrStorage>>,
    asked: Vec<AskedAt>,
}

/// What a socket is bound to.
#[derive(Debug, Clone, Copy)]
enum Family {
    OneAddress,
    AllV4,
    AllV6,
}

impl Family {
    /// Headers of a batch, with room for what tells the address of ours. Sending wants the exact size.
    fn headers(self) -> MultiHeaders<SockaddrStorage> {
        let space = match self {
            Self::OneAddress => None,
            Self::AllV4 => Some(nix::cmsg_space!(in_pktinfo)),
            Self::AllV6 => Some(nix::cmsg_space!(in6_pktinfo)),
        };
        MultiHeaders::preallocate(BATCH_MAX, space)
    }
}

/// A datagram in its buffer.
struct Arrived {
    length: usize,
    peer: SockaddrStorage,
    asked_at: AskedAt,
}

impl Worker {
    /// Serves the socket until stop.
    fn run(&mut self, family: Family, stop: &AtomicBool) {
        let socket = self.socket.clone();
        let mut receive_headers = family.headers();
        let mut buffers = vec![[0; QUESTION_BYTES_MAX]; BATCH_MAX];
        let mut arrived = Vec::with_capacity(BATCH_MAX);
        let mut outgoing = Outgoing {
            headers: family.headers(),
            answers: vec![Vec::new(); BATCH_MAX],
            peers: Vec::with_capacity(BATCH_MAX),
            asked: Vec::with_capacity(BATCH_MAX),
        };
        let mut receives = 0;
        while !stop.load(Ordering::Relaxed) {
            arrived.clear();
            // With something to do there is no waiting for more.
            let wait =
                if self.backlog.is_empty() { MsgFlags::MSG_WAITFORONE } else { MsgFlags::MSG_DONTWAIT };
            let received = receive(&socket, &mut receive_headers, &mut buffers, &mut arrived, wait);
            match received {
                Err(Errno::EAGAIN) if !self.backlog.is_empty() => {}
                Err(error) => {
                    note_receive_error(error);
                    continue;
                }
                Ok(()) => {}
            }
            let told = |question: &Arrived| {
                question.asked_at != AskedAt::Bound || matches!(family, Family::OneAddress)
            };
            if !arrived.iter().all(told) {
                // The kernel did not say where one came to, and left no room to say it next time.
                receive_headers = family.headers();
            }
            let questions = buffers.iter().zip(&arrived).filter(|(_, question)| told(question));
            let questions = questions.map(|(buffer, question)| (&buffer[..question.length], question));
            if self.backlog.is_empty() && arrived.len() < BATCH_MAX {
                for (bytes, question) in questions {
                    self.answer_to(bytes, &question.peer, question.asked_at, &mut outgoing);
                }
            } else {
                self.let_wait(questions);
                receives += 1;
                if arrived.len() == BATCH_MAX && receives < RECEIVES_MAX {
                    continue;
                }
                for _ in 0..BATCH_MAX {
                    let Some(waiting) = self.backlog.pop() else { break };
                    self.answer_to(&waiting.bytes, &waiting.peer, waiting.asked_at, &mut outgoing);
                }
            }
            receives = 0;
            outgoing.send(&socket);
        }
    }

    fn let_wait<'a>(&mut self, questions: impl Iterator<Item = (&'a [u8], &'a Arrived)>) {
        let mut lost = 0;
        for (bytes, Arrived { peer, asked_at, .. }) in questions {
            let client = socket_address(peer).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
            let waiting = Waiting { bytes: bytes.to_vec(), peer: *peer, asked_at: *asked_at };
            lost += u64::from(!self.backlog.push(client, waiting));
        }
        if lost > 0 {
            self.counters.lose(lost);
        }
    }

    fn answer_to(
        &mut self,
        question: &[u8],
        peer: &SockaddrStorage,
        asked_at: AskedAt,
        outgoing: &mut Outgoing,
    ) {
        let answer = &mut outgoing.answers[outgoing.peers.len()];
        if answer.capacity() > KEPT_BUFFER_BYTES {
            *answer = Vec::new();
        }
        answer.clear();
        self.answer(question, peer, asked_at, answer);
        if !answer.is_empty() {
            outgoing.peers.push(Some(*peer));
            outgoing.asked.push(asked_at);
        }
    }

    /// Appends the answer, if there is one now.
    fn answer(&mut self, question: &[u8], peer: &SockaddrStorage, asked_at: AskedAt, answer: &mut Vec<u8>) {
        if let Some(query) = parse_query(question)
            && let Served::Answered = self.cache.serve(&query, answer)
        {
            return;
        }
        let reply_to = ReplyTo { socket: self.socket.clone(), peer: *peer, asked_at };
        let client = reply_to.peer().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let share = self.unusual_of.take(client, UNUSUAL_WAITING_PER_CLIENT_MAX);
        let fits = share.is_some();
        let unusual = UnusualQuestion { bytes: question.to_vec(), reply_to, share };
        if !fits || matches!(self.unusual.try_send(unusual), Err(mpsc::error::TrySendError::Full(_))) {
            self.counters.overflow();
            answer.extend(error_reply(question, Rcode::ServFail).into_iter().flatten());
        }
    }
}

impl Outgoing {
    fn send(&mut self, socket: &UdpSocket) {
        let mut done = 0;
        for same in self.asked.chunk_by(|one, next| one == next) {
            let end = done + same.len();
            send(socket, &mut self.headers, &self.answers[done..end], &self.peers[done..end], same[0]);
            done = end;
        }
        self.peers.clear();
        self.asked.clear();
    }
}

fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    buffers: &mut [[u8; QUESTION_BYTES_MAX]],
    arrived: &mut Vec<Arrived>,
    wait: MsgFlags,
) -> nix::Result<()> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), wait, None)?;
    for message in messages {
        let control =
            message.cmsgs().ok().and_then(|mut found| found.find_map(|message| AskedAt::of(&message)));
        // UDP datagrams have a sender; one without cannot be answered, and its place must be kept.
        let (length, peer) = match message.address {
            Some(peer) => (message.bytes, peer),
            None => (0, SockaddrStorage::from(SocketAddr::from(([0, 0, 0, 0], 0)))),
        };
        arrived.push(Arrived { length, peer, asked_at: control.unwrap_or(AskedAt::Bound) });
    }
    Ok(())
}

fn note_receive_error(error: Errno) {
    // Nothing came in time, a signal, or an ICMP answer to what we sent before.
    if !matches!(error, Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) {
        tracing::warn!(%error, "cannot receive DNS questions");
        // Not in a circle at full speed.
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
}

/// Sends answers that come from one address of ours.
fn send(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    answers: &[Vec<u8>],
    peers: &[Option<SockaddrStorage>],
    asked_at: AskedAt,
) {
    let control = asked_at.control();
    let mut done = 0;
    while done < peers.len() {
        let slices: Vec<[IoSlice<'_>; 1]> =
            answers[done..].iter().map(|answer| [IoSlice::new(answer)]).collect();
        let messages = control.messages();
        match sendmmsg(socket.as_raw_fd(), headers, &slices, &peers[done..], &messages, MsgFlags::empty()) {
            Ok(sent) => done += sent.count().max(1),
            Err(Errno::EINTR) => {}
            Err(error) => {
                // The first of them cannot be sent (its address, its size): the others may.
                tracing::debug!(%error, "a DNS answer could not be sent");
                done += 1;
            }
        }
    }
}
