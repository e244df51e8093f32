//! Which histories a run plays: fixed ones and fresh ones, one that is asked for, or fresh ones for so many minutes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

/// The histories of one run of one kind.
pub(super) enum Seeds {
    /// Play this one again.
    One(u64),
    /// The first `fixed` from zero, then `fresh` from `base`.
    Counted { fixed: u64, base: u64, fresh: u64 },
    /// From `base` until then.
    Until { base: u64, end: Instant },
}

impl Seeds {
    /// What the environment asks for; `count` if it asks for nothing, of which one in `fresh_one_in` is fresh.
    pub(super) fn of_environment(count: u64, fresh_one_in: u64) -> Self {
        let number = |name: &str| {
            std::env::var(name)
                .ok()
                .map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
        };
        // A fresh number below 10^12, so that nobody mistypes it.
        let base = RandomState::new().build_hasher().finish() % 1_000_000_000_000;
        if let Some(seed) = number("CDSIM_SEED") {
            return Self::One(seed);
        }
        if let Some(minutes) = number("CDSIM_MINUTES") {
            return Self::Until { base, end: Instant::now() + Duration::from_mins(minutes) };
        }
        let count = (count * number("CDSIM_PERCENT").unwrap_or(100)).div_ceil(100);
        let fresh = count / fresh_one_in;
        Self::Counted { fixed: count - fresh, base, fresh }
    }

    /// The seed of the history with this number, if there are so many.
    pub(super) fn get(&self, number: u64) -> Option<u64> {
        match self {
            Self::One(seed) => (number == 0).then_some(*seed),
            Self::Counted { fixed, .. } if number < *fixed => Some(number),
            Self::Counted { fixed, base, fresh } => {
                (number - fixed < *fresh).then(|| base.wrapping_add(number - fixed))
            }
            Self::Until { base, end } => (Instant::now() < *end).then(|| base.wrapping_add(number)),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::One(seed) => format!("seed {seed}"),
            Self::Counted { fixed, base, fresh } => {
                format!("{fixed} from seed 0 and {fresh} from seed {base}")
            }
            Self::Until { base, .. } => format!("from seed {base}"),
        }
    }
}
