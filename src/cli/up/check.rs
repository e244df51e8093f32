//! `up --check`: what must work before a cluster may be called ready.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::status::Status;
use super::{dns_probe, machine};

/// The service that is registered through the first machine and looked for on all.
const PROBE_SERVICE: &str = "corediscover-check";
/// How often a machine is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// What was seen.
pub(super) struct Report {
    status: Status,
    ready: Duration,
    propagated: Duration,
    machines: usize,
}

/// Fails with the first thing that is missing: a machine that answers, knows the leader, and sees all passing.
pub(super) async fn missing(addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
    let mut leaders = std::collections::BTreeSet::new();
    for address in addresses {
        let client = machine::client(*address)?;
        let leader =
            client.status_leader().await.with_context(|| format!("machine {address} does not answer"))?;
        leaders.insert(
            leader
                .filter(|leader| !leader.is_empty())
                .with_context(|| format!("{address} knows no leader"))?,
        );
        let passing: Vec<Value> = client
            .get_json("/v1/health/state/passing", &[("stale", "")])
            .await
            .with_context(|| format!("machine {address} does not tell its checks"))?;
        let nodes = passing.iter().filter(|check| check["CheckID"] == "serfHealth").count();
        if nodes < addresses.len() {
            bail!("machine {address} sees {nodes} of {} nodes passing", addresses.len());
        }
        dns_probe::has_address(*address, "consul.service.consul").await?;
    }
    if leaders.len() > 1 {
        bail!("the machines name different leaders: {leaders:?}");
    }
    Ok(())
}

/// Registers a service through the first machine and finds it by DNS and HTTP on all.
pub(super) async fn run(
    addresses: &[Ipv4Addr],
    status: Status,
    started: Instant,
    deadline: Instant,
) -> anyhow::Result<Report> {
    let ready = started.elapsed();
    let first = *addresses.first().context("there is no machine")?;
    let registered = Instant::now();
    machine::client(first)?
        .register_service(&json!({ "Name": PROBE_SERVICE, "Port": 1, "Address": first.to_string() }))
        .await
        .context("cannot register a service through the first machine")?;
    for address in addresses {
        loop {
            let found = find(*address).await;
            match found {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("the service is not seen on {address}")));
                }
                Err(_) => tokio::time::sleep(ASK_INTERVAL).await,
            }
        }
    }
    Ok(Report { status, ready, propagated: registered.elapsed(), machines: addresses.len() })
}

async fn find(address: Ipv4Addr) -> anyhow::Result<()> {
    dns_probe::has_address(address, &format!("{PROBE_SERVICE}.service.consul")).await?;
    let rows = machine::client(address)?.health_service(PROBE_SERVICE, &[("passing", "")]).await?;
    if rows.len() != 1 {
        bail!("HTTP at {address} lists {} passing instances of {PROBE_SERVICE}", rows.len());
    }
    Ok(())
}

impl Report {
    pub(super) fn json(&self) -> anyhow::Result<String> {
        let value = json!({
            "ok": true,
            "machines": self.machines,
            "leader": self.status.leader,
            "voters": self.status.voters,
            "ready_seconds": self.ready.as_secs_f64(),
            "register_to_all_seconds": self.propagated.as_secs_f64(),
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let leader = &self.status.leader;
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "ok: {} machines, {} servers, leader {leader}, ready after {:.1} s; a service registered on one was seen \
             by DNS and HTTP on all after {} ms",
            self.machines,
            self.status.voters.len(),
            self.ready.as_secs_f64(),
            self.propagated.as_millis()
        );
        text
    }
}
