//! The stream that keeps another agent's replica of the discovery part fresh.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::feed::Missed;
use super::server::Inner;
use crate::agent::rpc::encode;
use crate::agent::rpc::messages::FollowEvent;
use crate::host::outside::blocking;
use crate::model::catalog::Depth;

/// Sign of life of an idle stream.
pub(super) const ALIVE_PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a snapshot in one event.
const PIECE_BYTES: usize = 256 << 10;

/// Sends what the follower misses, then what happens, until it goes away.
pub(super) async fn stream(
    inner: Arc<Inner>,
    have: Option<u64>,
    events: mpsc::Sender<Bytes>,
) -> anyhow::Result<()> {
    let mut discovery = inner.feed.discovery();
    let send = async |event: &FollowEvent| -> anyhow::Result<()> {
        events.send(encode(event)?).await.map_err(|_| anyhow::anyhow!("the follower is gone"))
    };
    let mut alive = true;
    let mut have = have;
    loop {
        discovery.borrow_and_update();
        let missed = have.map_or(Missed::TooMuch, |have| inner.feed.since(have));
        match missed {
            Missed::TooMuch if !shows_all(&inner) => {
                tokio::select! {
                    biased;
                    changed = discovery.changed() => changed?,
                    // What is shown changes a moment after that, and wakes nobody here.
                    () = tokio::time::sleep(ALIVE_PAUSE) => {}
                    () = events.closed() => return Ok(()),
                }
                continue;
            }
            Missed::TooMuch => {
                let (index, bytes) = snapshot(&inner).await?;
                let total = bytes.len() as u64;
                for start in (0..bytes.len()).step_by(PIECE_BYTES) {
                    let piece = bytes.slice(start..bytes.len().min(start + PIECE_BYTES));
                    send(&FollowEvent::Snapshot { total, piece }).await?;
                }
                have = Some(index);
                continue;
            }
            Missed::Commands(commands, upto) => {
                have = have.max(Some(upto));
                if !commands.is_empty() {
                    send(&FollowEvent::Commands(commands)).await?;
                    // There may be more than fitted into one event.
                    continue;
                }
            }
        }
        if alive {
            let event = FollowEvent::Alive { index: have.unwrap_or(0), freshness: inner.freshness() };
            send(&event).await?;
        }
        alive = tokio::select! {
            biased;
            changed = discovery.changed() => { changed?; false }
            () = tokio::time::sleep(ALIVE_PAUSE) => true,
            () = events.closed() => return Ok(()),
        };
    }
}

/// Whether a snapshot takes nothing away from who follows: a new server that is still being given the log would take all
/// names from who joins its cluster, and one that is just being given a snapshot would show again what was before.
fn shows_all(inner: &Inner) -> bool {
    let shown = inner.replica.load();
    shown.cluster().is_some() && shown.index() >= inner.feed.floor()
}

/// A snapshot of the discovery part from which the feed goes on.
async fn snapshot(inner: &Inner) -> anyhow::Result<(u64, Bytes)> {
    if let Some(kept) = inner.feed.snapshot() {
        return Ok(kept);
    }
    let catalog = inner.replica.snapshot();
    let index = catalog.index();
    let encoded = blocking(move || catalog.to_bytes(Depth::Discovery)).await??;
    let bytes = Bytes::from(encoded);
    inner.feed.keep_snapshot(index, bytes.clone());
    Ok((index, bytes))
}
