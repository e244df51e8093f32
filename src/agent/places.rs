//! Who is connected to a port of ours: shares per client, a total, and who gives way when there is no more room.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Who has a connection. Those of unix sockets, whose client has no address, count as one client's.
pub(super) type Client = Option<IpAddr>;

/// The share of a client that may have all places.
pub(super) const ALL: usize = usize::MAX;

/// All places of one kind.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    /// In an order, so that a simulation can be played again.
    of: BTreeMap<Client, Held>,
    count: usize,
    /// Rises whenever a place becomes idle.
    turn: u64,
}

/// What one client has.
#[derive(Default)]
struct Held {
    count: usize,
    /// By the turn in which they became idle, so the first is the one that was not used for longest. That busy ones
    /// are not among them means that there is no need to look for idle ones, however many are busy.
    idle: BTreeMap<u64, CancellationToken>,
}

/// The right to one connection; given back when dropped.
pub(super) struct Place {
    places: Places,
    client: Client,
    /// The turn in which it became idle, or [`BUSY`]. Changes only while `places` are locked.
    idle_since: AtomicU64,
    requests: AtomicU64,
    gave_way: CancellationToken,
}

/// Not a turn: these begin with 1.
const BUSY: u64 = 0;

impl Places {
    /// A place for a connection of `client`, of which it may have `share` and all together `total`.
    ///
    /// When all places are taken, an idle connection of whoever has most is closed for it, unless that is somebody who
    /// has no more than this client: one client that hoards connections does not lock out the others.
    pub(super) fn enter(&self, client: Client, share: usize, total: usize) -> Option<Arc<Place>> {
        let mut taken = self.0.lock();
        if taken.held_by(client) >= share {
            return None;
        }
        self.enter_locked(&mut taken, client, total)
    }

    /// As [`Places::enter`], but a client that has its share gives up what it has not used for longest: it may have
    /// lost that with its power, and know nothing of it.
    pub(super) fn enter_in_turn(&self, client: Client, share: usize, total: usize) -> Option<Arc<Place>> {
        let mut taken = self.0.lock();
        if taken.held_by(client) >= share && !taken.close_idle_of(client) {
            return None;
        }
        self.enter_locked(&mut taken, client, total)
    }

    fn enter_locked(&self, taken: &mut Taken, client: Client, total: usize) -> Option<Arc<Place>> {
        if taken.count >= total {
            let own = taken.held_by(client);
            // Who has no more than the newcomer keeps that.
            if !taken.close_an_idle_one(|other, count| other == client || count > own) {
                return None;
            }
        }
        let gave_way = CancellationToken::new();
        let idle_since = AtomicU64::new(taken.next_turn());
        let held = taken.of.entry(client).or_default();
        held.count += 1;
        held.idle.insert(idle_since.load(Ordering::Relaxed), gave_way.clone());
        taken.count += 1;
        let place = Place { places: self.clone(), client, idle_since, requests: AtomicU64::new(0), gave_way };
        Some(Arc::new(place))
    }

    /// Closes an idle connection of the client that has most of those who have an idle one; false when all are busy.
    pub(super) fn close_an_idle_one(&self) -> bool {
        self.0.lock().close_an_idle_one(|_, _| true)
    }
}

impl Taken {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn held_by(&self, client: Client) -> usize {
        self.of.get(&client).map_or(0, |held| held.count)
    }

    /// Closes an idle connection of the client that has most, of those who have an idle one and should give way.
    fn close_an_idle_one(&mut self, should: impl Fn(Client, usize) -> bool) -> bool {
        let idle =
            self.of.iter().filter(|(client, held)| !held.idle.is_empty() && should(**client, held.count));
        let most = idle.max_by_key(|(_, held)| held.count).map(|(client, _)| *client);
        most.is_some_and(|client| self.close_idle_of(client))
    }

    fn close_idle_of(&mut self, client: Client) -> bool {
        let first = self.of.get_mut(&client).and_then(|held| held.idle.pop_first());
        let Some((_, gave_way)) = first else { return false };
        gave_way.cancel();
        self.leave(client);
        true
    }

    fn leave(&mut self, client: Client) {
        let Some(held) = self.of.get_mut(&client) else { return };
        held.count -= 1;
        self.count -= 1;
        if held.count == 0 {
            self.of.remove(&client);
        }
    }
}

impl Place {
    /// A request has come: from now on the connection is busy.
    pub(super) fn begin(&self) {
        let mut taken = self.places.0.lock();
        let idle_since = self.idle_since.swap(BUSY, Ordering::AcqRel);
        if let Some(held) = taken.of.get_mut(&self.client) {
            held.idle.remove(&idle_since);
        }
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    /// The answer is known.
    pub(super) fn end(&self) {
        let mut taken = self.places.0.lock();
        let turn = taken.next_turn();
        self.idle_since.store(turn, Ordering::Release);
        // Who was asked to give way while the request came is no longer counted.
        if !self.gave_way.is_cancelled()
            && let Some(held) = taken.of.get_mut(&self.client)
        {
            held.idle.insert(turn, self.gave_way.clone());
        }
    }

    /// Whether a request is being worked on; otherwise the next one is awaited, or has come in part.
    pub(super) fn is_busy(&self) -> bool {
        self.idle_since.load(Ordering::Acquire) == BUSY
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }

    /// Waits until the connection is asked to end, because its place was given to another one.
    pub(super) async fn must_give_way(&self) {
        self.gave_way.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        // Who had to give way is no longer counted.
        if self.gave_way.is_cancelled() {
            return;
        }
        let idle_since = self.idle_since.load(Ordering::Acquire);
        if let Some(held) = taken.of.get_mut(&self.client) {
            held.idle.remove(&idle_since);
        }
        taken.leave(self.client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::{Client, Place, Places};

    #[allow(clippy::unnecessary_wraps, reason = "what `enter` takes")]
    fn at(number: u8) -> Client {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    fn gave_way(places: &[Arc<Place>]) -> Vec<bool> {
        places.iter().map(|place| place.gave_way.is_cancelled()).collect()
    }

    #[test]
    fn a_client_has_its_share_and_places_are_given_back() {
        let places = Places::default();
        let first = places.enter(at(1), 2, 100);
        let second = places.enter(at(1), 2, 100);
        assert!(first.is_some() && second.is_some());
        assert!(places.enter(at(1), 2, 100).is_none());
        assert!(places.enter(at(2), 2, 100).is_some());
        drop(first);
        assert!(places.enter(at(1), 2, 100).is_some());
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_idle_connection_of_the_largest_client_gives_way() {
        let places = Places::default();
        let hoarded: Vec<_> = (0..4).map(|_| places.enter(at(1), 9, 5).unwrap()).collect();
        let modest = places.enter(at(2), 9, 5).unwrap();
        hoarded[0].begin();
        let late = places.enter(at(3), 9, 5).unwrap();
        assert_eq!(gave_way(&hoarded), [false, true, false, false], "a busy one stays");
        assert!(!modest.gave_way.is_cancelled());
        drop((hoarded, modest, late));
        assert_eq!(places.0.lock().count, 0, "who gave way is not counted twice");
    }

    #[test]
    fn idle_connections_give_way_however_many_old_ones_are_busy() {
        let places = Places::default();
        let busy: Vec<_> = (0..64).map(|_| places.enter(at(1), 200, 100).unwrap()).collect();
        for place in &busy {
            place.begin();
        }
        let mut idle: Vec<_> = (64..100).map(|_| places.enter(at(1), 200, 100).unwrap()).collect();
        idle.push(places.enter(at(1), 200, 100).expect("its own give way to it"));
        let other = places.enter(at(2), 200, 100).expect("they give way to others");
        assert!(places.close_an_idle_one(), "they give way when descriptors run out");
        assert!(gave_way(&busy).iter().all(|gave_way| !gave_way));
        assert_eq!(gave_way(&idle).iter().filter(|gave_way| **gave_way).count(), 3);
        drop((busy, idle, other));
        assert_eq!(places.0.lock().count, 0);
    }

    #[test]
    fn a_client_does_not_push_out_those_who_have_less() {
        let places = Places::default();
        let busy: Vec<_> = (0..2).map(|_| places.enter(at(1), 9, 3).unwrap()).collect();
        for place in &busy {
            place.begin();
        }
        let other = places.enter(at(2), 9, 4).unwrap();
        let third = places.enter(at(3), 9, 4).unwrap();
        third.begin();
        assert!(places.enter(at(1), 9, 4).is_none(), "all of its own are busy");
        assert!(places.enter(at(3), 9, 4).is_none(), "nobody idle has more");
        assert!(!other.gave_way.is_cancelled());
    }

    #[test]
    fn whoever_comes_first_finds_a_place_while_anybody_is_idle_however_busy_the_largest_is() {
        let places = Places::default();
        let busy: Vec<_> = (0..9).map(|_| places.enter(at(1), 9, 15).unwrap()).collect();
        for place in &busy {
            place.begin();
        }
        let idle: Vec<_> = (2..8).map(|number| places.enter(at(number / 2 + 1), 9, 15).unwrap()).collect();
        let late = places.enter(at(9), 9, 15).expect("two are more than none");
        assert!(gave_way(&busy).iter().all(|gave_way| !gave_way));
        assert_eq!(gave_way(&idle).iter().filter(|gave_way| **gave_way).count(), 1);
        drop((busy, idle, late));
        assert_eq!(places.0.lock().count, 0);
    }

    #[test]
    fn who_takes_turns_gives_up_what_it_has_not_used_for_longest_and_nobody_elses() {
        let places = Places::default();
        let other = places.enter_in_turn(at(2), 3, 100).unwrap();
        let own: Vec<_> = (0..3).map(|_| places.enter_in_turn(at(1), 3, 100).unwrap()).collect();
        own[0].begin();
        own[0].end();
        own[1].begin();
        let next = places.enter_in_turn(at(1), 3, 100).unwrap();
        assert_eq!(gave_way(&own), [false, false, true], "the first was used since, the second is busy");
        next.begin();
        own[0].begin();
        assert!(places.enter_in_turn(at(1), 3, 100).is_none(), "all are busy");
        assert!(!other.gave_way.is_cancelled());
    }

    #[test]
    fn a_request_that_comes_while_its_connection_gives_way_takes_no_place() {
        let places = Places::default();
        let place = places.enter(at(1), 1, 1).unwrap();
        assert!(places.close_an_idle_one());
        place.begin();
        assert!(place.is_busy(), "it can be answered before the connection ends");
        place.end();
        assert!(!place.is_busy() && !places.close_an_idle_one(), "there is nobody");
        drop(place);
        assert_eq!(places.0.lock().count, 0);
        assert!(places.0.lock().of.is_empty());
    }
}
