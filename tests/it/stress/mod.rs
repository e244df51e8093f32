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

/// How often the machine itself is measured.
const PULSE: Duration = Duration::from_millis(20);
/// A wake-up and a sync to disk take no longer than this on a machine that is not overrun.
const PULSE_LATE: Duration = Duration::from_millis(20);

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

/// Fails unless 99 of 100 times are within `bound`; of fewer than a hundred, one may be later: this machine has other
/// things to do, and one lost turn of the processor is not a slow cluster.
#[track_caller]
fn assert_99_of_100_within(bound: Duration, what: &str, mut times: Vec<Duration>) {
    times.sort();
    let allowed = (times.len() / 100).max(1);
    let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let counted = times[times.len() - 1 - allowed];
    let text = format!(
        "{what}, {} times: half within {middle:.2?}, all but {allowed} within {counted:.2?}, worst {worst:.2?}",
        times.len()
    );
    assert!(counted <= bound, "{text}; the bound is {bound:?}");
    tell(&text);
}

/// Shown by `cargo test -- --nocapture`, and so by `make soak`.
#[allow(clippy::print_stdout, reason = "the results of long runs are their output")]
fn tell(text: &str) {
    println!("{text}");
}
