//! How soon a registration is in DNS: on the same machine and on another one.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etcd_client::EventType;
use tokio::net::UdpSocket;

use super::agents::Cluster;
use super::birth::median;
use super::etcd::{self, Etcd};
use super::http::{self, Connection};
use super::place::Place;
use super::table::{Better, Figure, Row};

/// Registrations of each kind.
const SAMPLES: usize = 100;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a DNS answer without EDNS.
const ANSWER_BYTES: usize = 512;

pub(crate) async fn measure(place: &Place) -> Result<Vec<Row>> {
    // The second server and the client are the machines of interest: neither leads.
    let cluster = Cluster::start(place, 3, 1).await?;
    let follower = (0..3).find(|server| *server != cluster.leader).context("three servers have followers")?;
    let client = 3;
    let peer = etcd_watch(place).await?;
    let mut rows = Vec::new();
    for (title, from, to, goal) in [
        ("register → DNS, same machine (client)", client, client, 2.0),
        ("register → DNS, server → client", follower, client, 5.0),
        ("register → DNS, client → server that follows", client, follower, 5.0),
    ] {
        let (from, to) = (cluster.agents[from].address, cluster.agents[to].address);
        let mut registered = Connection::open((from, 8500).into()).await?;
        let mut times = Vec::new();
        for number in 0..SAMPLES {
            let name = format!("r{}-{number}", rows.len());
            times.push(until_answered(&mut registered, &name, to).await?);
        }
        rows.push(Row {
            what: format!("{title}: median"),
            unit: "ms",
            better: Better::Less,
            ours: Figure::new("", median(times).as_secs_f64() * 1e3),
            peers: vec![Figure::new("etcd put → watch at another member", peer)],
            goal: Some(goal),
        });
    }
    Ok(rows)
}

/// From the begin of the registration to the first answer with an address.
async fn until_answered(agent: &mut Connection, name: &str, at: Ipv4Addr) -> Result<Duration> {
    let socket = UdpSocket::bind((at, 0)).await?;
    socket.connect((at, 8600)).await?;
    let query = query(&format!("{name}.service.consul"));
    let body = format!(r#"{{"Name": "{name}", "Port": 80}}"#);
    let request = http::bytes("PUT", "/v1/agent/service/register", body.as_bytes());
    let start = Instant::now();
    let register = async {
        agent.exchange(&request).await?;
        anyhow::Ok(())
    };
    let resolve = async {
        let mut answer = [0; ANSWER_BYTES];
        loop {
            ensure!(start.elapsed() < DEADLINE, "{name} is not in DNS within {DEADLINE:?}");
            socket.send(&query).await?;
            let length = tokio::time::timeout(DEADLINE, socket.recv(&mut answer)).await??;
            // ANCOUNT, RFC 1035 §4.1.1.
            if length > 8 && answer[6..8] != [0, 0] {
                return Ok(start.elapsed());
            }
        }
    };
    let ((), time) = tokio::try_join!(register, resolve)?;
    Ok(time)
}

/// A question for the A records of `name` (RFC 1035 §4.1).
fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    query
}

/// The peer: a put at the leader until a watch at another member of three tells, in ms.
async fn etcd_watch(place: &Place) -> Result<f64> {
    let etcd = Etcd::start(place, 3).await?;
    let other = etcd.members[(etcd.leader + 1) % 3].0;
    let mut writer = etcd::connect(etcd.leader()).await?;
    let mut stream = etcd::connect(other).await?.watch("name", None).await?;
    stream.message().await?.context("the watch begins")?;
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        let put = async { writer.put("name", "value", None).await.map_err(anyhow::Error::from) };
        let told = async {
            let answer = stream.message().await?.context("the watch has ended")?;
            let told = answer.events().iter().any(|event| event.event_type() == EventType::Put);
            ensure!(told, "the watch tells of the put");
            Ok(start.elapsed())
        };
        let (_, time) = tokio::try_join!(put, told)?;
        times.push(time);
    }
    Ok(median(times).as_secs_f64() * 1e3)
}
