//! A closed loop of requests over many connections, and what it cost the servers.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;

use super::process;

/// Load before the measurement: caches, connections and the branch predictor settle.
const WARM_UP: Duration = Duration::from_millis(500);

/// One connection that asks and waits for the answer.
pub(crate) trait Client {
    async fn request(&mut self) -> Result<()>;
}

/// What was measured.
pub(crate) struct Load {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Median time of a request in ms.
    pub(crate) median: f64,
    /// 99th percentile in ms.
    pub(crate) slowest: f64,
    /// CPU time of all servers per request in µs.
    pub(crate) cpu: f64,
}

/// Runs all clients for `time` against the processes `servers`.
pub(crate) async fn run<C: Client>(mut clients: Vec<C>, servers: &[u32], time: Duration) -> Result<Load> {
    all(&mut clients, WARM_UP).await?;
    let before = process::cpu(servers)?;
    let start = Instant::now();
    let mut latencies = all(&mut clients, time).await?;
    let elapsed = start.elapsed();
    let used = process::cpu(servers)?.saturating_sub(before);
    latencies.sort();
    let count = latencies.len();
    let requests = f64::from(u32::try_from(count)?);
    let at = |index: usize| latencies[index.min(count - 1)].as_secs_f64() * 1e3;
    Ok(Load {
        rate: requests / elapsed.as_secs_f64(),
        median: at(count / 2),
        slowest: at(count * 99 / 100),
        cpu: used.as_secs_f64() * 1e6 / requests,
    })
}

async fn all<C: Client>(clients: &mut [C], time: Duration) -> Result<Vec<Duration>> {
    let end = Instant::now() + time;
    let loops = clients.iter_mut().map(async |client| {
        let mut latencies = Vec::new();
        loop {
            let sent = Instant::now();
            client.request().await?;
            let answered = Instant::now();
            latencies.push(answered - sent);
            if answered >= end {
                return anyhow::Ok(latencies);
            }
        }
    });
    Ok(try_join_all(loops).await?.concat())
}
