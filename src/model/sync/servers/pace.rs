//! How fast servers may be replaced: a fault that kills machine after machine must not be fed with new ones.

use std::time::Duration;

use crate::model::catalog::{Departure, Purpose, ServerTable, Swap};

/// Pause after a replacement before the next: long enough for a newcomer that dies at once, or for a network that
/// comes and goes, to show (gossip takes three seconds to call a machine dead).
pub const COOL_DOWN: Duration = Duration::from_secs(10);
/// Replacements of dead servers in one hour. Five servers that all die once an hour are more than bad luck: then
/// something kills servers, and a person has to look.
pub const REPLACEMENTS_PER_HOUR_MAX: usize = 6;
/// The hour of that limit.
const HOUR: Duration = Duration::from_hours(1);

/// When the replacements in the log happened, by the steady clock of one leader.
///
/// The log has wall-clock times of several machines. They are turned into ages once, when a leader first sees them:
/// a clock that is wrong delays replacements by an hour at most and never lets more of them happen.
#[derive(Debug, Default)]
pub(super) struct Pace {
    known: Vec<Seen>,
}

/// A replacement, and how old it was when this leader saw it.
#[derive(Debug)]
struct Seen {
    swap: Swap,
    at: Duration,
    age: Duration,
}

impl Pace {
    /// Takes note of what the log has. `fresh`: this leader has just begun, so what it sees is older than it.
    pub(super) fn observe(&mut self, now: Duration, wall: u64, table: &ServerTable, fresh: bool) {
        self.known.retain(|seen| table.history.contains(&seen.swap));
        for swap in table.history.iter().filter(|swap| is_replacement(swap)) {
            if self.known.iter().any(|seen| seen.swap == *swap) {
                continue;
            }
            let age = if fresh {
                Duration::from_secs(wall.saturating_sub(swap.at)).min(HOUR)
            } else {
                Duration::ZERO
            };
            self.known.push(Seen { swap: swap.clone(), at: now, age });
        }
    }

    /// How long ago each replacement was.
    fn ages(&self, now: Duration) -> impl Iterator<Item = Duration> {
        self.known.iter().map(move |seen| seen.age.saturating_add(now.saturating_sub(seen.at)))
    }

    /// Why the next replacement has to wait, if it has to.
    pub(super) fn hold(&self, now: Duration) -> Option<String> {
        if let Some(last) = self.ages(now).min().filter(|age| *age < COOL_DOWN) {
            let rest = COOL_DOWN.saturating_sub(last).as_secs() + 1;
            return Some(format!("the last replacement has just happened: the next in {rest}s"));
        }
        let recent = self.ages(now).filter(|age| *age < HOUR).count();
        (recent >= REPLACEMENTS_PER_HOUR_MAX).then(|| {
            format!(
                "{recent} servers were replaced within the last hour, which is the limit: see what kills them, or \
                 order the replacement"
            )
        })
    }
}

fn is_replacement(swap: &Swap) -> bool {
    matches!(swap.purpose, Purpose::Replace { why: Departure::Dead, .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{COOL_DOWN, HOUR, Pace, REPLACEMENTS_PER_HOUR_MAX};
    use crate::model::catalog::{Departure, Purpose, ServerTable, Swap};

    fn swap(number: u64, at: u64) -> Swap {
        let purpose = Purpose::Replace { id: number, node: format!("n{number}"), why: Departure::Dead };
        Swap { node: format!("c{number}"), purpose, at }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn after_a_replacement_comes_a_pause_and_after_many_a_long_one() {
        let mut pace = Pace::default();
        let mut table = ServerTable::default();
        assert_eq!(pace.hold(seconds(0)), None);
        let mut now = seconds(100);
        for number in 0..REPLACEMENTS_PER_HOUR_MAX as u64 {
            assert_eq!(pace.hold(now), None, "replacement {number}");
            table.history.push(swap(number, 1000));
            pace.observe(now, 1000, &table, false);
            assert!(pace.hold(now).unwrap().contains("just happened"));
            now += COOL_DOWN;
        }
        assert!(pace.hold(now).unwrap().contains("within the last hour"));
        assert_eq!(pace.hold(seconds(100) + HOUR), None);
    }

    #[test]
    fn a_new_leader_knows_what_the_one_before_did_and_no_clock_makes_it_faster() {
        for (wall, held) in [(1005, true), (1010, false), (900, true), (0, true)] {
            let mut pace = Pace::default();
            let table = ServerTable { history: vec![swap(1, 1000)], ..ServerTable::default() };
            pace.observe(seconds(0), wall, &table, true);
            assert_eq!(pace.hold(seconds(0)).is_some(), held, "wall clock {wall}");
            assert_eq!(pace.hold(COOL_DOWN), None, "wall clock {wall}");
        }
    }
}
