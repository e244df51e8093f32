//! The seam to the agent: bootstrap starts and stops one, without knowing what it is.

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::election::{Plan, Role};
use crate::model::names::ClusterId;

/// Whoever can run an agent on this machine.
#[async_trait]
pub trait AgentRunner: Send + Sync {
    /// Whether the data directory holds a raft log. Must be right: a first server of a formed cluster without one
    /// is taken for a lost disk and gets a new incarnation.
    fn has_raft_state(&self) -> anyhow::Result<bool>;

    /// Starts the agent; returns when it listens. At most one runs at a time.
    async fn start(&self, plan: Plan) -> anyhow::Result<AgentHandle>;

    /// Puts the raft state of a closed birth list away; called while no agent runs. Done twice is fine.
    async fn archive(&self, cluster_id: &ClusterId) -> anyhow::Result<()>;

    /// Asks machines whether they belong to a formed cluster; `None` if none that answers does.
    async fn probe(&self, addresses: &[String]) -> anyhow::Result<Option<ClusterId>>;
}

/// What the agent says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The cluster whose birth it has seen committed (`ClusterBorn`).
    pub formed: Option<ClusterId>,
    /// Whether it leads.
    pub leader: bool,
    /// The clusters that it is the successor of.
    pub predecessors: Vec<ClusterId>,
}

/// A running agent.
pub struct AgentHandle {
    status: watch::Receiver<AgentStatus>,
    status_open: bool,
    stop: CancellationToken,
    /// `None` once it has completed.
    ended: Option<BoxFuture<'static, anyhow::Result<()>>>,
}

impl AgentHandle {
    /// `ended` completes when the agent has ended, within the stop deadline of tasks once `stop` is cancelled.
    pub fn new(
        status: watch::Receiver<AgentStatus>,
        stop: CancellationToken,
        ended: BoxFuture<'static, anyhow::Result<()>>,
    ) -> Self {
        let mut status = status;
        // What it knows already is news to us.
        status.mark_changed();
        Self { status, status_open: true, stop, ended: Some(ended) }
    }

    /// The next status; `None` when the agent has left the cluster and ended, as somebody told it to.
    pub(super) async fn changed(&mut self) -> anyhow::Result<Option<AgentStatus>> {
        loop {
            tokio::select! {
                ended = completed(&mut self.ended) => {
                    self.ended = None;
                    ended.context("the agent failed")?;
                    return Ok(None);
                }
                changed = self.status.changed(), if self.status_open => match changed {
                    Ok(()) => return Ok(Some(self.status.borrow_and_update().clone())),
                    Err(_) => self.status_open = false,
                }
            }
        }
    }

    /// Stops the agent and waits for its end.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.ended {
            Some(ended) => ended.await.context("the agent failed while it stopped"),
            None => Ok(()),
        }
    }
}

async fn completed(ended: &mut Option<BoxFuture<'static, anyhow::Result<()>>>) -> anyhow::Result<()> {
    match ended {
        Some(ended) => ended.await,
        None => std::future::pending().await,
    }
}

/// The role in one word.
pub(super) fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Server { initial: Some(_) } => "one of the first servers",
        Role::Server { initial: None } => "a server",
        Role::Client => "a client",
    }
}
