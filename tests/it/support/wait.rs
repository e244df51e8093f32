//! Waiting with a deadline.

use std::io::Write as _;
use std::sync::Once;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// Polling interval, not a wait for something to have happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Polls `probe` until it gives a value; panics with `what` after `deadline`.
#[track_caller]
pub(crate) fn eventually<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::park_timeout(LOOK_INTERVAL);
    }
}

/// Panics are told past the capture of `cargo test` too: who reads the record of a run that was cut off sees why.
pub(crate) fn tell_failures_at_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let test = std::thread::current().name().unwrap_or("a thread").to_owned();
            let line = format!("{test}: {panic}").replace('\n', " ");
            // There is nowhere to tell that this failed.
            drop(writeln!(std::io::stderr().lock(), "{line}"));
            usual(panic);
        }));
    });
}
