//! DNS over UDP and TCP: usual questions are answered by threads that do nothing else, all others by tasks.
//!
//! A name of our own zone never waits for the network (I5), but for a CNAME that leads out of it.
//! What is answered is decided in `model::dns`; here are sockets, caches, limits and recursors.

mod backlog;
mod bind;
mod cache;
mod forward;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod responder;
mod shares;
mod slow;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod unusual;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::agent::handle::AgentHandle;
use crate::model::dns::{Name, Policy, Zones};
use crate::tasks::Spawner;

pub use bind::{Bound, bind};
pub use forward::Strategy;
use responder::Responder;
use slow::{Slow, UNUSUAL_WAITING_MAX};

/// How DNS is served.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// The zone, usually `consul`.
    pub zone: Name,
    /// A second name of the zone.
    pub alternative_zone: Option<Name>,
    /// TTLs, limits, health.
    pub policy: Policy,
    /// Who is asked for names that are not ours; with none, those are refused.
    pub recursors: Vec<SocketAddr>,
    /// In which order.
    pub strategy: Strategy,
    /// How long each of them may take.
    pub recursor_timeout: Duration,
}

impl DnsSettings {
    /// Consul's defaults for a zone.
    pub fn new(zone: Name) -> Self {
        Self {
            zone,
            alternative_zone: None,
            policy: Policy::default(),
            recursors: Vec::new(),
            strategy: Strategy::Sequential,
            recursor_timeout: Duration::from_secs(2),
        }
    }
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Questions that were answered with SERVFAIL because too many unusual or recursive ones were under way.
    pub overflowed: AtomicU64,
    /// Questions that were lost because more came than could be answered.
    pub lost: AtomicU64,
    /// TCP connections that were closed at once because there were too many.
    pub connections_refused: AtomicU64,
}

impl Counters {
    fn overflow(&self) {
        let before = self.overflowed.fetch_add(1, Ordering::Relaxed);
        // Powers of two: the first is told at once, a flood does not fill the log.
        if (before + 1).is_power_of_two() {
            tracing::warn!(
                total = before + 1,
                "too many unusual or recursive DNS questions at once: answered SERVFAIL"
            );
        }
    }

    fn lose(&self, questions: u64) {
        let before = self.lost.fetch_add(questions, Ordering::Relaxed);
        // Whenever the total has doubled.
        if (before + questions).leading_zeros() < before.leading_zeros() {
            tracing::warn!(
                total = before + questions,
                "more DNS questions come than can be answered: those who ask most lose some"
            );
        }
    }

    fn refuse_connection(&self) {
        let before = self.connections_refused.fetch_add(1, Ordering::Relaxed);
        if (before + 1).is_power_of_two() {
            tracing::warn!(total = before + 1, "too many DNS connections at once: closed");
        }
    }
}

/// Starts to serve on the bound sockets. Must be called within a tokio runtime.
///
/// # Errors
/// When the system refuses threads or sockets.
pub fn start(
    bound: Bound,
    agent: &AgentHandle,
    settings: DnsSettings,
    spawner: &Spawner,
) -> anyhow::Result<Arc<Counters>> {
    let counters = Arc::new(Counters::default());
    let zones = Zones {
        primary: settings.zone.clone(),
        alternative: settings.alternative_zone.clone(),
        datacenter: agent.identity.datacenter.clone(),
    };
    let own = bound.addresses();
    let (loops, recursors): (Vec<_>, Vec<_>) =
        settings.recursors.into_iter().partition(|recursor| own.contains(recursor));
    for recursor in loops {
        tracing::warn!(%recursor, "this recursor is this agent itself: it is not asked");
    }
    let recursion = !recursors.is_empty();
    let forwarder = forward::Forwarder::new(recursors, settings.strategy, settings.recursor_timeout);
    let responder = Arc::new(Responder {
        replica: agent.replica.clone(),
        dead_nodes: agent.dead_nodes.clone(),
        zones,
        policy: settings.policy,
        recursion,
    });
    let slow = Arc::new(Slow::new(responder.clone(), forwarder, counters.clone()));
    let (unusual, waiting) = mpsc::channel(UNUSUAL_WAITING_MAX);
    let (udp, tcp) = bound.into_sockets();
    udp::start(udp, &responder, &unusual, &counters, spawner).context("cannot start DNS over UDP")?;
    drop(unusual);
    slow::start(waiting, &slow, spawner);
    for listener in tcp {
        tcp::start(listener, &slow, &counters, spawner).context("cannot start DNS over TCP")?;
    }
    Ok(counters)
}
