//! The runner against real sockets on loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::http::HttpProbes;
use crate::agent::handle::{ProbeBoard, ProbeOrder, ProbeOrders};
use crate::agent::testing::poll;
use crate::model::catalog::Status;
use crate::model::health::{CheckDefinition, CheckKind};
use crate::tasks::{Spawner, Tasks};

/// Orders that the test sets, and the results that came.
struct Board {
    orders: watch::Sender<ProbeOrders>,
    results: Mutex<Vec<(String, Status, String)>>,
}

impl Board {
    fn new() -> Arc<Self> {
        Arc::new(Self { orders: watch::channel(ProbeOrders::default()).0, results: Mutex::default() })
    }

    fn order(&self, id: &str, generation: u64, definition: CheckDefinition) {
        self.orders.send_modify(|orders| {
            let order = ProbeOrder { generation, definition, soon: false };
            Arc::make_mut(orders).insert(id.to_owned(), Arc::new(order));
        });
    }

    fn cancel(&self, id: &str) {
        self.orders.send_modify(|orders| _ = Arc::make_mut(orders).remove(id));
    }

    fn last(&self) -> Option<(Status, String)> {
        self.results.lock().last().map(|(_, status, output)| (*status, output.clone()))
    }
}

impl ProbeBoard for Board {
    fn orders(&self) -> watch::Receiver<ProbeOrders> {
        self.orders.subscribe()
    }

    fn output_max(&self) -> usize {
        4096
    }

    fn report(&self, check_id: &str, _generation: u64, status: Status, output: &str) {
        self.results.lock().push((check_id.to_owned(), status, output.to_owned()));
    }
}

async fn until(what: &str, probe: impl FnMut() -> bool) {
    poll(Duration::from_secs(10), what, probe).await;
}

fn definition(kind: CheckKind) -> CheckDefinition {
    CheckDefinition {
        kind,
        interval: Duration::from_millis(20),
        timeout: Some(Duration::from_secs(5)),
        success_before_passing: 0,
        failures_before_warning: 0,
        failures_before_critical: 0,
        deregister_critical_service_after: None,
        output_max_size: None,
    }
}

fn http(url: &str) -> CheckKind {
    CheckKind::Http {
        url: url.to_owned(),
        method: String::new(),
        header: BTreeMap::new(),
        body: String::new(),
        disable_redirects: false,
        tls_skip_verify: false,
    }
}

/// Answers every request with `answer`, and keeps the requests.
async fn server(spawner: &Spawner, answer: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    spawner.start_short("server", async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut part).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend_from_slice(&part[..length]),
                }
            }
            seen.lock().push(String::from_utf8_lossy(&request).into_owned());
            // A client that has gone needs no answer.
            drop(connection.write_all(answer.as_bytes()).await);
        }
    });
    (address, requests)
}

fn answer(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

async fn ask(kind: &CheckKind) -> (Status, String) {
    HttpProbes::new().unwrap().ask(kind, Duration::from_secs(5), 8).await
}

#[tokio::test]
async fn http_codes_and_bodies_become_statuses_and_outputs() {
    let tasks = Tasks::default();
    for (head, body, status, text) in [
        ("200 OK", "fine", Status::Passing, "200 OK Output: fine"),
        ("429 Too Many Requests", "", Status::Warning, "429 Too Many Requests Output: "),
        (
            "503 Service Unavailable",
            "0123456789",
            Status::Critical,
            "503 Service Unavailable Output: 23456789",
        ),
    ] {
        let (address, requests) = server(&tasks.spawner(), answer(head, body)).await;
        let url = format!("http://{address}/health?x=1");
        assert_eq!(ask(&http(&url)).await, (status, format!("HTTP GET {url}: {text}")));
        let request = requests.lock()[0].to_ascii_lowercase();
        assert!(request.starts_with("get /health?x=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("user-agent: consul health check\r\n"), "{request}");
        assert!(request.contains("accept: text/plain, text/*, */*\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_check_says_how_it_asks() {
    let tasks = Tasks::default();
    let (address, requests) = server(&tasks.spawner(), answer("204 No Content", "")).await;
    let kind = CheckKind::Http {
        url: format!("http://{address}/"),
        method: "PUT".to_owned(),
        header: BTreeMap::from([
            ("Host".to_owned(), vec!["web.example".to_owned()]),
            ("X-Two".to_owned(), vec!["a".to_owned(), "b".to_owned()]),
            ("User-Agent".to_owned(), vec!["mine".to_owned()]),
        ]),
        body: "ping".to_owned(),
        disable_redirects: false,
        tls_skip_verify: false,
    };
    assert_eq!(ask(&kind).await.0, Status::Passing);
    let request = requests.lock()[0].to_ascii_lowercase();
    for line in ["put / http/1.1", "host: web.example", "x-two: a", "x-two: b", "user-agent: mine"] {
        assert_eq!(request.matches(&format!("{line}\r\n")).count(), 1, "{line} in {request}");
    }
    assert!(!request.contains("consul"), "{request}");
}

#[tokio::test]
async fn redirects_are_followed_unless_the_check_forbids_it() {
    let tasks = Tasks::default();
    let (target, _) = server(&tasks.spawner(), answer("200 OK", "there")).await;
    let (address, _) =
        server(&tasks.spawner(), answer(&format!("302 Found\r\nLocation: http://{target}/"), "")).await;
    let mut kind = http(&format!("http://{address}/"));
    assert_eq!(ask(&kind).await.0, Status::Passing);
    if let CheckKind::Http { disable_redirects, .. } = &mut kind {
        *disable_redirects = true;
    }
    assert_eq!(
        ask(&kind).await,
        (Status::Critical, format!("HTTP GET http://{address}/: 302 Found Output: "))
    );
}

#[tokio::test]
async fn without_an_answer_the_output_says_why() {
    // Bound and dropped: nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = format!("dial tcp {closed}: connect: connection refused");
    let url = format!("http://{closed}/");
    assert_eq!(ask(&http(&url)).await, (Status::Critical, format!("Get \"{url}\": {refused}")));
    let tcp = super::tcp::ask(&closed.to_string(), Duration::from_secs(5)).await;
    assert_eq!(tcp, (Status::Critical, refused));
    let no_port = super::tcp::ask("127.0.0.1", Duration::from_secs(5)).await.1;
    assert_eq!(no_port, "dial tcp: address 127.0.0.1: missing port in address");

    // Takes connections (the kernel does) and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let late = HttpProbes::new().unwrap().ask(&http(&url), Duration::from_millis(50), 8).await;
    let text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(late, (Status::Critical, format!("Get \"{url}\": {text}")));
    assert_eq!(ask(&http("not a url")).await.0, Status::Critical);
}

#[tokio::test]
async fn checks_run_while_they_are_ordered_and_follow_what_they_ask() {
    let tasks = Tasks::default();
    let board = Board::new();
    super::start(board.clone(), &tasks.spawner()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let kind = CheckKind::Tcp { address: address.clone() };
    board.order("web", 1, definition(kind.clone()));
    let success = format!("TCP connect {address}: Success");
    until("passes", || board.last() == Some((Status::Passing, success.clone()))).await;
    drop(listener);
    until("fails", || board.last().is_some_and(|(status, _)| status == Status::Critical)).await;

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    board.order("web", 2, definition(CheckKind::Tcp { address: address.clone() }));
    let success = format!("TCP connect {address}: Success");
    until("passes again", || board.last() == Some((Status::Passing, success.clone()))).await;

    board.cancel("web");
    board.order("other", 3, definition(kind));
    until("the other runs", || board.results.lock().iter().filter(|(id, ..)| id == "other").count() >= 5)
        .await;
    let results = board.results.lock().clone();
    assert!(results[results.len() - 3..].iter().all(|(id, ..)| id == "other"), "{results:?}");
    tasks.run_until(async {}).await.unwrap();
}

#[tokio::test]
async fn a_threshold_keeps_single_failures_away_from_the_board() {
    let tasks = Tasks::default();
    let board = Board::new();
    super::start(board.clone(), &tasks.spawner()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kind = CheckKind::Tcp { address: listener.local_addr().unwrap().to_string() };
    board.order("web", 1, CheckDefinition { failures_before_critical: 1_000_000, ..definition(kind) });
    until("passes", || board.last().is_some()).await;
    drop(listener);
    // A second check shows that time goes by.
    let closed = CheckKind::Tcp { address: "127.0.0.1:1".to_owned() };
    board.order("clock", 2, definition(closed));
    until("time passed", || board.results.lock().iter().filter(|(id, ..)| id == "clock").count() >= 10).await;
    let results = board.results.lock().clone();
    assert!(results.iter().all(|(id, status, _)| id != "web" || *status == Status::Passing), "{results:?}");
}
