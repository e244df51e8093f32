//! DNS answers of three instances, asked by dnsperf, beside Knot and Unbound with the same records.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::agents::{Agent, Cluster};
use super::names;
use super::place::Place;
use super::process;
use super::table::{Better, Figure, Row};

/// DESIGN §10: microseconds of CPU per query.
const GOAL_CPU: f64 = 5.5;

pub(crate) async fn measure(place: &Place, time: Duration) -> Result<Vec<Row>> {
    let cluster = Cluster::start(place, 1, 1).await?;
    register_three(cluster.leader()).await?;
    cluster.sees(1, "/v1/health/service/web?passing&stale", "10.1.0.3").await?;
    let peers = names::peers(place).await?;
    let mut rows = Vec::new();
    for kind in ["A", "SRV"] {
        let queries = place.file("queries", format!("web.service.consul {kind}\n").as_bytes())?;
        let queries = queries.to_str().context("the folder's name is not text")?;
        let mut figures = Vec::new();
        for agent in &cluster.agents {
            let target = Target { address: agent.address, port: 8600, process: agent.process.id() };
            figures.push(ask("", &target, queries, time).await?);
        }
        let mut beside = Vec::new();
        for peer in &peers {
            let target = Target { address: peer.address, port: names::PORT, process: peer.process.id() };
            beside.push(ask(peer.name, &target, queries, time).await?);
        }
        for (figure, place) in figures.into_iter().zip(["a server", "a client agent"]) {
            rows.push(Row {
                what: format!("DNS {kind}, 3 instances, at {place}: CPU"),
                unit: "µs/query",
                better: Better::Less,
                ours: figure,
                peers: beside.clone(),
                goal: (kind == "A").then_some(GOAL_CPU),
            });
        }
    }
    Ok(rows)
}

/// Three instances of `web` on nodes that no agent owns.
pub(crate) async fn register_three(agent: &Agent) -> Result<()> {
    for number in 1..=3 {
        let body = format!(
            r#"{{"Node": "node-{number}", "Address": "10.1.0.{number}", "Service": {{"Service": "web", "Port": 8080}},
                "Check": {{"CheckID": "web", "Name": "web", "ServiceID": "web", "Status": "passing"}}}}"#
        );
        agent.put("/v1/catalog/register", &body).await?;
    }
    Ok(())
}

/// A name server under load.
pub(crate) struct Target {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) process: u32,
}

/// CPU per query, with the queries per second as a note. Any answer but NOERROR is an error.
pub(crate) async fn ask(name: &str, target: &Target, queries: &str, time: Duration) -> Result<Figure> {
    let seconds = time.as_secs().max(1).to_string();
    dnsperf(target, queries, "1").await?;
    let before = process::cpu(&[target.process])?;
    let said = dnsperf(target, queries, &seconds).await?;
    let used = process::cpu(&[target.process])?.saturating_sub(before);
    let number = |title: &str| -> Result<f64> {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(title));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.with_context(|| format!("dnsperf says nothing about {title}\n{said}"))?
            .parse()
            .context(said.clone())
    };
    let answered = number("Queries completed:")?;
    if !said.contains("NOERROR") || said.contains("NXDOMAIN") || said.contains("REFUSED") {
        bail!("wrong answers: {said}");
    }
    let rate = number("Queries per second:")?;
    Ok(Figure::noted(name, used.as_secs_f64() * 1e6 / answered, format!("{rate:.0}/s")))
}

async fn dnsperf(target: &Target, queries: &str, seconds: &str) -> Result<String> {
    let output = Command::new("dnsperf")
        .args(["-s", &target.address.to_string(), "-p", &target.port.to_string(), "-d", queries])
        .args(["-l", seconds, "-c", "16", "-T", "1", "-q", "200", "-t", "2"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run dnsperf")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("dnsperf failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}
