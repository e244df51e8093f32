//! How much of something scarce each client has at the moment.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts by client.
#[derive(Clone, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One piece of a client's share, given back when dropped.
pub(super) struct Share {
    shares: Shares,
    client: IpAddr,
}

impl Shares {
    /// One piece more for `client`, if it has fewer than `max`.
    pub(super) fn take(&self, client: IpAddr, max: usize) -> Option<Share> {
        let mut held = self.0.lock();
        let own = held.entry(client).or_default();
        if *own >= max {
            return None;
        }
        *own += 1;
        Some(Share { shares: self.clone(), client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.0.lock();
        if let Some(own) = held.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    #[test]
    fn a_client_has_its_share_and_gives_it_back() {
        let shares = Shares::default();
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let held: Vec<_> = (0..3).map(|_| shares.take(one, 3).unwrap()).collect();
        assert!(shares.take(one, 3).is_none());
        assert!(shares.take(other, 3).is_some());
        drop(held);
        assert!(shares.take(one, 3).is_some());
        assert!(shares.0.lock().is_empty());
    }
}
