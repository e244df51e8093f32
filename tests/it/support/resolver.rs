//! A small DNS client (RFC 1035 §4): quick enough to be asked hundreds of times a second.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Largest answer that we say we take.
const ANSWER_BYTES_MAX: u16 = 4096;

/// One client of one server.
pub(crate) struct Resolver {
    socket: UdpSocket,
    last: u16,
}

impl Resolver {
    /// Each answer may take `wait`.
    pub(crate) fn new(server: SocketAddr, wait: Duration) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(wait)).unwrap();
        Self { socket, last: 0 }
    }

    /// The addresses of a name; empty when it has none, None when nobody answers.
    pub(crate) fn addresses(&mut self, name: &str) -> Option<BTreeSet<Ipv4Addr>> {
        self.last = self.last.wrapping_add(1);
        self.socket.send(&question(self.last, name)).ok()?;
        let mut buffer = vec![0; usize::from(ANSWER_BYTES_MAX)];
        loop {
            let length = self.socket.recv(&mut buffer).ok()?;
            let answer = &buffer[..length];
            // An answer that came too late for its question is not this one's.
            if answer.len() >= 12 && answer[..2] == self.last.to_be_bytes() {
                return Some(addresses_in(answer));
            }
        }
    }
}

/// The addresses of a name, asked over a TCP connection (RFC 7766), which stays open; None when it was closed.
pub(crate) fn addresses_over_tcp(stream: &mut TcpStream, name: &str) -> Option<BTreeSet<Ipv4Addr>> {
    let question = question(1, name);
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, question.as_slice()].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).ok()?;
    Some(addresses_in(&answer))
}

/// A question for an A record, with EDNS.
pub(crate) fn question(id: u16, name: &str) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    // Recursion desired, one question, one additional record.
    let mut bytes = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    let [high, low] = ANSWER_BYTES_MAX.to_be_bytes();
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn addresses_in(answer: &[u8]) -> BTreeSet<Ipv4Addr> {
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut at = after_name(answer, 12) + 4;
    let mut found = BTreeSet::new();
    for _ in 0..count {
        let record = after_name(answer, at);
        let kind = u16::from_be_bytes([answer[record], answer[record + 1]]);
        let length = usize::from(u16::from_be_bytes([answer[record + 8], answer[record + 9]]));
        if let (1, [a, b, c, d]) = (kind, &answer[record + 10..record + 10 + length]) {
            found.insert(Ipv4Addr::new(*a, *b, *c, *d));
        }
        at = record + 10 + length;
    }
    found
}

fn after_name(answer: &[u8], mut at: usize) -> usize {
    loop {
        match answer[at] {
            0 => return at + 1,
            pointer if pointer & 0xc0 == 0xc0 => return at + 2,
            length => at += usize::from(length) + 1,
        }
    }
}
