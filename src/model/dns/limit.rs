//! Cuts an answer to what its client can take, as Consul does.

use std::collections::HashSet;

use super::answer::Answer;
use super::policy::{Policy, UDP_ANSWERS_MAX};
use super::record::{Record, RecordType};
use super::wire::{Head, encode};

/// Bytes over UDP to a client without EDNS (RFC 1035 §2.3.4).
const UDP_BYTES: usize = 512;
/// Most bytes of a UDP answer that Consul gives, whatever the client announces.
const UDP_BYTES_MAX: usize = 65_467;
/// Kept free in a UDP answer: the UDP header, which Consul counts in.
const UDP_HEADER_BYTES: usize = 8;
/// Most bytes of a TCP answer: what 16 bits of length allow, less what Consul keeps free.
const TCP_BYTES_MAX: usize = 65_523;
/// More address records than this never fit into a TCP answer.
const TCP_ANSWERS_MAX: usize = 4096;
/// More SRV records than this never fit into a TCP answer.
const TCP_SRV_ANSWERS_MAX: usize = 1024;

/// How the client asked. Over UDP the size it announced is in the [`Head`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
}

/// Most bytes of an answer over `transport` to a client that announced `edns`.
pub fn bytes_max(transport: Transport, edns: Option<u16>) -> usize {
    match transport {
        Transport::Udp => edns.map_or(UDP_BYTES, |size| usize::from(size).clamp(UDP_BYTES, UDP_BYTES_MAX)),
        Transport::Tcp => TCP_BYTES_MAX,
    }
}

/// Cuts an answer to the limits of policy, client and transport, and writes it.
pub fn fit(answer: &mut Answer, head: &Head, transport: Transport, policy: &Policy) -> Vec<u8> {
    limit_addresses(answer, policy.a_record_limit);
    let before = answer.answers.len();
    let bytes = bytes_max(transport, head.edns.as_ref().map(|edns| edns.size));
    let is_small = transport == Transport::Udp && bytes == UDP_BYTES;
    let (count_max, bytes_max) = match transport {
        Transport::Udp if is_small => {
            (policy.udp_answer_limit.min(UDP_ANSWERS_MAX), bytes - UDP_HEADER_BYTES)
        }
        Transport::Udp => (usize::MAX, bytes - UDP_HEADER_BYTES),
        Transport::Tcp if head.kind == RecordType::SRV => (TCP_SRV_ANSWERS_MAX, TCP_BYTES_MAX),
        Transport::Tcp => (TCP_ANSWERS_MAX, TCP_BYTES_MAX),
    };
    // Without EDNS there may be old software on the way that does not compress: measured in full.
    let measure_compressed = !is_small && !policy.disable_compression;
    let measure = |answer: &Answer| encode(answer, head, measure_compressed).len();

    if answer.answers.len() > count_max {
        answer.answers.truncate(count_max);
        drop_unreferenced(answer);
    }
    if measure_compressed {
        // The usual case costs one encoding.
        let message = encode(answer, head, true);
        if message.len() <= bytes_max {
            return message_of(answer, head, before, policy, message);
        }
    }
    if measure(answer) > bytes_max {
        answer.authority.clear();
        cut_answers(answer, |candidate| measure(candidate) <= bytes_max);
        while measure(answer) > bytes_max && answer.additional.pop().is_some() {}
    }
    let message = encode(answer, head, !policy.disable_compression);
    if message.len() > bytes_max + UDP_HEADER_BYTES && !answer.answers.is_empty() {
        // Not even one record fits: only TCP can help.
        answer.answers.clear();
        answer.truncated = true;
        return encode(answer, head, !policy.disable_compression);
    }
    message_of(answer, head, before, policy, message)
}

/// The message, with its TC flag if policy wants it told that fewer than `before` answers are left.
fn message_of(answer: &mut Answer, head: &Head, before: usize, policy: &Policy, message: Vec<u8>) -> Vec<u8> {
    if policy.enable_truncate && answer.answers.len() < before {
        answer.truncated = true;
        return encode(answer, head, !policy.disable_compression);
    }
    message
}

/// Leaves as many answers as fit, at least one, with the additional records they need.
fn cut_answers(answer: &mut Answer, fits: impl Fn(&Answer) -> bool) {
    if answer.answers.len() <= 1 || fits(answer) {
        return;
    }
    let all = answer.clone();
    let first = |count: usize| {
        let mut candidate = all.clone();
        candidate.answers.truncate(count);
        drop_unreferenced(&mut candidate);
        candidate
    };
    let (mut low, mut high) = (1, all.answers.len());
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if fits(&first(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    *answer = first(low);
}

fn limit_addresses(answer: &mut Answer, limit: usize) {
    if limit == 0 {
        return;
    }
    let mut count = 0;
    answer.answers.retain(|record| {
        count += usize::from(record.data.is_address_like());
        !record.data.is_address_like() || count <= limit
    });
}

/// Drops additional records that no remaining record leads to.
fn drop_unreferenced(answer: &mut Answer) {
    let key = |record: &Record| record.data.target().map(|name| name.as_wire().to_ascii_lowercase());
    let mut wanted: HashSet<Vec<u8>> =
        answer.answers.iter().chain(&answer.authority).filter_map(key).collect();
    loop {
        let more: Vec<_> = answer
            .additional
            .iter()
            .filter(|record| wanted.contains(&record.name.as_wire().to_ascii_lowercase()))
            .filter_map(key)
            .filter(|name| !wanted.contains(name))
            .collect();
        if more.is_empty() {
            break;
        }
        wanted.extend(more);
    }
    answer.additional.retain(|record| wanted.contains(&record.name.as_wire().to_ascii_lowercase()));
}
