//! Real agents on loopback addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Gossip, JoinReport, NoSuchMember, Settings};
use crate::model::membership::{Config, Member, MemberStatus, Tags};
use crate::tasks::Tasks;

/// Longest wait for anything here; much more than is needed, for busy machines.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address that no other test uses.
fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let run = 16 + u8::try_from(std::process::id() % 200).unwrap();
    SocketAddr::from((Ipv4Addr::new(127, run, 83, NEXT.fetch_add(1, Ordering::Relaxed)), super::PORT))
}

struct Agent {
    gossip: Gossip,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Agent {
    async fn start(name: &str, address: SocketAddr, retry_join: &[SocketAddr]) -> Self {
        let tasks = Tasks::default();
        let stop = tasks.stop_token();
        let settings = Settings {
            name: name.to_owned(),
            advertise: address,
            tags: Tags::default(),
            seed: u64::from(address.ip().is_ipv4()) + u64::from(address.port()) + name.len() as u64,
            retry_join: retry_join.iter().map(SocketAddr::to_string).collect(),
            remembered: Vec::new(),
            retry_interval: Duration::from_secs(1),
            config: Config::default(),
        };
        let bound = Gossip::bind(address).await.expect("a free address");
        let gossip = Gossip::start(bound, settings, &tasks.spawner()).expect("good settings");
        let mut running = JoinSet::new();
        running.spawn(tasks.run_until(std::future::pending::<()>()));
        Self { gossip, stop, running }
    }

    /// As a killed process: the sockets close, nothing is said.
    async fn kill(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no panic").expect("no error");
        }
    }

    async fn sees(&self, what: &str, wanted: impl Fn(&[Member]) -> bool) {
        let mut changes = self.gossip.changes();
        let seen = tokio::time::timeout(PATIENCE, changes.wait_for(|members| wanted(members))).await;
        let seen = seen.map(|members| members.is_ok());
        assert_eq!(seen, Ok(true), "{what}; members are {:?}", self.gossip.members());
    }

    async fn sees_status(&self, name: &str, status: MemberStatus) {
        let wanted = |members: &[Member]| members.iter().any(|m| m.name == name && m.status == status);
        self.sees(&format!("{name} is {}", status.as_str()), wanted).await;
    }

    async fn sees_alive(&self, count: usize) {
        let wanted = |members: &[Member]| {
            members.iter().filter(|member| member.status == MemberStatus::Alive).count() == count
        };
        self.sees(&format!("{count} alive"), wanted).await;
    }
}

async fn three() -> ([SocketAddr; 3], [Agent; 3]) {
    let addresses = [address(), address(), address()];
    // Everybody may start first: joining goes on until it succeeds.
    let third = Agent::start("n3", addresses[2], &addresses).await;
    let second = Agent::start("n2", addresses[1], &addresses).await;
    let first = Agent::start("n1", addresses[0], &addresses).await;
    for agent in [&first, &second, &third] {
        agent.sees_alive(3).await;
    }
    (addresses, [first, second, third])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_agents_meet_and_one_that_is_killed_has_failed_and_comes_back() {
    let (addresses, [first, second, third]) = three().await;
    third.kill().await;
    first.sees_status("n3", MemberStatus::Failed).await;
    second.sees_status("n3", MemberStatus::Failed).await;

    let third = Agent::start("n3", addresses[2], &addresses[..1]).await;
    third.sees_alive(3).await;
    first.sees_alive(3).await;
    second.sees_alive(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_leaves_has_left_and_not_failed() {
    let (addresses, [first, second, third]) = three().await;
    third.gossip.leave().await;
    third.kill().await;
    first.sees_status("n3", MemberStatus::Left).await;
    second.sees_status("n3", MemberStatus::Left).await;
    let third = Agent::start("n3", addresses[2], &addresses[..1]).await;
    third.sees_alive(3).await;
    second.sees_alive(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn force_leave_turns_failed_into_left_and_prune_forgets() {
    let (_, [first, second, third]) = three().await;
    let unknown = first.gossip.force_leave("n9", false).await;
    assert_eq!(unknown, Err(NoSuchMember("n9".to_owned())));
    assert_eq!(unknown.unwrap_err().to_string(), "agent: No node found with name 'n9'");
    third.kill().await;
    first.sees_status("n3", MemberStatus::Failed).await;
    second.sees_status("n3", MemberStatus::Failed).await;
    first.gossip.force_leave("n3", false).await.unwrap();
    second.sees_status("n3", MemberStatus::Left).await;
    second.gossip.force_leave("n3", true).await.unwrap();
    first.sees("n3 is forgotten", |members| members.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_reach_the_others_and_join_reports_what_failed() {
    let (here, there, nowhere) = (address(), address(), address());
    let first = Agent::start("n1", here, &[]).await;
    let second = Agent::start("n2", there, &[]).await;
    let wishes = [there.ip().to_string(), nowhere.to_string(), "provider=aws".to_owned(), here.to_string()];
    let report = first.gossip.join(&wishes).await;
    let JoinReport { joined, failures } = report;
    assert_eq!(joined, 2, "{failures:?}");
    assert_eq!(failures[0], (nowhere.to_string(), "connection refused".to_owned()));
    assert_eq!(failures[1].0, "provider=aws");
    let tags = std::collections::BTreeMap::from([("role".to_owned(), "consul".to_owned())]);
    first.gossip.set_tags(tags.clone().try_into().unwrap()).await;
    second.sees("n1's tags", |members| members.iter().any(|m| m.name == "n1" && m.tags == tags)).await;
    assert_eq!(second.gossip.known_addresses(), [here]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_slow_connections_do_not_disturb() {
    let (addresses, [first, second, third]) = three().await;
    let before = first.gossip.members();
    let socket = UdpSocket::bind((addresses[0].ip(), 0)).await.unwrap();
    let mut slow = Vec::new();
    for round in 0..200_u8 {
        let noise: Vec<u8> = (0..round).flat_map(|byte| [round, byte, round.wrapping_mul(byte)]).collect();
        socket.send_to(&noise, addresses[0]).await.unwrap();
        let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
        match round % 4 {
            // Announces more than is allowed, says too little, talks HTTP, says nothing at all.
            0 => stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap(),
            1 => stream.write_all(&[0, 0, 1, 0, 1, 2, 3]).await.unwrap(),
            2 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
            _ => {}
        }
        slow.push(stream);
    }
    // All places are taken by those who say nothing; within the limit of a conversation they are free again.
    let answered = async {
        loop {
            let report = second.gossip.join(&[addresses[0].to_string()]).await;
            if report.joined == 1 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("connections are served again");
    let mut buffer = Vec::new();
    let mut oversized = slow.swap_remove(0);
    // Closed without an answer: an end, or a reset because of what was not read.
    let closed = tokio::time::timeout(PATIENCE, oversized.read_to_end(&mut buffer)).await;
    assert!(closed.is_ok() && buffer.is_empty());
    let alive =
        |members: &Arc<Vec<Member>>| members.iter().map(|m| (m.name.clone(), m.status)).collect::<Vec<_>>();
    assert_eq!(alive(&first.gossip.members()), alive(&before));
    assert_eq!(alive(&third.gossip.members()), alive(&before));
}

#[tokio::test]
async fn an_address_in_use_is_named_with_a_hint() {
    let address = address();
    let _held = Gossip::bind(address).await.unwrap();
    let error = Gossip::bind(address).await.unwrap_err();
    let text = crate::hint::report(&error);
    assert!(text.starts_with(&format!("error: cannot listen for gossip on tcp {address}")), "{text}");
    assert!(text.contains("hint: is another agent running?"), "{text}");
    let chosen = Gossip::bind(SocketAddr::new(address.ip(), 0)).await.unwrap();
    assert_ne!(chosen.address().port(), 0);
}
