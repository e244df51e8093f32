//! The bytes of the log: records, and frames that hold one group commit each.
//!
//! Pure. A frame is `length u32 | checksum u32 | ordinal u64 | records`, little endian, and begins at a
//! multiple of [`ALIGNMENT`]. A frame is written only after the one before it is on disk; so after a crash at
//! most the last frame is broken, and a broken frame with a whole one behind it is damage. Soon after the last
//! frame a *seal* follows, a frame of marks at the next sector, so that the last one that matters has a whole one
//! behind it too. The checksum is seeded with a random salt of the segment: no value that a user stores can look
//! like a frame.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;

use crate::agent::consensus::types::{Entry, LogId, Proposal, Vote};
use crate::agent::rpc::decode as decode_value;

/// Frames begin at multiples of this many bytes, so that the search behind a broken one is short.
pub(super) const ALIGNMENT: usize = 8;
/// Bytes before the records of a frame.
pub(super) const FRAME_HEADER_BYTES: usize = 16;

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_COMMITTED: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;
const KIND_CHECKPOINT: u8 = 6;

const PAYLOAD_BLANK: u8 = 0;
const PAYLOAD_COMMAND: u8 = 1;
const PAYLOAD_MEMBERSHIP: u8 = 2;

/// One fact of the log, in the order in which it became true.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// An entry, one behind the last.
    Entry(Entry),
    /// The vote of this node.
    Vote(Vote),
    /// What is known to be committed; saves work after a restart, nothing depends on it.
    Committed(LogId),
    /// Entries behind this one are gone (a leader overruled them).
    Truncate(Option<LogId>),
    /// Entries up to this one are gone (a snapshot holds them).
    Purge(LogId),
    /// Repeats the marks at the start of a segment, so that older segments can be removed.
    Checkpoint(Marks),
}

/// The latest of each mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
}

/// Why bytes with a right checksum could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// The record ends early; the writer was faulty.
    #[error("a record ends early")]
    Short,
    /// Written by a later version.
    #[error("unknown record kind {0}")]
    Kind(u8),
    /// The membership of an entry cannot be read.
    #[error("unreadable membership: {0}")]
    Membership(String),
}

/// Appends an empty frame header to `buffer`; records follow, then [`finish_frame`].
pub(super) fn begin_frame(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(FRAME_HEADER_BYTES, 0);
}

/// Fills in the header of the frame that `buffer` holds.
///
/// # Errors
/// When the frame is 4 GiB or longer.
pub(super) fn finish_frame(
    buffer: &mut [u8],
    ordinal: u64,
    salt: u64,
) -> Result<(), std::num::TryFromIntError> {
    let length = u32::try_from(buffer.len() - FRAME_HEADER_BYTES)?;
    buffer[0..4].copy_from_slice(&length.to_le_bytes());
    buffer[8..16].copy_from_slice(&ordinal.to_le_bytes());
    let checksum = checksum(salt, length, &buffer[8..]);
    buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

fn checksum(salt: u64, length: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// A whole frame found in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) ordinal: u64,
    pub(super) records: &'a [u8],
}

impl Frame<'_> {
    /// Bytes up to where the next frame begins.
    pub(super) fn span(&self) -> usize {
        (FRAME_HEADER_BYTES + self.records.len()).next_multiple_of(ALIGNMENT)
    }
}

/// The frame at the start of `bytes`, if a whole and undamaged one is there.
pub(super) fn frame_at(bytes: &[u8], salt: u64) -> Option<Frame<'_>> {
    let mut reader = Reader(bytes);
    let length = reader.u32().ok()?;
    let want = reader.u32().ok()?;
    let ordinal = reader.u64().ok()?;
    let records = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.checked_add(length as usize)?)?;
    // No frame is empty: a stretch of zeros must not pass.
    if records.is_empty() {
        return None;
    }
    let rest = &bytes[8..FRAME_HEADER_BYTES + records.len()];
    (checksum(salt, length, rest) == want).then_some(Frame { ordinal, records })
}

/// Appends one record.
///
/// # Errors
/// When a membership cannot be encoded or a payload is 4 GiB or longer.
pub(super) fn encode(record: &Record, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    match record {
        Record::Entry(entry) => return encode_entry(entry, buffer),
        Record::Vote(vote) => {
            buffer.push(KIND_VOTE);
            put_vote(buffer, vote);
        }
        Record::Committed(log_id) => {
            buffer.push(KIND_COMMITTED);
            put_log_id(buffer, log_id);
        }
        Record::Truncate(log_id) => {
            buffer.push(KIND_TRUNCATE);
            put_optional(buffer, log_id.as_ref(), put_log_id);
        }
        Record::Purge(log_id) => {
            buffer.push(KIND_PURGE);
            put_log_id(buffer, log_id);
        }
        Record::Checkpoint(marks) => {
            buffer.push(KIND_CHECKPOINT);
            put_optional(buffer, marks.vote.as_ref(), put_vote);
            put_optional(buffer, marks.committed.as_ref(), put_log_id);
            put_optional(buffer, marks.purged.as_ref(), put_log_id);
        }
    }
    Ok(())
}

/// Appends an entry without taking it: the hot path.
///
/// # Errors
/// As [`encode`].
pub(super) fn encode_entry(entry: &Entry, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    let membership;
    let (kind, payload): (u8, &[u8]) = match &entry.payload {
        EntryPayload::Blank => (PAYLOAD_BLANK, &[]),
        EntryPayload::Normal(proposal) => (PAYLOAD_COMMAND, &proposal.0),
        EntryPayload::Membership(value) => {
            membership = rmp_serde::to_vec_named(value).map_err(std::io::Error::other)?;
            (PAYLOAD_MEMBERSHIP, &membership)
        }
    };
    let length = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
    buffer.push(KIND_ENTRY);
    put_log_id(buffer, &entry.log_id);
    buffer.push(kind);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(payload);
    Ok(())
}

fn put_log_id(buffer: &mut Vec<u8>, log_id: &LogId) {
    buffer.extend_from_slice(&log_id.leader_id.term.to_le_bytes());
    buffer.extend_from_slice(&log_id.index.to_le_bytes());
}

fn put_vote(buffer: &mut Vec<u8>, vote: &Vote) {
    buffer.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    buffer.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    buffer.push(u8::from(vote.committed));
}

fn put_optional<T>(buffer: &mut Vec<u8>, value: Option<&T>, put: fn(&mut Vec<u8>, &T)) {
    buffer.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(buffer, value);
    }
}

/// All records of a frame, in order.
///
/// # Errors
/// See [`DecodeError`].
pub(super) fn decode(records: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let mut reader = Reader(records);
    let mut decoded = Vec::new();
    while !reader.0.is_empty() {
        decoded.push(reader.record()?);
    }
    Ok(decoded)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.bytes(N)?.try_into().map_err(|_| DecodeError::Short)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn log_id(&mut self) -> Result<LogId, DecodeError> {
        let term = self.u64()?;
        Ok(LogId::new_term_index(term, self.u64()?))
    }

    fn vote(&mut self) -> Result<Vote, DecodeError> {
        let leader_id = LeaderId { term: self.u64()?, voted_for: self.u64()? };
        Ok(Vote { leader_id, committed: self.u8()? != 0 })
    }

    fn optional<T>(
        &mut self,
        read: fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        Ok(if self.u8()? == 0 { None } else { Some(read(self)?) })
    }

    fn record(&mut self) -> Result<Record, DecodeError> {
        Ok(match self.u8()? {
            KIND_ENTRY => Record::Entry(self.entry()?),
            KIND_VOTE => Record::Vote(self.vote()?),
            KIND_COMMITTED => Record::Committed(self.log_id()?),
            KIND_TRUNCATE => Record::Truncate(self.optional(Self::log_id)?),
            KIND_PURGE => Record::Purge(self.log_id()?),
            KIND_CHECKPOINT => Record::Checkpoint(Marks {
                vote: self.optional(Self::vote)?,
                committed: self.optional(Self::log_id)?,
                purged: self.optional(Self::log_id)?,
            }),
            other => return Err(DecodeError::Kind(other)),
        })
    }

    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let log_id = self.log_id()?;
        let kind = self.u8()?;
        let length = self.u32()? as usize;
        let payload = self.bytes(length)?;
        let payload = match kind {
            PAYLOAD_BLANK => EntryPayload::Blank,
            PAYLOAD_COMMAND => EntryPayload::Normal(Proposal(Bytes::copy_from_slice(payload))),
            PAYLOAD_MEMBERSHIP => EntryPayload::Membership(
                decode_value(payload).map_err(|error| DecodeError::Membership(error.to_string()))?,
            ),
            other => return Err(DecodeError::Kind(other)),
        };
        Ok(Entry { log_id, payload })
    }
}
