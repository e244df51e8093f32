//! When deletes of keys may be forgotten: after so long, no blocking query can still wait for what they tell.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::catalog::Command;

/// How long a delete is remembered, in time of one leadership (Consul's `tombstone_ttl`). Longer than the longest
/// blocking query (10 minutes and a sixteenth).
const TOMBSTONE_AGE: Duration = Duration::from_mins(15);
/// Least time between two observations, which is how exact the age is.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(30);

/// Which index there was when.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    /// Oldest first; at most [`TOMBSTONE_AGE`] / [`OBSERVE_INTERVAL`] are kept, and what is due.
    observed: VecDeque<(Instant, u64)>,
}

impl Tombstones {
    /// Takes note of the catalog's index at `now`.
    pub(super) fn observe(&mut self, now: Instant, index: u64) {
        let is_early = self.observed.back().is_some_and(|(at, _)| now < *at + OBSERVE_INTERVAL);
        if !is_early {
            self.observed.push_back((now, index));
        }
        // Without tombstones nobody asks what is due: of all that is old, only the newest counts.
        while self.observed.get(1).is_some_and(|(at, _)| *at + TOMBSTONE_AGE <= now) {
            self.observed.pop_front();
        }
    }

    /// The command that forgets the deletes that are old enough, once for each observation.
    pub(super) fn due(&mut self, now: Instant) -> Option<Command> {
        let (at, index) = *self.observed.front()?;
        if now < at + TOMBSTONE_AGE {
            return None;
        }
        self.observed.pop_front();
        Some(Command::KvReap { before: index + 1 })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Tombstones;
    use crate::model::catalog::Command;

    #[test]
    fn deletes_are_forgotten_a_quarter_of_an_hour_later() {
        let start = Instant::now();
        let minute = |number: u64| start + Duration::from_mins(number);
        let mut tombstones = Tombstones::default();
        for number in 0..=14 {
            tombstones.observe(minute(number), number * 10);
            assert_eq!(tombstones.due(minute(number)), None);
        }
        tombstones.observe(minute(15), 150);
        assert_eq!(tombstones.due(minute(15)), Some(Command::KvReap { before: 1 }));
        assert_eq!(tombstones.due(minute(15)), None);
        tombstones.observe(minute(18), 180);
        assert_eq!(tombstones.due(minute(18)), Some(Command::KvReap { before: 31 }));
    }
}
