//! Agents under test: clusters of real processes of the released binary.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::http;
use super::place::{Place, eventually};
use super::process::{Running, corediscover};

/// One agent.
pub(crate) struct Agent {
    pub(crate) address: Ipv4Addr,
    pub(crate) process: Running,
}

/// Agents of one cluster; the servers come first.
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Agent>,
    /// Which agent leads.
    pub(crate) leader: usize,
}

impl Agent {
    pub(crate) fn start(place: &Place, name: &str, flags: &[&str]) -> Result<Self> {
        let address = place.address();
        let text = address.to_string();
        let folder = place.folder(name)?;
        let mut command = Command::new(corediscover()?);
        command.args(["agent", "-node", name, "-bind", &text, "-client", &text]);
        command.arg("-data-dir").arg(folder.join("data")).args(flags);
        Self::run(address, &mut command, &folder)
    }

    /// A machine that claims its place in etcd.
    pub(crate) fn bootstrap(place: &Place, name: &str, etcd: &str, expect: &str) -> Result<Self> {
        let address = place.address();
        let text = address.to_string();
        let folder = place.folder(name)?;
        let mut command = Command::new(corediscover()?);
        command.args(["bootstrap", "--etcd", etcd, "--machine-id", name, "--advertise", &text]);
        command.args(["--expect", expect, "--data-dir"]).arg(folder.join("data"));
        command.args(["--", "-node", name, "-bind", &text, "-client", &text]);
        Self::run(address, &mut command, &folder)
    }

    fn run(address: Ipv4Addr, command: &mut Command, folder: &Path) -> Result<Self> {
        Ok(Self { address, process: Running::start(command, &folder.join("log"))? })
    }

    /// The leader's address, as this agent knows it.
    pub(crate) async fn leader(&self) -> Option<Ipv4Addr> {
        let body = http::once(self.address, "GET", "/v1/status/leader", b"").await?;
        let text: String = serde_json::from_slice(&body).ok()?;
        text.rsplit_once(':')?.0.parse().ok()
    }

    /// A PUT that must succeed.
    pub(crate) async fn put(&self, path: &str, body: &str) -> Result<()> {
        if http::once(self.address, "PUT", path, body.as_bytes()).await.is_none() {
            bail!("PUT {path} failed: {}", self.process.said());
        }
        Ok(())
    }
}

impl Cluster {
    /// Starts this many servers and clients; returns when all know one leader and the leader knows all of them.
    pub(crate) async fn start(place: &Place, servers: usize, clients: usize) -> Result<Self> {
        let expect = servers.to_string();
        let mut agents = vec![Agent::start(place, "s1", &["-server", "-bootstrap-expect", &expect])?];
        let join = agents[0].address.to_string();
        for number in 2..=servers {
            agents.push(Agent::start(place, &format!("s{number}"), &["-server", "-join", &join])?);
        }
        for number in 1..=clients {
            agents.push(Agent::start(place, &format!("c{number}"), &["-join", &join])?);
        }
        let formed = eventually("a cluster has formed", async || formed(&agents).await).await;
        let leader = formed.with_context(|| agents[0].process.said())?;
        Ok(Self { agents, leader })
    }

    pub(crate) fn leader(&self) -> &Agent {
        &self.agents[self.leader]
    }

    /// The process ids of all agents.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.agents.iter().map(|agent| agent.process.id()).collect()
    }

    /// Waits until `agent` answers `path` with something that holds `text`.
    pub(crate) async fn sees(&self, agent: usize, path: &str, text: &str) -> Result<()> {
        let what = format!("{path} shows {text}");
        eventually(&what, async || {
            let body = http::once(self.agents[agent].address, "GET", path, b"").await?;
            String::from_utf8_lossy(&body).contains(text).then_some(())
        })
        .await
    }
}

async fn formed(agents: &[Agent]) -> Option<usize> {
    let leader = agents[0].leader().await?;
    for agent in agents {
        if agent.leader().await? != leader {
            return None;
        }
        let body = http::once(agent.address, "GET", "/v1/catalog/nodes?stale", b"").await?;
        let nodes: Vec<serde_json::Value> = serde_json::from_slice(&body).ok()?;
        if nodes.len() != agents.len() {
            return None;
        }
    }
    agents.iter().position(|agent| agent.address == leader)
}
