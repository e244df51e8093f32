//! Plays many histories on all cores; tells a failing one as short as it can be, and how to play it again.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::mutants::{self, Mutant};
use super::panics::first_panic;
use super::seeds::Seeds;
use super::shrink::shrink;
use super::{log, say};

/// How long a failing history is shrunk.
const SHRINK_LIMIT: Duration = Duration::from_mins(1);
/// Every so many histories, one is played twice, to see that it is the same.
const REPEAT_INTERVAL: u64 = 32;

/// One kind of histories. What happens is planned from a seed, and every step of the plan can be left out.
pub(crate) trait Histories: Sync {
    /// One thing that happens. Meaningful in every history, whatever was left out before it.
    type Step: Clone + Debug + Send;

    /// What `cargo test` finds the test by.
    fn name(&self) -> &'static str;

    /// One history in so many of a run is fresh; the others have fixed seeds.
    fn fresh_one_in(&self) -> u64 {
        2
    }

    /// What shall happen.
    fn plan(&self, seed: u64) -> Vec<Self::Step>;

    /// Lets it happen, and panics when something is not as promised. Gives a number that is the same if and only if
    /// the same came of it; tells into `story`, if there is one.
    fn play(&self, seed: u64, steps: &[Self::Step], story: Option<&mut Vec<String>>) -> u64;
}

/// A history that failed.
struct Failure {
    seed: u64,
    message: String,
}

/// Plays `count` histories, or what the environment asks for (see [`crate::simulation`]).
#[track_caller]
pub(crate) fn explore<H: Histories>(kind: &H, count: u64) {
    let seeds = Seeds::of_environment(count, kind.fresh_one_in());
    log::start();
    let all = std::env::var_os("CDSIM_ALL").is_some();
    let begin = Instant::now();
    // Now, so that they are known if a history never ends.
    say(&format!("{}: histories {}", kind.name(), seeds.describe()));
    let (next, failed, found) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed)
                    && let number = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(seed) = seeds.get(number)
                {
                    let played = first_panic(|| {
                        let steps = kind.plan(seed);
                        let one = kind.play(seed, &steps, None);
                        if number % REPEAT_INTERVAL == 0 {
                            let again = kind.play(seed, &steps, None);
                            assert_eq!(one, again, "the same seed gave another history");
                        }
                    });
                    if let Err(message) = played {
                        failed.store(!all, Ordering::Relaxed);
                        found.lock().unwrap().push(Failure { seed, message });
                    }
                }
            });
        }
    });
    let played = next.load(Ordering::Relaxed).saturating_sub(threads as u64);
    let failures = found.into_inner().unwrap();
    if let [first, others @ ..] = &failures[..] {
        let others: String = others
            .iter()
            .map(|Failure { seed, message }| format!("\nseed {seed} fails: {message}"))
            .collect();
        panic!("{}{others}", report(kind, first));
    }
    say(&format!("{}: {played} histories, {:.1} s", kind.name(), begin.elapsed().as_secs_f64()));
}

/// Plays a history of a regression test.
#[track_caller]
pub(crate) fn replay<H: Histories>(kind: &H, seed: u64, steps: &[H::Step]) {
    kind.play(seed, steps, None);
}

/// Plants a fault and looks for the first of `count` histories that fails as such a fault makes it: with one of `phrases`
/// in its message. Whether there is one.
pub(crate) fn finds<H: Histories>(kind: &H, mutant: Mutant, phrases: &[&str], count: u64) -> bool {
    mutants::plant(Some(mutant));
    let found = (0..count).find_map(|seed| {
        let message = first_panic(|| kind.play(seed, &kind.plan(seed), None)).err()?;
        let fits = phrases.iter().any(|phrase| message.contains(phrase));
        fits.then(|| format!("seed {seed}: {message}"))
    });
    mutants::plant(None);
    let text = found.as_deref().unwrap_or("nothing found");
    say(&format!("{} with {mutant:?}: {text}", kind.name()));
    found.is_some()
}

fn report<H: Histories>(kind: &H, failure: &Failure) -> String {
    let Failure { seed, message } = failure;
    let planned = kind.plan(*seed);
    let fault = |steps: &[H::Step]| first_panic(|| kind.play(*seed, steps, None)).err();
    let name = kind.name();
    let mut lines = vec![
        format!("{name}: the history of seed {seed} fails: {message}"),
        format!("play it again: CDSIM_SEED={seed} cargo test --lib {name}"),
    ];
    if let Some(first) = fault(&planned) {
        // Something else may go wrong in a shorter one.
        let is_same =
            |steps: &[H::Step]| fault(steps).is_some_and(|other| place_of(&other) == place_of(&first));
        let steps = shrink(&planned, SHRINK_LIMIT, is_same);
        lines.push(format!("it still fails with {} of its {} steps:", steps.len(), planned.len()));
        let mut story = Vec::new();
        let end = first_panic(|| kind.play(*seed, &steps, Some(&mut story))).err();
        lines.extend(story.into_iter().map(|line| format!("  {line}")));
        lines.push(end.unwrap_or_default());
        lines.push(format!("as a regression test: {steps:?}"));
    } else {
        lines.push(
            "it did not fail when it was played again: something in it is not deterministic".to_owned(),
        );
    }
    lines.join("\n")
}

/// Where a check failed, which ends the message.
fn place_of(message: &str) -> &str {
    message.rsplit_once(" (").map_or(message, |(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::{Failure, Histories, report};
    use crate::simulation::chance::Chance;

    struct Counting;

    impl Histories for Counting {
        type Step = u8;

        fn name(&self) -> &'static str {
            "counting"
        }

        fn plan(&self, seed: u64) -> Vec<u8> {
            let mut chance = Chance::new(seed);
            (0..200).map(|_| chance.byte() % 10).collect()
        }

        fn play(&self, _seed: u64, steps: &[u8], mut story: Option<&mut Vec<String>>) -> u64 {
            let mut sevens = 0;
            for step in steps {
                if let Some(story) = &mut story {
                    story.push(format!("counts {step}"));
                }
                sevens += u64::from(*step == 7);
                assert!(sevens < 3, "three sevens");
            }
            sevens
        }
    }

    #[test]
    fn a_failing_history_is_shrunk_told_and_played_again_by_one_command() {
        let text = report(&Counting, &Failure { seed: 5, message: "three sevens".to_owned() });
        assert!(text.contains("CDSIM_SEED=5 cargo test --lib counting"), "{text}");
        assert!(text.contains("with 3 of its 200 steps"), "{text}");
        assert_eq!(text.matches("counts 7").count(), 3, "{text}");
        assert!(text.contains("[7, 7, 7]"), "{text}");
    }
}
