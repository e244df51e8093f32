//! What a server does whose disk is full: it hands the lead over, refuses what it cannot keep, and says so.
//!
//! Raft itself never hears of it, because it takes an error of its storage for the end. What raft has accepted waits
//! in the log, in order, and is acknowledged when there is room; so that little waits, large writes are refused here,
//! before raft, while there is still room for raft's own (see `log/room.rs`). A leader that cannot write lets another
//! lead; a follower that cannot is like a slow one. Reads go on, and with room again all of it ends by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::AppendEntriesRequest;
use tokio::time::Instant;

use super::log::{Room, Space, weight};
use super::server::{Inner, Leader, Server};
use super::types::{NodeId, TypeConfig};
use crate::agent::handle::{ConsensusStatus, NoLeader, ProposeError, ReadMode};
use crate::agent::rpc::{Method, RemoteError, decode};
use crate::model::catalog::Command;

/// Longest command, in bytes, that is a small one: a registration with its checks. Small ones are still taken while
/// there is a rest of room, so that what runs is found.
const SMALL_BYTES_MAX: usize = 8 << 10;
/// How far a server may lag, in entries, that is asked to lead: what is on its way reaches it in a moment.
const LAG_ENTRIES_MAX: u64 = 64;
/// How long another server may take to say whether it has room.
const STATUS_WAIT: Duration = Duration::from_millis(500);
/// How long a server without room leaves the election to others.
const STAND_BACK: Duration = Duration::from_secs(2);
/// How long raft may take for a message of the leader while something waits for room.
const STUCK_WAIT: Duration = Duration::from_millis(500);

/// What becomes of a write at the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Take,
    /// Another server is about to lead.
    Later,
    Refuse,
}

/// Whether a leader takes a write; `alone`: no other server can lead in its place.
fn admission(room: Room, alone: bool, small: bool) -> Admission {
    match room {
        Room::Enough => Admission::Take,
        Room::Low if small => Admission::Take,
        Room::Low | Room::Full | Room::Stuck if alone => Admission::Refuse,
        Room::Low | Room::Full | Room::Stuck => Admission::Later,
    }
}

/// Another voter, as the leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Other {
    id: NodeId,
    /// Up to where it has the log.
    matched: Option<u64>,
    /// Whether it says that it has room; `None` when it does not answer.
    has_room: Option<bool>,
}

/// Who should lead instead of a leader whose log ends at `last`.
fn successor(others: &[Other], last: u64) -> Option<NodeId> {
    let able = others.iter().filter(|other| {
        let matched = other.matched.is_some_and(|matched| matched + LAG_ENTRIES_MAX >= last);
        other.has_room == Some(true) && matched
    });
    able.max_by_key(|other| other.matched).map(|other| other.id)
}

/// Whether a server may ask for votes.
fn stands(room: Room, only_voter: bool, leaderless: Duration) -> bool {
    room == Room::Enough || only_voter || leaderless >= STAND_BACK
}

/// What people read.
fn text(space: &Space, name: &str, folder: &str) -> Option<String> {
    let what = match space.room {
        Room::Enough => return None,
        Room::Low => "it leaves the lead to others and takes small writes only",
        Room::Full => "it leaves the lead to others and takes no writes",
        Room::Stuck => "it leaves the lead to others, and writes wait",
    };
    let why = space.why.as_deref().unwrap_or("no space left");
    Some(format!(
        "the disk of server {name} is full ({why}): {what}; nothing acknowledged is lost; make room in {folder}"
    ))
}

/// What [`Inner::mind_the_room`] remembers.
#[derive(Debug, Default)]
pub(super) struct Watch {
    leaderless: Option<Instant>,
    /// It leaves elections to others.
    stands_back: bool,
}

impl Server {
    /// Says, for people, that the disk is full, as long as it is.
    pub fn storage_changes(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.inner.storage.subscribe()
    }
}

impl Inner {
    fn room(&self) -> Room {
        self.space.borrow().room
    }

    fn refusal(&self) -> String {
        self.storage_text().unwrap_or_default()
    }

    fn storage_text(&self) -> Option<String> {
        text(&self.space.borrow(), self.identity.name(), &self.folder)
    }

    /// Whether this leader takes a write.
    pub(super) fn admit_write(&self, command: &[u8]) -> Result<(), ProposeError> {
        let room = self.room();
        if room == Room::Enough {
            return Ok(());
        }
        let is_kv = || decode::<Command>(command).is_ok_and(|command| command.is_kv());
        let small = command.len() <= SMALL_BYTES_MAX && !is_kv();
        match admission(room, self.alone.load(Ordering::Relaxed), small) {
            Admission::Take => Ok(()),
            Admission::Later => Err(NoLeader.into()),
            Admission::Refuse => Err(ProposeError::Unavailable(self.refusal())),
        }
    }

    /// Whether this follower takes the entries of a leader. What raft itself writes always is taken.
    pub(super) fn admit_entries(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> Result<(), RemoteError> {
        if self.room() >= Room::Full && rpc.entries.iter().any(|entry| weight(entry) > 0) {
            return Err(RemoteError::Unavailable(self.refusal()));
        }
        Ok(())
    }

    /// Whether this server takes part in an election: a vote must be written at once.
    pub(super) fn admit_vote(&self) -> Result<(), RemoteError> {
        if self.room() == Room::Stuck { Err(RemoteError::Unavailable(self.refusal())) } else { Ok(()) }
    }

    /// Whether this server may be made the leader.
    pub(super) fn admit_lead(&self) -> Result<(), RemoteError> {
        if self.room() == Room::Enough { Ok(()) } else { Err(RemoteError::Unavailable(self.refusal())) }
    }

    /// The leader, if fresh reads must go there: without room this server does not keep up.
    pub(super) fn read_instead(&self, mode: ReadMode) -> Option<Leader> {
        let lags = mode != ReadMode::Stale && self.room() >= Room::Full;
        self.leader.borrow().clone().filter(|leader| lags && !leader.here)
    }

    /// Whether a snapshot of so many bytes fits on the disk.
    pub(super) fn admit_snapshot(&self, bytes: u64) -> Result<(), RemoteError> {
        if self.store.fits(bytes) {
            return Ok(());
        }
        let text =
            format!("a snapshot of {bytes} bytes does not fit on the disk of {}", self.identity.name());
        Err(RemoteError::Unavailable(text))
    }

    /// Waits for raft's answer to a leader, though not for long while something waits for room.
    pub(super) async fn patiently<T>(&self, answer: impl Future<Output = T>) -> Result<T, RemoteError> {
        if self.room() != Room::Stuck {
            return Ok(answer.await);
        }
        tokio::time::timeout(STUCK_WAIT, answer).await.map_err(|_| RemoteError::Unavailable(self.refusal()))
    }

    /// Looks at the room, now and then and when it changes.
    pub(super) fn mind_the_room(self: &Arc<Self>, watch: &mut Watch) {
        let room = self.room();
        let text = self.storage_text();
        self.storage.send_if_modified(|present| {
            let changed = *present != text;
            present.clone_from(&text);
            changed
        });
        if self.freshness().known_leader {
            watch.leaderless = None;
        }
        let leaderless = watch.leaderless.get_or_insert_with(Instant::now).elapsed();
        let only_voter = self.raft.voter_ids().count() <= 1;
        let stands = stands(room, only_voter, leaderless);
        // Only when it changes: right after the start elections wait for another reason.
        if std::mem::replace(&mut watch.stands_back, !stands) == stands {
            self.raft.runtime_config().elect(stands);
        }
        if room == Room::Enough {
            self.alone.store(false, Ordering::Relaxed);
            return;
        }
        let leads = self.leader.borrow().as_ref().is_some_and(|leader| leader.here);
        if leads && !self.handing_over.swap(true, Ordering::Relaxed) {
            self.spawner.start_short("hand over", Arc::clone(self).hand_over());
        }
    }

    async fn hand_over(self: Arc<Self>) {
        let (others, last) = self.others().await;
        let to = successor(&others, last);
        self.alone.store(to.is_none(), Ordering::Relaxed);
        if let Some(to) = to {
            tracing::warn!(to = format!("{to:016x}"), "the disk is full: handing the lead over");
            let server = Server { inner: Arc::clone(&self) };
            if let Err(error) = server.transfer_leadership(Some(to)).await {
                tracing::warn!("the lead was not handed over: {error:#}");
            }
        }
        self.handing_over.store(false, Ordering::Relaxed);
    }

    /// The other voters, and the end of the own log.
    async fn others(&self) -> (Vec<Other>, u64) {
        let (peers, last) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let voters: Vec<NodeId> = membership.voter_ids().filter(|id| *id != metrics.id).collect();
            let matched = |id| metrics.replication.as_ref().and_then(|all| all.get(id).copied()).flatten();
            let peers: Vec<_> = membership
                .nodes()
                .filter(|(id, _)| voters.contains(id))
                .map(|(id, peer)| (*id, peer.clone(), matched(id).map(|log_id| log_id.index)))
                .collect();
            (peers, metrics.last_log_index.unwrap_or(0))
        };
        let ask = peers.into_iter().map(|(id, peer, matched)| async move {
            let channel = self.channels.to(id, &peer);
            let answer = channel.call(Method::Status, bytes::Bytes::new(), STATUS_WAIT).await;
            let status = answer.ok().and_then(|answer| decode::<ConsensusStatus>(&answer).ok());
            Other { id, matched, has_room: status.map(|status| status.storage.is_none()) }
        });
        (futures_util::future::join_all(ask).await, last)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Admission, Other, STAND_BACK, admission, stands, successor, text};
    use crate::agent::consensus::log::{Room, Space};

    #[test]
    fn a_leader_without_room_refuses_only_when_nobody_can_lead_instead() {
        for small in [true, false] {
            assert_eq!(admission(Room::Enough, true, small), Admission::Take);
        }
        assert_eq!(
            admission(Room::Low, true, true),
            Admission::Take,
            "what runs is found as long as possible"
        );
        assert_eq!(admission(Room::Low, false, false), Admission::Later);
        assert_eq!(admission(Room::Low, true, false), Admission::Refuse);
        for room in [Room::Full, Room::Stuck] {
            assert_eq!(admission(room, false, true), Admission::Later);
            assert_eq!(admission(room, true, true), Admission::Refuse);
        }
    }

    #[test]
    fn the_lead_goes_to_a_server_with_room_that_has_nearly_everything() {
        let other = |id, matched, has_room| Other { id, matched, has_room };
        let all = [
            other(1, Some(100), Some(false)),
            other(2, Some(90), Some(true)),
            other(3, Some(95), Some(true)),
            other(4, Some(99), None),
            other(5, None, Some(true)),
        ];
        assert_eq!(successor(&all, 100), Some(3));
        assert_eq!(successor(&all[..1], 100), None, "it has no room either");
        assert_eq!(successor(&all, 10_000), None, "they lag too far");
    }

    #[test]
    fn a_server_without_room_stands_only_when_nobody_else_does() {
        assert!(stands(Room::Enough, false, Duration::ZERO));
        assert!(!stands(Room::Low, false, Duration::ZERO) && !stands(Room::Stuck, false, Duration::ZERO));
        assert!(stands(Room::Full, false, STAND_BACK), "a leader that only reads is better than none");
        assert!(stands(Room::Full, true, Duration::ZERO), "it is the only one");
    }

    #[test]
    fn the_text_names_the_server_the_reason_and_what_to_do() {
        assert_eq!(text(&Space::default(), "m1", "/data"), None);
        let space = Space { room: Room::Full, why: Some("No space left on device".into()) };
        let text = text(&space, "m1", "/data/raft").unwrap();
        for word in ["m1", "No space left on device", "takes no writes", "make room in /data/raft"] {
            assert!(text.contains(word), "{text}");
        }
    }
}
