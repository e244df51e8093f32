//! Requests and connections that no client should send.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{nothing_is_lost, server};
use crate::support::machine::{Machine, PATIENCE};

/// Sends bytes as they are; gives what comes back until the server closes or `wait` has passed.
fn send(machine: &Machine, bytes: &[u8], wait: Duration) -> String {
    let mut stream = TcpStream::connect(machine.socket(8500)).unwrap();
    stream.set_read_timeout(Some(wait)).unwrap();
    // The server may close before it has read everything.
    let _closed_early = stream.write_all(bytes).is_err();
    let mut answer = Vec::new();
    let _open_or_reset = stream.read_to_end(&mut answer).is_err();
    String::from_utf8_lossy(&answer).into_owned()
}

const REGISTER: &str = "/v1/agent/service/register";
const DECODE: &str = "Request decode failed: ";
/// Method, path, body, the status that is wanted, and what the answer must say.
const BAD_REQUESTS: &[(&str, &str, &str, u16, &str)] = &[
    (
        "PUT",
        REGISTER,
        "{bad",
        400,
        "Request decode failed: invalid character 'b' looking for beginning of object key string",
    ),
    ("PUT", REGISTER, "", 400, "Request decode failed: EOF"),
    ("PUT", REGISTER, r#"{"Name": "x""#, 400, DECODE),
    (
        "PUT",
        REGISTER,
        r#"{"Name": "x", "Foo": 1}"#,
        400,
        r#"Request decode failed: json: unknown field "Foo""#,
    ),
    ("PUT", REGISTER, r#"{"Name": 1}"#, 400, DECODE),
    ("PUT", REGISTER, r#"{"Name": "x", "Port": "eighty"}"#, 400, DECODE),
    ("PUT", REGISTER, "[]", 400, DECODE),
    ("PUT", REGISTER, "\u{0}", 400, DECODE),
    ("PUT", REGISTER, r#"{"ID": "x"}"#, 400, "Missing service name"),
    ("PUT", REGISTER, r#"{"Name": "x", "Address": "0.0.0.0"}"#, 400, "Invalid service address"),
    (
        "PUT",
        REGISTER,
        r#"{"Name": "x", "Check": {"TTL": "1s", "Interval": "1s", "HTTP": "http://a"}}"#,
        400,
        "Invalid check: ",
    ),
    ("PUT", REGISTER, r#"{"Name": "x", "Check": {"TTL": "soon"}}"#, 400, ""),
    ("PUT", REGISTER, r#"{"Name": "x", "Meta": {"a b": "c"}}"#, 400, "Invalid Service Meta: "),
    ("PUT", "/v1/agent/check/register", r#"{"TTL": "1s"}"#, 400, "Missing check name"),
    (
        "PUT",
        "/v1/agent/check/register",
        r#"{"Name": "c", "TTL": "1s", "Status": "ill"}"#,
        400,
        "Bad check status",
    ),
    (
        "PUT",
        "/v1/agent/check/register",
        r#"{"Name": "c", "TTL": "1s", "ServiceID": "none"}"#,
        404,
        "\"none\" does not exist",
    ),
    ("PUT", "/v1/agent/check/pass/none", "", 404, "none"),
    ("PUT", "/v1/agent/maintenance", "", 400, "Missing value for enable"),
    ("PUT", "/v1/agent/maintenance?enable=zz", "", 400, "Invalid value for enable: \"zz\""),
    ("PUT", "/v1/agent/service/maintenance/none?enable=true", "", 404, "none"),
    ("PUT", "/v1/catalog/register", "{}", 500, "Must provide node"),
    (
        "PUT",
        "/v1/catalog/register",
        r#"{"Node": "x"}"#,
        500,
        "Must provide address if SkipNodeUpdate is not set",
    ),
    ("PUT", "/v1/catalog/register", r#"{"Node": 1"#, 400, DECODE),
    ("PUT", "/v1/catalog/deregister", "{}", 500, "Must provide node"),
    ("PUT", "/v1/kv/", "x", 400, "Missing key name"),
    ("GET", "/v1/kv/", "", 400, "Missing key name"),
    ("PUT", "/v1/kv/a?cas=abc", "x", 500, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
    ("PUT", "/v1/kv/a?flags=-1", "x", 500, "strconv.ParseUint"),
    ("DELETE", "/v1/kv/a?cas=1&recurse", "", 400, "Conflicting flags: cas=1&recurse="),
    ("GET", "/v1/kv/a?index=x", "", 400, "Invalid index"),
    ("GET", "/v1/kv/a?index=1&wait=zz", "", 400, "Invalid wait time"),
    (
        "GET",
        "/v1/kv/a?stale&consistent",
        "",
        400,
        "Cannot specify ?stale with ?consistent, conflicting semantics.",
    ),
    ("GET", "/v1/catalog/nodes?dc=mars", "", 500, "No path to datacenter"),
    ("GET", "/v1/catalog/service/", "", 400, "Missing service name"),
    ("GET", "/v1/health/service/before?passing=zz", "", 400, "Invalid value for ?passing"),
    ("GET", "/v1/agent/services?filter=%22", "", 500, "Failed to create boolean expression evaluator: "),
    ("GET", "/v1/agent/service/none", "", 404, "unknown service ID: none"),
    ("GET", "/v1/no/such/path", "", 404, "Invalid URL path"),
    ("GET", "/v1/kv/a%00b", "", 400, ""),
    ("GET", "/v1/kv/a%zz", "", 400, ""),
    ("GET", "/v1/kv/%ff%fe", "", 400, ""),
    ("GET", "/v1/catalog/nodes?a=%zz", "", 400, "Invalid query parameters"),
    ("POST", "/v1/kv/a", "", 405, "method POST not allowed"),
    ("DELETE", REGISTER, "", 405, "method DELETE not allowed"),
    ("PATCH", "/v1/catalog/nodes", "", 405, "method PATCH not allowed"),
    (
        "PUT",
        "/v1/agent/join/nowhere.invalid",
        "",
        500,
        "1 error occurred:\n\t* Failed to join nowhere.invalid",
    ),
    ("PUT", "/v1/agent/force-leave/nobody", "", 500, "agent: No node found with name 'nobody'"),
];

#[test]
fn bad_requests_get_a_status_and_a_reason() {
    let machine = server();
    let deep = "[".repeat(100_000);
    let deep = [("PUT", REGISTER, deep.as_str(), 400, DECODE)];
    for (method, path, body, status, text) in BAD_REQUESTS.iter().chain(&deep) {
        let (found, head, answer) = machine.request(method, path, body.as_bytes()).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let shown = &body[..body.len().min(80)];
        assert_eq!(found, *status, "{method} {path} {shown}: {answer}");
        assert!(answer.starts_with(text) || answer.contains(text), "{method} {path} {shown}: {answer}");
        assert_eq!(*status == 405, head.contains("\r\nallow: options,"), "{method} {path}: {head}");
    }
    nothing_is_lost(&machine);
}

#[test]
fn bodies_that_are_too_large_are_refused_announced_or_not() {
    let machine = server();
    let large = vec![b'x'; 600_000];
    let (status, _, answer) = machine.request("PUT", "/v1/kv/big", &large).unwrap();
    let text = String::from_utf8(answer).unwrap();
    assert!(
        status == 413 && text.starts_with("Request body(600000 bytes) too large, max size: 524288 bytes."),
        "{text}"
    );
    let (status, _, answer) = machine.request("PUT", REGISTER, &vec![b' '; 5_000_000]).unwrap();
    assert!(status == 413 && answer.starts_with(b"Request body(5000000 bytes) too large"), "{status}");
    let chunk = [b"20000\r\n", &vec![b'x'; 0x20000][..], b"\r\n"].concat();
    let head =
        b"PUT /v1/kv/big HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let text = send(&machine, &[head, &chunk.repeat(8)[..], b"0\r\n\r\n"].concat(), PATIENCE);
    assert!(text.starts_with("HTTP/1.1 413 ") && text.contains("Request body too large"), "{text}");
    assert_eq!(machine.request("GET", "/v1/kv/big", b"").unwrap().0, 404);
    // An announcement that no body could ever fulfil.
    let head =
        b"PUT /v1/kv/big HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 99999999999999\r\n\r\n";
    let mut stream = TcpStream::connect(machine.socket(8500)).unwrap();
    stream.write_all(head).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _reset = stream.read_to_string(&mut answer).is_err();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    nothing_is_lost(&machine);
}

#[test]
fn garbage_slow_and_broken_connections_leave_the_server_as_it_is() {
    let machine = server();
    // Connections that begin and never go on, as many as one client may have.
    let starts: [&[u8]; 4] = [
        b"",
        b"GET /v1/kv/a HTTP/1.1\r\nHost: ",
        b"PUT /v1/kv/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
        b"PUT /v1/kv/slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
    ];
    let mut slow = Vec::new();
    for start in starts.iter().cycle().take(400) {
        let mut stream = TcpStream::connect(machine.socket(8500)).unwrap();
        stream.write_all(start).unwrap();
        slow.push(stream);
    }
    nothing_is_lost(&machine);

    let bad: &[(&[u8], &str)] = &[
        (b"GARBAGE\r\n\r\n", "HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HTTP/1.1 400 "),
        (b"GET /v1/status/leader HTTP/9.9\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET /v1/kv/a\0b HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET /v1/kv/a b HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBroken\r\n\r\n", "HTTP/1.1 400 "),
        (b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 "),
        (
            b"PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 400 ",
        ),
        // HTTP/2 without asking for it first: the connection is closed.
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
    ];
    for (bytes, answer) in bad {
        let text = send(&machine, bytes, PATIENCE);
        assert!(text.starts_with(answer), "{}: {text}", bytes.escape_ascii());
    }
    let many = (0..1000).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let text = send(&machine, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes(), PATIENCE);
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    let long = format!("GET /v1/kv/{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(200_000));
    let text = send(&machine, long.as_bytes(), PATIENCE);
    assert!(text.starts_with("HTTP/1.1 414 ") || text.starts_with("HTTP/1.1 431 "), "{text}");
    let path = format!("/v1/catalog/nodes?{}", "a=b&".repeat(300));
    assert_eq!(machine.request("GET", &path, b"").unwrap().0, 400);

    // What stands behind a good request is not taken for its answer.
    let text =
        send(&machine, b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n\0\x01garbage\r\n\r\n", PATIENCE);
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains(":8300\""), "{text}");
    assert_eq!(text.matches("HTTP/1.1 200 ").count(), 1, "{text}");
    // Good requests in one packet are all answered, in order.
    let text = send(
        &machine,
        b"PUT /v1/kv/p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\noneGET /v1/kv/p?raw HTTP/1.1\r\nHost: a\r\n\r\nGET \
          /v1/kv/q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        PATIENCE,
    );
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "404"], "{text}");
    assert!(text.contains("\r\n\r\none"), "{text}");
    // Clients that go away in the middle of an answer.
    for _ in 0..50 {
        let mut stream = TcpStream::connect(machine.socket(8500)).unwrap();
        stream
            .write_all(b"GET /v1/health/state/any?index=99999&wait=5m HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
    }
    nothing_is_lost(&machine);
    assert_eq!(machine.request("GET", "/v1/kv/slow", b"").unwrap().0, 404, "half a body is no value");
    drop(slow);
    assert!(!machine.log().contains("panicked"), "{}", machine.log());
}

#[test]
fn an_agent_that_is_told_nonsense_about_others_keeps_its_own() {
    let machine = server();
    // Commands with bad values: refused, and what was there is as it was.
    let nonsense = json!({ "Name": "x", "Tags": ["a".repeat(400_000)] }).to_string();
    let (status, ..) = machine.request("PUT", "/v1/agent/service/register", nonsense.as_bytes()).unwrap();
    assert!(status == 200 || status == 400, "{status}");
    // A name that no file could have, and one that is a path.
    for name in ["../../../../tmp/escape", "a/b", "é", &"n".repeat(5000), "\\\"'"] {
        let body = json!({ "Name": name, "Port": 1 }).to_string();
        let (status, _, text) =
            machine.request("PUT", "/v1/agent/service/register", body.as_bytes()).unwrap();
        assert_eq!(status, 200, "{name}: {}", String::from_utf8_lossy(&text));
        let services = machine.get("/v1/agent/services").unwrap();
        assert!(services[name].is_object(), "{name}");
    }
    assert!(!Path::new("/tmp/escape.json").exists());
    nothing_is_lost(&machine);
}
