//! The peer for consensus: Debian's etcd, asked over gRPC by its own Rust client.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result};
use etcd_client::{Client as Connection, GetOptions};

use super::load::Client;
use super::place::{Place, eventually};
use super::process::Running;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// Running members of one etcd.
pub(crate) struct Etcd {
    pub(crate) members: Vec<(Ipv4Addr, Running)>,
    /// Which member leads.
    pub(crate) leader: usize,
}

/// Where clients find the member at `address`.
pub(crate) fn url(address: Ipv4Addr) -> String {
    format!("http://{address}:{CLIENT_PORT}")
}

/// A connection of its own.
pub(crate) async fn connect(address: Ipv4Addr) -> Result<Connection> {
    Ok(Connection::connect([url(address)], None).await?)
}

impl Etcd {
    /// Starts an empty etcd with its default timing; returns when it has a leader.
    pub(crate) async fn start(place: &Place, count: usize) -> Result<Self> {
        let started = Self::spawn(place, count)?;
        let leader = eventually("etcd has a leader", async || leader(&started).await).await;
        let leader = leader.with_context(|| started[0].1.said())?;
        Ok(Self { members: started, leader })
    }

    /// Starts the processes only.
    pub(crate) fn spawn(place: &Place, count: usize) -> Result<Vec<(Ipv4Addr, Running)>> {
        let addresses: Vec<Ipv4Addr> = (0..count).map(|_| place.address()).collect();
        let peer = |address: Ipv4Addr| format!("http://{address}:{PEER_PORT}");
        let all: Vec<String> =
            addresses.iter().map(|address| format!("{address}={}", peer(*address))).collect();
        let start = |address: Ipv4Addr| {
            let folder = place.folder("etcd")?;
            let (client, peer) = (url(address), peer(address));
            let mut command = Command::new("etcd");
            command
                .args(["--name", &address.to_string(), "--data-dir"])
                .arg(folder.join("data"))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &all.join(","), "--log-level", "error", "--logger", "zap"]);
            anyhow::Ok((address, Running::start(&mut command, &folder.join("log"))?))
        };
        addresses.into_iter().map(start).collect()
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.members.iter().map(|(_, process)| process.id()).collect()
    }

    pub(crate) fn leader(&self) -> Ipv4Addr {
        self.members[self.leader].0
    }
}

/// Which member leads, when every member knows it.
pub(crate) async fn leader(members: &[(Ipv4Addr, Running)]) -> Option<usize> {
    let mut position = None;
    for (number, (address, _)) in members.iter().enumerate() {
        let status = connect(*address).await.ok()?.status().await.ok()?;
        if status.leader() == 0 {
            return None;
        }
        if status.header()?.member_id() == status.leader() {
            position = Some(number);
        }
    }
    position
}

/// Puts values, one after the other.
pub(crate) struct Puts {
    pub(crate) connection: Connection,
    pub(crate) keys: Vec<String>,
    pub(crate) value: Vec<u8>,
    pub(crate) next: usize,
}

impl Client for Puts {
    async fn request(&mut self) -> Result<()> {
        let key = self.keys[self.next].as_str();
        self.next = (self.next + 1) % self.keys.len();
        self.connection.put(key, self.value.clone(), None).await?;
        Ok(())
    }
}

/// Reads one key from the member's own memory (`linearizable=false`).
pub(crate) struct StaleGets {
    pub(crate) connection: Connection,
    pub(crate) key: &'static str,
}

impl Client for StaleGets {
    async fn request(&mut self) -> Result<()> {
        let options = GetOptions::new().with_serializable();
        let answer = self.connection.get(self.key, Some(options)).await?;
        answer.kvs().first().context("the key is not there").map(drop)
    }
}
