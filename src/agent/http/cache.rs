//! The encoded bodies of the large listings, kept until their index moves.
//!
//! One body per listing at most, so there is nothing to evict.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;

/// A listing of a whole table without any selection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Listing {
    Services = 0,
    Nodes = 1,
    Checks = 2,
}

/// How many listings there are.
const LISTINGS: usize = 3;

#[derive(Debug)]
struct Body {
    index: u64,
    bytes: Bytes,
}

/// The bodies that are kept.
#[derive(Debug, Default)]
pub(super) struct Listings {
    bodies: [ArcSwapOption<Body>; LISTINGS],
}

impl Listings {
    /// The body for a listing at `index`, encoded if it is not the one that is kept.
    pub(super) fn get(&self, listing: Listing, index: u64, encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let slot = &self.bodies[listing as usize];
        if let Some(body) = slot.load().as_ref().filter(|body| body.index == index) {
            return body.bytes.clone();
        }
        let mut out = Vec::new();
        encode(&mut out);
        let bytes = Bytes::from(out);
        slot.store(Some(Arc::new(Body { index, bytes: bytes.clone() })));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Listing, Listings};

    #[test]
    fn a_body_is_encoded_once_per_index() {
        let listings = Listings::default();
        let mut count = 0;
        for (index, want) in [(5, 1), (5, 1), (6, 2), (5, 3)] {
            let body = listings.get(Listing::Nodes, index, |out| {
                count += 1;
                out.push(b'0' + u8::try_from(index).unwrap());
            });
            assert_eq!(body, index.to_string().as_bytes());
            assert_eq!(count, want);
        }
        assert_eq!(listings.get(Listing::Services, 6, |out| out.push(b'x')), "x");
    }
}
