//! Tells the catalog when this server's disk is full, and when it no longer is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handle::{Consensus, Replica};
use crate::model::sync::plan_storage;

/// Time between attempts to make the catalog agree.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Time between looks when the catalog agrees that all is well.
const LOOK_PAUSE: Duration = Duration::from_mins(1);

/// Runs until `stop`; `full` says that the disk is full, as long as it is.
pub(super) async fn run(
    node: String,
    mut full: watch::Receiver<Option<String>>,
    replica: Arc<Replica>,
    consensus: Arc<dyn Consensus>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let work = async {
        loop {
            let now = full.borrow_and_update().clone();
            let catalog = replica.load();
            // Right after the start the replica may not know this node yet.
            let row = catalog.node(&node);
            let command = row.and_then(|row| plan_storage(row, now.as_deref()));
            let settled = row.is_some() && command.is_none() && now.is_none();
            if let Some(command) = command
                && let Err(error) = consensus.propose(command).await
            {
                tracing::debug!(%error, "the catalog was not told about the disk");
            }
            let pause = if settled { LOOK_PAUSE } else { RETRY_PAUSE };
            tokio::select! {
                biased;
                changed = full.changed() => changed.context("the server is gone")?,
                () = tokio::time::sleep(pause) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = work => ended,
    }
}
