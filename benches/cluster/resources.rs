//! What agents need: CPU and memory when idle, memory with 10,000 services, and reads of that many.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::agents::Cluster;
use super::dns::{Target, ask};
use super::etcd::{self, Etcd, Puts};
use super::http::{self, Requests};
use super::load::{self, Client as _};
use super::place::Place;
use super::process::{fine_cpu, resident};
use super::table::{Better, Figure, Row};

/// Services of the large catalog, one instance each, on 100 nodes.
const SERVICES: usize = 10_000;
const NODES: usize = 100;
/// Connections that fill the catalog.
const WRITERS: usize = 64;
/// After a start, until caches are filled and elections are over.
const SETTLE: Duration = Duration::from_secs(3);
/// How long idle CPU is watched.
const IDLE: Duration = Duration::from_secs(8);

pub(crate) async fn measure(place: &Place, time: Duration) -> Result<Vec<Row>> {
    let cluster = Cluster::start(place, 3, 1).await?;
    let etcd = Etcd::start(place, 3).await?;
    tokio::time::sleep(SETTLE).await;
    let (leader, client) = (cluster.leader().process.id(), cluster.agents[3].process.id());
    let follower = cluster.agents[(cluster.leader + 1) % 3].process.id();
    let (peer, peer_follower) = (etcd.ids()[etcd.leader], etcd.ids()[(etcd.leader + 1) % 3]);
    let all = [leader, follower, client, peer, peer_follower];
    let before = all.map(fine_cpu);
    tokio::time::sleep(IDLE).await;
    let mut idle = Vec::new();
    for (id, before) in all.into_iter().zip(before) {
        idle.push((fine_cpu(id)?.saturating_sub(before?)).as_secs_f64() / IDLE.as_secs_f64() * 100.0);
    }
    let row = |what: &str, unit, ours, peer: &str, theirs, goal| Row {
        what: what.to_owned(),
        unit,
        better: Better::Less,
        ours: Figure::new("", ours),
        peers: vec![Figure::new(peer, theirs)],
        goal,
    };
    let mut rows = vec![
        row("idle CPU, leader of 3 servers", "% of a core", idle[0], "etcd leader", idle[3], Some(0.3)),
        row("idle CPU, server that follows", "% of a core", idle[1], "etcd follower", idle[4], Some(0.3)),
        row("idle CPU, client agent", "% of a core", idle[2], "etcd follower", idle[4], None),
        row("memory (RSS), idle server", "MiB", resident(leader)?, "etcd", resident(peer)?, Some(25.0)),
        row("memory (RSS), idle client agent", "MiB", resident(client)?, "etcd", resident(peer)?, Some(16.0)),
    ];
    fill(&cluster).await?;
    fill_etcd(&etcd).await?;
    cluster.sees(3, &format!("/v1/health/service/{}?stale", name(SERVICES - 1)), "8080").await?;
    for (what, id) in [("server", leader), ("client agent", client)] {
        let what = format!("memory (RSS) with 10,000 services, {what}");
        rows.push(row(&what, "MiB", resident(id)?, "etcd with the same JSON", resident(peer)?, Some(60.0)));
    }
    rows.extend(reads_of_many(place, &cluster, time).await?);
    Ok(rows)
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

fn registration(number: usize) -> String {
    let (node, name) = (number % NODES, name(number));
    format!(
        r#"{{"Node": "node-{node}", "Address": "10.2.0.{node}", "Service": {{"Service": "{name}", "Port": 8080,
            "Tags": ["v1"]}}, "Check": {{"CheckID": "service:{name}", "Name": "{name}", "ServiceID": "{name}",
            "Status": "passing"}}}}"#
    )
}

async fn fill(cluster: &Cluster) -> Result<()> {
    let address = (cluster.leader().address, 8500).into();
    let writers = (0..WRITERS).map(async |writer| {
        let numbers = (writer..SERVICES).step_by(WRITERS);
        let put = |number| http::bytes("PUT", "/v1/catalog/register", registration(number).as_bytes());
        let requests: Vec<_> = numbers.map(put).collect();
        let count = requests.len();
        let mut client = Requests::open(address, requests).await?;
        for _ in 0..count {
            client.request().await?;
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(writers).await.context("cannot fill the catalog")?;
    Ok(())
}

async fn fill_etcd(etcd: &Etcd) -> Result<()> {
    let writers = (0..WRITERS).map(async |writer| {
        let mut puts = Puts {
            connection: etcd::connect(etcd.leader()).await?,
            keys: Vec::new(),
            value: Vec::new(),
            next: 0,
        };
        for number in (writer..SERVICES).step_by(WRITERS) {
            puts.keys = vec![name(number)];
            puts.next = 0;
            puts.value = registration(number).into_bytes();
            puts.request().await?;
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(writers).await.context("cannot fill etcd")?;
    Ok(())
}

/// DNS over all names, and the list of all names: no peer holds the same, so a single name is the peer.
async fn reads_of_many(place: &Place, cluster: &Cluster, time: Duration) -> Result<Vec<Row>> {
    let client = &cluster.agents[3];
    let target = Target { address: client.address, port: 8600, process: client.process.id() };
    let mut all = String::new();
    for number in 0..SERVICES {
        // A stride that is coprime to the count visits every name, never two neighbours in a row.
        writeln!(all, "{}.service.consul A", name(number * 7919 % SERVICES))?;
    }
    let one = format!("{}.service.consul A\n", name(0));
    let mut figures = Vec::new();
    for (title, text) in [("", all), ("one name of them", one)] {
        let queries = place.file("queries", text.as_bytes())?;
        figures.push(ask(title, &target, queries.to_str().context("the folder is not text")?, time).await?);
    }
    let one = figures.split_off(1);
    let ours = figures.remove(0);
    let dns = Row {
        what: "DNS A, any of 10,000 services, client agent: CPU".to_owned(),
        unit: "µs/query",
        better: Better::Less,
        ours,
        peers: one,
        goal: Some(1e6 / 150_000.0),
    };
    let (ids, address) = ([client.process.id()], client.address);
    let list = "/v1/catalog/services?stale";
    let body = http::once(address, "GET", list, b"").await.context("nobody answers")?;
    let (echo, process) = super::echo::start(place, &body).await?;
    let mut loads = Vec::new();
    for (address, path, ids) in [(address, list, &ids), (echo, "/", &[process.id()])] {
        let client = Requests::open((address, 8500).into(), vec![http::bytes("GET", path, b"")]).await?;
        loads.push(load::run(vec![client], ids, time).await?);
    }
    let figure = |name: &str, load: &load::Load| {
        Figure::noted(name, 1e6 / load.cpu, format!("{:.0} CPU µs", load.cpu))
    };
    let services = Row {
        what: "catalog/services?stale with 10,000 names, client agent, per core-second".to_owned(),
        unit: "request/s",
        better: Better::More,
        ours: figure("", &loads[0]),
        peers: vec![figure("bare hyper", &loads[1])],
        goal: Some(5000.0),
    };
    Ok(vec![dns, services])
}
