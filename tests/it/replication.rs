//! Clients and servers together: the discovery part reaches a client, and what it asks reaches the leader.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corediscover::agent::consensus::{Peer, Server, Settings};
use corediscover::agent::handle::{Consensus, KvRead, ReadMode, Replica};
use corediscover::agent::replica::{self, Client};
use corediscover::agent::rpc::{Identity, Listener, Router};
use corediscover::model::catalog::{
    Command, Condition, KvQuery, KvRows, KvWrite, NodeRegistration, Registration, Reply,
};
use corediscover::model::election::Incarnation;
use corediscover::model::names::ClusterId;
use corediscover::tasks::Tasks;
use tokio::sync::watch;
use uuid::Uuid;

use crate::support::loopback;

const WAIT: Duration = Duration::from_secs(20);

struct Member {
    tasks: Tasks,
    server: Server,
    id: u64,
    peer: Peer,
}

async fn server(name: &str) -> Member {
    let incarnation = Incarnation::from_random(Uuid::new_v4().as_u128());
    let id = incarnation.node_id();
    let tasks = Tasks::default();
    let identity = Identity::new(id, name, None);
    let router = Arc::new(Router::default());
    let listener =
        Listener::bind((loopback(), 0).into(), Arc::clone(&identity), Arc::clone(&router)).await.unwrap();
    let address = listener.address().unwrap();
    tasks.start("rpc", listener.run(tasks.spawner()));
    let peer = Peer { name: name.to_owned(), address, incarnation: incarnation.to_string() };
    let settings =
        Settings { disk: Arc::new(corediscover::host::disk::HostDisk), data: None, peer: peer.clone() };
    let server = Server::open(settings, identity, Arc::default(), &router, tasks.spawner()).await.unwrap();
    Member { tasks, server, id, peer }
}

async fn servers() -> Vec<Member> {
    let mut members = Vec::new();
    for name in ["one", "two", "three"] {
        members.push(server(name).await);
    }
    let voters: BTreeMap<_, _> = members.iter().map(|member| (member.id, member.peer.clone())).collect();
    let cluster = ClusterId::from_random(Uuid::new_v4().as_u128());
    for member in &members {
        member.server.initialize(&cluster, voters.clone()).await.unwrap();
    }
    members
}

fn client(tasks: &Tasks, servers: &watch::Receiver<Vec<SocketAddr>>) -> (Client, Arc<Replica>) {
    let replica = Arc::new(Replica::default());
    let identity = Identity::new(7, "client", None);
    let settings = replica::Settings { disk: Arc::new(corediscover::host::disk::HostDisk), data: None };
    let client =
        Client::open(settings, identity, Arc::clone(&replica), servers.clone(), tasks.spawner()).unwrap();
    (client, replica)
}

fn node(name: &str) -> Command {
    let node = NodeRegistration {
        node: name.to_owned(),
        address: "10.0.0.1".to_owned(),
        ..NodeRegistration::default()
    };
    Command::Register(Box::new(Registration { node, ..Registration::default() }))
}

fn names(replica: &Replica) -> Vec<String> {
    replica.load().nodes().map(|row| row.node.node.clone()).collect()
}

async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !look() {
        assert!(Instant::now() < deadline, "not within {WAIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sees_the_catalog_writes_through_any_server_and_survives_them_all() {
    let mut members = servers().await;
    let tasks = Tasks::default();
    let addresses = members.iter().map(|member| member.peer.address).collect();
    let (_known, known) = watch::channel(addresses);
    let (client, replica) = client(&tasks, &known);

    assert_eq!(client.propose(node("a")).await.unwrap(), Reply::Done);
    client.barrier(ReadMode::Default).await.unwrap();
    assert_eq!(names(&replica), ["a"], "a client reads its own writes");
    members[1].server.propose(node("b")).await.unwrap();
    client.barrier(ReadMode::Consistent).await.unwrap();
    assert_eq!(names(&replica), ["a", "b"], "and those of others");

    let write = KvWrite {
        key: "k".to_owned(),
        value: Bytes::from("v"),
        flags: 0,
        condition: Condition::ModifyIndex(0),
    };
    assert_eq!(client.propose(Command::KvWrite(write.clone())).await.unwrap(), Reply::Bool(true));
    assert_eq!(client.propose(Command::KvWrite(write)).await.unwrap(), Reply::Bool(false));
    let query = KvQuery::Get { key: "k".to_owned() };
    let read = KvRead { query: query.clone(), mode: ReadMode::Default, blocking: None };
    let (answer, freshness) = client.kv_read(read).await.unwrap();
    assert!(matches!(&answer.rows, KvRows::Entries(entries) if entries[0].value == "v"), "{answer:?}");
    assert!(freshness.known_leader);
    assert!(replica.load().kv_query(&query).rows.is_empty(), "keys stay with the servers");
    assert_eq!(client.status().await.peers.len(), 3);

    // The server that the client follows goes away.
    let followed = client.followed().unwrap();
    let position = members.iter().position(|member| member.peer.address == followed).unwrap();
    members.remove(position).tasks.run_until(async {}).await.unwrap();
    until("another server is followed", || client.followed().is_some_and(|now| now != followed)).await;
    let mut written = client.propose(node("c")).await;
    let deadline = Instant::now() + WAIT;
    while written.is_err() && Instant::now() < deadline {
        written = client.propose(node("c")).await;
    }
    written.unwrap();
    client.barrier(ReadMode::Default).await.unwrap();
    assert_eq!(names(&replica), ["a", "b", "c"]);

    for member in members {
        member.tasks.run_until(async {}).await.unwrap();
    }
    until("no server is left", || client.followed().is_none()).await;
    assert_eq!(names(&replica), ["a", "b", "c"], "the replica answers without servers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_late_gets_everything() {
    let members = servers().await;
    let many = 3000;
    let writes = (0..many).map(|number| members[number % 3].server.propose(node(&format!("n{number}"))));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let tasks = Tasks::default();
    let (_known, known) = watch::channel(vec![members[0].peer.address]);
    let (client, replica) = client(&tasks, &known);
    client.barrier(ReadMode::Default).await.unwrap();
    assert_eq!(names(&replica).len(), many);
}
