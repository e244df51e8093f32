//! For `crate::fuzz`: any bytes as a segment of the log.

use super::record::{FRAME_HEADER_BYTES, begin_frame, decode, encode, finish_frame};
use super::recovery::Content;
use super::segment::{HEADER_BYTES, scan};

const SALT: u64 = 7;

/// The bytes as a segment, and as the records of a frame whose checksum is right. What was read is written the same.
pub(crate) fn segment(bytes: &[u8]) {
    read(bytes);
    let mut framed = Vec::new();
    begin_frame(&mut framed);
    framed.extend_from_slice(bytes);
    if !bytes.is_empty() && finish_frame(&mut framed, 1, SALT).is_ok() {
        let mut segment = vec![0; HEADER_BYTES];
        segment.extend_from_slice(&framed);
        read(&segment);
    }
    if let Ok(records) = decode(bytes) {
        let mut again = Vec::new();
        for record in &records {
            encode(record, &mut again).expect("what was read can be written");
        }
        assert_eq!(decode(&again).as_ref(), Ok(&records));
    }
}

fn read(segment: &[u8]) {
    let scan = scan(segment, SALT, None);
    let mut content = Content::default();
    let mut end = HEADER_BYTES;
    for (start, frame) in &scan.frames {
        assert!(*start >= end && frame.records.len() + FRAME_HEADER_BYTES <= frame.span());
        end = start + frame.span();
        let Ok(records) = decode(frame.records) else { return };
        if records.into_iter().try_for_each(|record| content.replay(record)).is_err() {
            return;
        }
    }
    assert_eq!(scan.end, end);
}

/// Records as they are written, and a segment with them.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use super::record::{Marks, Record};
    use crate::agent::consensus::types::{Entry, LogId, Proposal, Vote};
    use openraft::EntryPayload;
    use openraft::impls::leader_id_std::LeaderId;

    let at = |index| LogId::new_term_index(1, index);
    let vote = Vote { leader_id: LeaderId { term: 1, voted_for: 2 }, committed: true };
    let marks = Marks { vote: Some(vote), committed: Some(at(1)), purged: None };
    let membership = openraft::Membership::new_with_defaults(vec![[2].into()], [2]);
    let records = [
        Record::Checkpoint(marks),
        Record::Vote(vote),
        Record::Entry(Entry { log_id: at(0), payload: EntryPayload::Membership(membership) }),
        Record::Entry(Entry { log_id: at(1), payload: EntryPayload::Blank }),
        Record::Entry(Entry {
            log_id: at(2),
            payload: EntryPayload::Normal(Proposal(bytes::Bytes::from_static(b"command"))),
        }),
        Record::Committed(at(1)),
        Record::Truncate(Some(at(1))),
        Record::Truncate(None),
        Record::Purge(at(1)),
    ];
    let mut all = Vec::new();
    let mut seeds = Vec::new();
    for record in &records {
        let mut one = Vec::new();
        encode(record, &mut one).unwrap();
        all.extend_from_slice(&one);
        seeds.push(one);
    }
    let mut frame = Vec::new();
    begin_frame(&mut frame);
    frame.extend_from_slice(&all);
    finish_frame(&mut frame, 1, SALT).unwrap();
    let mut segment = vec![0; HEADER_BYTES];
    segment.extend_from_slice(&frame);
    segment.resize(segment.len().next_multiple_of(8), 0);
    finish_frame(&mut frame, 2, SALT).unwrap();
    segment.extend_from_slice(&frame);
    seeds.extend([all, segment]);
    seeds
}
