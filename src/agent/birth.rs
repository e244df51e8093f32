//! Birth without etcd: carries the protocol of `model::election::gossip_birth` between servers.
//!
//! Decides nothing. Writes what must be remembered before it answers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::handle::Replica;
use super::rpc::{Answer, Channel, Handler, Hello, Identity, Method, RemoteError, Request, decode, encode};
use crate::hint::WithHint as _;
use crate::host::disk::{self, Disk};
use crate::host::files::MODE_PRIVATE;
use crate::host::outside::random_bits;
use crate::host::versioned;
use crate::model::election::gossip_birth::{GossipAction, GossipBirth, GossipEvent};
use crate::model::election::{
    BirthRecord, BirthReply, BirthRequest, Certificate, Incarnation, InitialMember, SeenServer,
};
use crate::model::membership::{Member, MemberStatus};
use crate::model::names::ClusterId;
use crate::model::sync::servers::ServerMember;
use crate::tasks::Spawner;

/// File with what a server keeps of a birth without etcd, and must not lose in a crash.
pub const GOSSIP_BIRTH_FILE: &str = "gossip-birth.json";
/// How often the protocol looks at the clock.
const TIMER_INTERVAL: Duration = Duration::from_millis(100);
/// The same once the cluster has formed: an idle machine should sleep.
const TIMER_INTERVAL_FORMED: Duration = Duration::from_secs(2);
/// How long an answer may take; the protocol asks again by itself.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Questions of other servers that wait: few servers, one question each at a time.
const QUESTIONS_MAX: usize = 64;
/// Answers of other servers that wait.
const ANSWERS_MAX: usize = 64;

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decided {
    /// Initialise raft with this list.
    Born(Certificate),
    /// Wait for the leader of this cluster to take us in.
    Join(ClusterId),
}

/// What the protocol needs.
pub(super) struct Context {
    pub(super) me: SeenServer,
    /// `-bootstrap`.
    pub(super) alone: bool,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) disk: Arc<dyn Disk>,
    /// Raft has begun here.
    pub(super) raft_state: bool,
    pub(super) members: watch::Receiver<Arc<Vec<Member>>>,
    /// Everybody whom we were told to join was asked.
    pub(super) looked: watch::Receiver<bool>,
    pub(super) identity: Arc<Identity>,
    pub(super) replica: Arc<Replica>,
    pub(super) spawner: Spawner,
}

type Question = (BirthRequest, oneshot::Sender<BirthReply>);

/// Answers other servers' questions.
pub(super) struct Desk(mpsc::Sender<Question>);

#[async_trait]
impl Handler for Desk {
    async fn call(&self, _peer: &Hello, request: Request) -> Answer {
        Answer::One(self.ask(&request.body).await)
    }
}

impl Desk {
    async fn ask(&self, body: &[u8]) -> Result<bytes::Bytes, RemoteError> {
        let request = decode::<BirthRequest>(body)?;
        let (sender, reply) = oneshot::channel();
        let gone = || RemoteError::Unavailable("the birth is over".to_owned());
        self.0.send((request, sender)).await.map_err(|_| gone())?;
        encode(&reply.await.map_err(|_| gone())?)
    }
}

/// The desk for the router, and the questions for [`run`].
pub(super) fn desk() -> (Desk, mpsc::Receiver<Question>) {
    let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
    (Desk(sender), receiver)
}

/// Runs the protocol until the process stops. What is decided appears in `decided`, once.
pub(super) async fn run(
    mut context: Context,
    mut questions: mpsc::Receiver<Question>,
    decided: watch::Sender<Option<Decided>>,
) -> anyhow::Result<()> {
    let path = context.data_dir.as_ref().map(|folder| folder.join(GOSSIP_BIRTH_FILE));
    let record = load(&*context.disk, path.as_ref())?;
    let birth = GossipBirth::new(context.me.clone(), context.alone, record, context.raft_state);
    let (answers_sender, mut answers) = mpsc::channel(ANSWERS_MAX);
    let mut driver = Driver {
        birth,
        disk: context.disk,
        path,
        began: Instant::now(),
        waiting: std::collections::BTreeMap::new(),
        identity: context.identity,
        spawner: context.spawner.clone(),
        answers: answers_sender,
        decided,
    };
    let stop = context.spawner.stop_token();
    let mut timer = tokio::time::interval(TIMER_INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    let (mut formed, mut looked) = (false, false);
    driver.step(GossipEvent::Started)?;
    driver.step(GossipEvent::Seen(seen(&context.members.borrow_and_update())))?;
    loop {
        tokio::select! {
            // In this order: when everything stops, gossip may end before this task does, and that is no failure.
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = timer.tick() => {
                if !formed && let Some(cluster) = context.replica.load().cluster() {
                    formed = true;
                    driver.step(GossipEvent::Formed(cluster.clone()))?;
                    timer = tokio::time::interval(TIMER_INTERVAL_FORMED);
                    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                }
                driver.step(GossipEvent::Timer)?;
            }
            over = context.looked.wait_for(|over| *over), if !looked => {
                over.context("gossip has ended")?;
                looked = true;
                let servers = seen(&context.members.borrow_and_update());
                driver.step(GossipEvent::Seen(servers))?;
                driver.step(GossipEvent::Looked)?;
            }
            changed = context.members.changed() => {
                changed.context("gossip has ended")?;
                let servers = seen(&context.members.borrow_and_update());
                driver.step(GossipEvent::Seen(servers))?;
            }
            Some((request, sender)) = questions.recv() => {
                number += 1;
                driver.waiting.insert(number, sender);
                driver.step(GossipEvent::Request { number, request })?;
            }
            Some((from, reply)) = answers.recv() => driver.step(GossipEvent::Reply { from, reply })?,
        }
    }
}

struct Driver {
    birth: GossipBirth,
    disk: Arc<dyn Disk>,
    path: Option<PathBuf>,
    began: Instant,
    waiting: std::collections::BTreeMap<u64, oneshot::Sender<BirthReply>>,
    identity: Arc<Identity>,
    spawner: Spawner,
    answers: mpsc::Sender<(Incarnation, BirthReply)>,
    decided: watch::Sender<Option<Decided>>,
}

impl Driver {
    fn step(&mut self, event: GossipEvent) -> anyhow::Result<()> {
        let random = random_bits();
        let is_history = matches!(event, GossipEvent::Formed(_));
        for action in self.birth.step(self.began.elapsed(), random, event) {
            match action {
                GossipAction::Persist(record) => match self.persist(&record) {
                    // No promise: the raft log says it too, and the next start asks it again.
                    Err(error) if is_history => tracing::warn!("{error:#}"),
                    persisted => persisted?,
                },
                GossipAction::Reply { number, reply } => {
                    if let Some(sender) = self.waiting.remove(&number) {
                        // Who asked may have given up; it will ask again.
                        drop(sender.send(reply));
                    }
                }
                GossipAction::Send { to, request } => self.send(to, request),
                GossipAction::Born(certificate) => {
                    tracing::info!(cluster = %certificate.cluster_id, "all servers agree: the cluster is born");
                    self.decided.send_replace(Some(Decided::Born(certificate)));
                }
                GossipAction::Join(cluster) => {
                    tracing::info!(%cluster, "a cluster is there: joining it");
                    self.decided.send_replace(Some(Decided::Join(cluster)));
                }
                GossipAction::Wait(reason) => tracing::info!("{reason}"),
            }
        }
        Ok(())
    }

    fn persist(&self, record: &BirthRecord) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let unfinished = path.with_extension("new");
        disk::replace(&*self.disk, path, &unfinished, &versioned::encode(record)?, MODE_PRIVATE)
            .with_context(|| format!("cannot write {}", path.display()))
            .context("cannot remember what was promised or learned about the birth of the cluster")
            .hint("make room or repair the disk, and start the agent again")
    }

    fn send(&self, to: InitialMember, request: BirthRequest) {
        let (identity, spawner, answers) =
            (self.identity.clone(), self.spawner.clone(), self.answers.clone());
        self.spawner.start_short("birth question", async move {
            let Ok(address) = to.address.parse() else {
                tracing::warn!(address = to.address, "a server's RPC address is none");
                return;
            };
            let channel = Channel::new(address, Some(to.incarnation.node_id()), identity, spawner);
            let Ok(body) = encode(&request) else { return };
            match channel.call(Method::Birth, body, ANSWER_WAIT).await {
                Ok(body) => match decode::<BirthReply>(&body) {
                    // The driver ends before its channel only when the process stops.
                    Ok(reply) => drop(answers.send((to.incarnation, reply)).await),
                    Err(error) => tracing::warn!(%address, %error, "a birth reply is not understood"),
                },
                Err(error) => tracing::debug!(%address, %error, "no birth reply"),
            }
        });
    }
}

fn load(disk: &dyn Disk, path: Option<&PathBuf>) -> anyhow::Result<BirthRecord> {
    let Some(path) = path else { return Ok(BirthRecord::default()) };
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BirthRecord::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    // A promise that cannot be read may not be forgotten: refuse to start.
    versioned::decode(&bytes).map_err(|error| {
        error.about(path, "restore the file; only a machine that never was in a cluster may start without it")
    })
}

fn seen(members: &[Member]) -> Vec<SeenServer> {
    members
        .iter()
        .filter(|member| member.status == MemberStatus::Alive)
        .filter_map(ServerMember::of)
        .filter_map(|server| {
            Some(SeenServer {
                node_id: server.id,
                name: server.name,
                incarnation: server.incarnation.parse().ok()?,
                address: server.address.to_string(),
                expect: server.expect,
                cluster: server.cluster,
            })
        })
        .collect()
}
