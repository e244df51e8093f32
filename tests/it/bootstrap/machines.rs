//! A real etcd, and machines that meet in it with stand-ins for their agents.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use corediscover::bootstrap::version::Space;
use corediscover::bootstrap::{self, AgentHandle, AgentRunner, AgentStatus, Api, ClaimStore, Settings};
use corediscover::model::election::birth::Patience;
use corediscover::model::election::{Plan, Role};
use corediscover::model::names::ClusterId;
use corediscover::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, PREFIX};
use crate::support::etcd::Etcd;

/// A real etcd, seen through one of its APIs.
pub(super) struct World {
    pub(super) etcd: Etcd,
    pub(super) space: Space,
}

impl World {
    pub(super) fn new(space: Space) -> Self {
        let etcd = if space == Space::V2 { Etcd::start_with_v2() } else { Etcd::start() };
        Self { etcd, space }
    }

    pub(super) fn store(&self, ttl: Duration) -> bootstrap::Etcd {
        self.store_at(PREFIX, ttl)
    }

    pub(super) fn store_at(&self, prefix: &str, ttl: Duration) -> bootstrap::Etcd {
        bootstrap::Etcd::new(vec![self.etcd.url()], prefix, None, ttl, Api::Only(self.space)).unwrap()
    }

    pub(super) fn pairs(&self, prefix: &str) -> Vec<(String, String)> {
        match self.space {
            Space::V2 => self.etcd.pairs_v2(prefix),
            Space::V3 => self.etcd.pairs(prefix),
        }
    }

    pub(super) fn wipe(&self) {
        match self.space {
            Space::V2 => self.etcd.remove_v2(PREFIX),
            Space::V3 => drop(self.etcd.etcdctl(&["del", "--prefix", PREFIX])),
        }
    }
}

/// What the stand-in of one agent was asked to do.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) plans: Vec<Plan>,
}

/// A stand-in: it says that the cluster has formed as soon as it runs, if its machine may initialise.
pub(super) struct StandIn {
    pub(super) data_dir: PathBuf,
    pub(super) seen: watch::Sender<Seen>,
    pub(super) status: watch::Sender<AgentStatus>,
    pub(super) forms: bool,
}

#[async_trait]
impl AgentRunner for StandIn {
    fn has_raft_state(&self) -> anyhow::Result<bool> {
        Ok(self.data_dir.join("raft").exists())
    }

    async fn start(&self, plan: Plan) -> anyhow::Result<AgentHandle> {
        std::fs::create_dir_all(self.data_dir.join("raft"))?;
        if self.forms {
            let leader = matches!(plan.role, Role::Server { .. });
            self.status.send_replace(AgentStatus {
                formed: plan.cluster_id.clone(),
                leader,
                predecessors: Vec::new(),
            });
        }
        self.seen.send_modify(|seen| seen.plans.push(plan));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let ended = Box::pin(async move {
            stopped.cancelled().await;
            Ok(())
        });
        Ok(AgentHandle::new(self.status.subscribe(), stop, ended))
    }

    async fn archive(&self, _: &ClusterId) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(self.data_dir.join("raft"))?)
    }

    async fn probe(&self, _: &[String]) -> anyhow::Result<Option<ClusterId>> {
        Ok(None)
    }
}

/// One machine: a running `bootstrap::run`.
pub(super) struct Machine {
    pub(super) stop: CancellationToken,
    pub(super) seen: watch::Receiver<Seen>,
    pub(super) task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Machine {
    pub(super) fn start(number: usize, folder: &Path, store: impl ClaimStore + 'static, forms: bool) -> Self {
        let data_dir = folder.join(format!("m{number}"));
        let settings = Settings {
            machine_id: format!("m{number}").parse().unwrap(),
            address: format!("10.0.0.{number}"),
            name: format!("m{number}"),
            expect: 3,
            data_dir: data_dir.clone(),
            patience: Patience { other_claim: Duration::from_secs(4), stall: Duration::from_secs(2) },
        };
        let (seen, receiver) = watch::channel(Seen::default());
        let status = watch::Sender::new(AgentStatus::default());
        let runner = Arc::new(StandIn { data_dir, seen, status, forms });
        let tasks = Tasks::default();
        let (spawner, stop) = (tasks.spawner(), tasks.stop_token());
        let task = async move {
            let stopped = spawner.stop_token();
            let ended = bootstrap::run(settings, Arc::new(store), runner, &spawner).await;
            stopped.cancel();
            tasks.run_until(std::future::ready(())).await.and(ended)
        };
        #[allow(clippy::disallowed_methods, reason = "each machine of the test has tasks of its own")]
        let task = tokio::spawn(task);
        Self { stop, seen: receiver, task }
    }

    /// Waits for the agent's start; gives its last plan.
    pub(super) async fn plan(&mut self) -> Plan {
        let wait = self.seen.wait_for(|seen| !seen.plans.is_empty());
        let seen = tokio::time::timeout(DEADLINE, wait).await.expect("an agent is started").unwrap();
        seen.plans.last().unwrap().clone()
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().expect("stops cleanly");
    }
}

pub(super) fn may_initialise(plan: &Plan) -> bool {
    matches!(plan.role, Role::Server { initial: Some(_) })
}

pub(super) async fn until(world: &World, what: &str, holds: impl Fn(&[(String, String)]) -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds(&world.pairs(PREFIX)) {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}; {:?}", world.pairs(PREFIX));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) fn is_formed(pairs: &[(String, String)]) -> bool {
    pairs.iter().any(|(key, value)| key.ends_with("/cluster") && value.contains("\"formed\":true"))
}
