//! One question over UDP, to see who answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::model::dns::wire::{HEADER_BYTES, MESSAGE_BYTES_MAX, encode_query};
use crate::model::dns::{Name, RecordType};

/// How long one try may take; answers come from this machine.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// A datagram may get lost while the resolver starts.
const TRIES_MAX: u32 = 3;

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    /// The code, 0 for none wrong.
    pub(super) rcode: u8,
    /// How many records it has.
    pub(super) records: u16,
}

/// Asks a server for the address of a name.
///
/// # Errors
/// When it does not answer.
pub(super) fn ask(server: SocketAddr, name: &str) -> anyhow::Result<Answered> {
    let name: Name = name.parse().with_context(|| format!("`{name}` is no name"))?;
    let question = encode_query(&name, RecordType::A);
    let any =
        if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let mut tries = 0;
    loop {
        tries += 1;
        match ask_once(server, any, &question) {
            Ok(answer) => return Ok(answer),
            Err(_) if tries < TRIES_MAX => {}
            // What the kernel calls the end of a wait.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("no answer from {server} within {ANSWER_WAIT:?}, asked {tries} times");
            }
            Err(error) => return Err(error).with_context(|| format!("no answer from {server}")),
        }
    }
}

fn ask_once(server: SocketAddr, any: IpAddr, question: &[u8]) -> std::io::Result<Answered> {
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_WAIT))?;
    socket.send(question)?;
    let mut answer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let length = socket.recv(&mut answer)?;
        if length >= HEADER_BYTES && answer[..2] == question[..2] {
            return Ok(Answered {
                rcode: answer[3] & 0xf,
                records: u16::from_be_bytes([answer[6], answer[7]]),
            });
        }
    }
}
