//! The task that tells the catalog: changes at once, everything now and then.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::state::Dirty;
use crate::agent::handle::{Consensus, ProposeError, ReadMode, Replica, Topic};
use crate::model::catalog::{Command, NodeRow, key_of};
use crate::model::sync::{Scope, full_sync_interval, overridden_tags, plan};

/// First pause after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failure (Consul waits 15 s).
const RETRY_MAX: Duration = Duration::from_secs(15);
/// After the catalog's rows of our node changed, how long to collect further changes before all are compared.
/// Our own writes cause such changes too, so a comparison after each would be too many.
const ROWS_SETTLE: Duration = Duration::from_millis(200);
/// Rounds of one sync: the node first, the rest, and what changed meanwhile. More means that somebody else keeps
/// writing to our node; the next full sync goes on.
const ROUNDS_MAX: usize = 4;

pub(super) async fn run(
    shared: Arc<Shared>,
    replica: Arc<Replica>,
    consensus: Arc<dyn Consensus>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let quiet = shared.quiet.clone();
    let sync = Sync { shared, replica, consensus };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = quiet.cancelled() => {}
        never = follow(&sync) => match never {},
    }
    stop.cancelled().await;
    Ok(())
}

struct Sync {
    shared: Arc<Shared>,
    replica: Arc<Replica>,
    consensus: Arc<dyn Consensus>,
}

async fn follow(sync: &Sync) -> std::convert::Infallible {
    let mut rows = sync.replica.watch(Topic::Node(key_of(&sync.shared.node.node)));
    let mut full_at = Instant::now();
    let mut compare_at: Option<Instant> = None;
    let mut pause = RETRY_FIRST;
    loop {
        let next = compare_at.map_or(full_at, |at| at.min(full_at));
        tokio::select! {
            () = sync.shared.changed.notified() => {}
            () = rows.changed(), if compare_at.is_none() => {
                compare_at = Some(Instant::now() + ROWS_SETTLE);
                continue;
            }
            () = sleep_until(next) => {}
        }
        let now = Instant::now();
        let is_full = full_at <= now;
        if is_full || compare_at.is_some_and(|at| at <= now) {
            compare_at = None;
            sync.shared.state.lock().dirty.all = true;
        }
        match sync.once(is_full).await {
            Ok(()) => {
                pause = RETRY_FIRST;
                if is_full {
                    full_at = Instant::now() + staggered(sync.replica.load().node_count());
                }
            }
            Err(error) => {
                tracing::warn!("the catalog was not told of all services and checks: {error:#}");
                sync.shared.state.lock().dirty.all = true;
                full_at = Instant::now() + rand::random_range(pause / 2..pause);
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// The pause until the next full sync, so that the agents of a cluster do not all come at once.
fn staggered(nodes: usize) -> Duration {
    let interval = full_sync_interval(nodes);
    interval + rand::random_range(Duration::ZERO..interval / 4)
}

impl Sync {
    /// Tells what is dirty, until nothing is. A full sync first brings the replica up to date.
    async fn once(&self, is_full: bool) -> anyhow::Result<()> {
        if is_full {
            self.consensus.barrier(ReadMode::Default).await?;
        }
        for _ in 0..ROUNDS_MAX {
            let dirty = std::mem::take(&mut self.shared.state.lock().dirty);
            if dirty.is_empty() {
                return Ok(());
            }
            let (commands, again) = self.plan(&dirty);
            if commands.is_empty() {
                continue;
            }
            let mut refused = None;
            for command in commands {
                match self.consensus.propose(command).await {
                    Ok(_) => {}
                    // The others of the batch were applied all the same.
                    Err(ProposeError::Rejected(error)) => refused = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(error) = refused {
                return Err(error).context("the catalog refused");
            }
            if again {
                self.shared.state.lock().dirty.all = true;
            }
            // What the next plan compares with has to hold what this one wrote.
            self.consensus.barrier(ReadMode::Default).await?;
        }
        Ok(())
    }

    /// The commands for what is dirty, and whether all has to be compared once more after them.
    fn plan(&self, dirty: &Dirty) -> (Vec<Command>, bool) {
        let node = &self.shared.node;
        let catalog = self.replica.snapshot();
        let row = catalog.node(&node.node);
        let all = dirty.all || !row.is_some_and(|row| is_ours(&node.id, row));
        let mut state = self.shared.state.lock();
        let adopted = row.map(|row| overridden_tags(&state.owned, row)).unwrap_or_default();
        for (service_id, tags) in adopted {
            state.adopt_tags(&service_id, &tags);
        }
        let scope =
            if all { Scope::All } else { Scope::Only { services: &dirty.services, checks: &dirty.checks } };
        let commands = plan(&state.owned, node, row, scope, &state.output_waits());
        let again = all && !commands.is_empty();
        (commands, again)
    }
}

fn is_ours(node_id: &str, row: &NodeRow) -> bool {
    row.node.id == node_id
}
