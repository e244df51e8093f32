//! A small generator of pseudo-random numbers, so that one seed gives one history.

/// `SplitMix64` (Steele, Lea, Flood 2014): not for secrets.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

/// The generator's increment: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits of `value` into all bits of the result.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number for a text that is the same everywhere and says nothing about the text's order.
pub(super) fn scatter(text: &str) -> u64 {
    text.bytes().fold(0, |sum, byte| mix(sum.wrapping_add(STEP).wrapping_add(u64::from(byte))))
}

/// A number for a member (by its [`scatter`]ed name) at an incarnation.
pub(super) fn fingerprint(place: u64, incarnation: u64) -> u64 {
    mix(place ^ mix(incarnation.wrapping_add(STEP)))
}

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number from 0 to `end` - 1; 0 when `end` is 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        if end == 0 { 0 } else { usize::try_from(self.next() % end).unwrap_or(0) }
    }

    /// A number from 0 to 1, without 1.
    pub(super) fn fraction(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// Puts `items` into a random order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }

    /// Up to `count` of `items`, each at most once.
    pub(super) fn choose<T>(&mut self, mut items: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(items.len());
        for place in 0..count {
            let other = place + self.below(items.len() - place);
            items.swap(place, other);
        }
        items.truncate(count);
        items
    }
}
