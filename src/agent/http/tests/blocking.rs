//! Blocking queries: woken by what concerns them, over after their wait.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Subject;

/// Longer than any test may take: a query that waits so long was not woken.
const DEADLINE: Duration = Duration::from_secs(20);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "{what}");
}

async fn wakes(subject: &Subject, path: &str, write: (&str, &str)) {
    let index = subject.get(path).await.index();
    let separator = if path.contains('?') { '&' } else { '?' };
    let blocked =
        subject.get(&format!("{path}{separator}index={index}&wait=10m")).await_in(subject, write).await;
    assert!(blocked.index() > index, "{path}");
}

trait AwaitIn: Future<Output = super::Reply> + Sized {
    /// Polls the query until it waits, writes, and expects the answer.
    async fn await_in(self, subject: &Subject, write: (&str, &str)) -> super::Reply {
        let writing = async {
            until("the query waits", || subject.replica.watched_topics() > 0).await;
            assert_eq!(subject.put(write.0, write.1).await.status, 200);
        };
        let both = async { tokio::join!(self, writing).0 };
        tokio::time::timeout(DEADLINE, both).await.expect("the query is woken")
    }
}

impl<F: Future<Output = super::Reply>> AwaitIn for F {}

#[tokio::test]
async fn queries_are_woken_by_their_own_resource() {
    let subject = Subject::start().await;
    let node = r#"{"Node":"n1","Address":"10.0.0.1"}"#;
    let service = r#"{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"web"}}"#;
    let check = r#"{"Node":"n1","Address":"10.0.0.1","Check":{"Name":"c"}}"#;
    let moved = r#"{"Node":"n1","Address":"10.0.0.2"}"#;
    let register = "/v1/catalog/register";
    subject.expect_put("/v1/kv/raise-the-index", "", 200, "true").await;
    wakes(&subject, "/v1/catalog/nodes", (register, node)).await;
    wakes(&subject, "/v1/health/service/web", (register, service)).await;
    wakes(&subject, "/v1/catalog/service/web", (register, moved)).await;
    wakes(&subject, "/v1/health/node/n1", (register, check)).await;
    let gone = r#"{"Node":"n1","ServiceID":"web"}"#;
    wakes(&subject, "/v1/catalog/services", ("/v1/catalog/deregister", gone)).await;
    wakes(&subject, "/v1/catalog/node/n1", (register, service)).await;
    wakes(&subject, "/v1/kv/a", ("/v1/kv/a", "x")).await;
    wakes(&subject, "/v1/kv/p/?recurse", ("/v1/kv/p/q", "x")).await;
    until("nobody waits any more", || subject.replica.watched_topics() == 0).await;
}

#[tokio::test]
async fn a_query_that_nothing_wakes_is_answered_after_its_wait() {
    let subject = Subject::start().await;
    for path in ["/v1/kv/a?index=999&wait=20ms", "/v1/catalog/services?index=999&wait=20ms"] {
        let reply = tokio::time::timeout(DEADLINE, subject.get(path)).await.expect("the wait is over");
        assert_eq!(reply.index(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_write_that_changes_nothing_wakes_nobody() {
    let subject = Subject::start().await;
    let node = r#"{"Node":"n1","Address":"10.0.0.1"}"#;
    subject.expect_put("/v1/catalog/register", node, 200, "true").await;
    let index = subject.get("/v1/catalog/nodes").await.index();
    subject.expect_put("/v1/catalog/register", node, 200, "true").await;
    subject.expect_put("/v1/kv/a", "x", 200, "true").await;
    let reply = subject.get(&format!("/v1/catalog/nodes?index={index}&wait=20ms")).await;
    assert_eq!(reply.index(), index);
}

#[tokio::test]
async fn a_leader_that_went_during_the_wait_is_told() {
    let subject = Subject::start().await;
    let reading = subject.get("/v1/catalog/nodes?index=1&wait=10m");
    let writing = async {
        until("the query waits", || subject.replica.watched_topics() > 0).await;
        subject.consensus.has_leader.store(false, Ordering::Relaxed);
        let command = crate::model::catalog::Registration {
            node: crate::model::catalog::NodeRegistration { node: "n1".into(), ..Default::default() },
            ..Default::default()
        };
        subject.consensus.apply(&crate::model::catalog::Command::KvReap { before: 0 }).unwrap();
        subject.consensus.apply(&crate::model::catalog::Command::Register(command.into())).unwrap();
    };
    let (reply, ()) = tokio::join!(reading, writing);
    assert_eq!((reply.status, reply.text()), (500, "No cluster leader"));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_waiter_behind() {
    let subject = Subject::start().await;
    let mut client = subject.connect().await;
    client.write("GET /v1/kv/a?index=1 HTTP/1.1\r\nHost: t\r\n\r\n").await;
    until("the query waits", || subject.replica.watched_topics() > 0).await;
    drop(client);
    until("the waiter is gone", || subject.replica.watched_topics() == 0).await;
}
