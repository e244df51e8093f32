//! The leader's stewardship of the servers: carries out what `model::sync::servers` decides, one thing at a time, and
//! answers orders about it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::consensus::{Peer, Server};
use super::handle::{
    Consensus as _, Order, OrderError, OrderReply, ProposeError, Replica, Steward as Desk, Topic, Which,
};
use crate::host::outside::wall_seconds;
use crate::model::catalog::{Catalog, Command, Departure, Purpose, ServersCommand, Settlement};
use crate::model::membership::Member;
use crate::model::sync::servers::{
    Action, ConfiguredServer, NotNow, Policy, ServerChange, ServerMember, Steward, View,
};

/// How often the servers are looked at when nothing seems to change: learners catch up meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Pause after a change that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How long what is in the log may take to be applied before nothing is decided this time: a disk that is worn out or shared
/// needs most of a second for each write, and under load one write is always under way.
const APPLIED_WAIT: Duration = Duration::from_secs(2);
/// The answer to an order while what was written before it is not applied.
const BEHIND: &str =
    "the leader has not applied what it wrote before: a majority of the servers is slow; try again";

/// What the stewardship needs.
pub(super) struct Context {
    pub(super) server: Server,
    pub(super) replica: Arc<Replica>,
    pub(super) members: watch::Receiver<Arc<Vec<Member>>>,
    pub(super) policy: Policy,
}

/// One server's stewardship; it acts while the server leads.
pub(super) struct Stewardship {
    context: Context,
    began: Instant,
    steward: Mutex<Steward>,
    /// Rung when an order has changed something.
    changed: Notify,
    /// Whoever decides something, and does it, has the turn: the next one sees what came of it.
    turn: tokio::sync::Mutex<()>,
}

/// What the leader sees, owned.
struct Facts {
    configured: Vec<ConfiguredServer>,
    joint: bool,
    members: Arc<Vec<Member>>,
    catalog: Arc<Catalog>,
    policy: Policy,
    wall: u64,
}

impl Facts {
    /// `None` before the birth of the cluster.
    fn view(&self) -> Option<View<'_>> {
        Some(View {
            configured: &self.configured,
            joint: self.joint,
            members: &self.members,
            cluster: self.catalog.cluster()?,
            catalog: &self.catalog,
            policy: self.policy,
            wall: self.wall,
        })
    }
}

impl Stewardship {
    /// A stewardship that has seen nothing yet.
    pub(super) fn new(context: Context) -> Arc<Self> {
        Arc::new(Self {
            context,
            began: Instant::now(),
            steward: Mutex::default(),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Runs while the server runs.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut leaders = self.context.server.leader_changes();
        let mut table = self.context.replica.watch(Topic::Servers);
        // The leader that said how long ago servers were replaced.
        let mut told_by = None;
        loop {
            let leader = leaders.borrow_and_update().as_ref().map(|leader| (leader.id, leader.here));
            let leads = leader.is_some_and(|(_, here)| here);
            let untold = leader.filter(|(id, here)| !here && told_by != Some(*id)).map(|(id, _)| id);
            let wait = if leads {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    wait = self.look() => wait,
                }
            } else {
                let catalog = self.context.replica.snapshot();
                self.steward.lock().follow(self.began.elapsed(), catalog.servers());
                Duration::from_hours(1)
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = leaders.changed() => if changed.is_err() { return Ok(()) },
                () = self.changed.notified() => {}
                () = table.changed(), if !leads => {}
                () = self.learn(), if untold.is_some() => told_by = untold,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Asks the leader, until it answers, how long ago servers were replaced.
    async fn learn(&self) {
        loop {
            match self.context.server.order(Order::Report).await {
                Ok(OrderReply::Report(report)) => {
                    let (catalog, now) = (self.context.replica.snapshot(), self.began.elapsed());
                    let mut steward = self.steward.lock();
                    steward.follow(now, catalog.servers());
                    if steward.learn(now, &report.replacements) {
                        return;
                    }
                }
                other => tracing::debug!(?other, "the leader has not told when servers were replaced"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    fn facts(&self) -> Facts {
        let (configured, joint) = self.context.server.configuration();
        Facts {
            configured,
            joint,
            members: self.context.members.borrow().clone(),
            catalog: self.context.replica.snapshot(),
            policy: self.context.policy,
            wall: wall_seconds(),
        }
    }

    /// Whether all that is in the log by now is applied, soon: an order that nobody here has seen yet may be in it.
    async fn has_applied_all(&self) -> bool {
        let applied = async {
            let last = self.context.server.last_log_index().await?;
            self.context.replica.wait_applied(last).await;
            anyhow::Ok(())
        };
        matches!(tokio::time::timeout(APPLIED_WAIT, applied).await, Ok(Ok(())))
    }

    /// Does the next thing, if there is one; gives the time until the next look.
    async fn look(&self) -> Duration {
        let _turn = self.turn.lock().await;
        let has_applied_all = self.has_applied_all().await;
        let facts = self.facts();
        let Some(view) = facts.view() else { return LOOK_INTERVAL };
        let action = self.steward.lock().step(self.began.elapsed(), &view).filter(|_| has_applied_all);
        let Some(action) = action else { return LOOK_INTERVAL };
        match self.carry_out(&action).await {
            Ok(()) => {
                audit(&action, &facts);
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!(?action, "the servers could not be changed: {error}");
                RETRY_INTERVAL
            }
        }
    }

    async fn carry_out(&self, action: &Action) -> Result<(), OrderError> {
        let server = &self.context.server;
        let changed = match action {
            Action::Write(command) => {
                let written = server.propose_here(Command::Servers(command.clone())).await;
                return written.map_err(|error| match error {
                    ProposeError::NoLeader(nobody) => nobody.into(),
                    error => OrderError::Refused(error.to_string()),
                });
            }
            Action::Change(change) => match change {
                ServerChange::AddLearner(member) => server.add_learner(member.id, peer(member)).await,
                ServerChange::Promote(id) => server.promote(*id).await,
                ServerChange::Replace { old, new } => server.replace_voter(*old, *new).await,
                ServerChange::Remove(id) => server.remove_server(*id).await,
                ServerChange::Update(member) => server.update_server(member.id, peer(member)).await,
                ServerChange::HandOver => server.transfer_leadership(None).await,
                ServerChange::Finish => server.finish_change().await,
            },
        };
        changed.map_err(|error| OrderError::Refused(format!("{error:#}")))
    }

    async fn act(&self, action: Action) -> Result<(), OrderError> {
        let facts = self.facts();
        self.carry_out(&action).await?;
        audit(&action, &facts);
        self.changed.notify_one();
        Ok(())
    }

    async fn transfer(&self, to: Option<&Which>, facts: &Facts) -> Result<(), OrderError> {
        let to = to.map(|which| find(which, &facts.configured)).transpose()?;
        if to.is_some_and(|server| !server.voter) {
            return Err(OrderError::Refused("that server does not vote yet".to_owned()));
        }
        let others = facts.configured.iter().filter(|server| server.voter && !server.leader).count();
        if others == 0 {
            return Err(OrderError::Refused("there is no other voting server".to_owned()));
        }
        tracing::info!(to = to.map(|server| server.name.as_str()), "an operator transfers the leadership");
        let moved = self.context.server.transfer_leadership(to.map(|server| server.id)).await;
        moved.map_err(|error| OrderError::Refused(format!("{error:#}")))
    }
}

#[async_trait]
impl Desk for Stewardship {
    async fn carry_out(&self, order: Order) -> Result<OrderReply, OrderError> {
        let _turn = if decides(&order) {
            let turn = self.turn.lock().await;
            if !self.has_applied_all().await {
                return Err(OrderError::Refused(BEHIND.to_owned()));
            }
            Some(turn)
        } else {
            None
        };
        let facts = self.facts();
        let view =
            facts.view().ok_or_else(|| OrderError::Refused("the cluster is not born yet".to_owned()))?;
        let now = self.began.elapsed();
        let refused = |NotNow(why)| OrderError::Refused(why);
        match order {
            Order::Report => Ok(OrderReply::Report(Box::new(self.steward.lock().report(now, &view)))),
            Order::Standing { id, nomination } => {
                Ok(OrderReply::Standing(self.steward.lock().standing(&view, id, nomination)))
            }
            Order::Depart { id } => {
                let departure = self.steward.lock().order_departure(now, &view, id).map_err(refused)?;
                let swapped = departure.is_some();
                if let Some(action) = departure {
                    self.act(action).await?;
                }
                Ok(OrderReply::Departing(swapped))
            }
            Order::Retire(which) => {
                let server = find(&which, &facts.configured)?;
                let retirement = self.steward.lock().order_retirement(&view, server).map_err(refused)?;
                self.act(retirement).await?;
                Ok(OrderReply::Done)
            }
            Order::Transfer(to) => {
                self.transfer(to.as_ref(), &facts).await?;
                Ok(OrderReply::Done)
            }
            Order::Replace { old, new } => {
                let ordered =
                    self.steward.lock().order_replacement(now, &view, old.as_deref(), new.as_deref());
                self.act(ordered.map_err(refused)?).await?;
                Ok(OrderReply::Done)
            }
            Order::Want(servers) => {
                self.act(Action::Write(ServersCommand::Want { servers })).await?;
                Ok(OrderReply::Done)
            }
        }
    }
}

/// Whether this order is a decision about who is a server. A transfer is none: it must not wait for a change that the
/// leader does not get through.
fn decides(order: &Order) -> bool {
    match order {
        Order::Report | Order::Standing { .. } | Order::Transfer(_) => false,
        Order::Depart { .. } | Order::Retire(_) | Order::Replace { .. } | Order::Want(_) => true,
    }
}

fn find<'a>(which: &Which, configured: &'a [ConfiguredServer]) -> Result<&'a ConfiguredServer, OrderError> {
    let (found, text) = match which {
        Which::Address(address) => (
            configured.iter().find(|server| server.address == *address),
            format!("address \"{address}\" was not found in the Raft configuration"),
        ),
        Which::Id(id) => (
            configured.iter().find(|server| {
                server.incarnation == *id || format!("{:016x}", server.id) == *id || server.name == *id
            }),
            format!("id \"{id}\" was not found in the Raft configuration"),
        ),
    };
    found.ok_or(OrderError::Refused(text))
}

fn peer(member: &ServerMember) -> Peer {
    Peer { name: member.name.clone(), address: member.address, incarnation: member.incarnation.clone() }
}

/// Says in the log who was replaced by whom and why.
fn audit(action: &Action, facts: &Facts) {
    let name = |id: u64| {
        facts
            .configured
            .iter()
            .find(|server| server.id == id)
            .map_or("a former server", |server| &server.name)
    };
    match action {
        Action::Change(ServerChange::Replace { old, new }) => {
            tracing::info!(old = name(*old), new = name(*new), "audit: a server takes the place of another");
        }
        Action::Change(ServerChange::Remove(id)) => {
            tracing::info!(server = name(*id), "audit: a server is removed from the voters");
        }
        Action::Change(change) => tracing::info!(?change, "the servers have changed"),
        Action::Write(ServersCommand::Nominate { node, purpose, .. }) => {
            tracing::info!(node, why = %purpose, "audit: a client is to become a server");
        }
        Action::Write(ServersCommand::Retire { id }) => {
            tracing::info!(server = name(*id), "audit: a server is to be one no more");
        }
        Action::Write(ServersCommand::Settle { outcome, .. }) => {
            let nomination = facts.catalog.servers().nomination.as_ref();
            let node = nomination.map_or("", |nomination| nomination.node.as_str());
            match (outcome, nomination.map(|nomination| &nomination.purpose)) {
                (Settlement::Withdrawn { why }, _) => {
                    tracing::warn!(node, why, "audit: a client did not become a server");
                }
                (_, Some(Purpose::Replace { node: old, why, .. })) => {
                    let why: &Departure = why;
                    tracing::info!(old, new = node, %why, "audit: a server was replaced");
                }
                _ => tracing::info!(node, "audit: a server was added"),
            }
        }
        Action::Write(command) => tracing::info!(%command, "the servers' table has changed"),
    }
}
