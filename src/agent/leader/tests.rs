//! The duties of a leader against a log that applies at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Settings, follow_dead_nodes, start};
use crate::agent::handle::{
    Consensus, ConsensusStatus, Freshness, KvRead, NoLeader, ProposeError, ReadMode, Replica,
};
use crate::agent::testing::poll;
use crate::model::catalog::{
    Catalog, Command, Condition, Deregistration, KvAnswer, KvDelete, KvWrite, Reply, SERF_HEALTH, Status,
};
use crate::model::membership::{Member, MemberStatus};
use crate::tasks::Tasks;

#[derive(Default)]
struct OneMachine {
    replica: Arc<Replica>,
    catalog: Mutex<Catalog>,
    fails: AtomicBool,
    proposals: AtomicUsize,
}

impl OneMachine {
    fn write(&self, command: &Command) -> Result<Reply, ProposeError> {
        let mut catalog = self.catalog.lock();
        let index = catalog.index() + 1;
        let outcome = catalog.apply(index, command);
        self.replica.publish(Arc::new(catalog.clone()), &outcome.changes);
        Ok(outcome.result?)
    }

    fn health(&self, node: &str) -> Option<Status> {
        Some(self.replica.snapshot().node(node)?.checks.get(SERF_HEALTH)?.status)
    }
}

#[async_trait]
impl Consensus for OneMachine {
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(ProposeError::Uncertain("leadership lost".to_owned()));
        }
        self.proposals.fetch_add(1, Ordering::SeqCst);
        self.write(&command)
    }

    async fn barrier(&self, _mode: ReadMode) -> Result<Freshness, NoLeader> {
        Ok(self.freshness())
    }

    async fn kv_read(&self, _read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        Err(NoLeader)
    }

    fn freshness(&self) -> Freshness {
        Freshness { known_leader: true, last_contact: Duration::ZERO }
    }

    async fn status(&self) -> ConsensusStatus {
        unreachable!("the duties of a leader do not ask")
    }
}

fn members(states: &[(&str, MemberStatus)]) -> Arc<Vec<Member>> {
    let member = |(name, status): &(&str, MemberStatus)| Member {
        name: (*name).to_owned(),
        address: "10.0.0.7".parse().unwrap(),
        port: 8301,
        tags: [("role", "consul"), ("id", name)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        status: *status,
        incarnation: 1,
    };
    Arc::new(states.iter().map(member).collect())
}

struct Server {
    machine: Arc<OneMachine>,
    members: watch::Sender<Arc<Vec<Member>>>,
    leading: watch::Sender<bool>,
    tasks: Tasks,
}

fn server() -> Server {
    let machine = Arc::new(OneMachine::default());
    let (sender, receiver) =
        watch::channel(members(&[("me", MemberStatus::Alive), ("web", MemberStatus::Alive)]));
    let (leading, is_leading) = watch::channel(false);
    let tasks = Tasks::default();
    let settings = Settings { node_name: "me".to_owned(), datacenter: "dc1".to_owned() };
    let replica = machine.replica.clone();
    start(settings, replica, machine.clone(), receiver, is_leading, &tasks.spawner());
    Server { machine, members: sender, leading, tasks }
}

async fn until(what: &str, probe: impl FnMut() -> bool) {
    poll(Duration::from_secs(2), what, probe).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_writes_members_at_once_and_a_follower_never() {
    let server = server();
    let machine = &server.machine;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(machine.proposals.load(Ordering::SeqCst), 0);

    server.leading.send_replace(true);
    until("all are there", || machine.health("web") == Some(Status::Passing)).await;
    server.members.send_replace(members(&[("me", MemberStatus::Alive), ("web", MemberStatus::Failed)]));
    until("dead", || machine.health("web") == Some(Status::Critical)).await;
    server.members.send_replace(members(&[("me", MemberStatus::Alive)]));
    until("gone", || machine.health("web").is_none()).await;
    let proposals = machine.proposals.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(machine.proposals.load(Ordering::SeqCst), proposals, "nothing to do, nothing written");

    server.leading.send_replace(false);
    server.members.send_replace(members(&[("me", MemberStatus::Alive), ("db", MemberStatus::Alive)]));
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(machine.proposals.load(Ordering::SeqCst), proposals);
    server.leading.send_replace(true);
    until("the new one is there", || machine.health("db") == Some(Status::Passing)).await;
    server.tasks.run_until(async {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_and_what_others_remove_is_put_back() {
    let server = server();
    server.machine.fails.store(true, Ordering::SeqCst);
    server.leading.send_replace(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.machine.fails.store(false, Ordering::SeqCst);
    until("written", || server.machine.health("web") == Some(Status::Passing)).await;
    let removal = Deregistration { node: "web".to_owned(), ..Deregistration::default() };
    server.machine.write(&Command::Deregister(removal)).unwrap();
    until("put back", || server.machine.health("web") == Some(Status::Passing)).await;
    server.tasks.run_until(async {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tombstones_are_reaped_after_a_quarter_of_an_hour_of_leadership() {
    let server = server();
    let machine = &server.machine;
    server.leading.send_replace(true);
    until("leads", || machine.health("web").is_some()).await;
    let key = || "k".to_owned();
    let value = Bytes::from_static(b"v");
    let condition = Condition::None;
    machine.write(&Command::KvWrite(KvWrite { key: key(), value, flags: 0, condition })).unwrap();
    let delete = KvDelete { key: key(), recurse: false, modify_index: None };
    machine.write(&Command::KvDelete(delete)).unwrap();
    let tombstones = || machine.replica.snapshot().tombstone_count();
    tokio::time::sleep(Duration::from_mins(14)).await;
    assert_eq!(tombstones(), 1);
    tokio::time::sleep(Duration::from_mins(4)).await;
    assert_eq!(tombstones(), 0);
    server.tasks.run_until(async {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dead_members_are_known_to_every_agent_and_count_as_a_change() {
    let replica = Arc::new(Replica::default());
    let (sender, receiver) = watch::channel(members(&[("me", MemberStatus::Alive)]));
    let dead: Arc<ArcSwap<BTreeSet<Arc<str>>>> = Arc::default();
    let tasks = Tasks::default();
    follow_dead_nodes("me".to_owned(), replica.clone(), receiver, dead.clone(), &tasks.spawner());
    let version = replica.version();
    sender.send_replace(members(&[("me", MemberStatus::Alive), ("Web", MemberStatus::Failed)]));
    until("known", || dead.load().contains("web")).await;
    assert_ne!(replica.version(), version);
    sender.send_replace(members(&[("me", MemberStatus::Alive), ("Web", MemberStatus::Alive)]));
    until("known", || dead.load().is_empty()).await;
    tasks.run_until(async {}).await.unwrap();
}
