//! Membership under stress: who dies is noticed in time, who is only slow is not declared dead.
//!
//! Each test has a short form; `make soak` runs the long one, with the numbers that docs/guarantees.md holds.

mod crowd;
mod deaths;
mod starvation;

use std::time::Duration;

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
