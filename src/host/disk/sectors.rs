//! What a simulated disk writes as a whole, and its source of chance.

/// Bytes that are written as a whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;

/// The next number of a seed (splitmix64).
pub(crate) fn mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub(super) fn put(bytes: &mut Vec<u8>, offset: u64, piece: &[u8]) {
    let start = usize::try_from(offset).unwrap();
    let end = start + piece.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(piece);
}

/// The parts of a write that lie in one sector each.
pub(super) fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let position = usize::try_from(offset).unwrap() + at;
        let end = bytes.len().min(at + SECTOR_BYTES - position % SECTOR_BYTES);
        let piece = (position as u64, &bytes[at..end]);
        at = end;
        Some(piece)
    })
}
