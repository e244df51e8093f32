//! Requests that the hot path does not understand, read with hickory: valid ones become questions, others errors.
//!
//! The only place that names hickory, besides tests. Its listeners are not used: they have no limit of connections
//! per client, and cannot pass a recursor's bytes through unchanged.

use std::net::SocketAddr;

use hickory_proto::op::{Edns as HickoryEdns, Message, OpCode, ResponseCode};
use hickory_proto::rr::DNSClass;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::model::dns::wire::{Edns, HEADER_BYTES, Head, question_end};
use crate::model::dns::{Name, Rcode, RecordType, Transport};

/// Most records that are added from a recursor for a client without EDNS (Consul's number).
const ADDED_RECORDS_MAX: usize = 5;
/// Our UDP size, told to a client that speaks another version of EDNS.
const UDP_BYTES: u16 = 1232;

/// What a request is.
#[derive(Debug)]
pub(super) enum Reading {
    /// A question that can be answered.
    Question(Head),
    /// A reply that says what is wrong.
    Error(Vec<u8>),
    /// Not a request at all: nothing is answered, or two servers might answer each other for ever.
    Noise,
}

/// Reads any request.
pub(super) fn read(
    bytes: &[u8],
    peer: SocketAddr,
    transport: Transport,
    recursion_available: bool,
) -> Reading {
    let is_response = bytes.get(2).is_none_or(|flags| flags & 0x80 != 0);
    if bytes.len() < HEADER_BYTES || is_response {
        return Reading::Noise;
    }
    let protocol = match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let Ok(request) = Request::from_bytes(bytes.to_vec(), peer, protocol) else {
        return error_reply(bytes, Rcode::FormErr).map_or(Reading::Noise, Reading::Error);
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(&request, ResponseCode::NotImp);
    }
    if request.version() > 0 {
        return refuse(&request, ResponseCode::BADVERS);
    }
    // Several questions: Consul answers the first.
    let Some(query) = request.queries.queries().first() else {
        return refuse(&request, ResponseCode::FormErr);
    };
    let query = query.original();
    if query.query_class() != DNSClass::IN {
        return refuse(&request, ResponseCode::Refused);
    }
    let Some(name) = Name::from_labels(query.name().iter()) else {
        return refuse(&request, ResponseCode::FormErr);
    };
    Reading::Question(Head {
        id: request.metadata.id,
        recursion_desired: request.metadata.recursion_desired,
        recursion_available,
        name,
        kind: RecordType(query.query_type().into()),
        edns: request
            .edns
            .as_ref()
            .map(|edns| Edns { size: edns.max_payload(), options: client_subnet(edns).unwrap_or_default() }),
    })
}

/// The client subnet option as it is sent back: scope 0, "this answer is for everybody" (RFC 7871 §7.2.1).
fn client_subnet(edns: &HickoryEdns) -> Option<Vec<u8>> {
    let EdnsOption::Subnet(subnet) = edns.option(EdnsCode::Subnet)? else { return None };
    let mut data = subnet.to_bytes().ok()?;
    *data.get_mut(3)? = 0;
    let mut option = vec![0, 8];
    option.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
    option.append(&mut data);
    Some(option)
}

fn refuse(request: &Request, code: ResponseCode) -> Reading {
    // hickory repeats questions byte by byte; a name in them may point into the header, which is another one in a reply.
    let bytes = request.as_slice();
    if bytes.get(4..6) != Some(&[0, 1]) || question_end(bytes).is_none() {
        return error_reply(bytes, Rcode::FormErr).map_or(Reading::Noise, Reading::Error);
    }
    let edns = request.edns.as_ref().map(|_| {
        let mut edns = HickoryEdns::new();
        edns.set_max_payload(UDP_BYTES);
        edns
    });
    let response =
        MessageResponseBuilder::new(&request.queries, edns.as_ref()).error_msg(&request.metadata, code);
    let mut bytes = Vec::new();
    let written = response.destructive_emit(&mut BinEncoder::new(&mut bytes));
    if written.is_ok() {
        return Reading::Error(bytes);
    }
    error_reply(request.as_slice(), Rcode::ServFail).map_or(Reading::Noise, Reading::Error)
}

/// A reply without records to bytes that may not be readable: the header and, if it is plain, the question.
pub(super) fn error_reply(request: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let header = request.get(..HEADER_BYTES).filter(|header| header[2] & 0x80 == 0)?;
    let question = question_end(request)
        .filter(|_| header[4..6] == [0, 1])
        .and_then(|end| request.get(HEADER_BYTES..end));
    // Opcode and RD are copied.
    let mut reply = vec![header[0], header[1], 0x80 | header[2] & 0b0111_1001, rcode as u8];
    reply.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    reply.extend_from_slice(question.unwrap_or_default());
    Some(reply)
}

/// Our answer, which ends in a CNAME, with the records that a recursor knows for its target.
pub(super) fn with_records_of(
    ours: &[u8],
    theirs: &[u8],
    has_edns: bool,
    bytes_max: usize,
) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(ours).ok()?;
    let added = Message::from_vec(theirs).ok()?;
    let records_max = if has_edns { usize::MAX } else { ADDED_RECORDS_MAX };
    let own = message.answers.len();
    message.answers.extend(added.answers.into_iter().take(records_max));
    loop {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= bytes_max || message.answers.len() <= own {
            return Some(bytes);
        }
        message.answers.pop();
    }
}
