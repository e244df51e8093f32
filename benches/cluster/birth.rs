//! Birth: seven machines that start at once; from the last claim in etcd to a leader that all of them know.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use etcd_client::GetOptions;
use futures_util::future::join_all;

use super::agents::Agent;
use super::etcd::{self, Etcd};
use super::place::{Place, eventually};
use super::table::{Better, Figure, Row};

/// Machines that start at once; the first three to claim become servers.
const MACHINES: usize = 7;
const CLAIMS: &str = "/consul.io/bootstrap/machines/";
const ROUNDS: usize = 3;
/// Pause between two looks: finer than what is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Medians of several rounds, in ms.
pub(crate) async fn measure(place: &Place) -> Result<Vec<Row>> {
    let (mut after_claim, mut after_start, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (claim, start) = round(place).await?;
        after_claim.push(claim);
        after_start.push(start);
        peer.push(etcd_start(place).await?);
    }
    let figure = |name: &str, times: Vec<Duration>| Figure::new(name, median(times).as_secs_f64() * 1e3);
    let peers = vec![figure("etcd, start of 3 members → leader", peer)];
    let row = |what: &str, ours, goal| Row {
        what: what.to_owned(),
        unit: "ms",
        better: Better::Less,
        ours,
        peers: peers.clone(),
        goal,
    };
    Ok(vec![
        row("last claim of 7 machines → leader known to all", figure("", after_claim), Some(1000.0)),
        row("start of 7 processes → leader known to all", figure("", after_start), None),
    ])
}

/// The median of at least one time.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn round(place: &Place) -> Result<(Duration, Duration)> {
    let etcd = Etcd::start(place, 1).await?;
    let url = etcd::url(etcd.leader());
    let mut connection = etcd::connect(etcd.leader()).await?;
    let start = Instant::now();
    let mut machines = Vec::new();
    for number in 1..=MACHINES {
        machines.push(Agent::bootstrap(place, &format!("machine-{number}"), &url, "3")?);
    }
    let (mut claimed, mut waiting) = (None, (0..MACHINES).collect::<Vec<_>>());
    let end = start + super::place::PATIENCE;
    while claimed.is_none() || !waiting.is_empty() {
        anyhow::ensure!(
            Instant::now() < end,
            "machines without a leader: {}",
            machines[waiting[0]].process.said()
        );
        if claimed.is_none() {
            let options = GetOptions::new().with_prefix().with_count_only();
            let count = connection.get(CLAIMS, Some(options)).await?.count();
            claimed = (usize::try_from(count)? == MACHINES).then(Instant::now);
        }
        let leaders = join_all(waiting.iter().map(async |number| machines[*number].leader().await)).await;
        let mut known = leaders.iter();
        waiting.retain(|_| known.next().is_some_and(Option::is_none));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let claimed = claimed.context("the loop ends with a claim")?;
    Ok((claimed.elapsed(), start.elapsed()))
}

async fn etcd_start(place: &Place) -> Result<Duration> {
    let start = Instant::now();
    let members = Etcd::spawn(place, 3)?;
    eventually("etcd has a leader", async || etcd::leader(&members).await).await?;
    Ok(start.elapsed())
}
