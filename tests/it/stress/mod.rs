//! Membership under stress: who dies is noticed in time, who is only slow is not declared dead.
//!
//! Each test has a short form; `make soak` runs the long one, with the numbers that docs/guarantees.md holds.

mod crowd;
mod deaths;
mod starvation;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::chance::soak;

/// How often the machine itself is measured.
const PULSE: Duration = Duration::from_millis(20);
/// A wake-up and a sync to disk take no longer than this on a machine that is not overrun.
const PULSE_LATE: Duration = Duration::from_millis(20);
/// Share of the measured time that may be lost: with more, it is the subtraction that passes and not the cluster.
const LOST_MAX: f64 = 0.2;

/// A clock that stands still while the machine gives nobody the processor or the disk: what is measured is the
/// cluster, and not what else the machine has to do.
struct FairClock {
    stop: Arc<AtomicBool>,
    /// Milliseconds that were lost since the start.
    lost: Arc<AtomicU64>,
}

impl FairClock {
    fn start() -> Self {
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut file = tempfile::tempfile().unwrap();
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&lost));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                std::thread::park_timeout(PULSE);
                file.write_all(b".").unwrap();
                file.sync_data().unwrap();
                let late = began.elapsed().saturating_sub(PULSE + PULSE_LATE);
                counter.fetch_add(u64::try_from(late.as_millis()).unwrap(), Ordering::Relaxed);
            }
        });
        Self { stop, lost }
    }

    /// What was lost until now.
    fn lost(&self) -> Duration {
        Duration::from_millis(self.lost.load(Ordering::Relaxed))
    }
}

impl Drop for FairClock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How long something took, and how much of that the machine was lost to others.
#[derive(Debug, Clone, Copy)]
struct Measured {
    raw: Duration,
    lost: Duration,
}

impl Measured {
    /// What `clock` has lost since it had lost `before` is not the cluster's.
    fn new(raw: Duration, clock: &FairClock, before: Duration) -> Self {
        Self { raw, lost: clock.lost().saturating_sub(before).min(raw) }
    }

    fn fair(self) -> Duration {
        self.raw.saturating_sub(self.lost)
    }
}

/// Fails unless 99 of 100 times are within `bound`; of fewer than a hundred, one may be later: this machine has other
/// things to do, and one lost turn of the processor is not a slow cluster.
#[track_caller]
fn assert_99_of_100_within(bound: Duration, what: &str, times: &[Measured]) {
    let allowed = (times.len() / 100).max(1);
    let sorted = |of: fn(Measured) -> Duration| {
        let mut sorted: Vec<Duration> = times.iter().copied().map(of).collect();
        sorted.sort();
        sorted
    };
    let counted = |sorted: &[Duration]| sorted[sorted.len() - 1 - allowed];
    let (fair, raw) = (sorted(Measured::fair), sorted(|time| time.raw));
    let lost: Duration = times.iter().map(|time| time.lost).sum();
    let measured: Duration = raw.iter().sum();
    let text = format!(
        "{what}, {} times: half within {:.2?}, all but {allowed} within {:.2?} ({:.2?} with the time that was lost), \
         worst {:.2?}; {lost:.2?} of {measured:.2?} were lost",
        times.len(),
        fair[fair.len() / 2],
        counted(&fair),
        counted(&raw),
        fair[fair.len() - 1],
    );
    assert_not_too_busy(lost, measured, &text);
    assert!(counted(&fair) <= bound, "{text}; the bound is {bound:?}");
    tell(&text);
}

/// The long form judges only what was measured on a machine that had time for it.
#[track_caller]
fn assert_not_too_busy(lost: Duration, measured: Duration, text: &str) {
    let judged = soak().is_none() || lost <= measured.mul_f64(LOST_MAX);
    assert!(judged, "this machine was too busy with other things to judge the cluster: {text}");
}

/// Shown by `cargo test -- --nocapture`, and so by `make soak`.
#[allow(clippy::print_stdout, reason = "the results of long runs are their output")]
fn tell(text: &str) {
    println!("{text}");
}
