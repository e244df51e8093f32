//! The HTTP API from end to end: a server, a second one, and a client agent, asked where the work was not done.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed, request};

/// How long a blocking query of these tests waits at most: longer than anything that may wake it.
const WAIT: &str = "wait=50s";

/// Two servers and a client.
fn cluster() -> [Machine; 3] {
    let first = Machine::agent("m1", &["-server", "-bootstrap"]).started();
    let join = first.address.to_string();
    let second = Machine::agent("m2", &["-server", "-join", &join]).started();
    let third = Machine::agent("m3", &["-join", &join]).started();
    formed(&[&first, &second, &third], 3);
    [first, second, third]
}

/// A blocking query that was sent.
struct Blocked(TcpStream);

impl Blocked {
    /// Sends it; it must not be answered at once.
    fn on(machine: &Machine, path: &str) -> Self {
        let mut stream = TcpStream::connect(machine.socket(8500)).unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let error = stream.peek(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn answer(mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

fn index(machine: &Machine, path: &str) -> u64 {
    let (_, head, _) = machine.request("GET", path, b"").unwrap();
    header(&head, "x-consul-index").unwrap().parse().unwrap()
}

#[track_caller]
fn status(machine: &Machine, service: &str, wanted: &str) -> Value {
    eventually(PATIENCE, &format!("{service} is {wanted}"), || {
        let checks = machine.get(&format!("/v1/health/checks/{service}?stale"))?;
        let all = checks.as_array()?;
        (!all.is_empty() && all.iter().all(|check| check["Status"] == wanted)).then(|| checks.clone())
    })
}

fn register(machine: &Machine, body: &Value) {
    assert!(machine.put("/v1/agent/service/register", &body.to_string()), "{body}");
}

#[test]
fn reads_and_writes_work_on_every_machine_in_every_mode() {
    let machines = cluster();
    let [first, second, client] = &machines;

    // A blocking query on a client wakes on a registration made elsewhere.
    let path = "/v1/health/service/web?passing";
    let blocked = Blocked::on(
        client,
        &format!("{path}&stale&{WAIT}&index={}", index(client, &format!("{path}&stale"))),
    );
    register(second, &json!({ "Name": "web", "Port": 80 }));
    let answer = blocked.answer();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""Service":"web""#), "{answer}");
    for machine in &machines {
        eventually(PATIENCE, "web by DNS", || {
            (machine.dig(&["web.service.consul"]) == [second.address.to_string()]).then_some(())
        });
    }

    // Keys: a client agent asks the servers, for reads, writes and comparisons.
    assert!(client.put("/v1/kv/a%2Fb?flags=7", "one"));
    for machine in &machines {
        for mode in ["", "&consistent", "&stale"] {
            // A stale read may come from a server that is a moment behind.
            let (_, head, body) = eventually(PATIENCE, "the key is read", || {
                machine.request("GET", &format!("/v1/kv/a/b?raw{mode}"), b"").filter(|answer| answer.0 == 200)
            });
            assert_eq!(body, b"one", "{mode}");
            assert!(header(&head, "x-consul-index").unwrap().parse::<u64>().unwrap() > 1);
            assert_eq!(header(&head, "x-consul-knownleader").as_deref(), Some("true"));
            assert!(header(&head, "x-consul-lastcontact").unwrap().parse::<u64>().is_ok());
        }
    }
    let entry = client.get("/v1/kv/a/b").unwrap();
    assert_eq!((&entry[0]["Flags"], &entry[0]["Value"]), (&json!(7), &json!("b25l")));
    let modified = &entry[0]["ModifyIndex"];
    let put = |path: &str, body: &str| {
        let (status, _, answer) = client.request("PUT", path, body.as_bytes()).unwrap();
        (status, String::from_utf8(answer).unwrap())
    };
    assert_eq!(put(&format!("/v1/kv/a/b?cas={modified}"), "two"), (200, "true".to_owned()));
    assert_eq!(put(&format!("/v1/kv/a/b?cas={modified}"), "three"), (200, "false".to_owned()));
    assert_eq!(put("/v1/kv/a/b?cas=0", "three"), (200, "false".to_owned()));
    assert_eq!(put("/v1/kv/new?cas=0", "first"), (200, "true".to_owned()));
    assert_eq!(first.request("GET", "/v1/kv/a/b?raw&consistent", b"").unwrap().2, b"two");
    let blocked =
        Blocked::on(client, &format!("/v1/kv/a/b?raw&{WAIT}&index={}", index(client, "/v1/kv/a/b")));
    assert!(first.put("/v1/kv/a/b", "woken"));
    assert!(blocked.answer().ends_with("\r\n\r\nwoken"));
    let (status, head, body) = client.request("GET", "/v1/kv/none", b"").unwrap();
    assert_eq!((status, body.len()), (404, 0));
    assert!(header(&head, "x-consul-index").is_some());

    // Header fields of catalog and health.
    for machine in &machines {
        for (query, mode) in [("", "leader"), ("?consistent", "consistent"), ("?stale", "stale")] {
            let (status, head, _) =
                machine.request("GET", &format!("/v1/catalog/services{query}"), b"").unwrap();
            assert_eq!(status, 200);
            assert_eq!(header(&head, "x-consul-effective-consistency").as_deref(), Some(mode));
            assert_eq!(header(&head, "content-type").as_deref(), Some("application/json"));
            assert_eq!(header(&head, "x-consul-default-acl-policy").as_deref(), Some("allow"));
        }
    }

    // What somebody else registers in the name of a machine goes; what is on a node without an agent stays.
    let foreign = |node: &str, address: &Ipv4Addr| {
        json!({ "Node": node, "Address": address, "Service": { "Service": "foreign", "ID": "f", "Port": 1 } })
            .to_string()
    };
    assert!(first.put("/v1/catalog/register", &foreign("m3", &client.address)));
    assert!(first.put("/v1/catalog/register", &foreign("outside", &Ipv4Addr::new(10, 0, 0, 9))));
    eventually(PATIENCE, "only the node without an agent keeps it", || {
        (client.dig(&["foreign.service.consul"]) == ["10.0.0.9"]).then_some(())
    });
    assert!(first.put("/v1/catalog/deregister", r#"{"Node": "outside"}"#));
    eventually(PATIENCE, "it is gone", || client.dig(&["foreign.service.consul"]).is_empty().then_some(()));

    // Deregistration.
    assert!(second.put("/v1/agent/service/deregister/web", ""));
    for machine in &machines {
        eventually(PATIENCE, "web is gone", || machine.dig(&["web.service.consul"]).is_empty().then_some(()));
        let rows = machine.get("/v1/catalog/service/web").unwrap();
        assert_eq!(rows, json!([]));
    }
    let (status, _, body) = second.request("PUT", "/v1/agent/service/deregister/web", b"").unwrap();
    assert_eq!(status, 404);
    assert!(String::from_utf8_lossy(&body).starts_with("Unknown service ID \"web\""));
}

#[test]
fn an_agent_that_is_killed_has_its_services_and_checks_again_and_may_change_its_name() {
    let [first, second, mut client] = cluster();
    let ttl = json!({ "CheckID": "beat", "TTL": "10m" });
    register(
        &client,
        &json!({ "Name": "web", "Port": 80, "Tags": ["x"], "Meta": { "k": "v" }, "Check": ttl }),
    );
    assert!(client.put("/v1/agent/check/register", r#"{"Name": "disk", "TTL": "10m", "Status": "passing"}"#));
    assert!(client.put("/v1/agent/check/pass/beat?note=fine", ""));
    assert!(client.put("/v1/agent/service/maintenance/web?enable=true&reason=update", ""));
    eventually(PATIENCE, "web is in maintenance", || {
        (first.get("/v1/health/service/web?passing")? == json!([])).then_some(())
    });
    assert!(client.put("/v1/agent/service/maintenance/web?enable=false", ""));
    status(&first, "web", "passing");
    let services = client.get("/v1/agent/services").unwrap();
    assert_eq!(services["web"]["Meta"], json!({ "k": "v" }));
    // What a check said is written a little later; wait for it, as power may fail at any time.
    let states = client.data().join("checks/state/all.json");
    eventually(PATIENCE, "the state of checks is on disk", || {
        std::fs::read_to_string(&states).ok()?.contains("fine").then_some(())
    });
    client.kill();
    client.start();
    formed(&[&first, &second, &client], 3);
    assert_eq!(client.get("/v1/agent/services").unwrap(), services);
    let checks = client.get("/v1/agent/checks").unwrap();
    assert_eq!((&checks["beat"]["Status"], &checks["beat"]["Output"]), (&json!("passing"), &json!("fine")));
    assert_eq!(checks.as_object().unwrap().len(), 2, "{checks}");
    let rows = eventually(PATIENCE, "web is found again", || {
        let rows = second.get("/v1/health/service/web?passing")?;
        (rows.as_array()?.len() == 1).then_some(rows)
    });
    assert_eq!((&rows[0]["Node"]["Node"], &rows[0]["Service"]["Tags"]), (&json!("m3"), &json!(["x"])));

    // The same machine under another name takes everything with it.
    client.stop();
    client.replace_argument("m3", "renamed");
    client.start();
    eventually(PATIENCE, "the new name has the service, the old one is gone", || {
        let rows = first.get("/v1/catalog/service/web")?;
        let nodes = first.get("/v1/catalog/nodes")?;
        let names: Vec<&str> = nodes.as_array()?.iter().filter_map(|node| node["Node"].as_str()).collect();
        (rows[0]["Node"] == "renamed" && rows[1].is_null() && names == ["m1", "m2", "renamed"]).then_some(())
    });
    assert_eq!(first.dig(&["renamed.node.consul"]), [client.address.to_string()]);
    assert!(first.dig(&["m3.node.consul"]).is_empty());
}

/// A web server whose answers a test chooses.
struct Website {
    address: SocketAddr,
    status: Arc<AtomicU16>,
}

impl Website {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(AtomicU16::new(200));
        let theirs = status.clone();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let status = theirs.load(Ordering::Relaxed);
                let answer =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: 6\r\nConnection: close\r\n\r\nwebsit");
                let mut head = [0; 4096];
                // A client that goes away early is its own affair.
                let _gone = stream.read(&mut head).and_then(|_| stream.write_all(answer.as_bytes())).is_err();
            }
        });
        Self { address, status }
    }
}

#[test]
fn checks_find_out_what_is_ill_and_what_is_well_again() {
    let machine = Machine::agent("m1", &["-dev"]).started();
    formed(&[&machine], 1);
    let website = Website::start();
    let url = format!("http://{}/health", website.address);
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = port.local_addr().unwrap();
    let every = "200ms";
    register(
        &machine,
        &json!({ "Name": "site", "Check": { "HTTP": url, "Interval": every, "Timeout": "10s" } }),
    );
    register(
        &machine,
        &json!({ "Name": "port", "Check": { "TCP": target.to_string(), "Interval": every, "Timeout": "10s" } }),
    );
    register(&machine, &json!({ "Name": "beat", "Check": { "CheckID": "beat", "TTL": "1s" } }));
    let is_found = |name: &str| !machine.dig(&[&format!("{name}.service.consul")]).is_empty();
    let until = |name: &str, found: bool| {
        eventually(PATIENCE, &format!("{name} in DNS: {found}"), || (is_found(name) == found).then_some(()));
    };
    let checks = status(&machine, "site", "passing");
    assert_eq!(checks[0]["CheckID"], "service:site");
    assert_eq!(checks[0]["Name"], "Service 'site' check");
    assert_eq!(checks[0]["Output"], format!("HTTP GET {url}: 200 OK Output: websit"));
    let checks = status(&machine, "port", "passing");
    assert_eq!(checks[0]["Output"], format!("TCP connect {target}: Success"));

    // Warning stays in DNS, critical does not.
    website.status.store(429, Ordering::Relaxed);
    status(&machine, "site", "warning");
    assert!(is_found("site"));
    website.status.store(503, Ordering::Relaxed);
    let checks = status(&machine, "site", "critical");
    assert!(checks[0]["Output"].as_str().unwrap().contains("503"), "{checks}");
    until("site", false);
    drop(port);
    let checks = status(&machine, "port", "critical");
    assert!(checks[0]["Output"].as_str().unwrap().contains("connection refused"), "{checks}");
    until("port", false);
    website.status.store(200, Ordering::Relaxed);
    let port = TcpListener::bind(target).unwrap();
    status(&machine, "site", "passing");
    status(&machine, "port", "passing");
    until("site", true);
    until("port", true);
    drop(port);

    // A heart that stops beating.
    assert!(machine.put("/v1/agent/check/update/beat", r#"{"Status": "passing", "Output": "beating"}"#));
    eventually(PATIENCE, "the heart has stopped", || {
        let checks = machine.get("/v1/health/checks/beat?stale")?;
        let expired = "TTL expired (last output before timeout follows): beating";
        (checks[0]["Status"] == "critical" && checks[0]["Output"] == expired).then_some(())
    });
    let (code, _, body) = machine.request("PUT", "/v1/agent/check/pass/service:site", b"").unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(code >= 400 && text.contains("does not have associated TTL"), "{code} {text}");

    // Maintenance of a service, then of the node.
    until("site", true);
    assert!(machine.put("/v1/agent/service/maintenance/site?enable=true&reason=because", ""));
    until("site", false);
    let rows = machine.get("/v1/health/service/site").unwrap();
    let held =
        rows[0]["Checks"].as_array().unwrap().iter().find(|check| check["Type"] == "maintenance").unwrap();
    assert_eq!((&held["CheckID"], &held["Notes"]), (&json!("_service_maintenance:site"), &json!("because")));
    assert!(machine.put("/v1/agent/service/maintenance/site?enable=false", ""));
    until("site", true);
    assert!(machine.put("/v1/agent/maintenance?enable=true", ""));
    until("site", false);
    assert!(machine.put("/v1/agent/maintenance?enable=false", ""));
    until("site", true);
}

#[test]
fn a_stopped_leader_fails_fresh_reads_and_leaves_stale_ones() {
    let [mut first, second, client] = cluster();
    register(&second, &json!({ "Name": "web", "Port": 80 }));
    for machine in [&second, &client] {
        eventually(PATIENCE, "web is known", || {
            (!machine.dig(&["web.service.consul"]).is_empty()).then_some(())
        });
    }
    // Of two servers one is not enough.
    eventually(PATIENCE, "two voters", || {
        (first.get("/v1/status/peers")?.as_array()?.len() == 2).then_some(())
    });
    first.kill();
    eventually(PATIENCE, "no leader", || (second.get("/v1/status/leader")? == "").then_some(()));
    for machine in [&second, &client] {
        let (status, _, body) = machine.request("GET", "/v1/catalog/services", b"").unwrap();
        assert_eq!((status, String::from_utf8_lossy(&body).as_ref()), (500, "No cluster leader"));
        let (status, head, body) = machine.request("GET", "/v1/health/service/web?stale", b"").unwrap();
        assert_eq!(status, 200);
        assert!(String::from_utf8_lossy(&body).contains(r#""Service":"web""#));
        assert_eq!(header(&head, "x-consul-knownleader").as_deref(), Some("false"));
        assert_eq!(machine.dig(&["web.service.consul"]), [second.address.to_string()]);
    }
    let (status, _, _) = request(second.socket(8500), "PUT", "/v1/kv/a", b"b").unwrap();
    assert_eq!(status, 500);
    first.start();
    formed(&[&first, &second, &client], 3);
    eventually(PATIENCE, "writes go on", || client.put_once("/v1/kv/a", "b").then_some(()));
}
