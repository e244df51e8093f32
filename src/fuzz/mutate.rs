//! Damages seeds: small, deterministic, and without regard for formats.

/// Longest input in bytes: more only takes longer.
const INPUT_BYTES_MAX: usize = 4096;
/// Bytes that parsers compare with.
const INTERESTING: [u8; 16] = *b"\x00\x01\x7f\x80\xff\"{}[],:/%\\\n";

/// Random numbers (`SplitMix64`): the same for the same start.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which must not be zero.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }
}

/// A copy of one of the seeds with one to eight damages.
pub(super) fn mutated(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(8) {
        damage(&mut bytes, seeds, chance);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], chance: &mut Chance) {
    let at = chance.below(bytes.len() + 1);
    let byte = bytes.get(at).copied().unwrap_or_default();
    let replacement = match chance.below(8) {
        0 => vec![byte ^ (1 << chance.below(8))],
        1 => vec![INTERESTING[chance.below(INTERESTING.len())]],
        2 => vec![byte.wrapping_add(1)],
        3 => Vec::new(),
        4 => vec![INTERESTING[chance.below(INTERESTING.len())], byte],
        5 => vec![byte; 1 + chance.below(64)],
        6 => {
            // A piece of any seed.
            let other = &seeds[chance.below(seeds.len())];
            let from = chance.below(other.len() + 1);
            other[from..(from + chance.below(64)).min(other.len())].to_vec()
        }
        _ => {
            bytes.truncate(at);
            return;
        }
    };
    let end = (at + 1).min(bytes.len());
    bytes.splice(at.min(end)..end, replacement);
}
