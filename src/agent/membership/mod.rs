//! Gossip on sockets: the shell around `model::membership`.
//!
//! One task owns the state machine and does what it says; everybody else holds a [`Gossip`] handle. Rules of
//! membership do not belong here.

mod addresses;
mod driver;
mod join;
mod streams;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use crate::agent::handle::{JoinReport, NoSuchMember};
use crate::hint::WithHint as _;
use crate::host::net::{Datagrams, Listener, Network};
use crate::model::membership::{
    Config, JoinFailure, Member, MemberStatus, Swim, Tags, who_answered, who_are_you,
};
use crate::tasks::Spawner;

use self::driver::{Command, Driver};

/// Gossip's port, UDP and TCP (Consul's `serf_lan`).
pub const PORT: u16 = 8301;
/// Commands waiting for the driver; each caller waits for its answer, so this is callers at one time.
const COMMANDS_WAITING_MAX: usize = 256;
/// Longest wait for a leave to be told to everybody; the state machine needs 1.2 s at most.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often a free port is looked for that is free for UDP too, when the system may choose it.
const PORT_ATTEMPTS: usize = 16;

/// What a member says about itself and whom it joins.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Unique in the cluster.
    pub name: String,
    /// Where others reach us.
    pub advertise: SocketAddr,
    /// What we say about ourselves.
    pub tags: Tags,
    /// Any number that other members do not use; decides the chances of the protocol.
    pub seed: u64,
    /// Whom to join for ever until somebody is there: `host`, `host:port`, `[IPv6]:port`.
    pub retry_join: Vec<String>,
    /// Members of an earlier life, joined just as `retry_join`.
    pub remembered: Vec<SocketAddr>,
    /// Longest pause between two rounds of joining (Consul's `retry_interval`, 30 s).
    pub retry_interval: Duration,
    /// Times and numbers of the protocol.
    pub config: Config,
}

/// The sockets, before anything runs.
#[derive(Debug)]
pub struct BoundGossip {
    network: Network,
    udp: Datagrams,
    tcp: Listener,
    address: SocketAddr,
}

impl BoundGossip {
    /// The address in use; with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A cheap, cloneable handle on the gossip of this agent.
#[derive(Debug, Clone)]
pub struct Gossip {
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    looked: watch::Receiver<bool>,
    name: Arc<str>,
    own_addresses: [SocketAddr; 2],
}

impl Gossip {
    /// Opens UDP and TCP at `address`.
    ///
    /// # Errors
    /// The address is not ours or in use.
    pub async fn bind(address: SocketAddr) -> anyhow::Result<BoundGossip> {
        Self::bind_on(&Network::default(), address).await
    }

    /// The same on any network.
    ///
    /// # Errors
    /// The address is not ours or in use.
    pub async fn bind_on(network: &Network, address: SocketAddr) -> anyhow::Result<BoundGossip> {
        let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let tcp = network
                .listen(address)
                .await
                .hint(
                    "is another agent running? choose another address with -bind or port with ports.serf_lan",
                )
                .with_context(|| format!("cannot listen for gossip on tcp {address}"))?;
            let chosen = tcp.address().context("cannot learn the gossip address")?;
            match network.datagrams(chosen).await {
                Ok(udp) => {
                    return Ok(BoundGossip { network: network.clone(), udp, tcp, address: chosen });
                }
                Err(_) if attempts > 0 => {}
                Err(error) => {
                    return Err(error)
                        .hint("is another agent running? choose another address with -bind or port with ports.serf_lan")
                        .with_context(|| format!("cannot listen for gossip on udp {chosen}"));
                }
            }
        }
    }

    /// Who has the gossip port at `to`, before we are a member of anything; `None` when no agent answers in `wait`.
    pub async fn who_is_at(
        bound: &BoundGossip,
        own_name: &str,
        to: SocketAddr,
        wait: Duration,
    ) -> Option<(String, Tags)> {
        let question = who_are_you(own_name);
        let asked = streams::converse(&bound.network, bound.address.ip(), to, &question);
        match tokio::time::timeout(wait, asked).await {
            Ok(Ok(answer)) => who_answered(&answer),
            Ok(Err(error)) => {
                debug!(%to, %error, "nobody says who is there");
                None
            }
            Err(_) => {
                debug!(%to, "nobody says who is there within {wait:?}");
                None
            }
        }
    }

    /// Starts the member. Joining goes on in the background.
    ///
    /// # Errors
    /// `settings.advertise` is an address that nobody can reach.
    pub fn start(bound: BoundGossip, settings: Settings, spawner: &Spawner) -> anyhow::Result<Self> {
        let Settings { name, advertise, tags, seed, retry_join, remembered, retry_interval, config } =
            settings;
        ensure!(
            !advertise.ip().is_unspecified() && advertise.port() != 0,
            "{advertise} cannot be advertised: others could not reach it"
        );
        let swim = Swim::new(config, name.clone(), advertise, tags, seed);
        let (members_sender, members) = watch::channel(Arc::new(swim.members()));
        let (commands, commands_receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (reports, reports_receiver) = mpsc::channel(streams::REPORTS_WAITING_MAX);
        let streams = streams::Streams::new(bound.network, bound.address.ip(), spawner.clone(), reports);
        spawner.start("gossip connections", streams.clone().accept(bound.tcp));
        let driver = Driver::new(swim, bound.udp, streams, members_sender);
        spawner.start("gossip", driver.run(commands_receiver, reports_receiver, spawner.stop_token()));
        let own_addresses = [advertise, bound.address];
        let (looked_sender, looked) = watch::channel(false);
        let gossip = Self { commands, members, looked, name: name.into(), own_addresses };
        let wishes = join::Wishes { retry_join, remembered, retry_interval };
        spawner.start("gossip join", join::run(gossip.clone(), wishes, looked_sender, spawner.stop_token()));
        Ok(gossip)
    }

    /// All members by name, this one included.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.borrow().clone()
    }

    /// The members, and each change of them.
    pub fn changes(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.members.clone()
    }

    /// True as soon as everybody whom this member was told to join, or knew before, was asked once; who answered is a
    /// member then.
    pub fn first_look(&self) -> watch::Receiver<bool> {
        self.looked.clone()
    }

    /// Addresses of all other members that are not known to have left, for a peers file.
    pub fn known_addresses(&self) -> Vec<SocketAddr> {
        let members = self.members();
        let others = members.iter().filter(|member| *member.name != *self.name);
        others
            .filter(|member| matches!(member.status, MemberStatus::Alive | MemberStatus::Failed))
            .map(|member| SocketAddr::new(member.address, member.port))
            .collect()
    }

    /// Joins the clusters of the agents at `addresses`: `host`, `host:port`, `[IPv6]:port`.
    pub async fn join(&self, addresses: &[String]) -> JoinReport {
        let default_port = self.own_addresses[0].port();
        let outcomes = join_all(addresses.iter().map(|text| async move {
            match addresses::resolve(text, default_port).await {
                Ok(found) => join_all(found.into_iter().map(|to| self.join_address(to))).await,
                Err(error) => vec![Err((text.clone(), format!("{error:#}")))],
            }
        }))
        .await;
        let mut report = JoinReport::default();
        for outcome in outcomes.into_iter().flatten() {
            match outcome {
                Ok(()) => report.joined += 1,
                Err(failure) => report.failures.push(failure),
            }
        }
        report
    }

    async fn join_address(&self, to: SocketAddr) -> Result<(), (String, String)> {
        if self.own_addresses.contains(&to) {
            return Ok(());
        }
        let result: Option<Result<(), JoinFailure>> = self.ask(|reply| Command::Join { to, reply }).await;
        match result {
            Some(Ok(())) => Ok(()),
            Some(Err(failure)) => Err((to.to_string(), failure.to_string())),
            None => Err((to.to_string(), "gossip has stopped".to_owned())),
        }
    }

    /// Leaves the cluster; returns when everybody knows, or after 2 s.
    pub async fn leave(&self) {
        let told = self.ask(|reply| Command::Leave { reply });
        if tokio::time::timeout(LEAVE_WAIT_MAX, told).await.is_err() {
            debug!("not everybody may have heard that this agent leaves");
        }
    }

    /// Declares a failed member to have left; `prune` forgets it, too. A living one stays.
    ///
    /// # Errors
    /// Nobody has this name.
    pub async fn force_leave(&self, name: &str, prune: bool) -> Result<(), NoSuchMember> {
        if !self.members().iter().any(|member| member.name == name) {
            return Err(NoSuchMember(name.to_owned()));
        }
        let name = name.to_owned();
        if self.ask(|reply| Command::ForceLeave { name, prune, reply }).await.is_none() {
            debug!("force-leave came after gossip had stopped");
        }
        Ok(())
    }

    /// Says something else about this member.
    pub async fn set_tags(&self, tags: Tags) {
        if self.ask(|reply| Command::SetTags { tags, reply }).await.is_none() {
            debug!("new tags came after gossip had stopped");
        }
    }

    /// Asks the driver; nothing when it has stopped.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
