//! Who is connected: limits per client and in all, and who gives way when there is no more room.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// Connections of one client that are looked at for one that gives way: the oldest ones, which most likely are idle.
const LOOKED_AT_MAX: usize = 64;

/// What one connection does now.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// A request is being worked on; otherwise the next one is awaited, or has come in part.
    busy: AtomicBool,
    /// Requests so far.
    requests: AtomicU64,
    /// Asks the connection to end as soon as it is not busy.
    pub(super) give_way: CancellationToken,
}

impl Activity {
    /// A request's head is complete.
    pub(super) fn begin(&self) {
        self.busy.store(true, Ordering::Release);
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    /// The answer is known.
    pub(super) fn end(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// Whether a request is being worked on.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

/// All open connections. Those of unix sockets, whose client has no address, count as one client's.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Open>>);

type Client = Option<IpAddr>;

#[derive(Default)]
struct Open {
    /// By client, and by age: older ones have lower numbers.
    of: HashMap<Client, BTreeMap<u64, Arc<Activity>>>,
    count: usize,
    last: u64,
}

/// The right to one connection; given back when dropped.
pub(super) struct Place {
    connections: Connections,
    client: Client,
    number: u64,
    pub(super) activity: Arc<Activity>,
}

impl Connections {
    /// A place for a connection of `client`, of which it may have `per_client` and all together `total`.
    ///
    /// When all places are taken, an idle connection of whoever has most is closed for it, unless that is this client
    /// itself: one client that hoards connections does not lock out the others.
    pub(super) fn enter(&self, client: Client, per_client: usize, total: usize) -> Option<Place> {
        let mut open = self.0.lock();
        let own = open.of.get(&client).map_or(0, BTreeMap::len);
        let limited = client.is_some_and(|address| !address.is_loopback());
        if (limited && own >= per_client) || (open.count >= total && !open.make_room(client, own)) {
            return None;
        }
        open.last += 1;
        open.count += 1;
        let (number, activity) = (open.last, Arc::<Activity>::default());
        open.of.entry(client).or_default().insert(number, Arc::clone(&activity));
        Some(Place { connections: self.clone(), client, number, activity })
    }
}

impl Connections {
    /// Closes the oldest idle connection of the client that has most; false when nobody is idle there.
    pub(super) fn close_an_idle_one(&self) -> bool {
        let mut open = self.0.lock();
        let most = open.of.iter().max_by_key(|(_, connections)| connections.len());
        let Some(client) = most.map(|(client, _)| *client) else { return false };
        open.make_room(client, 0)
    }
}

impl Open {
    /// Takes the place of an idle connection away; false when there is none that should give way.
    fn make_room(&mut self, newcomer: Client, own: usize) -> bool {
        let most = self.of.iter().max_by_key(|(_, connections)| connections.len());
        let Some((client, connections)) = most.map(|(client, connections)| (*client, connections)) else {
            return false;
        };
        if client != newcomer && connections.len() <= own {
            return false;
        }
        let idle = connections.iter().take(LOOKED_AT_MAX).find(|(_, activity)| !activity.is_busy());
        let Some((number, activity)) = idle.map(|(number, activity)| (*number, activity)) else {
            return false;
        };
        activity.give_way.cancel();
        self.leave(client, number);
        true
    }

    fn leave(&mut self, client: Client, number: u64) {
        let Some(connections) = self.of.get_mut(&client) else { return };
        // It may have had to give way before it ended.
        if connections.remove(&number).is_some() {
            self.count -= 1;
        }
        if connections.is_empty() {
            self.of.remove(&client);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.0.lock().leave(self.client, self.number);
    }
}

/// A connection on which a request's head must be complete in time, once it has begun: whoever sends it byte by byte
/// ("slow loris") would hold a place for ever.
pub(super) struct Hurried<S> {
    stream: S,
    activity: Arc<Activity>,
    allowed: Duration,
    /// The end of the time for the head after so many requests.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<S> Hurried<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, allowed: Duration) -> Self {
        Self { stream, activity, allowed, deadline: None }
    }

    /// Whether the time for the head is over.
    fn is_late(&mut self, context: &mut Context<'_>, something_came: bool) -> bool {
        let requests = self.activity.requests.load(Ordering::Acquire);
        if self.activity.is_busy() || self.deadline.as_ref().is_some_and(|(of, _)| *of != requests) {
            // What comes now is a body, which has a deadline of its own, or the next head.
            self.deadline = None;
        }
        if something_came && self.deadline.is_none() && !self.activity.is_busy() {
            self.deadline = Some((requests, Box::pin(sleep(self.allowed))));
        }
        self.deadline.as_mut().is_some_and(|(_, end)| end.as_mut().poll(context).is_ready())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Hurried<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.is_late(context, buffer.filled().len() > before) {
            return Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hurried<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Client, Connections};

    #[allow(clippy::unnecessary_wraps, reason = "what `enter` takes")]
    fn at(number: u8) -> Client {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    #[test]
    fn a_client_has_its_limit_and_places_are_given_back() {
        let connections = Connections::default();
        let first = connections.enter(at(1), 2, 100);
        let second = connections.enter(at(1), 2, 100);
        assert!(first.is_some() && second.is_some());
        assert!(connections.enter(at(1), 2, 100).is_none());
        assert!(connections.enter(at(2), 2, 100).is_some());
        drop(first);
        assert!(connections.enter(at(1), 2, 100).is_some());
        let unlimited =
            |client| (0..10).map(|_| connections.enter(client, 2, 100)).all(|place| place.is_some());
        assert!(unlimited(Some([127, 0, 0, 1].into())) && unlimited(None));
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_idle_connection_of_the_largest_client_gives_way() {
        let connections = Connections::default();
        let hoarded: Vec<_> = (0..4).map(|_| connections.enter(at(1), 9, 5).unwrap()).collect();
        let modest = connections.enter(at(2), 9, 5).unwrap();
        hoarded[0].activity.begin();
        let late = connections.enter(at(3), 9, 5).unwrap();
        let told: Vec<bool> = hoarded.iter().map(|place| place.activity.give_way.is_cancelled()).collect();
        assert_eq!(told, [false, true, false, false], "a busy one stays");
        assert!(!modest.activity.give_way.is_cancelled());
        drop((hoarded, modest, late));
        assert_eq!(connections.0.lock().count, 0, "who gave way is not counted twice");
    }

    #[test]
    fn a_client_does_not_push_out_those_who_have_less() {
        let connections = Connections::default();
        let busy: Vec<_> = (0..2).map(|_| connections.enter(at(1), 9, 3).unwrap()).collect();
        for place in &busy {
            place.activity.begin();
        }
        let other = connections.enter(at(2), 9, 3).unwrap();
        assert!(connections.enter(at(1), 9, 3).is_none(), "all of its own are busy");
        assert!(!other.activity.give_way.is_cancelled());
        assert!(connections.enter(at(3), 9, 3).is_none(), "nobody idle has too many");
    }
}
