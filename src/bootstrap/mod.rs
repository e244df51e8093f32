//! The life of a machine before and beside its agent: claim, watch, let `model::election` decide, act.
//!
//! Decides nothing itself. Does not know the agent: whoever calls [`run`] hands over an [`AgentRunner`].

pub mod claims;
mod disk;
pub mod embedded;
pub mod etcd;
pub mod etcd_v2;
pub mod etcd_v3;
pub mod examine;
pub mod keys;
pub mod runner;
mod status;
pub mod version;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

pub use claims::{Changes, ClaimStore, NewClaim};
pub use embedded::Embedded;
pub use etcd::{Api, Etcd, Tls};
pub use etcd_v2::EtcdV2;
pub use etcd_v3::EtcdV3;
pub use examine::{Answered, Examined, ask_each, remembered};
pub use runner::{AgentHandle, AgentRunner, AgentStatus};

use crate::hint::WithHint as _;
use crate::host::machine_id;
use crate::model::election::birth::Patience;
use crate::model::election::{Action, Birth, Event, LocalState, Machine};
use crate::model::names::{ClusterId, MachineId};
use crate::tasks::Spawner;
use status::Status;
use worker::{StoreCommand, StoreWorker};

/// How long a claim outlives its machine: long enough for a store that elects a leader or restarts.
pub const CLAIM_TTL: Duration = Duration::from_mins(1);
/// Commands for the store that wait for it. A machine has at most one write of each kind under way.
const STORE_COMMANDS_MAX: usize = 8;
/// Events from the store that wait for the machine; the store's worker waits when they are more.
const STORE_EVENTS_MAX: usize = 16;
/// How often waiting machines look at the clock: the finest patience is ten times as long.
const TIMER_INTERVAL: Duration = Duration::from_secs(1);
/// How long giving the claim back may take at the end; the lease does it otherwise.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// What a machine needs to know to be born.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The machine's id.
    pub machine_id: MachineId,
    /// Where others reach the machine.
    pub address: String,
    /// The node's name, for messages.
    pub name: String,
    /// How many first servers to expect.
    pub expect: usize,
    /// Where the machine remembers.
    pub data_dir: PathBuf,
    /// How patient to be.
    pub patience: Patience,
}

/// Lives a machine's life until the stop token is cancelled or something fails that a restart may heal.
///
/// # Errors
/// A disk that cannot be written, a cloned machine-id, the end of the agent.
pub async fn run(
    settings: Settings,
    store: Arc<dyn ClaimStore>,
    runner: Arc<dyn AgentRunner>,
    spawner: &Spawner,
) -> anyhow::Result<()> {
    let disk = disk::Disk::open(&settings.data_dir)?;
    let (incarnation, local) = disk.load()?;
    let machine = Machine {
        machine_id: settings.machine_id.clone(),
        address: settings.address.clone(),
        incarnation,
        boot_id: machine_id::boot_id()?,
        name: settings.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        expect: settings.expect,
    };
    let birth = Birth::new(machine, settings.patience, local, runner.has_raft_state()?);
    let (commands, commands_waiting) = mpsc::channel(STORE_COMMANDS_MAX);
    let (events_sender, events) = mpsc::channel(STORE_EVENTS_MAX);
    spawner.start(
        "claims",
        StoreWorker::new(Arc::clone(&store), settings.machine_id, settings.address, spawner.stop_token())
            .run(commands_waiting, events_sender),
    );
    let status = Status::new(store.describe());
    let mut life = Life {
        birth,
        disk,
        runner,
        commands,
        agent: None,
        later: None,
        status,
        began: Instant::now(),
        unsaved: None,
    };
    let outcome = life.live(events, spawner).await;
    let released = tokio::time::timeout(RELEASE_DEADLINE, store.release());
    let (stopped, released) = tokio::join!(life.stop_agent(), released);
    match released {
        Ok(Ok(())) => {}
        Ok(Err(error)) => info!("the claim was not given back, it will expire: {error:#}"),
        Err(_) => {
            info!("the claim was not given back, it will expire: no answer within {RELEASE_DEADLINE:?}");
        }
    }
    outcome.and(stopped)
}

struct Life {
    birth: Birth,
    disk: disk::Disk,
    runner: Arc<dyn AgentRunner>,
    commands: mpsc::Sender<StoreCommand>,
    agent: Option<AgentHandle>,
    /// What follows the event under way.
    later: Option<Event>,
    status: Status,
    began: Instant,
    /// What could not be written yet, though it should be.
    unsaved: Option<LocalState>,
}

impl Life {
    async fn live(&mut self, mut events: mpsc::Receiver<Event>, spawner: &Spawner) -> anyhow::Result<()> {
        let stop = spawner.stop_token();
        let (probe_sender, mut probes) = mpsc::channel(1);
        let mut timer = tokio::time::interval(TIMER_INTERVAL);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = Some(Event::Started);
        loop {
            if let Some(event) = next.take().or_else(|| self.later.take()) {
                for action in self.birth.step(self.began.elapsed(), rand::random(), event) {
                    if let Some(follow_up) = self.act(action, spawner, &probe_sender).await? {
                        next = Some(follow_up);
                    }
                }
                continue;
            }
            next = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.recv() => match event {
                    Some(event) => Some(event),
                    // The worker ends only when the process stops.
                    None => return Ok(()),
                },
                answer = probes.recv() => answer,
                status = agent_status(&mut self.agent) => match status? {
                    Some(status) => {
                        let AgentStatus { formed, leader, predecessors } = status;
                        self.later = formed
                            .clone()
                            .filter(|_| !predecessors.is_empty())
                            .map(|cluster_id| Event::Succeeded { cluster_id, predecessors });
                        Some(Event::Agent { formed, leader })
                    }
                    None => return Ok(()),
                },
                _ = timer.tick() => {
                    self.status.remind();
                    if let Some(local) = self.unsaved.clone() {
                        self.persist(local)?;
                    }
                    Some(Event::Timer)
                }
            };
        }
    }

    /// Remembers, durably. Before the cluster has formed that is a promise; later it only saves questions after a
    /// restart, because the raft log says it too, and a disk that is full now must not end a running agent.
    fn persist(&mut self, local: LocalState) -> anyhow::Result<()> {
        let is_history = local.record.as_ref().is_some_and(|record| record.formed);
        match self.disk.save(&local) {
            Err(error) if is_history => {
                if self.unsaved.replace(local).is_none() {
                    warn!("it is tried again until it works: {error:#}");
                }
                Ok(())
            }
            saved => {
                self.unsaved = None;
                saved
            }
        }
    }

    /// Carries out one action; gives the event that follows from it at once.
    async fn act(
        &mut self,
        action: Action,
        spawner: &Spawner,
        probed: &mpsc::Sender<Event>,
    ) -> anyhow::Result<Option<Event>> {
        match action {
            Action::PutClaim { details, replaces } => {
                tell_store(&self.commands, StoreCommand::PutClaim { details, replaces }).await;
            }
            Action::CreateCertificate(certificate) => {
                tell_store(&self.commands, StoreCommand::CreateCertificate(certificate)).await;
            }
            Action::SwapCertificate { revision, certificate } => {
                tell_store(&self.commands, StoreCommand::SwapCertificate { revision, certificate }).await;
            }
            Action::Persist(local) => self.persist(local)?,
            Action::BecomeIncarnation(incarnation) => {
                warn!("the raft log of this machine is lost: it goes on as a new node, {incarnation}");
                self.disk.save_incarnation(&incarnation)?;
            }
            Action::StartAgent(plan) => {
                let cluster = plan.cluster_id.as_ref().map_or("any cluster", ClusterId::as_str);
                let text = format!("starting the agent as {} of {cluster}", runner::role_name(&plan.role));
                info!(join = plan.join.join(" "), "{text}");
                self.status.say(&text);
                self.agent = Some(self.runner.start(plan).await.context("cannot start the agent")?);
            }
            Action::StopAgentAndArchive { cluster_id } => {
                info!(%cluster_id, "the birth list was closed; this machine takes part in the next one");
                self.stop_agent().await?;
                self.runner.archive(&cluster_id).await.context("cannot put the agent's raft state away")?;
                return Ok(Some(Event::AgentStopped));
            }
            Action::Probe(addresses) => {
                let (runner, probed) = (Arc::clone(&self.runner), probed.clone());
                spawner.start_short("probe", async move {
                    let cluster = match runner.probe(&addresses).await {
                        Ok(cluster) => cluster,
                        Err(error) => {
                            warn!("known peers cannot be asked: {error:#}");
                            None
                        }
                    };
                    if probed.send(Event::Probed { cluster }).await.is_err() {
                        info!("the machine ended before its peers answered");
                    }
                });
            }
            Action::Wait(waiting) => self.status.wait(waiting, self.agent.is_some()),
            Action::Settled => self.status.settled(),
            Action::Refuse(refusal) => {
                let refused: anyhow::Result<()> = Err(refusal.into());
                refused.context("this machine cannot take part").hint(
                    "give every machine its own id (on the copy: `rm /etc/machine-id`, \
                     `systemd-machine-id-setup`), and empty the copy's data directory",
                )?;
            }
        }
        Ok(None)
    }

    async fn stop_agent(&mut self) -> anyhow::Result<()> {
        match self.agent.take() {
            Some(agent) => agent.stop().await,
            None => Ok(()),
        }
    }
}

/// The worker ends only when the process stops, or with an error of its own that the tasks' owner reports.
async fn tell_store(commands: &mpsc::Sender<StoreCommand>, command: StoreCommand) {
    if commands.send(command).await.is_err() {
        info!("the store is told nothing more: the process stops");
    }
}

/// The next news of the agent; never, if there is no agent; `None` when it has left and ended.
async fn agent_status(agent: &mut Option<AgentHandle>) -> anyhow::Result<Option<AgentStatus>> {
    match agent {
        None => std::future::pending().await,
        Some(agent) => agent.changed().await,
    }
}
