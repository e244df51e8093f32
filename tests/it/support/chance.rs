//! Pseudo-random numbers from a seed that every failure names, so that a run can be repeated.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A seed that no run had before, or the one of the environment variable `COREDISCOVER_SEED`; told with [`tell_seed`].
pub(crate) fn fresh_seed() -> u64 {
    let seed = match std::env::var("COREDISCOVER_SEED") {
        Ok(text) => text.parse().expect("COREDISCOVER_SEED is a number"),
        // Micro-seconds are enough to differ, and short enough to be typed.
        Err(_) => u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap(),
    };
    tell_seed(seed);
    seed
}

/// Past the capture of `cargo test`, so that the seed of every run is seen: of one that passes, and of one that is cut
/// off or fails before it can say what it did.
pub(crate) fn tell_seed(seed: u64) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a thread");
    writeln!(std::io::stderr().lock(), "{test}: COREDISCOVER_SEED={seed}").expect("a screen");
}

/// How long the long forms of tests run: `make soak MINUTES=…` sets it; without it tests take their short form.
pub(crate) fn soak() -> Option<Duration> {
    let text = std::env::var("COREDISCOVER_SOAK_MINUTES").ok()?;
    let minutes: f64 = text.parse().expect("COREDISCOVER_SOAK_MINUTES is a number of minutes");
    Some(Duration::from_secs_f64(minutes * 60.0))
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// One seed gives one sequence.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end` - 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A number from 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// A time between two.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.fraction())
    }
}
