//! Answers that were given before, ready to be sent: one cache per worker, so that nobody waits for a lock.
//!
//! An answer is as good as new while the catalog's version, or the index of its service, is the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::responder::{Basis, Responder};
use crate::model::dns::wire::{HEADER_BYTES, Query};
use crate::model::dns::{Outside, RecordType, Target, Transport};

/// Orders that are kept of one answer.
const ORDERS_MAX: usize = 4;
/// How often one order of a small answer is sent before a new one takes its place: clients take the first address.
const USES_MIN: u32 = 16;
/// The same for the largest answers.
const USES_MAX: u32 = 128;
/// An answer may be sent once more per so many bytes, because preparing costs time in proportion to its size.
const BYTES_PER_USE: usize = 16;
/// Most answers of one generation; two generations are kept.
const ANSWERS_MAX: usize = 16_384;
/// Most bytes of one generation of one worker.
const BYTES_MAX: usize = 4 << 20;
/// What an answer costs beside its bytes: keys, maps, lists.
const ANSWER_OVERHEAD_BYTES: usize = 256;

/// What became of a question.
pub(super) enum Served {
    /// The answer was appended.
    Answered,
    /// Not for a worker.
    Unusual,
}

struct Order {
    bytes: Vec<u8>,
    uses_left: u32,
}

impl Order {
    fn new(bytes: Vec<u8>) -> Self {
        let uses = u32::try_from(bytes.len() / BYTES_PER_USE).unwrap_or(USES_MAX);
        Self { bytes, uses_left: uses.clamp(USES_MIN, USES_MAX) }
    }
}

struct Entry {
    version: u64,
    basis: Basis,
    hidden: Arc<BTreeSet<Arc<str>>>,
    orders: Vec<Order>,
    next: usize,
}

/// Prepared answers by (name in lower case, type, EDNS size).
pub(super) struct Cache {
    responder: Arc<Responder>,
    young: HashMap<Box<[u8]>, Entry>,
    old: HashMap<Box<[u8]>, Entry>,
    young_bytes: usize,
    key: Vec<u8>,
}

impl Cache {
    pub(super) fn new(responder: Arc<Responder>) -> Self {
        Self { responder, young: HashMap::new(), old: HashMap::new(), young_bytes: 0, key: Vec::new() }
    }

    /// Appends the answer to a UDP question to `output`.
    pub(super) fn serve(&mut self, query: &Query<'_>, output: &mut Vec<u8>) -> Served {
        // Reverse questions search the whole catalog; that must not hold up a worker.
        if query.kind == RecordType::PTR {
            return Served::Unusual;
        }
        self.make_key(query);
        // Taken before the catalog is looked at, so that a change in between is noticed next time.
        let version = self.responder.replica.version();
        if !self.young.contains_key(self.key.as_slice())
            && let Some((key, entry)) = self.old.remove_entry(self.key.as_slice())
        {
            self.insert(key, entry);
        }
        if let Some(entry) = self.young.get_mut(self.key.as_slice())
            && is_current(entry, version, &self.responder)
        {
            entry.next = (entry.next + 1) % ORDERS_MAX;
            if let Some(order) = entry.orders.get_mut(entry.next)
                && order.uses_left > 0
            {
                order.uses_left -= 1;
                patch(query, &order.bytes, output);
                return Served::Answered;
            }
        }
        self.prepare(query, version, output)
    }

    fn prepare(&mut self, query: &Query<'_>, version: u64, output: &mut Vec<u8>) -> Served {
        let question = self.responder.question(&query.to_name(), query.kind);
        let is_ours = !matches!(question.target, Target::Outside | Target::Reverse(_));
        if !is_ours && self.responder.recursion {
            return Served::Unusual;
        }
        let hidden = self.responder.dead_nodes.load_full();
        let head = query.head(self.responder.recursion);
        let response = self.responder.respond(&question, head, Transport::Udp, rand::random());
        if response.outside != Outside::Nothing {
            return Served::Unusual;
        }
        output.extend_from_slice(&response.bytes);
        if !is_ours {
            return Served::Answered;
        }
        let size = response.bytes.len();
        let order = Order::new(response.bytes);
        match self.young.get_mut(self.key.as_slice()) {
            Some(entry) if entry.version == version => {
                if let Some(place) = entry.orders.get_mut(entry.next) {
                    *place = order;
                } else {
                    self.young_bytes += size;
                    entry.next = entry.orders.len();
                    entry.orders.push(order);
                }
            }
            _ => {
                let entry = Entry { version, basis: response.basis, hidden, orders: vec![order], next: 0 };
                self.insert(self.key.as_slice().into(), entry);
            }
        }
        Served::Answered
    }

    fn insert(&mut self, key: Box<[u8]>, entry: Entry) {
        let size = ANSWER_OVERHEAD_BYTES
            + key.len()
            + entry.orders.iter().map(|order| order.bytes.len()).sum::<usize>();
        if self.young.len() >= ANSWERS_MAX || self.young_bytes + size > BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += size;
        self.young.insert(key, entry);
    }

    fn make_key(&mut self, query: &Query<'_>) {
        self.key.clear();
        self.key.extend_from_slice(query.name);
        self.key.make_ascii_lowercase();
        self.key.extend_from_slice(&query.kind.0.to_be_bytes());
        if let Some(size) = query.edns {
            self.key.extend_from_slice(&size.to_be_bytes());
        }
    }
}

/// Whether a kept answer is still right; if only other things changed, it is marked as seen.
fn is_current(entry: &mut Entry, version: u64, responder: &Responder) -> bool {
    if entry.version == version {
        return true;
    }
    let Basis::Service { name, index } = &entry.basis else { return false };
    let is_same = responder.replica.load().service_index(name) == *index
        && Arc::ptr_eq(&entry.hidden, &responder.dead_nodes.load());
    if is_same {
        entry.version = version;
    }
    is_same
}

/// Sends a kept answer as one to this question: its id, its RD flag, its spelling.
fn patch(query: &Query<'_>, kept: &[u8], output: &mut Vec<u8>) {
    let start = output.len();
    output.extend_from_slice(kept);
    let message = &mut output[start..];
    message[..2].copy_from_slice(&query.id.to_be_bytes());
    message[2] = message[2] & !1 | u8::from(query.recursion_desired);
    message[HEADER_BYTES..HEADER_BYTES + query.name.len()].copy_from_slice(query.name);
}
