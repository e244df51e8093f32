//! The applied commands of the last while, for the replicas that follow this server.
//!
//! Holds commands of the discovery part only: keys are for servers. A follower that is too far behind gets a
//! snapshot instead.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Commands kept: more than change while a follower reconnects after a network failure of minutes.
const COMMANDS_MAX: usize = 8192;
/// Bytes of commands kept.
const BYTES_MAX: usize = 4 << 20;
/// Commands given out at once.
const COMMANDS_TOGETHER_MAX: usize = 512;

/// The feed; one writer (the state machine), many readers.
pub(super) struct Feed {
    ring: Mutex<Ring>,
    /// Index of the last command that concerns discovery.
    discovery: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    commands: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Commands up to this index are no longer here.
    floor: u64,
    /// Last applied index.
    index: u64,
    /// The last snapshot that was made for a follower: index and bytes.
    snapshot: Option<(u64, Bytes)>,
}

/// What a follower misses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// Commands, and the index up to which these are all.
    Commands(Vec<(u64, Bytes)>, u64),
    /// More than is kept.
    TooMuch,
}

impl Default for Feed {
    fn default() -> Self {
        Self { ring: Mutex::default(), discovery: watch::channel(0).0 }
    }
}

impl Feed {
    /// Takes the commands of applied entries up to `index`.
    pub(super) fn push(&self, commands: impl IntoIterator<Item = (u64, Bytes)>, index: u64) {
        let mut ring = self.ring.lock();
        let mut last = None;
        for (at, command) in commands {
            ring.bytes += command.len();
            ring.commands.push_back((at, command));
            last = Some(at);
        }
        while ring.commands.len() > COMMANDS_MAX || ring.bytes > BYTES_MAX {
            let Some((at, command)) = ring.commands.pop_front() else { break };
            ring.bytes -= command.len();
            ring.floor = at;
        }
        ring.index = index;
        drop(ring);
        if let Some(last) = last {
            self.discovery.send_replace(last);
        }
    }

    /// Begins anew behind an installed snapshot.
    pub(super) fn restart(&self, index: u64) {
        *self.ring.lock() = Ring { floor: index, index, ..Ring::default() };
        self.discovery.send_replace(index);
    }

    /// What is missing behind `have`.
    pub(super) fn since(&self, have: u64) -> Missed {
        let ring = self.ring.lock();
        if have < ring.floor {
            return Missed::TooMuch;
        }
        let start = ring.commands.partition_point(|(at, _)| *at <= have);
        let commands: Vec<_> = ring.commands.range(start..).take(COMMANDS_TOGETHER_MAX).cloned().collect();
        let complete = start + commands.len() == ring.commands.len();
        let upto = match commands.last() {
            Some((at, _)) if !complete => *at,
            _ => ring.index,
        };
        Missed::Commands(commands, upto)
    }

    /// Commands up to this index are no longer here.
    pub(super) fn floor(&self) -> u64 {
        self.ring.lock().floor
    }

    /// Index of the last command that concerns discovery, and its changes.
    pub(super) fn discovery(&self) -> watch::Receiver<u64> {
        self.discovery.subscribe()
    }

    /// A snapshot made earlier from which the kept commands go on.
    pub(super) fn snapshot(&self) -> Option<(u64, Bytes)> {
        let ring = self.ring.lock();
        ring.snapshot.clone().filter(|(index, _)| *index >= ring.floor)
    }

    /// Keeps a snapshot for the next follower.
    pub(super) fn keep_snapshot(&self, index: u64, bytes: Bytes) {
        self.ring.lock().snapshot = Some((index, bytes));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{COMMANDS_MAX, Feed, Missed};

    #[test]
    fn a_follower_gets_what_it_misses_or_hears_that_it_is_too_far_behind() {
        let feed = Feed::default();
        feed.push([(3, Bytes::from("a")), (7, Bytes::from("b"))], 9);
        assert_eq!(feed.since(0), Missed::Commands(vec![(3, Bytes::from("a")), (7, Bytes::from("b"))], 9));
        assert_eq!(feed.since(3), Missed::Commands(vec![(7, Bytes::from("b"))], 9));
        assert_eq!(feed.since(9), Missed::Commands(vec![], 9));
        assert_eq!(*feed.discovery().borrow(), 7, "entries without discovery wake nobody");
        let many = (10..).take(COMMANDS_MAX).map(|at| (at, Bytes::from("c")));
        feed.push(many, 10 + COMMANDS_MAX as u64);
        assert_eq!(feed.since(3), Missed::TooMuch);
        assert!(matches!(feed.since(7), Missed::Commands(commands, 521) if commands.len() == 512));
        feed.restart(90_000);
        assert_eq!((feed.since(89_999), feed.floor()), (Missed::TooMuch, 90_000));
        assert_eq!(feed.since(90_000), Missed::Commands(vec![], 90_000));
    }
}
