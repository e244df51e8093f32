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

/// For how long the replacements in the log have been known here, by a steady clock.
///
/// The log has wall-clock times of several machines, and they are for people: any clock may be hours or years away from
/// the one that reads them. So a replacement is as old as this process has known it; every server looks while it follows,
/// to know when it leads. Where that is wrong (it was started a moment ago), replacements wait for an hour at most, and
/// never happen faster.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Each with the time at which it was first seen.
    known: Vec<(Swap, Duration)>,
}

impl Pace {
    /// Takes note of what the log has.
    pub(super) fn observe(&mut self, now: Duration, table: &ServerTable) {
        self.known.retain(|(swap, _)| table.history.contains(swap));
        for swap in table.history.iter().filter(|swap| is_replacement(swap)) {
            if self.known.iter().all(|(known, _)| known != swap) {
                self.known.push((swap.clone(), now));
            }
        }
    }

    /// How long ago each replacement was, at least.
    fn ages(&self, now: Duration) -> impl Iterator<Item = Duration> {
        self.known.iter().map(move |(_, at)| now.saturating_sub(*at))
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
            pace.observe(now, &table);
            assert!(pace.hold(now).unwrap().contains("just happened"));
            now += COOL_DOWN;
        }
        assert!(pace.hold(now).unwrap().contains("within the last hour"));
        assert_eq!(pace.hold(seconds(100) + HOUR), None);
    }

    #[test]
    fn a_leader_counts_only_the_time_that_it_has_seen_pass_whatever_the_clocks_say() {
        // The wall clocks of the leaders before: years behind, about right, hours and years ahead.
        for wall in [0, 1000, 1000 + 7200, u64::MAX] {
            let history = (0..REPLACEMENTS_PER_HOUR_MAX as u64).map(|number| swap(number, wall)).collect();
            let table = ServerTable { history, ..ServerTable::default() };
            let mut follower = Pace::default();
            follower.observe(seconds(0), &table);
            let began = seconds(3599);
            let mut starter = Pace::default();
            starter.observe(began, &table);
            for pace in [&mut follower, &mut starter] {
                pace.observe(began + COOL_DOWN / 2, &table);
            }
            let why = starter.hold(began + COOL_DOWN).unwrap();
            assert!(why.contains("within the last hour"), "wall clock {wall}: {why}");
            assert!(starter.hold(began + seconds(3599)).is_some(), "wall clock {wall}");
            assert_eq!(starter.hold(began + HOUR), None, "wall clock {wall}");
            assert!(follower.hold(began).is_some(), "wall clock {wall}");
            assert_eq!(follower.hold(HOUR), None, "wall clock {wall}: it has known for an hour");
        }
    }

    #[test]
    fn a_new_leader_pauses_after_what_the_one_before_did_last() {
        let mut pace = Pace::default();
        let table = ServerTable { history: vec![swap(1, 1000)], ..ServerTable::default() };
        pace.observe(seconds(5), &table);
        assert!(pace.hold(seconds(6)).unwrap().contains("just happened"));
        assert_eq!(pace.hold(seconds(5) + COOL_DOWN), None);
    }
}
