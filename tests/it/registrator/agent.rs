//! A small agent inside the test: the requests that a registrator makes, answered as Consul answers them.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::{eventually, loopback};

/// Longest wait for something that should take milliseconds; a loaded machine may need most of it.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    services: BTreeMap<String, Value>,
    checks: BTreeMap<String, Value>,
    requests: Vec<String>,
    is_failing: bool,
    refused_ids: Vec<String>,
    connections: Vec<TcpStream>,
    is_stopped: bool,
}

/// An agent that remembers.
pub(crate) struct Agent {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Agent {
    /// Listens on an address of its own.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((loopback(), 0)).unwrap();
        let agent = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        agent.serve(listener);
        agent
    }

    fn serve(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let connection = stream.try_clone().unwrap();
                {
                    let mut state = state.lock();
                    if state.is_stopped {
                        return;
                    }
                    state.connections.push(connection);
                }
                let state = Arc::clone(&state);
                std::thread::spawn(move || converse(stream.try_clone().unwrap(), stream, &state));
            }
        });
    }

    /// Answers on a unix socket as well.
    pub(crate) fn listen_on_unix(&self, path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::clone(&self.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&state));
                std::thread::spawn(move || converse(stream.try_clone().unwrap(), stream, &state));
            }
        });
    }

    /// `consul://host:port`.
    pub(crate) fn uri(&self) -> String {
        format!("consul://{}", self.address)
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections and listens no more.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        for connection in state.connections.drain(..) {
            // A connection that the other side has closed is what is wanted.
            drop(connection.shutdown(Shutdown::Both));
        }
        drop(state);
        // The listener waits for one more connection before it looks at `is_stopped`.
        drop(TcpStream::connect(self.address));
        eventually(PATIENCE, "the agent's port is closed", || TcpStream::connect(self.address).err());
    }

    /// Listens again where it did, with what it knew.
    pub(crate) fn start_again(&self) {
        self.state.lock().is_stopped = false;
        let bind = || TcpListener::bind(self.address).ok();
        self.serve(eventually(PATIENCE, "the agent's port is free", bind));
    }

    /// Loses everything, as an agent whose data directory was wiped.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        state.services.clear();
        state.checks.clear();
    }

    /// Answers 500 to everything, or works again.
    pub(crate) fn set_failing(&self, is_failing: bool) {
        self.state.lock().is_failing = is_failing;
    }

    /// Refuses registrations of this id.
    pub(crate) fn refuse(&self, id: &str) {
        self.state.lock().refused_ids.push(id.to_owned());
    }

    /// Accepts all registrations again.
    pub(crate) fn refuse_none(&self) {
        self.state.lock().refused_ids.clear();
    }

    /// Registers as somebody else would.
    pub(crate) fn put_service(&self, id: &str, service: Value) {
        self.state.lock().services.insert(id.to_owned(), service);
    }

    /// The body with which `id` was registered, or nothing.
    pub(crate) fn service(&self, id: &str) -> Option<Value> {
        self.state.lock().services.get(id).cloned()
    }

    /// Ids of services that contain `text`.
    pub(crate) fn ids_with(&self, text: &str) -> Vec<String> {
        self.state.lock().services.keys().filter(|id| id.contains(text)).cloned().collect()
    }

    /// Requests so far that contain `text`.
    pub(crate) fn requests_with(&self, text: &str) -> Vec<String> {
        self.state.lock().requests.iter().filter(|request| request.contains(text)).cloned().collect()
    }

    /// Whether DNS would find `id`: registered, and none of its checks critical.
    pub(crate) fn is_passing(&self, id: &str) -> bool {
        let state = self.state.lock();
        state.services.contains_key(id)
            && state.checks.values().all(|check| check["ServiceID"] != id || check["Status"] != "critical")
    }

    /// Output of a check.
    pub(crate) fn check_output(&self, id: &str) -> Option<String> {
        self.state.lock().checks.get(id)?["Output"].as_str().map(str::to_owned)
    }

    /// Waits until `id` is registered.
    #[track_caller]
    pub(crate) fn wait_for(&self, id: &str) -> Value {
        eventually(PATIENCE, &format!("{id} is registered"), || self.service(id))
    }

    /// Waits until `id` is gone.
    #[track_caller]
    pub(crate) fn wait_for_end_of(&self, id: &str) {
        eventually(PATIENCE, &format!("{id} is gone"), || self.service(id).is_none().then_some(()));
    }

    /// Waits until DNS would find `id`, or would no longer.
    #[track_caller]
    pub(crate) fn wait_for_passing(&self, id: &str, passing: bool) {
        let what = format!("passing of {id} is {passing}");
        eventually(PATIENCE, &what, || (self.is_passing(id) == passing).then_some(()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.state.lock().is_stopped = true;
        drop(TcpStream::connect(self.address));
    }
}

/// Answers the requests of one connection until it ends.
fn converse(reader: impl Read, mut writer: impl Write, state: &Mutex<State>) {
    let mut reader = BufReader::new(reader);
    loop {
        let Some((request, body)) = read_request(&mut reader) else { return };
        let (code, answer) = {
            let mut state = state.lock();
            state.requests.push(request.clone());
            if state.is_failing {
                (500, "No cluster leader".to_owned())
            } else {
                answer(&mut state, &request, &body)
            }
        };
        let head = format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n", answer.len());
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(answer.as_bytes())).is_err() {
            return;
        }
    }
}

/// `METHOD path?query` and the body; nothing at the end of the connection.
fn read_request(reader: &mut impl std::io::BufRead) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let request = line.rsplit_once(' ')?.0.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((request, body))
}

fn answer(state: &mut State, request: &str, body: &[u8]) -> (u16, String) {
    let fine = || (200, String::new());
    let (path, query) = request.split_once('?').unwrap_or((request, ""));
    match path {
        "GET /v1/status/leader" => (200, json!("127.0.0.1:8300").to_string()),
        "GET /v1/agent/self" => (200, json!({ "Member": { "Addr": "10.77.0.1" } }).to_string()),
        "GET /v1/agent/services" => {
            let listed: BTreeMap<_, _> =
                state.services.iter().map(|(id, body)| (id, listed(id, body))).collect();
            (200, json!(listed).to_string())
        }
        "GET /v1/agent/checks" => (200, json!(state.checks).to_string()),
        "PUT /v1/agent/service/register" => register(state, body),
        _ => {
            let (path, id) = path.rsplit_once('/').unwrap();
            let id = id.replace("%3A", ":");
            match path {
                "PUT /v1/agent/service/deregister" => {
                    state.services.remove(&id);
                    state.checks.retain(|_, check| check["ServiceID"] != *id);
                    fine()
                }
                "PUT /v1/agent/check/deregister" => {
                    state.checks.remove(&id);
                    fine()
                }
                "PUT /v1/agent/check/update" => {
                    let Some(check) = state.checks.get_mut(&id) else {
                        return (404, format!("CheckID \"{id}\" does not have associated TTL"));
                    };
                    let update: Value = serde_json::from_slice(body).unwrap();
                    check["Status"] = update["Status"].clone();
                    check["Output"] = update["Output"].clone();
                    fine()
                }
                "PUT /v1/agent/service/maintenance" => {
                    let check_id = format!("_service_maintenance:{id}");
                    if !state.services.contains_key(&id) {
                        return (404, format!("Unknown service ID \"{id}\""));
                    }
                    if query.contains("enable=true") {
                        let reason =
                            query.split("reason=").nth(1).unwrap().replace('+', " ").replace("%20", " ");
                        let check = json!({
                            "CheckID": check_id, "ServiceID": id, "Status": "critical", "Notes": reason,
                        });
                        state.checks.insert(check_id, check);
                    } else {
                        state.checks.remove(&check_id);
                    }
                    fine()
                }
                _ => (404, String::new()),
            }
        }
    }
}

fn listed(id: &str, body: &Value) -> Value {
    json!({
        "ID": id, "Service": body["Name"], "Tags": body["Tags"], "Meta": body["Meta"],
        "Port": body["Port"], "Address": body["Address"],
    })
}

fn register(state: &mut State, body: &[u8]) -> (u16, String) {
    let body: Value = serde_json::from_slice(body).unwrap();
    let id = body["ID"].as_str().unwrap().to_owned();
    if state.refused_ids.contains(&id) {
        return (400, "Invalid check: TTL must be > 0 for TTL checks".to_owned());
    }
    let lone = Some(body["Check"].clone()).filter(|check| !check.is_null());
    let checks: Vec<Value> =
        lone.into_iter().chain(body["Checks"].as_array().cloned().unwrap_or_default()).collect();
    let mut named = BTreeMap::new();
    for (position, check) in checks.iter().enumerate() {
        let own = check["CheckID"].as_str().map(str::to_owned);
        let number = if checks.len() > 1 { format!(":{}", position + 1) } else { String::new() };
        let check_id = own.unwrap_or_else(|| format!("service:{id}{number}"));
        let status = check["Status"].as_str().unwrap_or("critical");
        let fresh = json!({
            "CheckID": check_id, "ServiceID": id, "Status": status, "Output": "", "Definition": check,
        });
        // A check that was there keeps its status.
        let held = state.checks.get(&check_id).cloned();
        named.insert(check_id, held.unwrap_or(fresh));
    }
    state.checks.extend(named);
    state.services.insert(id, body);
    (200, String::new())
}
