//! How much room the log has, and what may still be written: pure.
//!
//! A segment has its full length from the start, so what it has left is ours whatever else fills the disk. When the
//! next one cannot be made, that rest is all there is: first large writes are refused, then everything but what raft
//! itself must write (votes, marks, a new leader's first entry), for which a part is kept back. So a server with a
//! full disk remains a member that votes, answers and applies.

use std::sync::Arc;

/// The part of a segment that is kept back for raft itself: one in this many.
const RESERVE_PART: u64 = 4;

/// How much can still be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent::consensus) enum Room {
    /// The next segment is there, or it is not time yet.
    #[default]
    Enough,
    /// There is no next segment; this one has something left.
    Low,
    /// Only what raft itself must write still fits.
    Full,
    /// Something that raft wants to write does not fit, and waits.
    Stuck,
}

/// [`Room`] with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::agent::consensus) struct Space {
    pub(in crate::agent::consensus) room: Room,
    /// What the disk said, when there is not enough.
    pub(in crate::agent::consensus) why: Option<Arc<str>>,
}

/// The room of a segment of `capacity` bytes that is written up to `offset`, with or without a next one to come.
pub(super) fn room(capacity: u64, offset: u64, next: bool) -> Room {
    if next {
        Room::Enough
    } else if capacity.saturating_sub(offset) > capacity / RESERVE_PART {
        Room::Low
    } else {
        Room::Full
    }
}

#[cfg(test)]
mod tests {
    use super::{Room, room};

    #[test]
    fn a_quarter_of_the_last_segment_is_kept_for_raft_itself() {
        assert_eq!(room(8000, 7999, true), Room::Enough, "the next one is there");
        assert_eq!(room(8000, 4000, false), Room::Low);
        assert_eq!(room(8000, 5999, false), Room::Low);
        assert_eq!(room(8000, 6000, false), Room::Full);
        assert_eq!(room(8000, 9000, false), Room::Full);
    }
}
