//! Real sockets on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::{
    Answer, Channel, Connection, Handler, Hello, Identity, Listener, Method, RemoteError, Request, Router,
    RpcError,
};
use crate::model::names::ClusterId;
use crate::tasks::Tasks;

const WAIT: Duration = Duration::from_secs(5);

struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn call(&self, peer: &Hello, request: Request) -> Answer {
        match request.method {
            Method::Propose => Answer::One(Ok(request.body)),
            Method::Status => Answer::One(Ok(Bytes::from(peer.name.clone()))),
            Method::Follow => {
                let (sender, receiver) = mpsc::channel(1);
                tokio::task::spawn_blocking(move || {
                    for count in 0..100_u8 {
                        if sender.blocking_send(Bytes::from(vec![count])).is_err() {
                            return;
                        }
                    }
                });
                Answer::Many(receiver)
            }
            Method::KvRead => std::future::pending().await,
            _ => Answer::One(Err(RemoteError::Failed("no".to_owned()))),
        }
    }
}

fn cluster(bits: u128) -> ClusterId {
    ClusterId::from_random(bits)
}

async fn start(tasks: &Tasks, own: Option<ClusterId>) -> SocketAddr {
    let router = Arc::new(Router::default());
    router.set_consensus(Echo);
    let listener =
        Listener::bind("127.81.0.1:0".parse().unwrap(), Identity::new(1, "one", own), router).await.unwrap();
    let address = listener.address().unwrap();
    tasks.start("listener", listener.run(tasks.spawner()));
    address
}

#[tokio::test]
async fn many_requests_share_a_connection_and_each_gets_its_own_answer() {
    let tasks = Tasks::default();
    let address = start(&tasks, None).await;
    let channel = Channel::new(address, Some(1), Identity::new(2, "two", None), tasks.spawner());
    let calls = (0..200_u32).map(|count| {
        let body = Bytes::copy_from_slice(&count.to_be_bytes());
        let channel = &channel;
        async move { assert_eq!(channel.call(Method::Propose, body.clone(), WAIT).await.unwrap(), body) }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(channel.call(Method::Status, Bytes::new(), WAIT).await.unwrap(), "two");
    let error = channel.call(Method::ReadIndex, Bytes::new(), WAIT).await.unwrap_err();
    assert_eq!(error, RpcError::Remote(RemoteError::Failed("no".to_owned())));
    let error = channel.call(Method::Birth, Bytes::new(), WAIT).await.unwrap_err();
    assert!(error.nothing_done(), "{error}");
    let error = channel.call(Method::KvRead, Bytes::new(), Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, RpcError::Timeout(_)) && !error.nothing_done(), "{error}");
}

#[tokio::test]
async fn a_stream_gives_its_answers_in_order_and_ends() {
    let tasks = Tasks::default();
    let address = start(&tasks, None).await;
    let connection =
        Connection::open(address, &Identity::new(2, "two", None), &tasks.spawner()).await.unwrap();
    let mut stream = connection.follow(Method::Follow, Bytes::new()).await.unwrap();
    for count in 0..100_u8 {
        assert_eq!(stream.recv().await.unwrap(), vec![count]);
    }
    assert_eq!(stream.recv().await, None);
}

#[tokio::test]
async fn another_cluster_and_another_node_are_refused() {
    let tasks = Tasks::default();
    let address = start(&tasks, Some(cluster(1))).await;
    let open = |own: Option<ClusterId>| {
        let spawner = tasks.spawner();
        async move { Connection::open(address, &Identity::new(2, "two", own), &spawner).await }
    };
    let Err(RpcError::Refused(text)) = open(Some(cluster(2))).await else { panic!("not refused") };
    assert!(text.contains("different clusters do not talk"), "{text}");
    assert_eq!(open(Some(cluster(1))).await.unwrap().peer().cluster, Some(cluster(1)));
    assert_eq!(open(None).await.unwrap().peer().node, 1);
    let channel = Channel::new(address, Some(7), Identity::new(2, "two", None), tasks.spawner());
    let error = channel.call(Method::Propose, Bytes::new(), WAIT).await.unwrap_err();
    assert!(matches!(error, RpcError::Refused(_)), "{error}");
}

#[tokio::test]
async fn garbage_and_oversized_first_frames_close_the_connection_and_nothing_else() {
    let tasks = Tasks::default();
    let address = start(&tasks, None).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 2, 0xff, 0xff], &[0x7f; 64]] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        // Reset or end: either way it is closed.
        drop(tokio::time::timeout(WAIT, stream.read_to_end(&mut rest)).await.expect("closed in time"));
    }
    let channel = Channel::new(address, None, Identity::new(2, "two", None), tasks.spawner());
    assert_eq!(channel.call(Method::Propose, Bytes::from("x"), WAIT).await.unwrap(), "x");
}

#[tokio::test]
async fn a_lost_connection_fails_what_waits_and_is_made_again() {
    let tasks = Tasks::default();
    let first = Tasks::default();
    let address = start(&first, None).await;
    let channel = Channel::new(address, None, Identity::new(2, "two", None), tasks.spawner());
    channel.call(Method::Propose, Bytes::from("x"), WAIT).await.unwrap();
    let waiting = channel.call(Method::KvRead, Bytes::new(), WAIT);
    let stopping = first.run_until(tokio::task::yield_now());
    let (waited, stopped) = tokio::join!(waiting, stopping);
    stopped.unwrap();
    assert!(!matches!(waited, Ok(_) | Err(RpcError::Timeout(_))), "{waited:?}");
    let router = Arc::new(Router::default());
    router.set_consensus(Echo);
    let listener = Listener::bind(address, Identity::new(1, "one", None), router).await.unwrap();
    tasks.start("listener", listener.run(tasks.spawner()));
    let mut answered = Err(RpcError::Timeout(WAIT));
    let deadline = tokio::time::Instant::now() + WAIT;
    while answered.is_err() && tokio::time::Instant::now() < deadline {
        answered = channel.call(Method::Propose, Bytes::from("y"), WAIT).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(answered.unwrap(), "y");
}

#[tokio::test]
async fn who_waits_for_one_that_has_moved_away_hears_of_it_at_once() {
    let tasks = Tasks::default();
    let address = start(&tasks, None).await;
    let channel = Channel::new(address, None, Identity::new(2, "two", None), tasks.spawner());
    channel.call(Method::Propose, Bytes::from("x"), WAIT).await.unwrap();
    let waiting = channel.call(Method::KvRead, Bytes::new(), Duration::from_hours(1));
    let moving = async {
        tokio::task::yield_now().await;
        channel.abandon();
    };
    let (waited, ()) = tokio::time::timeout(WAIT, async { tokio::join!(waiting, moving) }).await.unwrap();
    let error = waited.unwrap_err();
    assert!(matches!(error, RpcError::Lost(_)) && !error.nothing_done(), "its fate is unknown: {error}");
    let error = channel.call(Method::Propose, Bytes::from("x"), WAIT).await.unwrap_err();
    assert!(error.nothing_done(), "what was not sent may be asked elsewhere: {error}");
}
