//! Reads over HTTP at a server and at a client agent, beside the bare HTTP library and beside etcd.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::agents::Cluster;
use super::etcd::{self, Etcd, StaleGets};
use super::http::{self, Requests};
use super::load::{self, Load};
use super::place::Place;
use super::table::{Better, Figure, Row};
use super::{dns, echo};

/// Connections of every load.
const CONNECTIONS: usize = 64;
/// DESIGN §10: 80,000 requests per core-second.
const GOAL_CPU: f64 = 1e6 / 80_000.0;

/// What is read: title, path, whether at the client agent.
const READS: &[(&str, &str, bool)] = &[
    ("health/service?passing&stale at a server", "/v1/health/service/web?passing&stale", false),
    ("health/service?passing (default) at the leader", "/v1/health/service/web?passing", false),
    ("health/service?passing&stale at a client agent", "/v1/health/service/web?passing&stale", true),
    ("health/service?passing (default) at a client agent", "/v1/health/service/web?passing", true),
    ("KV GET ?stale at a server", "/v1/kv/bench?stale", false),
    ("KV GET ?stale at a client agent", "/v1/kv/bench?stale", true),
];

pub(crate) async fn measure(place: &Place, time: Duration) -> Result<Vec<Row>> {
    let cluster = Cluster::start(place, 1, 1).await?;
    dns::register_three(cluster.leader()).await?;
    cluster.leader().put("/v1/kv/bench", &"v".repeat(256)).await?;
    cluster.sees(1, "/v1/health/service/web?passing&stale", "10.1.0.3").await?;

    let stale = etcd_reads(place, time).await?;
    let mut rows = Vec::new();
    let mut echoed: Option<(String, Load)> = None;
    for (title, path, client) in READS {
        let address = cluster.agents[usize::from(*client)].address;
        let ours = read(address, path, &cluster.ids(), time).await?;
        let family = path.split('?').next().unwrap_or_default();
        if echoed.as_ref().is_none_or(|(echoed, _)| echoed != family) {
            let body = http::once(address, "GET", path, b"").await.context("nobody answers")?;
            let (address, process) = echo::start(place, &body).await?;
            echoed = Some((family.to_owned(), read(address, "/", &[process.id()], time).await?));
        }
        let ceiling = echoed.as_ref().map(|(_, load)| figure("bare hyper", load));
        let etcd = path.starts_with("/v1/kv/").then(|| figure("etcd linearizable=false", &stale));
        rows.push(Row {
            what: format!("{title}: CPU of all agents"),
            unit: "µs/request",
            better: Better::Less,
            ours: figure("", &ours),
            peers: ceiling.into_iter().chain(etcd).collect(),
            goal: Some(GOAL_CPU),
        });
    }
    Ok(rows)
}

fn figure(name: &str, load: &Load) -> Figure {
    Figure::noted(name, load.cpu, format!("{:.0}/s", load.rate))
}

async fn read(address: Ipv4Addr, path: &str, servers: &[u32], time: Duration) -> Result<Load> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Requests::open((address, 8500).into(), vec![http::bytes("GET", path, b"")]).await?);
    }
    load::run(clients, servers, time).await
}

async fn etcd_reads(place: &Place, time: Duration) -> Result<Load> {
    let etcd = Etcd::start(place, 1).await?;
    etcd::connect(etcd.leader()).await?.put("bench", vec![b'v'; 256], None).await?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(StaleGets { connection: etcd::connect(etcd.leader()).await?, key: "bench" });
    }
    load::run(clients, &etcd.ids(), time).await
}
