//! Following a server: its snapshot, its commands, its signs of life; and another server when it falls silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::BytesMut;
use tokio::time::Instant;

use super::Inner;
use crate::agent::rpc::messages::{FollowEvent, FollowQuestion};
use crate::agent::rpc::{Channel, Connection, Method, decode, encode};
use crate::host::outside::blocking;
use crate::model::catalog::{Catalog, Changes, Command};

/// A stream that is silent for this long is given up: four signs of life were missed.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Pause after the first failure; doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest pause between attempts to follow a server.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Longest snapshot that is taken, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;
/// A changed replica is saved this often at most.
const SAVE_PAUSE: Duration = Duration::from_mins(1);

/// Follows one server after the other until the process stops, then saves the replica.
pub(super) async fn run(inner: Arc<Inner>) -> anyhow::Result<()> {
    let stop = inner.spawner.stop_token();
    let mut saved = inner.replica.load().index();
    let following = async {
        let mut saving = tokio::time::interval_at(Instant::now() + SAVE_PAUSE, SAVE_PAUSE);
        let work = follow_servers(&inner);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                _ = saving.tick() => saved = save(&inner, saved).await,
            }
        }
    };
    tokio::select! {
        biased;
        () = inner.retire.cancelled() => {}
        () = stop.cancelled() => {}
        () = following => {}
    }
    inner.retired.cancel();
    save(&inner, saved).await;
    // Who no longer follows still asks.
    stop.cancelled().await;
    Ok(())
}

async fn save(inner: &Arc<Inner>, saved: u64) -> u64 {
    let catalog = inner.replica.snapshot();
    let index = catalog.index();
    if index == saved || inner.file.is_none() {
        return saved;
    }
    let theirs = Arc::clone(inner);
    let written = blocking(move || theirs.file.as_ref().map_or(Ok(()), |file| file.save(&catalog)));
    match written.await.and_then(std::convert::identity) {
        Ok(()) => index,
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the replica cannot be saved");
            saved
        }
    }
}

async fn follow_servers(inner: &Arc<Inner>) {
    let mut servers = inner.servers.clone();
    // Clients spread over the servers by their ids.
    let mut turn = usize::try_from(inner.identity.node() >> 1).unwrap_or(0);
    let mut pause = PAUSE_FIRST;
    loop {
        let addresses = servers.borrow_and_update().clone();
        if addresses.is_empty() {
            if servers.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        let address = addresses[turn % addresses.len()];
        let begin = Instant::now();
        let ended = follow(inner, address).await;
        inner.server.send_replace(None);
        tracing::debug!(%address, reason = format!("{ended:#}"), "no longer following");
        turn = turn.wrapping_add(1);
        pause =
            if begin.elapsed() > PAUSE_MAX { PAUSE_FIRST } else { pause.saturating_mul(2).min(PAUSE_MAX) };
        // A changed list of servers is looked at at once.
        drop(tokio::time::timeout(pause, servers.changed()).await);
    }
}

/// Follows one server; gives the reason why that ended.
async fn follow(inner: &Inner, address: SocketAddr) -> anyhow::Error {
    match try_follow(inner, address).await {
        Ok(()) => anyhow::anyhow!("the server ended the stream"),
        Err(error) => error,
    }
}

async fn try_follow(inner: &Inner, address: SocketAddr) -> anyhow::Result<()> {
    let connection = Connection::open(address, &inner.identity, &inner.spawner).await?;
    let cluster = connection.peer().cluster.clone().context("the server is in no cluster yet")?;
    ensure!(inner.identity.adopt(&cluster), "the server is of another cluster");
    // Keys are left from when this agent was a server.
    let mut catalog = inner.replica.snapshot().without_keys();
    // What we have counts only if it is of the same cluster: indexes of two clusters have nothing in common.
    let have = (catalog.cluster() == Some(&cluster)).then(|| catalog.index());
    let question = encode(&FollowQuestion { have })?;
    let mut events = connection.follow(Method::Follow, question).await?;
    let mut snapshot = BytesMut::new();
    let mut fresh = have.is_some();
    loop {
        let event = tokio::time::timeout(SILENCE_MAX, events.recv()).await.context("the server is silent")?;
        let Some(event) = event else { return Ok(()) };
        match decode(&event)? {
            FollowEvent::Snapshot { total, piece } => {
                ensure!(total <= SNAPSHOT_BYTES_MAX, "a snapshot of {total} bytes is too long");
                snapshot.extend_from_slice(&piece);
                if snapshot.len() as u64 >= total {
                    catalog = Catalog::from_bytes(&std::mem::take(&mut snapshot))?;
                    // One of an earlier version that is still being given the log would take all names away from us.
                    let has_some = inner.replica.load().index() > 0;
                    ensure!(
                        !has_some || catalog.cluster().is_some(),
                        "the server has nothing of its cluster yet"
                    );
                    inner.replica.replace(Arc::new(catalog.clone()));
                    fresh = true;
                }
            }
            FollowEvent::Commands(commands) => {
                let mut changes = Changes::default();
                for (index, bytes) in commands {
                    if index > catalog.index() {
                        let command: Command = decode(&bytes)?;
                        changes.merge(catalog.apply(index, &command).changes);
                    }
                }
                inner.replica.publish(Arc::new(catalog.clone()), &changes);
            }
            FollowEvent::Alive { index, freshness } => {
                *inner.heard.lock() = Some((Instant::now(), freshness));
                if index > catalog.index() {
                    catalog.skip_to(index);
                    inner.replica.publish(Arc::new(catalog.clone()), &Changes::default());
                }
            }
        }
        if fresh && inner.server.borrow().is_none() {
            let peer = Some(connection.peer().node);
            let channel = Channel::new(address, peer, Arc::clone(&inner.identity), inner.spawner.clone());
            inner.server.send_replace(Some(Arc::new(channel)));
        }
    }
}
