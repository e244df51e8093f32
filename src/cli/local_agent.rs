//! The agent of this binary, run in this process as bootstrap decides.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Parser;
use tokio_util::sync::CancellationToken;

use super::{agent, logging};
use crate::agent::config::{Fragment, Settings, Source};
use crate::agent::{Agent, Birth, probe};
use crate::bootstrap::{AgentHandle, AgentRunner, AgentStatus};
use crate::hint::fault;
use crate::model::election::{Plan, Role};
use crate::model::names::ClusterId;
use crate::tasks::StopRequest;

/// The agent's raft log, inside the data directory.
const RAFT_FOLDER: &str = "raft";

/// The agent's flags on their own, as they stand after `--`.
#[derive(Parser)]
#[command(name = "agent", disable_version_flag = true)]
struct Line {
    #[command(flatten)]
    args: agent::Args,
}

/// The agent's flags, checked.
pub(super) struct Checked {
    pub(super) settings: Settings,
    args: agent::Args,
    decided: Fragment,
}

impl Checked {
    /// Checks the flags; `decided` is what bootstrap's own flags say and wins over them.
    pub(super) fn new(flags: &[String], decided: Fragment) -> anyhow::Result<Self> {
        let line = Line::try_parse_from(std::iter::once("agent").chain(flags.iter().map(String::as_str)))
            .map_err(|error| fault(format!("the agent's flags: {error}"), "they stand after `--`"))?;
        line.args.follow_parent()?;
        let settings = line.args.clone().settings(decided.clone())?;
        if settings.server || settings.bootstrap {
            return Err(fault(
                "-server, -bootstrap and -bootstrap-expect cannot be given to the agent here",
                "bootstrap decides which machines are servers; say how many with --expect",
            ));
        }
        Ok(Self { settings, args: line.args, decided })
    }
}

/// Runs one agent at a time with the settings that the flags gave.
pub(super) struct LocalAgent {
    /// As at the start of the process.
    settings: Settings,
    source: Arc<Source>,
}

impl LocalAgent {
    /// `level` is that of the log, which a reload may change.
    pub(super) fn new(checked: Checked, level: logging::Level) -> Self {
        let Checked { settings, args, decided } = checked;
        let read = move || args.clone().settings(decided.clone());
        let taken = move |settings: &Settings| level.set(&settings.log_level);
        Self { source: Arc::new(Source::new(settings.clone(), read, taken)), settings }
    }

    /// Where the settings came from.
    pub(super) fn source(&self) -> Arc<Source> {
        self.source.clone()
    }

    fn raft_folder(&self) -> anyhow::Result<std::path::PathBuf> {
        let data_dir = self.settings.data_dir.as_ref().context("bootstrap needs a data directory")?;
        Ok(data_dir.join(RAFT_FOLDER))
    }
}

#[async_trait]
impl AgentRunner for LocalAgent {
    fn has_raft_state(&self) -> anyhow::Result<bool> {
        let folder = self.raft_folder()?;
        let there = folder.try_exists().with_context(|| format!("cannot look into {}", folder.display()))?;
        // A server that was replaced has put its raft log away: it knows that, and has lost nothing.
        Ok(there || self.settings.data_dir.as_deref().map_or(Ok(false), crate::agent::was_server)?)
    }

    async fn start(&self, plan: Plan) -> anyhow::Result<AgentHandle> {
        let mut settings = self.source.settings();
        let initial = match plan.role {
            Role::Server { initial } => {
                settings.server = true;
                initial
            }
            Role::Client => None,
        };
        settings.retry_join.extend(plan.join);
        let birth = Birth::Decided { cluster: plan.cluster_id, initial };
        let agent = Agent::start(settings, birth, self.source()).await?;
        let (status_sender, status) = tokio::sync::watch::channel(AgentStatus::default());
        let mut state = agent.state();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ended = async move {
            let running = agent.run_until(async move {
                stopped.cancelled().await;
                StopRequest::Terminate
            });
            let telling = async {
                loop {
                    let now = state.borrow_and_update().clone();
                    status_sender.send_replace(AgentStatus {
                        formed: now.formed,
                        leader: now.leader,
                        predecessors: now.predecessors,
                    });
                    if state.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                ended = running => ended,
                () = telling => Ok(()),
            }
        };
        Ok(AgentHandle::new(status, stop, Box::pin(ended)))
    }

    async fn archive(&self, cluster_id: &ClusterId) -> anyhow::Result<()> {
        let folder = self.raft_folder()?;
        let away = folder.with_file_name(format!("{RAFT_FOLDER}.closed-{cluster_id}"));
        match tokio::fs::rename(&folder, &away).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot move {} to {}", folder.display(), away.display()))
            }
            _ => Ok(()),
        }
    }

    async fn probe(&self, addresses: &[String]) -> anyhow::Result<Option<ClusterId>> {
        probe(addresses, self.settings.ports.server).await
    }
}
