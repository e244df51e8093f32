//! How fast servers may be replaced: a fault that kills machine after machine must not be fed with new ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::catalog::{Departure, Purpose, ServerTable, Swap};

/// Pause after a replacement before the next: long enough for a newcomer that dies at once, or for a network that
/// comes and goes, to show (gossip takes three seconds to call a machine dead).
pub const COOL_DOWN: Duration = Duration::from_secs(10);
/// Replacements of dead servers in one hour. Five servers that all die once an hour are more than bad luck: then
/// something kills servers, and a person has to look.
pub const REPLACEMENTS_PER_HOUR_MAX: usize = 6;
/// The hour of that limit.
const HOUR: Duration = Duration::from_hours(1);

/// A replacement of a dead server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// As the log has it.
    pub swap: Swap,
    /// How long ago it was, at least.
    pub age_ms: u64,
}

/// For how long the replacements in the log have been known, by steady clocks.
///
/// The log has wall-clock times of several machines, and they are for people: any clock may be hours or years away from
/// the one that reads them. So a replacement is as old as this process has known it, or as a leader said that it was; every
/// server looks and asks while it follows, to know when it leads. Where nobody has known it for long (all servers were
/// started a moment ago), replacements wait for an hour at most, and never happen faster.
#[derive(Debug, Default)]
pub(super) struct Pace {
    known: Vec<Known>,
}

/// A replacement, and how old it was at some time of ours.
#[derive(Debug)]
struct Known {
    swap: Swap,
    at: Duration,
    age: Duration,
}

impl Known {
    fn age(&self, now: Duration) -> Duration {
        self.age.saturating_add(now.saturating_sub(self.at))
    }
}

impl Pace {
    /// Takes note of what the log has.
    pub(super) fn observe(&mut self, now: Duration, table: &ServerTable) {
        self.known.retain(|known| table.history.contains(&known.swap));
        for swap in table.history.iter().filter(|swap| is_replacement(swap)) {
            if self.known.iter().all(|known| known.swap != *swap) {
                self.known.push(Known { swap: swap.clone(), at: now, age: Duration::ZERO });
            }
        }
    }

    /// What there is to say to a server that has known them for a shorter time.
    pub(super) fn tell(&self, now: Duration) -> Vec<Replacement> {
        let told = self.known.iter().map(|known| {
            let age_ms = u64::try_from(known.age(now).as_millis()).unwrap_or(u64::MAX);
            Replacement { swap: known.swap.clone(), age_ms }
        });
        told.collect()
    }

    /// Takes over what a leader has said a moment ago; false while our log does not have all of it.
    pub(super) fn learn(&mut self, now: Duration, told: &[Replacement]) -> bool {
        let mut all_known = true;
        for told in told {
            let Some(known) = self.known.iter_mut().find(|known| known.swap == told.swap) else {
                all_known = false;
                continue;
            };
            let age = Duration::from_millis(told.age_ms);
            if age > known.age(now) {
                (known.at, known.age) = (now, age);
            }
        }
        all_known
    }

    /// How long ago each replacement was, at least.
    fn ages(&self, now: Duration) -> impl Iterator<Item = Duration> {
        self.known.iter().map(move |known| known.age(now))
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
                "{recent} servers were replaced within the last hour, as far as the servers know, which is the limit: see \
                 what kills them, or order the replacement"
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
    fn a_server_that_starts_learns_from_the_leader_how_long_ago_replacements_were_and_never_that_it_was_later()
     {
        let history = (0..REPLACEMENTS_PER_HOUR_MAX as u64).map(|number| swap(number, 1000)).collect();
        let table = ServerTable { history, ..ServerTable::default() };
        let (mut leader, mut starter) = (Pace::default(), Pace::default());
        leader.observe(seconds(10), &table);
        let told = leader.tell(seconds(10 + 3600 - 60));
        assert!(!starter.learn(seconds(0), &told), "its log does not have them yet");
        starter.observe(seconds(1), &table);
        assert!(starter.learn(seconds(1), &told));
        assert!(starter.hold(seconds(60)).is_some());
        assert_eq!(starter.hold(seconds(61)), None, "an hour after the last");
        assert!(starter.learn(seconds(61), &leader.tell(seconds(11))));
        assert_eq!(starter.hold(seconds(61)), None, "who knows less changes nothing");
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
