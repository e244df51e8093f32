//! Joining for ever: until somebody is there, whenever we are alone again, and towards islands.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Gossip, addresses};
use crate::model::membership::MemberStatus;

/// First pause between two rounds: machines that boot together find each other in the second round.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks, when not alone, for addresses to join whose agents are no members: two groups that started
/// apart become one.
const ISLAND_INTERVAL: Duration = Duration::from_mins(1);

/// Whom to join.
#[derive(Debug)]
pub(super) struct Wishes {
    pub(super) retry_join: Vec<String>,
    pub(super) remembered: Vec<SocketAddr>,
    pub(super) retry_interval: Duration,
}

/// Runs until `stop`. `looked` becomes true when everybody was asked once.
pub(super) async fn run(
    gossip: Gossip,
    wishes: Wishes,
    looked: watch::Sender<bool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let nothing_to_join = wishes.retry_join.is_empty() && wishes.remembered.is_empty();
    if nothing_to_join {
        looked.send_replace(true);
        stop.cancelled().await;
        return Ok(());
    }
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = join_for_ever(&gossip, &wishes, &looked) => {}
    }
    Ok(())
}

async fn join_for_ever(gossip: &Gossip, wishes: &Wishes, looked: &watch::Sender<bool>) {
    let mut pause = FIRST_PAUSE;
    let mut changes = gossip.changes();
    loop {
        if is_leaving(gossip) {
            std::future::pending::<()>().await;
        }
        // Who came to us meanwhile may be as new as we are.
        if is_alone(gossip) || !*looked.borrow() {
            join_all(gossip, wishes).await;
            looked.send_replace(true);
        }
        if is_alone(gossip) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(wishes.retry_interval.max(FIRST_PAUSE));
            continue;
        }
        pause = FIRST_PAUSE;
        let alone_again = async {
            // Ends early only when gossip stops, and then so do we.
            while changes.changed().await.is_ok() && !is_alone(gossip) {}
        };
        if tokio::time::timeout(ISLAND_INTERVAL, alone_again).await.is_err() {
            join_islands(gossip, wishes).await;
        }
    }
}

async fn join_all(gossip: &Gossip, wishes: &Wishes) {
    let remembered = wishes.remembered.iter().map(SocketAddr::to_string);
    let all: Vec<String> = wishes.retry_join.iter().cloned().chain(remembered).collect();
    let report = gossip.join(&all).await;
    if is_alone(gossip) {
        let mut reasons: Vec<String> =
            report.failures.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
        if reasons.is_empty() {
            reasons.push(format!(
                "nobody answered but this agent itself, or others that have its name {} (each needs one of its own: -node)",
                gossip.name
            ));
        }
        warn!("nobody to join yet, trying again: {}", reasons.join("; "));
    } else {
        info!(joined = report.joined, "joined the cluster");
    }
}

/// Joins whatever of the list has an address at which no member is known.
async fn join_islands(gossip: &Gossip, wishes: &Wishes) {
    let default_port = gossip.own_addresses[0].port();
    let mut wanted: BTreeSet<SocketAddr> = wishes.remembered.iter().copied().collect();
    for text in &wishes.retry_join {
        match addresses::resolve(text, default_port).await {
            Ok(found) => wanted.extend(found),
            Err(error) => debug!("{error:#}"),
        }
    }
    let members = gossip.members();
    let known: BTreeSet<SocketAddr> =
        members.iter().map(|member| SocketAddr::new(member.address, member.port)).collect();
    let missing: Vec<String> = wanted.difference(&known).map(SocketAddr::to_string).collect();
    if !missing.is_empty() {
        let report = gossip.join(&missing).await;
        debug!(joined = report.joined, "looked for islands at {}", missing.join(", "));
    }
}

fn is_alone(gossip: &Gossip) -> bool {
    let members = gossip.members();
    !members.iter().any(|member| {
        *member.name != *gossip.name && matches!(member.status, MemberStatus::Alive | MemberStatus::Leaving)
    })
}

fn is_leaving(gossip: &Gossip) -> bool {
    let members = gossip.members();
    members.iter().any(|member| *member.name == *gossip.name && member.status != MemberStatus::Alive)
}
