//! Bytes to messages and back: a version byte, then `MessagePack`. Whatever comes in, nothing here panics.

use serde::{Serialize, de::DeserializeOwned};

use super::member::NAME_BYTES_MAX;
use super::message::{Claim, Entry, Frame, Head, Message};

/// First byte of every datagram and frame.
pub const PROTOCOL_VERSION: u8 = 1;
/// Longest datagram in bytes: fits unfragmented into Ethernet's 1,500 with IPv6 headers and a tunnel around it.
pub const DATAGRAM_BYTES_MAX: usize = 1400;
/// Longest frame in bytes: [`MEMBERS_MAX`] members with the longest tags.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How deep values may nest; ours have five levels. Deeper ones would take the stack that decodes them.
const DEPTH_MAX: usize = 16;
/// Shortest claim in bytes: variant, one letter of name, incarnation.
const CLAIM_BYTES_MIN: usize = 6;
/// Most members that are kept; ten times the size that the design is made for.
pub(super) const MEMBERS_MAX: usize = 10_000;
/// Highest incarnation that is believed. Real ones count denials and stay small; this leaves room to outbid any lie.
const INCARNATION_MAX: u64 = 1 << 48;

/// Why bytes are no message of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// Another program, or another version of this one.
    #[error("not a message of protocol version {PROTOCOL_VERSION}")]
    Version,
    /// Damaged or made up.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Well-formed, but beyond what any member would send.
    #[error("implausible message: {0}")]
    Implausible(&'static str),
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(value)
        .expect("maps have string keys and lengths are known, so encoding into memory cannot fail")
}

fn decode<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T, CodecError> {
    let mut decoder = rmp_serde::Deserializer::new(bytes);
    decoder.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut decoder).map_err(|error| CodecError::Malformed(error.to_string()))
}

/// A claim as it rides on datagrams.
pub(super) fn encode_claim(claim: &Claim) -> Vec<u8> {
    encode(claim)
}

/// A datagram being filled.
pub(super) struct Datagram(Vec<u8>);

impl Datagram {
    pub(super) fn new(from: &str, message: Message) -> Self {
        let mut bytes = vec![PROTOCOL_VERSION];
        bytes.extend(encode(&Head { from: from.to_owned(), message }));
        Self(bytes)
    }

    /// Adds an encoded claim if there is room for it.
    pub(super) fn add(&mut self, claim: &[u8]) -> bool {
        let fits = self.0.len() + claim.len() <= DATAGRAM_BYTES_MAX;
        if fits {
            self.0.extend_from_slice(claim);
        }
        fits
    }

    /// Not even the shortest claim fits any more.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() + CLAIM_BYTES_MIN > DATAGRAM_BYTES_MAX
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The head and the claims of a datagram.
pub(super) fn decode_datagram(bytes: &[u8]) -> Result<(Head, Vec<Claim>), CodecError> {
    let (Some(&PROTOCOL_VERSION), true) = (bytes.first(), bytes.len() <= DATAGRAM_BYTES_MAX) else {
        return Err(CodecError::Version);
    };
    let mut rest = &bytes[1..];
    let head: Head = decode(&mut rest)?;
    check_name(&head.from)?;
    let mut claims = Vec::new();
    while !rest.is_empty() {
        let claim: Claim = decode(&mut rest)?;
        check_name(claim.name())?;
        check_incarnation(claim.incarnation())?;
        claims.push(claim);
    }
    Ok((head, claims))
}

/// One side of a conversation over TCP.
pub(super) fn encode_frame(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![PROTOCOL_VERSION];
    bytes.extend(encode(frame));
    bytes
}

/// The opposite of [`encode_frame`].
pub(super) fn decode_frame(bytes: &[u8]) -> Result<Frame, CodecError> {
    let Some((&PROTOCOL_VERSION, mut rest)) = bytes.split_first() else { return Err(CodecError::Version) };
    let frame: Frame = decode(&mut rest)?;
    if let Frame::Sync { from, entries } = &frame {
        check_name(from)?;
        if entries.len() > MEMBERS_MAX {
            return Err(CodecError::Implausible("too many members"));
        }
        entries.iter().try_for_each(check_entry)?;
    }
    Ok(frame)
}

fn check_entry(entry: &Entry) -> Result<(), CodecError> {
    check_name(&entry.name)?;
    check_incarnation(entry.incarnation)
}

fn check_name(name: &str) -> Result<(), CodecError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(CodecError::Implausible("a name that no member has"));
    }
    Ok(())
}

fn check_incarnation(incarnation: u64) -> Result<(), CodecError> {
    if incarnation > INCARNATION_MAX {
        return Err(CodecError::Implausible("an incarnation that no member reaches"));
    }
    Ok(())
}
