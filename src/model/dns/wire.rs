//! Messages as bytes: usual questions in, answers out. The hot path of the server.
//!
//! What is not usual is not understood here on purpose, and is for a full parser.

use std::collections::HashMap;

use super::answer::Answer;
use super::name::{NAME_BYTES_MAX, Name};
use super::record::{Record, RecordData, RecordType};

/// Bytes of a message's header (RFC 1035 §4.1.1).
pub const HEADER_BYTES: usize = 12;
/// Most bytes of a message over TCP, whose length has 16 bits.
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// Largest piece of a TXT record (RFC 1035 §3.3).
const TEXT_BYTES_MAX: usize = 255;
/// Largest offset that a compression pointer can hold: 14 bits.
const POINTER_MAX: usize = 0x3fff;
/// UDP size that we announce to recursors: fits one Ethernet frame (DNS flag day 2020).
const QUERY_UDP_BYTES: u16 = 1232;
/// Class IN.
const CLASS_IN: u16 = 1;
/// Option code of "EDNS client subnet" (RFC 7871).
const OPTION_CLIENT_SUBNET: u16 = 8;

/// A usual question: one name, class IN, perhaps EDNS without options that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The client's number for it.
    pub id: u16,
    /// The RD flag.
    pub recursion_desired: bool,
    /// The name on the wire, uncompressed, in the client's spelling.
    pub name: &'a [u8],
    /// The type asked for.
    pub kind: RecordType,
    /// The UDP size that the client announced with EDNS.
    pub edns: Option<u16>,
}

impl Query<'_> {
    /// The name as a value.
    pub fn to_name(&self) -> Name {
        Name::from_checked_wire(self.name)
    }

    /// What the answer begins with.
    pub fn head(&self, recursion_available: bool) -> Head {
        Head {
            id: self.id,
            recursion_desired: self.recursion_desired,
            recursion_available,
            name: self.to_name(),
            kind: self.kind,
            edns: self.edns.map(|size| Edns { size, options: Vec::new() }),
        }
    }
}

/// EDNS of an answer (RFC 6891).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edns {
    /// The client's UDP size, sent back.
    pub size: u16,
    /// Options as they are on the wire.
    pub options: Vec<u8>,
}

/// The part of an answer that comes from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The client's number.
    pub id: u16,
    /// RD, copied.
    pub recursion_desired: bool,
    /// RA: we have recursors.
    pub recursion_available: bool,
    /// The question's name in the client's spelling.
    pub name: Name,
    /// The question's type.
    pub kind: RecordType,
    /// Present when the request had it.
    pub edns: Option<Edns>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Reads a usual question; `None` for everything else, valid or not.
pub fn parse_query(bytes: &[u8]) -> Option<Query<'_>> {
    let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1), ..] = bytes else { return None };
    // QR and the opcode must be 0, and TC makes no sense.
    if flags & 0b1111_1010 != 0 {
        return None;
    }
    let mut at = HEADER_BYTES;
    loop {
        let length = *bytes.get(at)?;
        at += 1;
        match length {
            0 => break,
            // A pointer, or one of the lengths that never came into use.
            64.. => return None,
            _ => at += usize::from(length),
        }
        if at - HEADER_BYTES >= NAME_BYTES_MAX {
            return None;
        }
    }
    let name = bytes.get(HEADER_BYTES..at)?;
    let kind = RecordType(u16_at(bytes, at)?);
    if u16_at(bytes, at + 2)? != CLASS_IN || kind == RecordType::OPT {
        return None;
    }
    let rest = bytes.get(at + 4..)?;
    let edns = match (additional, rest) {
        (0, []) => None,
        (1, rest) => Some(parse_opt(rest)?),
        _ => return None,
    };
    Some(Query { id: u16_at(bytes, 0)?, recursion_desired: flags & 1 == 1, name, kind, edns })
}

/// The UDP size of an OPT record of version 0 that ends the message and holds no client subnet.
fn parse_opt(bytes: &[u8]) -> Option<u16> {
    let [0, 0, 41, high, low, _, 0, _, _, length_high, length_low, options @ ..] = bytes else { return None };
    if options.len() != usize::from(u16::from_be_bytes([*length_high, *length_low])) {
        return None;
    }
    let mut rest = options;
    while !rest.is_empty() {
        let (code, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        if code == OPTION_CLIENT_SUBNET {
            return None;
        }
        rest = rest.get(4 + length..)?;
    }
    Some(u16::from_be_bytes([*high, *low]))
}

/// Where a query's first question ends, if its name is one and not compressed.
pub fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        match *message.get(at)? {
            // Longer than a name can be: an answer that repeats it could not be read.
            _ if at - HEADER_BYTES >= NAME_BYTES_MAX => return None,
            0 => return Some(at + 5).filter(|end| *end <= message.len()),
            64.. => return None,
            length => at += 1 + usize::from(length),
        }
    }
}

/// Writes a question for a recursor; its id is 0.
pub fn encode_query(name: &Name, kind: RecordType) -> Vec<u8> {
    // RD, one question, one additional record: EDNS with our UDP size.
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    bytes.extend_from_slice(name.as_wire());
    bytes.extend_from_slice(&kind.0.to_be_bytes());
    bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 41]);
    bytes.extend_from_slice(&QUERY_UDP_BYTES.to_be_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes
}

/// Writes an answer as a message.
pub fn encode(answer: &Answer, head: &Head, compress: bool) -> Vec<u8> {
    let mut writer = Writer { bytes: Vec::with_capacity(512), names: HashMap::new(), compress };
    writer.u16(head.id);
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0_u8 };
    writer.bytes.push(
        flag(true, 7)
            | flag(answer.authoritative, 2)
            | flag(answer.truncated, 1)
            | flag(head.recursion_desired, 0),
    );
    writer.bytes.push(flag(head.recursion_available, 7) | answer.rcode as u8);
    let additional = answer.additional.len() + usize::from(head.edns.is_some());
    for count in [1, answer.answers.len(), answer.authority.len(), additional] {
        writer.u16(u16::try_from(count).unwrap_or(u16::MAX));
    }
    writer.name(&head.name, true);
    writer.u16(head.kind.0);
    writer.u16(CLASS_IN);
    for record in answer.answers.iter().chain(&answer.authority).chain(&answer.additional) {
        writer.record(record, &head.name);
    }
    if let Some(edns) = &head.edns {
        writer.bytes.push(0);
        writer.u16(RecordType::OPT.0);
        writer.u16(edns.size);
        writer.bytes.extend_from_slice(&[0; 4]);
        writer.u16(u16::try_from(edns.options.len()).unwrap_or(u16::MAX));
        writer.bytes.extend_from_slice(&edns.options);
    }
    writer.bytes
}

struct Writer<'a> {
    bytes: Vec<u8>,
    /// Names (and their ends) that were written, by their exact spelling, so that nobody's case is changed.
    names: HashMap<&'a [u8], u16>,
    compress: bool,
}

impl<'a> Writer<'a> {
    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a name; `short` allows a pointer to an earlier one.
    fn name(&mut self, name: &'a Name, short: bool) {
        let mut rest = name.as_wire();
        while let Some(&length) = rest.first().filter(|length| **length > 0) {
            if self.compress {
                if let Some(&offset) = self.names.get(rest).filter(|_| short) {
                    self.u16(0xc000 | offset);
                    return;
                }
                if let Some(offset) =
                    u16::try_from(self.bytes.len()).ok().filter(|at| usize::from(*at) <= POINTER_MAX)
                {
                    self.names.entry(rest).or_insert(offset);
                }
            }
            let (label, tail) = rest.split_at(1 + usize::from(length));
            self.bytes.extend_from_slice(label);
            rest = tail;
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &'a Record, question: &Name) {
        if self.compress && record.name == *question && question.label_count() > 0 {
            // The question's name is always the first thing after the header.
            self.bytes.extend_from_slice(&[0xc0, 12]);
        } else {
            self.name(&record.name, true);
        }
        self.u16(record.data.kind().0);
        self.u16(CLASS_IN);
        self.u32(record.ttl);
        let length_at = self.bytes.len();
        self.u16(0);
        self.data(&record.data);
        let length = u16::try_from(self.bytes.len() - length_at - 2).unwrap_or(u16::MAX);
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn data(&mut self, data: &'a RecordData) {
        match data {
            RecordData::A(address) => self.bytes.extend_from_slice(&address.octets()),
            RecordData::Aaaa(address) => self.bytes.extend_from_slice(&address.octets()),
            RecordData::Srv { priority, weight, port, target } => {
                self.u16(*priority);
                self.u16(*weight);
                self.u16(*port);
                // RFC 2782: the target is not compressed; later names may point to it.
                self.name(target, false);
            }
            RecordData::Cname(name) | RecordData::Ns(name) | RecordData::Ptr(name) => self.name(name, true),
            RecordData::Txt(text) => {
                if text.is_empty() {
                    self.bytes.push(0);
                }
                for piece in text.chunks(TEXT_BYTES_MAX) {
                    self.bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
                    self.bytes.extend_from_slice(piece);
                }
            }
            RecordData::Soa(soa) => {
                self.name(&soa.primary, true);
                self.name(&soa.mailbox, true);
                for value in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    self.u32(value);
                }
            }
        }
    }
}
