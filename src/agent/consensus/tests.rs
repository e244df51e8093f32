//! Servers with real sockets on loopback and real logs on disk, several in one process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::{NodeId, Peer, Server, Settings};
use crate::agent::handle::{
    Consensus as _, ConsensusState, KvBlocking, KvRead, ProposeError, ReadMode, Replica,
};
use crate::agent::rpc::{Channel, Identity, Listener, Method, RemoteError, Router, RpcError, encode};
use crate::model::catalog::{Command, Condition, KvQuery, KvRows, KvWrite, Reply};
use crate::model::election::Incarnation;
use crate::model::names::ClusterId;
use crate::tasks::Tasks;

const WAIT: Duration = Duration::from_secs(20);

/// Polls until `look` gives something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {WAIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Running {
    tasks: Tasks,
    server: Server,
    replica: Arc<Replica>,
}

impl Running {
    async fn stop(self) {
        self.tasks.run_until(async {}).await.unwrap();
    }
}

struct Machine {
    id: NodeId,
    peer: Peer,
    data: PathBuf,
    running: Option<Running>,
}

impl Machine {
    fn server(&self) -> &Server {
        &self.running.as_ref().expect("running").server
    }

    fn replica(&self) -> &Arc<Replica> {
        &self.running.as_ref().expect("running").replica
    }

    async fn start(&mut self, cluster: Option<ClusterId>) {
        let tasks = Tasks::default();
        let identity = Identity::new(self.id, self.peer.name.clone(), cluster);
        let router = Arc::new(Router::default());
        let listener =
            Listener::bind(self.peer.address, Arc::clone(&identity), Arc::clone(&router)).await.unwrap();
        self.peer.address = listener.address().unwrap();
        tasks.start("rpc", listener.run(tasks.spawner()));
        let replica = Arc::new(Replica::default());
        let settings = Settings {
            disk: Arc::new(crate::host::disk::HostDisk),
            data: Some(self.data.clone()),
            peer: self.peer.clone(),
        };
        let server =
            Server::open(settings, identity, Arc::clone(&replica), &router, tasks.spawner()).await.unwrap();
        self.running = Some(Running { tasks, server, replica });
    }

    async fn stop(&mut self) {
        self.running.take().expect("running").stop().await;
    }
}

struct Machines {
    cluster: ClusterId,
    all: Vec<Machine>,
    _data: tempfile::TempDir,
}

impl Machines {
    /// Machines that run and know of nothing.
    async fn blank(host: u8, count: usize) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut machines = Vec::new();
        for number in 1..=count {
            let incarnation = Incarnation::from_random(Uuid::new_v4().as_u128());
            let address: SocketAddr = format!("127.82.{host}.{number}:0").parse().unwrap();
            let peer = Peer { name: format!("m{number}"), address, incarnation: incarnation.to_string() };
            let mut machine = Machine {
                id: incarnation.node_id(),
                peer,
                data: data.path().join(format!("m{number}")),
                running: None,
            };
            machine.start(None).await;
            machines.push(machine);
        }
        let cluster = ClusterId::from_random(Uuid::new_v4().as_u128());
        Self { cluster, all: machines, _data: data }
    }

    /// A cluster whose voters are all machines, all of which initialise it.
    async fn born(host: u8, count: usize) -> Self {
        let machines = Self::blank(host, count).await;
        let members = machines.members(count);
        for machine in &machines.all {
            machine.server().initialize(&machines.cluster, members.clone()).await.unwrap();
        }
        machines
    }

    fn members(&self, count: usize) -> BTreeMap<NodeId, Peer> {
        self.all.iter().take(count).map(|machine| (machine.id, machine.peer.clone())).collect()
    }

    async fn leader(&self) -> usize {
        until("a leader", || {
            self.all.iter().position(|machine| {
                let Some(running) = &machine.running else { return false };
                running.server.leader_changes().borrow().as_ref().is_some_and(|leader| leader.here)
            })
        })
        .await
    }
}

fn put(key: &str, value: &str) -> Command {
    Command::KvWrite(KvWrite {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        flags: 0,
        condition: Condition::None,
    })
}

async fn write(server: &Server, key: &str, value: &str) {
    assert_eq!(server.propose(put(key, value)).await.unwrap(), Reply::Bool(true));
}

fn value(replica: &Replica, key: &str) -> Option<Bytes> {
    let answer = replica.load().kv_query(&KvQuery::Get { key: key.to_owned() });
    match answer.rows {
        KvRows::Entries(entries) => entries.first().map(|entry| entry.value.clone()),
        KvRows::Keys(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_elect_write_through_any_and_read_what_was_written() {
    let cluster = Machines::born(1, 3).await;
    for (number, machine) in cluster.all.iter().enumerate() {
        write(machine.server(), &format!("k{number}"), "v").await;
        for reader in &cluster.all {
            for mode in [ReadMode::Default, ReadMode::Consistent] {
                let freshness = reader.server().barrier(mode).await.unwrap();
                assert!(freshness.known_leader);
                assert_eq!(value(reader.replica(), &format!("k{number}")).unwrap(), "v");
            }
        }
    }
    let leader = cluster.leader().await;
    let status = cluster.all[(leader + 1) % 3].server().status().await;
    assert_eq!(status.leader_name, Some(cluster.all[leader].peer.name.clone()));
    assert_eq!(status.state, ConsensusState::Follower);
    assert_eq!(status.last_log_term, Some(status.term));
    assert_eq!(status.peers.iter().filter(|peer| peer.voter).count(), 3);
    assert_eq!(cluster.all[leader].server().status().await.state, ConsensusState::Leader);
    for machine in &cluster.all {
        until("the birth of the cluster is in the log", || {
            (machine.replica().load().cluster() == Some(&cluster.cluster)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_a_waiting_write_goes_through() {
    let mut cluster = Machines::born(2, 3).await;
    write(cluster.all[0].server(), "before", "1").await;
    let leader = cluster.leader().await;
    cluster.all[leader].stop().await;
    let other = &cluster.all[(leader + 1) % 3];
    // A client retries what was not certainly done; so does this test.
    until_written(other.server(), "after").await;
    cluster.all[leader].start(None).await;
    let back = &cluster.all[leader];
    back.server().barrier(ReadMode::Default).await.unwrap();
    assert_eq!(value(back.replica(), "after").unwrap(), "1");
    assert_eq!(value(back.replica(), "before").unwrap(), "1");
}

async fn until_written(server: &Server, key: &str) {
    let deadline = Instant::now() + WAIT;
    loop {
        match server.propose(put(key, "1")).await {
            Ok(_) => return,
            Err(ProposeError::Rejected(error)) => panic!("{error}"),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_all_every_acknowledged_write_is_there() {
    let mut cluster = Machines::born(3, 3).await;
    for count in 0..50 {
        write(cluster.all[count % 3].server(), &format!("k{count}"), "v").await;
    }
    for machine in &mut cluster.all {
        machine.stop().await;
    }
    for machine in &mut cluster.all {
        machine.start(None).await;
    }
    for machine in &cluster.all {
        machine.server().barrier(ReadMode::Consistent).await.unwrap();
        for count in 0..50 {
            assert_eq!(value(machine.replica(), &format!("k{count}")).unwrap(), "v", "k{count}");
        }
        assert_eq!(machine.replica().load().cluster(), Some(&cluster.cluster));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_restarted_at_once_leads_only_if_it_is_elected_again() {
    let mut cluster = Machines::born(11, 3).await;
    let leader = cluster.leader().await;
    let old = cluster.all[leader].server().inner.status().term;
    write(cluster.all[leader].server(), "k", "1").await;
    // Quicker than anybody could be elected.
    cluster.all[leader].stop().await;
    cluster.all[leader].start(None).await;
    let again = cluster.all[leader].server();
    again.barrier(ReadMode::Default).await.unwrap();
    assert_eq!(value(cluster.all[leader].replica(), "k").unwrap(), "1");
    let term = again.inner.status().term;
    assert!(term > old, "the term is still {term}: what it committed in its earlier life is not known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_tells_the_term_of_the_last_entry_so_that_a_long_tail_of_an_old_term_is_seen() {
    // More than elections add.
    const TAIL: u64 = 60;
    let mut cluster = Machines::born(12, 3).await;
    // A leader alone goes on to append, and nothing of that is acknowledged. It may be deposed just before.
    let (alone, longer) = loop {
        let leader = cluster.leader().await;
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        write(cluster.all[leader].server(), "k", "v").await;
        for other in others {
            cluster.all[other].stop().await;
        }
        let inner = cluster.all[leader].server().inner.clone();
        let end = inner.status().last_log_index + TAIL;
        let writes =
            (0..TAIL).map(|count| inner.propose_here(encode(&put(&format!("k{count}"), "v")).unwrap()));
        let appended = tokio::select! {
            _ = futures_util::future::select_all(writes.map(Box::pin)) => false,
            () = until("a tail", || (inner.status().last_log_index >= end).then_some(())) => true,
        };
        let status = inner.status();
        if appended {
            cluster.all[leader].stop().await;
        }
        for other in others {
            cluster.all[other].start(None).await;
        }
        if appended {
            break (leader, status);
        }
    };
    let leader = cluster.leader().await;
    write(cluster.all[leader].server(), "k", "later").await;
    let later = cluster.all[leader].server().inner.status();
    assert_ne!(leader, alone);
    assert!(later.last_log_index < longer.last_log_index);
    assert!(later.last_log_term > longer.last_log_term, "{later:?} {longer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_restarted_keeps_the_promise_to_its_leader_that_it_has_forgotten() {
    let mut cluster = Machines::born(10, 3).await;
    let leader = cluster.leader().await;
    let (voter, rival) = ((leader + 1) % 3, (leader + 2) % 3);
    write(cluster.all[leader].server(), "k", "v").await;
    // The leader is stopped too, so that nothing but time tells the voter of it.
    cluster.all[leader].stop().await;
    cluster.all[voter].stop().await;
    let before = Instant::now();
    cluster.all[voter].start(None).await;
    let identity = Identity::new(cluster.all[rival].id, "rival", Some(cluster.cluster.clone()));
    let tasks = Tasks::default();
    let channel =
        Channel::new(cluster.all[voter].peer.address, Some(cluster.all[voter].id), identity, tasks.spawner());
    let vote = super::types::Vote::new(1_000_000, cluster.all[rival].id);
    let wish = openraft::raft::VoteRequest::<super::types::TypeConfig>::new(vote, None);
    let question = encode(&wish).unwrap();
    let deadline = before + WAIT;
    loop {
        match channel.call(Method::RaftVote, question.clone(), WAIT).await {
            Ok(_) => break,
            Err(RpcError::Remote(RemoteError::Unavailable(text))) => {
                assert!(text.contains("just started"), "{text}");
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
    assert!(before.elapsed() >= super::server::ELECTION_MAX, "the leader's lease was over");
    until("the two elect a leader", || {
        let led = |machine: &Machine| machine.server().leader_changes().borrow().is_some();
        (led(&cluster.all[voter]) && led(&cluster.all[rival])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_too_long_gets_a_snapshot_and_a_new_one_joins_and_votes() {
    let mut cluster = Machines::blank(4, 4).await;
    let members = cluster.members(3);
    for machine in &cluster.all[..3] {
        machine.server().initialize(&cluster.cluster, members.clone()).await.unwrap();
    }
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.all[away].stop().await;
    for count in 0..20 {
        write(cluster.all[leader].server(), &format!("k{count}"), &"x".repeat(200_000)).await;
    }
    let raft = cluster.all[leader].server().inner.raft.clone();
    let applied = cluster.all[leader].server().status().await.applied_index;
    raft.trigger().snapshot().await.unwrap();
    let snapshot = || {
        use openraft::async_runtime::watch::WatchReceiver as _;
        raft.metrics().borrow_watched().snapshot.filter(|snapshot| snapshot.index >= applied).map(|_| ())
    };
    until("a snapshot", snapshot).await;
    raft.trigger().purge_log(applied).await.unwrap();
    cluster.all[away].start(None).await;
    cluster.all[away].server().barrier(ReadMode::Consistent).await.unwrap();
    assert_eq!(value(cluster.all[away].replica(), "k19").unwrap().len(), 200_000);

    let (id, peer) = (cluster.all[3].id, cluster.all[3].peer.clone());
    let server = cluster.all[leader].server();
    server.add_learner(id, peer).await.unwrap();
    let caught_up = || server.configuration().0.iter().any(|known| known.id == id && known.caught_up);
    until("the learner has caught up", || caught_up().then_some(())).await;
    server.replace_voter(cluster.all[away].id, id).await.unwrap();
    let voters: Vec<_> = server.status().await.peers.into_iter().filter(|peer| peer.voter).collect();
    assert!(voters.iter().any(|voter| voter.id == id) && voters.len() == 3, "{voters:?}");
    cluster.all[3].server().barrier(ReadMode::Consistent).await.unwrap();
    assert_eq!(value(cluster.all[3].replica(), "k0").unwrap().len(), 200_000);
    assert_eq!(
        cluster.all[3].replica().load().cluster(),
        Some(&cluster.cluster),
        "it is in the cluster for good"
    );
    server.remove_server(cluster.all[3].id).await.unwrap();
    assert_eq!(server.status().await.peers.iter().filter(|peer| peer.voter).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_at_once() {
    let cluster = Machines::born(5, 3).await;
    let leader = cluster.leader().await;
    write(cluster.all[leader].server(), "k", "v").await;
    cluster.all[leader].server().transfer_leadership(None).await.unwrap();
    until("another leader", || {
        cluster
            .all
            .iter()
            .enumerate()
            .find(|(number, machine)| {
                let leaders = machine.server().leader_changes();
                *number != leader && leaders.borrow().as_ref().is_some_and(|leader| leader.here)
            })
            .map(|_| ())
    })
    .await;
    until_written(cluster.all[leader].server(), "k").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged_and_stale_reads_go_on() {
    let mut cluster = Machines::born(6, 3).await;
    write(cluster.all[0].server(), "k", "v").await;
    cluster.leader().await;
    cluster.all[0].server().barrier(ReadMode::Consistent).await.unwrap();
    cluster.all[1].stop().await;
    cluster.all[2].stop().await;
    let alone = &cluster.all[0];
    let reading = alone.server().barrier(ReadMode::Consistent);
    let writing = alone.server().propose(put("k", "lost"));
    let (read, written) = tokio::join!(reading, writing);
    assert!(read.is_err() && written.is_err(), "{read:?} {written:?}");
    let freshness = alone.server().barrier(ReadMode::Stale).await.unwrap();
    assert_eq!(value(alone.replica(), "k").unwrap(), "v", "{freshness:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_read_of_keys_wakes_on_a_follower_when_another_server_writes() {
    let cluster = Machines::born(7, 3).await;
    write(cluster.all[0].server(), "k", "1").await;
    let reader = cluster.all[1].server();
    let query = KvQuery::Get { key: "k".to_owned() };
    let read = KvRead { query: query.clone(), mode: ReadMode::Default, blocking: None };
    let (first, _) = reader.kv_read(read.clone()).await.unwrap();
    let blocking = Some(KvBlocking { index: first.index, wait: WAIT });
    let (second, ()) = tokio::join!(
        async { reader.kv_read(KvRead { blocking, ..read }).await.unwrap() },
        write(cluster.all[2].server(), "k", "2")
    );
    assert!(second.0.index > first.index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_and_another_node_are_refused_also_by_the_data() {
    let mut cluster = Machines::born(8, 1).await;
    write(cluster.all[0].server(), "k", "v").await;
    let strangers = ClusterId::from_random(7);
    assert!(cluster.all[0].server().initialize(&strangers, cluster.members(1)).await.is_err());
    let tasks = Tasks::default();
    let stranger = Identity::new(5, "stranger", Some(strangers.clone()));
    let channel = Channel::new(cluster.all[0].peer.address, None, stranger, tasks.spawner());
    let error = channel.call(Method::Status, Bytes::new(), WAIT).await.unwrap_err();
    assert!(matches!(error, RpcError::Refused(_)), "{error}");
    let nobody = Identity::new(5, "nobody", None);
    let channel = Channel::new(cluster.all[0].peer.address, None, nobody, tasks.spawner());
    let error = channel.call(Method::RaftVote, Bytes::new(), WAIT).await.unwrap_err();
    assert!(error.to_string().contains("is in no cluster"), "{error}");
    drop(channel);
    cluster.all[0].stop().await;
    let machine = &cluster.all[0];
    for (node, cluster, text) in
        [(machine.id, Some(strangers), "was told to be in"), (99, None, "is that of node")]
    {
        let router = Router::default();
        let settings = Settings {
            disk: Arc::new(crate::host::disk::HostDisk),
            data: Some(machine.data.clone()),
            peer: machine.peer.clone(),
        };
        let identity = Identity::new(node, "m1", cluster);
        let opened = Server::open(settings, identity, Arc::default(), &router, tasks.spawner()).await;
        let Err(error) = opened else { panic!("opened") };
        assert!(crate::hint::report(&error).contains(text), "{error:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_birth_that_was_given_up_is_forgotten_and_the_next_cluster_is_born() {
    let mut cluster = Machines::blank(9, 3).await;
    let first = ClusterId::from_random(1);
    let members = cluster.members(3);
    // Only one of three was bound before the list was closed; it asks for votes in vain.
    cluster.all[0].server().initialize(&first, members).await.unwrap();
    assert!(cluster.all[0].server().is_initialized().await.unwrap());
    let status = || cluster.all[0].server().inner.status().state;
    until("it stands for election", || (status() == ConsensusState::Candidate).then_some(())).await;
    cluster.all[0].stop().await;
    let second = cluster.cluster.clone();
    cluster.all[0].start(Some(second.clone())).await;
    assert!(!cluster.all[0].server().is_initialized().await.unwrap());
    let members = cluster.members(2);
    for machine in &cluster.all[..2] {
        machine.server().initialize(&second, members.clone()).await.unwrap();
    }
    write(cluster.all[0].server(), "k", "v").await;
    // And one with an entry of a leader never is.
    cluster.all[0].stop().await;
    let machine = &cluster.all[0];
    let settings = Settings {
        disk: Arc::new(crate::host::disk::HostDisk),
        data: Some(machine.data.clone()),
        peer: machine.peer.clone(),
    };
    let identity = Identity::new(machine.id, "m1", Some(first));
    let tasks = Tasks::default();
    assert!(
        Server::open(settings, identity, Arc::default(), &Router::default(), tasks.spawner()).await.is_err()
    );
}
