//! Questions that are not for a worker: TCP, recursion, reverse names, and whatever is unusual.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Counters;
use super::forward::Forwarder;
use super::responder::Responder;
use super::shares::{Share, Shares};
use super::udp::ReplyTo;
use super::unusual::{Reading, error_reply, read, with_records_of};
use crate::model::dns::wire::{encode_query, parse_query};
use crate::model::dns::{Name, Outside, Rcode, RecordType, Transport, bytes_max};
use crate::tasks::Spawner;

/// Unusual UDP questions that wait to be looked at; beyond, the client gets SERVFAIL at once.
pub(super) const UNUSUAL_WAITING_MAX: usize = 1024;
/// Unusual UDP questions of one client that wait: a few milliseconds of work, so that nobody waits long for one client.
pub(super) const UNUSUAL_WAITING_PER_CLIENT_MAX: usize = 128;
/// Questions that recursors are asked at a time, each with a socket and the recursors' time; beyond, SERVFAIL at once.
const RECURSIONS_MAX: usize = 256;
/// As many for one client. Not less than half: this machine's own resolver asks for all of its programs.
const RECURSIONS_PER_CLIENT_MAX: usize = 128;

/// A UDP question that a worker passed on.
pub(super) struct UnusualQuestion {
    pub(super) bytes: Vec<u8>,
    pub(super) reply_to: ReplyTo,
    /// Of what may wait.
    pub(super) share: Option<Share>,
}

/// Answers any question.
pub(super) struct Slow {
    responder: Arc<Responder>,
    forwarder: Forwarder,
    recursions: Arc<Semaphore>,
    recursions_of: Shares,
    counters: Arc<Counters>,
}

/// What is known without the network.
enum Local {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Not a request.
    Noise,
    /// Recursors have to be asked.
    Recursion(Recursion),
}

/// What recursors are asked, and the room to do so.
struct Recursion {
    room: (OwnedSemaphorePermit, Share),
    part: Part,
    transport: Transport,
}

enum Part {
    /// The whole question, as it came.
    Question(Vec<u8>),
    /// What is behind the CNAME at the end of our answer.
    Name { answer: Vec<u8>, name: Name, kind: RecordType, edns: Option<u16> },
}

/// Starts to work on what the workers pass on. What needs no network is answered here, one after the other, so that
/// it never waits for what does (I5), and so that searches of the whole catalog take one core at most.
pub(super) fn start(mut waiting: mpsc::Receiver<UnusualQuestion>, slow: &Arc<Slow>, spawner: &Spawner) {
    let (slow, helpers, stop) = (slow.clone(), spawner.clone(), spawner.stop_token());
    spawner.start("dns unusual", async move {
        loop {
            let question = tokio::select! {
                question = waiting.recv() => question,
                () = stop.cancelled() => None,
            };
            // All workers ended, or a stop.
            let Some(UnusualQuestion { bytes, reply_to, share }) = question else { return Ok(()) };
            drop(share);
            let Some(peer) = reply_to.peer() else { continue };
            match slow.local(&bytes, peer, Transport::Udp) {
                Local::Answer(answer) => reply_to.send(&answer),
                Local::Noise => {}
                Local::Recursion(recursion) => {
                    let slow = slow.clone();
                    helpers.start_short("dns recursion", async move {
                        if let Some(answer) = slow.recurse(recursion).await {
                            reply_to.send(&answer);
                        }
                    });
                }
            }
        }
    });
}

impl Slow {
    pub(super) fn new(responder: Arc<Responder>, forwarder: Forwarder, counters: Arc<Counters>) -> Self {
        let recursions = Arc::new(Semaphore::new(RECURSIONS_MAX));
        Self { responder, forwarder, recursions, recursions_of: Shares::default(), counters }
    }

    /// The answer to a request; `None` when it is not one.
    pub(super) async fn answer(
        &self,
        bytes: &[u8],
        peer: SocketAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        match self.local(bytes, peer, transport) {
            Local::Answer(answer) => Some(answer),
            Local::Noise => None,
            Local::Recursion(recursion) => self.recurse(recursion).await,
        }
    }

    fn local(&self, bytes: &[u8], peer: SocketAddr, transport: Transport) -> Local {
        let responder = &self.responder;
        let head = match parse_query(bytes) {
            Some(query) => query.head(responder.recursion),
            None => match read(bytes, peer, transport, responder.recursion) {
                Reading::Question(head) => head,
                Reading::Error(reply) => return Local::Answer(reply),
                Reading::Noise => return Local::Noise,
            },
        };
        let edns = head.edns.as_ref().map(|edns| edns.size);
        let question = responder.question(&head.name, head.kind);
        let response = responder.respond(&question, head, transport, rand::random());
        if response.outside == Outside::Nothing {
            return Local::Answer(response.bytes);
        }
        let room = self.may_recurse(peer.ip()).then(|| {
            let share = self.recursions_of.take(peer.ip(), RECURSIONS_PER_CLIENT_MAX)?;
            Some((self.recursions.clone().try_acquire_owned().ok()?, share))
        });
        let error = |rcode| error_reply(bytes, rcode).map_or(Local::Noise, Local::Answer);
        match (response.outside, room) {
            (Outside::Question, Some(Some(room))) => {
                Local::Recursion(Recursion { room, part: Part::Question(bytes.to_vec()), transport })
            }
            (Outside::Name(name), Some(Some(room))) => {
                let part = Part::Name { answer: response.bytes, name, kind: question.kind, edns };
                Local::Recursion(Recursion { room, part, transport })
            }
            (Outside::Question, Some(None)) => {
                self.counters.overflow();
                error(Rcode::ServFail)
            }
            (Outside::Question, None) => error(Rcode::Refused),
            // Our own part of the answer is true without the rest.
            (Outside::Nothing | Outside::Name(_), _) => Local::Answer(response.bytes),
        }
    }

    async fn recurse(&self, recursion: Recursion) -> Option<Vec<u8>> {
        let transport = recursion.transport;
        let answer = match recursion.part {
            Part::Question(bytes) => {
                let answer = self.forwarder.ask(&bytes, transport).await;
                answer.or_else(|| {
                    let mut reply = error_reply(&bytes, Rcode::ServFail)?;
                    // RA: recursion is available, only not now.
                    reply[3] |= 0x80;
                    Some(reply)
                })
            }
            Part::Name { answer, name, kind, edns } => {
                let added = self.forwarder.ask(&encode_query(&name, kind), transport).await;
                let merged = added.and_then(|added| {
                    with_records_of(&answer, &added, edns.is_some(), bytes_max(transport, edns))
                });
                Some(merged.unwrap_or(answer))
            }
        };
        drop(recursion.room);
        answer
    }

    /// Recursion is for neighbours: this machine, private networks, machines of the catalog. An open resolver
    /// is a weapon (RFC 5358).
    fn may_recurse(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        is_private(client)
            || self.responder.replica.snapshot().nodes().any(|row| row.node.address.parse() == Ok(client))
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // 100.64.0.0/10 is shared address space (RFC 6598).
            let [first, second, ..] = address.octets();
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn only_neighbours_are_private() {
        for near in
            ["127.0.0.1", "10.1.2.3", "172.17.0.2", "192.168.1.1", "100.64.1.1", "::1", "fd00::1", "fe80::1"]
        {
            assert!(is_private(near.parse().unwrap()), "{near}");
        }
        for far in ["8.8.8.8", "100.128.0.1", "2001:db8::1"] {
            assert!(!is_private(far.parse().unwrap()), "{far}");
        }
    }
}
