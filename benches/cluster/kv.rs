//! Durable writes: KV PUT beside etcd's put, one and three servers, one and 64 connections, at the leader.

use std::time::Duration;

use anyhow::Result;

use super::agents::Cluster;
use super::etcd::{self, Etcd, Puts};
use super::http::{self, Requests};
use super::load::{self, Load};
use super::place::Place;
use super::table::{Better, Figure, Row};

/// Bytes of a value: a line of configuration.
const VALUE_BYTES: usize = 256;
/// Keys that one connection writes in turn.
const KEYS: usize = 100;

pub(crate) async fn measure(place: &Place, time: Duration) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for servers in [1, 3] {
        let (one, many) = ours(place, servers, time).await?;
        let (peer_one, peer_many) = peers(place, servers, time).await?;
        rows.extend(compare(servers, 1, &one, &peer_one));
        rows.extend(compare(servers, 64, &many, &peer_many));
    }
    Ok(rows)
}

/// The keys of one connection.
fn keys(connection: usize) -> Vec<String> {
    (0..KEYS).map(|number| format!("bench/{connection}/{number}")).collect()
}

async fn ours(place: &Place, servers: usize, time: Duration) -> Result<(Load, Load)> {
    let cluster = Cluster::start(place, servers, 0).await?;
    let address = (cluster.leader().address, 8500).into();
    let mut loads = Vec::new();
    for connections in [1, 64] {
        let mut clients = Vec::new();
        for connection in 0..connections {
            let put = |key: String| http::bytes("PUT", &format!("/v1/kv/{key}"), &[b'v'; VALUE_BYTES]);
            clients.push(Requests::open(address, keys(connection).into_iter().map(put).collect()).await?);
        }
        loads.push(load::run(clients, &cluster.ids(), time).await?);
    }
    let [one, many] = loads.try_into().map_err(|_| anyhow::anyhow!("two loads were run"))?;
    Ok((one, many))
}

async fn peers(place: &Place, servers: usize, time: Duration) -> Result<(Load, Load)> {
    let etcd = Etcd::start(place, servers).await?;
    let mut loads = Vec::new();
    for connections in [1, 64] {
        let mut clients = Vec::new();
        for connection in 0..connections {
            let client = etcd::connect(etcd.leader()).await?;
            let value = vec![b'v'; VALUE_BYTES];
            clients.push(Puts { connection: client, keys: keys(connection), value, next: 0 });
        }
        loads.push(load::run(clients, &etcd.ids(), time).await?);
    }
    let [one, many] = loads.try_into().map_err(|_| anyhow::anyhow!("two loads were run"))?;
    Ok((one, many))
}

/// The rows of one load; the goals are those for three servers.
fn compare(servers: usize, connections: usize, ours: &Load, peer: &Load) -> Vec<Row> {
    let goal = |three: f64| (servers == 3).then_some(three);
    let what = |figure: &str| {
        let (s, c) = (if servers == 1 { "" } else { "s" }, if connections == 1 { "" } else { "s" });
        format!("KV PUT, {servers} server{s}, {connections} connection{c}: {figure}")
    };
    let row = |figure: &str, unit, better, pick: fn(&Load) -> f64, goal| Row {
        what: what(figure),
        unit,
        better,
        ours: Figure::new("", pick(ours)),
        peers: vec![Figure::new("etcd", pick(peer))],
        goal,
    };
    let cpu = row("CPU of all servers", "µs/put", Better::Less, |load| load.cpu, None);
    if connections == 1 {
        let median = row("median", "ms", Better::Less, |load| load.median, goal(0.8));
        return vec![median, cpu];
    }
    vec![
        row("throughput", "put/s", Better::More, |load| load.rate, goal(15_000.0)),
        row("99th percentile", "ms", Better::Less, |load| load.slowest, goal(15.0)),
        Row { goal: goal(100.0), ..cpu },
    ]
}
