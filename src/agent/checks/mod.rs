//! Runs the checks that ask something: HTTP and TCP.
//!
//! Orders come from the local state through [`ProbeBoard`], results go back there. What a result means is decided
//! in `model::health`; TTL checks need no runner.

mod http;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::http::HttpProbes;
use crate::agent::handle::{ProbeBoard, ProbeOrder, ProbeOrders};
use crate::model::catalog::Status;
use crate::model::health::{CheckKind, Thresholds};
use crate::tasks::Spawner;

/// Probes under way at once; more wait their turn. Each holds a socket, of which a process has 1024 by default.
const PROBES_AT_ONCE_MAX: usize = 256;
/// Longest time of one probe unless its check says otherwise (Consul's).
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest time between two runs. Registrations are checked to have at least 1 s; this only keeps a mistake from
/// becoming a busy loop.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Checks that were there before the agent started run for the first time within this: their state is old.
const SOON: Duration = Duration::from_secs(1);

/// Starts the runner.
///
/// # Errors
/// When the HTTP clients cannot be made.
pub fn start(board: Arc<dyn ProbeBoard>, spawner: &Spawner) -> anyhow::Result<()> {
    let runner = Runner {
        http: Arc::new(HttpProbes::new()?),
        places: Arc::new(Semaphore::new(PROBES_AT_ONCE_MAX)),
        board,
        spawner: spawner.clone(),
    };
    spawner.start("checks", runner.run(spawner.stop_token()));
    Ok(())
}

struct Runner {
    http: Arc<HttpProbes>,
    places: Arc<Semaphore>,
    board: Arc<dyn ProbeBoard>,
    spawner: Spawner,
}

impl Runner {
    /// Keeps one task for each order: started when it comes, stopped when it goes.
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut orders = self.board.orders();
        let mut present = ProbeOrders::default();
        let mut running: HashMap<String, CancellationToken> = HashMap::new();
        loop {
            let wanted = orders.borrow_and_update().clone();
            for change in present.diff(&wanted) {
                let (id, order) = match change {
                    DiffItem::Add(id, order) | DiffItem::Update { new: (id, order), .. } => (id, Some(order)),
                    DiffItem::Remove(id, _) => (id, None),
                };
                if let Some(old) = running.remove(id) {
                    old.cancel();
                }
                if let Some(order) = order {
                    let end = stop.child_token();
                    running.insert(id.clone(), end.clone());
                    self.start_check(id.clone(), order.clone(), end);
                }
            }
            present = wanted;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = orders.changed() => if changed.is_err() {
                    // The board is gone, and with it all checks; nothing is left to do until the stop.
                    stop.cancelled().await;
                    return Ok(());
                },
            }
        }
    }

    fn start_check(&self, id: String, order: Arc<ProbeOrder>, end: CancellationToken) {
        let probe = Probe {
            http: self.http.clone(),
            places: self.places.clone(),
            board: self.board.clone(),
            id,
            order,
        };
        self.spawner.start_short("check", async move {
            tokio::select! {
                () = end.cancelled() => {}
                never = probe.repeat() => match never {},
            }
        });
    }
}

struct Probe {
    http: Arc<HttpProbes>,
    places: Arc<Semaphore>,
    board: Arc<dyn ProbeBoard>,
    id: String,
    order: Arc<ProbeOrder>,
}

impl Probe {
    /// Runs again and again, first after a random part of the interval, so that many checks that are registered
    /// together do not run together. A run begins one interval after the last one has ended.
    async fn repeat(&self) -> std::convert::Infallible {
        let interval = self.order.definition.interval.max(INTERVAL_MIN);
        let first_within = if self.order.soon { interval.min(SOON) } else { interval };
        let mut thresholds = Thresholds::new(&self.order.definition);
        tokio::time::sleep(rand::random_range(Duration::ZERO..first_within)).await;
        loop {
            let (result, output) = self.once().await;
            // Below its threshold the check stays as it is.
            if let Some(status) = thresholds.judge(result) {
                self.board.report(&self.id, self.order.generation, status, &output);
            }
            tokio::time::sleep(interval).await;
        }
    }

    async fn once(&self) -> (Status, String) {
        // The semaphore is never closed.
        let _place = self.places.acquire().await.ok();
        let definition = &self.order.definition;
        let timeout = definition.timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(PROBE_TIMEOUT);
        let output_max = definition.output_max_size.unwrap_or_else(|| self.board.output_max());
        match &definition.kind {
            CheckKind::Http { .. } => self.http.ask(&definition.kind, timeout, output_max).await,
            CheckKind::Tcp { address } => tcp::ask(address, timeout).await,
            CheckKind::Ttl { .. } => (Status::Critical, "TTL checks are not run".to_owned()),
        }
    }
}
