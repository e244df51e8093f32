//! What is below the endpoints: methods, paths, limits, deadlines, sockets, the stop.

use std::time::Duration;

use tokio::net::UnixStream;

use super::{Client, Subject};
use crate::agent::http::{Address, Limits, Settings, bind};

/// Longer than any test may take.
const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn wrong_methods_and_paths_are_told() {
    let subject = Subject::start().await;
    let mut client = subject.connect().await;
    for (method, path, allow) in [
        ("POST", "/v1/kv/a", "OPTIONS,GET,PUT,DELETE"),
        ("HEAD", "/v1/agent/self", "OPTIONS,GET"),
        ("GET", "/v1/agent/service/register", "OPTIONS,PUT"),
    ] {
        let reply = client.send(method, path, "").await;
        assert_eq!((reply.status, reply.header("Allow")), (405, Some(allow)), "{method} {path}");
        if method != "HEAD" {
            assert_eq!(reply.text(), format!("method {method} not allowed"));
        }
    }
    let reply = client.send("OPTIONS", "/v1/catalog/nodes", "").await;
    assert_eq!((reply.status, reply.header("Allow")), (200, Some("OPTIONS,GET")));
    let text = "Invalid URL path: not a recognized HTTP API endpoint\n";
    for path in ["/v1/connect/ca/roots", "/v1/nothing", "/ui/"] {
        subject.expect(path, 404, text).await;
    }
    for path in ["/v1/kv/a%00b", "/v1/kv/%zz", "/v1/kv/%E2%80%A8"] {
        subject.expect(path, 400, "").await;
    }
    assert!(subject.get("/").await.text().starts_with("Consul Agent: UI disabled."));
}

#[tokio::test]
async fn pretty_is_indented_and_ends_in_a_newline() {
    let subject = Subject::start().await;
    subject.expect("/v1/catalog/datacenters?pretty=0", 200, "[\n    \"dc1\"\n]\n").await;
    let always = Subject::start_with(Settings::default(), &[], true).await;
    always.expect("/v1/catalog/datacenters", 200, "[\n    \"dc1\"\n]").await;
    always.expect("/v1/kv/none", 404, "").await;
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let subject = Subject::start().await;
    let mut client = subject.connect().await;
    for _ in 0..50 {
        assert_eq!(client.send("PUT", "/v1/kv/a", "x").await.text(), "true");
        assert_eq!(client.send("GET", "/v1/kv/a?raw", "").await.text(), "x");
    }
}

#[tokio::test]
async fn slow_heads_and_slow_bodies_are_cut_off() {
    let short = Duration::from_millis(50);
    let limits = Limits { head_deadline: short, body_deadline: short, ..Limits::default() };
    let subject = Subject::start_with(Settings { limits, ..Settings::default() }, &[], false).await;
    let mut slow = subject.connect().await;
    slow.write("GET /v1/kv/a HTTP/1.1\r\nHost: t\r\nX: ").await;
    let rest = tokio::time::timeout(DEADLINE, slow.read_to_end()).await.expect("it is closed");
    assert!(!rest.contains("200"), "{rest}");
    let mut slow = subject.connect().await;
    slow.write("PUT /v1/kv/a HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nabc").await;
    let reply = tokio::time::timeout(DEADLINE, slow.read(false)).await.expect("it is answered");
    assert_eq!((reply.status, reply.text()), (408, "Request body was not received in time"));
    assert_eq!(subject.replica.snapshot().kv_count(), 0);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off_and_one_after_a_long_pause_is_not() {
    let limits = Limits { head_deadline: Duration::from_millis(200), ..Limits::default() };
    let subject = Subject::start_with(Settings { limits, ..Settings::default() }, &[], false).await;
    let mut patient = subject.connect().await;
    assert_eq!(patient.send("GET", "/v1/kv/a", "").await.status, 404);
    let mut slow = subject.connect().await;
    slow.write("GET /v1/kv/a HTTP/1.1\r\nHost: t\r\nX: ").await;
    let drops = async {
        loop {
            // Fails as soon as the other side has closed.
            if slow.try_write("x").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, drops).await.expect("it is closed though it goes on sending");
    assert_eq!(patient.send("GET", "/v1/kv/a", "").await.status, 404, "a pause between requests is allowed");
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let subject = Subject::start_with(Settings { limits, ..Settings::default() }, &[], false).await;
    let reply = subject.put("/v1/agent/service/register", &"x".repeat(101)).await;
    assert_eq!(reply.status, 413);
    assert!(reply.text().starts_with("Request body(101 bytes) too large, max size: 100 bytes. See https://"));
}

#[tokio::test]
async fn heads_have_a_limit() {
    let subject = Subject::start().await;
    let mut client = subject.connect().await;
    let reply = client.send("GET", &format!("/v1/kv/{}", "k".repeat(60_000)), "").await;
    assert_eq!(reply.status, 404);
    let mut client = subject.connect().await;
    client.write(&format!("GET /v1/kv/a HTTP/1.1\r\nX: {}", "x".repeat(70_000))).await;
    let answer = tokio::time::timeout(DEADLINE, client.read(false)).await.expect("it is refused");
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn loopback_may_open_more_connections_than_a_stranger_until_all_places_are_taken() {
    let limits = Limits { connections_per_client: 2, connections: 4, ..Limits::default() };
    let subject = Subject::start_with(Settings { limits, ..Settings::default() }, &[], false).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = subject.connect().await;
        assert_eq!(client.send("GET", "/v1/kv/a", "").await.status, 404);
        open.push(client);
    }
    let mut fifth = subject.connect().await;
    assert_eq!(fifth.send("GET", "/v1/kv/a", "").await.status, 404, "an idle connection gives way");
    assert_eq!(open[0].read_to_end().await, "", "the oldest one");
    // Now all are busy: they wait for a change.
    open[0] = fifth;
    for client in &mut open {
        client.write("GET /v1/kv/a?index=1&wait=10m HTTP/1.1\r\nHost: t\r\n\r\n").await;
    }
    let mut refused = false;
    let until = tokio::time::Instant::now() + DEADLINE;
    while !refused && tokio::time::Instant::now() < until {
        // Until the last question has arrived its connection still counts as idle.
        let mut client = subject.connect().await;
        refused = client.read_to_end().await.starts_with("HTTP/1.1 429 ");
    }
    assert!(refused, "the total has a limit");
    drop(open);
    let mut answered = false;
    let until = tokio::time::Instant::now() + DEADLINE;
    while !answered && tokio::time::Instant::now() < until {
        let mut client = subject.connect().await;
        client.write("GET /v1/kv/a HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
        answered = client.read_to_end().await.contains(" 404 ");
    }
    assert!(answered, "places are given back");
}

#[tokio::test]
async fn a_unix_socket_serves_the_same_api() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let address: Address = format!("unix://{}", path.display()).parse().unwrap();
    let subject = Subject::start_with(Settings::default(), std::slice::from_ref(&address), false).await;
    let mut client = Client::new(UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.send("GET", "/v1/catalog/datacenters", "").await.text(), r#"["dc1"]"#);
    let error = bind(std::slice::from_ref(&address)).await.err().unwrap();
    assert!(format!("{error:#}").contains("another process listens there"), "{error:#}");
    subject.stop.cancel();
    assert_eq!(client.read_to_end().await, "");
    assert!(!path.exists(), "the socket is removed");
    assert!("unix://relative".parse::<Address>().is_err());
    assert!("nowhere".parse::<Address>().is_err());
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_answers_waiting_ones() {
    let subject = Subject::start().await;
    let mut idle = subject.connect().await;
    assert_eq!(idle.send("GET", "/v1/kv/a", "").await.status, 404);
    let mut waiting = subject.connect().await;
    waiting.write("GET /v1/kv/a?index=1&wait=10m HTTP/1.1\r\nHost: t\r\n\r\n").await;
    while subject.replica.watched_topics() == 0 {
        tokio::task::yield_now().await;
    }
    subject.stop.cancel();
    let both = async { (idle.read_to_end().await, waiting.read_to_end().await) };
    let (idle, waiting) = tokio::time::timeout(DEADLINE, both).await.expect("both are closed");
    assert_eq!(idle, "");
    assert!(
        waiting.starts_with("HTTP/1.1 503 ") && waiting.ends_with("The agent is shutting down"),
        "{waiting}"
    );
}
