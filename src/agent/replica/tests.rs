//! Clients against a server played by a handler: the stream, its gaps, and what is forwarded.
//!
//! (Client and real server together are tested from `tests/it`: parts of the agent do not know each other.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{Client, Settings};
use crate::agent::handle::{Consensus as _, Freshness, ProposeError, ReadMode, Replica};
use crate::agent::rpc::messages::{FollowEvent, FollowQuestion, ProposeAnswer, ReadIndex, ReadIndexAnswer};
use crate::agent::rpc::{
    Answer, Handler, Hello, Identity, Listener, Method, RemoteError, Request, Router, decode, encode,
};
use crate::agent::testing::poll;
use crate::model::catalog::{Catalog, CatalogError, Command, Depth, NodeRegistration, Registration, Reply};
use crate::model::names::ClusterId;
use crate::tasks::Tasks;

const WAIT: Duration = Duration::from_secs(20);
const FRESH: Freshness = Freshness { known_leader: true, last_contact: Duration::ZERO };

fn cluster() -> ClusterId {
    ClusterId::from_random(3)
}

fn node(name: &str) -> Command {
    let node = NodeRegistration {
        node: name.to_owned(),
        address: "10.0.0.1".to_owned(),
        ..NodeRegistration::default()
    };
    Command::Register(Box::new(Registration { node, ..Registration::default() }))
}

#[derive(Default)]
struct State {
    catalog: Catalog,
    questions: Vec<Option<u64>>,
    proposed: usize,
    followers: Vec<mpsc::Sender<Bytes>>,
}

/// Plays the server; `reply` is what it answers to writes.
#[derive(Clone)]
struct Stage {
    state: Arc<Mutex<State>>,
    reply: Arc<Mutex<Result<ProposeAnswer, RemoteError>>>,
}

impl Stage {
    fn new() -> Self {
        let mut catalog = Catalog::default();
        catalog.apply(1, &Command::ClusterBorn { cluster_id: cluster() });
        catalog.apply(5, &node("first"));
        let state = Arc::new(Mutex::new(State { catalog, ..State::default() }));
        Self { state, reply: Arc::new(Mutex::new(Ok(Ok((9, Reply::Done))))) }
    }

    async fn say(&self, event: &FollowEvent) {
        let followers = self.state.lock().followers.clone();
        for follower in followers {
            let _gone = follower.send(encode(event).unwrap()).await.is_err();
        }
    }

    async fn start(&self, tasks: &Tasks, own: ClusterId) -> SocketAddr {
        let router = Arc::new(Router::default());
        router.set_consensus(self.clone());
        let identity = Identity::new(1, "server", Some(own));
        let listener = Listener::bind("127.83.0.1:0".parse().unwrap(), identity, router).await.unwrap();
        let address = listener.address().unwrap();
        tasks.start("rpc", listener.run(tasks.spawner()));
        address
    }
}

#[async_trait]
impl Handler for Stage {
    async fn call(&self, _peer: &Hello, request: Request) -> Answer {
        match request.method {
            Method::Follow => {
                let question: FollowQuestion = decode(&request.body).unwrap();
                let (events, stream) = mpsc::channel(16);
                let mut state = self.state.lock();
                state.questions.push(question.have);
                if question.have.is_none() {
                    let bytes = Bytes::from(state.catalog.to_bytes(Depth::Discovery).unwrap());
                    let total = bytes.len() as u64;
                    for piece in [bytes.slice(..20), bytes.slice(20..)] {
                        events.try_send(encode(&FollowEvent::Snapshot { total, piece }).unwrap()).unwrap();
                    }
                }
                let alive = FollowEvent::Alive { index: state.catalog.index(), freshness: FRESH };
                events.try_send(encode(&alive).unwrap()).unwrap();
                state.followers.push(events);
                Answer::Many(stream)
            }
            Method::Propose => {
                self.state.lock().proposed += 1;
                let reply = self.reply.lock().clone();
                Answer::One(reply.and_then(|reply| encode(&reply)))
            }
            Method::ReadIndex => {
                let index = self.state.lock().catalog.index();
                let answer: ReadIndexAnswer = Ok(ReadIndex { index: index + 100, discovery: index });
                Answer::One(encode(&answer))
            }
            _ => Answer::One(Err(RemoteError::Unavailable("not played".to_owned()))),
        }
    }
}

async fn until(what: &str, look: impl FnMut() -> bool) {
    poll(WAIT, what, look).await;
}

fn open(
    tasks: &Tasks,
    data: Option<&std::path::Path>,
    own: Option<ClusterId>,
    servers: Vec<SocketAddr>,
) -> (Client, Arc<Replica>, watch::Sender<Vec<SocketAddr>>) {
    let replica = Arc::new(Replica::default());
    let (sender, receiver) = watch::channel(servers);
    let settings =
        Settings { disk: Arc::new(crate::host::disk::HostDisk), data: data.map(ToOwned::to_owned) };
    let identity = Identity::new(8, "client", own);
    let client = Client::open(settings, identity, Arc::clone(&replica), receiver, tasks.spawner()).unwrap();
    (client, replica, sender)
}

fn names(replica: &Replica) -> Vec<String> {
    replica.load().nodes().map(|row| row.node.node.clone()).collect()
}

#[tokio::test]
async fn a_client_takes_the_snapshot_then_the_commands_and_resumes_where_it_was() {
    let (tasks, stage) = (Tasks::default(), Stage::new());
    let first = Tasks::default();
    let address = stage.start(&first, cluster()).await;
    let (client, replica, servers) = open(&tasks, None, None, vec![]);
    assert!(!client.freshness().known_leader);
    servers.send_replace(vec![address]);
    until("the snapshot", || names(&replica) == ["first"]).await;
    until("a sign of life", || client.freshness().known_leader).await;
    let commands = vec![(4, encode(&node("old")).unwrap()), (7, encode(&node("second")).unwrap())];
    stage.state.lock().catalog.apply(7, &node("second"));
    stage.say(&FollowEvent::Commands(commands)).await;
    // The barrier waits until the stream has brought what concerns discovery.
    until("a server to ask", || client.followed().is_some()).await;
    client.barrier(ReadMode::Default).await.unwrap();
    assert_eq!(names(&replica), ["first", "second"], "what was there already is not applied again");
    stage.say(&FollowEvent::Alive { index: 50, freshness: FRESH }).await;
    until("the index of a sign of life", || replica.load().index() == 50).await;

    first.run_until(async {}).await.unwrap();
    until("the loss is seen", || client.followed().is_none()).await;
    assert_eq!(names(&replica), ["first", "second"], "the replica answers without servers");
    let address = stage.start(&tasks, cluster()).await;
    servers.send_replace(vec![address]);
    until("another server", || client.followed() == Some(address)).await;
    assert_eq!(stage.state.lock().questions, [None, Some(50)]);
}

#[tokio::test]
async fn a_restarted_client_answers_without_servers_and_never_mixes_clusters() {
    let data = tempfile::tempdir().unwrap();
    let (tasks, stage) = (Tasks::default(), Stage::new());
    let address = stage.start(&tasks, cluster()).await;
    let first = Tasks::default();
    let (_client, replica, _servers) = open(&first, Some(data.path()), None, vec![address]);
    until("the snapshot", || names(&replica) == ["first"]).await;
    first.run_until(async {}).await.unwrap();

    let second = Tasks::default();
    let (client, replica, _servers) = open(&second, Some(data.path()), None, vec![]);
    assert_eq!(names(&replica), ["first"]);
    assert!(client.barrier(ReadMode::Stale).await.is_ok());
    second.run_until(async {}).await.unwrap();

    // The same data directory, but the machine was put into another cluster.
    let other = ClusterId::from_random(99);
    let mut catalog = Catalog::default();
    catalog.apply(1, &Command::ClusterBorn { cluster_id: other.clone() });
    let strange = Stage::new();
    strange.state.lock().catalog = catalog;
    let elsewhere = strange.start(&tasks, other.clone()).await;
    let (_client, replica, _servers) = open(&tasks, Some(data.path()), Some(other), vec![address, elsewhere]);
    assert!(names(&replica).is_empty());
    until("the snapshot of the other cluster", || replica.load().cluster().is_some()).await;
    assert!(names(&replica).is_empty());
    assert_eq!(strange.state.lock().questions, [None]);
}

#[tokio::test]
async fn a_write_is_repeated_only_when_it_certainly_was_not_done() {
    let (tasks, stage) = (Tasks::default(), Stage::new());
    let address = stage.start(&tasks, cluster()).await;
    let (client, _replica, _servers) = open(&tasks, None, None, vec![address]);
    assert_eq!(client.propose(node("x")).await.unwrap(), Reply::Done);
    *stage.reply.lock() = Ok(Err(ProposeError::Rejected(CatalogError::MissingNode)));
    assert_eq!(client.propose(node("x")).await, Err(ProposeError::Rejected(CatalogError::MissingNode)));
    *stage.reply.lock() = Err(RemoteError::Failed("broke in the middle".to_owned()));
    let answer = client.propose(node("x")).await;
    assert!(matches!(answer, Err(ProposeError::Uncertain(_))), "{answer:?}");
    assert_eq!(stage.state.lock().proposed, 3);
    *stage.reply.lock() = Err(RemoteError::Busy);
    let (answer, ()) = tokio::join!(client.propose(node("x")), async {
        until("a second try", || stage.state.lock().proposed > 4).await;
        *stage.reply.lock() = Ok(Ok((9, Reply::Done)));
    });
    assert_eq!(answer, Ok(Reply::Done));
}
