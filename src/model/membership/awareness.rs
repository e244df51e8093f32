//! Lifeguard's local health: whoever misses answers from several others is probably sick itself and should wait longer.

use std::time::Duration;

/// Worst score (memberlist's value): all probe times are then nine times as long.
const SCORE_MAX: u32 = 8;

/// 0 is healthy.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Awareness(u32);

impl Awareness {
    pub(super) fn worsen(&mut self, by: u32) {
        self.0 = self.0.saturating_add(by).min(SCORE_MAX);
    }

    pub(super) fn improve(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    pub(super) fn scale(self, time: Duration) -> Duration {
        time * (self.0 + 1)
    }

    pub(super) fn score(self) -> u32 {
        self.0
    }
}
