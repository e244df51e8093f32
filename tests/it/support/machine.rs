//! One machine of a cluster under test: an address, a data directory, a process of the real binary.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) use super::PATIENCE;
use super::{Running, bare_command, binary, corediscover, eventually, loopback};

/// How long one HTTP request may take.
const REQUEST_WAIT: Duration = Duration::from_secs(15);

/// How much of a machine's log is shown when its test fails, in lines.
const LOG_LINES_SHOWN: usize = 80;

/// A machine that can be started, killed and started again with the same data.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    arguments: Vec<String>,
    /// What the command line begins with, when the process runs somewhere else.
    launcher: Vec<String>,
    folder: tempfile::TempDir,
    process: Option<Running>,
}

impl Machine {
    /// Runs `agent` with these flags, on an address of its own.
    pub(crate) fn agent(name: &str, flags: &[&str]) -> Self {
        Self::agent_at(name, loopback(), Vec::new(), flags)
    }

    /// As [`Machine::agent`], at this address, started by the words of `launcher`.
    pub(crate) fn agent_at(name: &str, address: Ipv4Addr, launcher: Vec<String>, flags: &[&str]) -> Self {
        let mut machine = Self::new(name, address);
        machine.launcher = launcher;
        let data = machine.data();
        machine.arguments = words(&["agent", "-node", name, "-bind", &address.to_string()]);
        machine.arguments.extend(words(&[
            "-client",
            &address.to_string(),
            "-data-dir",
            &data.display().to_string(),
        ]));
        machine.arguments.extend(words(flags));
        machine
    }

    /// Runs `bootstrap` with this etcd.
    pub(crate) fn bootstrap(name: &str, etcd: &str, expect: usize) -> Self {
        let address = loopback();
        let mut machine = Self::new(name, address);
        let data = machine.data().display().to_string();
        let (text, expect) = (address.to_string(), expect.to_string());
        machine.arguments = words(&["bootstrap", "--etcd", etcd, "--machine-id", name, "--advertise", &text]);
        machine.arguments.extend(words(&["--expect", &expect, "--data-dir", &data, "--"]));
        machine.arguments.extend(words(&["-node", name, "-bind", &text, "-client", &text]));
        machine
    }

    fn new(name: &str, address: Ipv4Addr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            name: name.to_owned(),
            address,
            arguments: Vec::new(),
            launcher: Vec::new(),
            folder,
            process: None,
        }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The machine, started.
    pub(crate) fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Starts the process; its log goes on where it ended.
    pub(crate) fn start(&mut self) {
        let log = File::options().append(true).create(true).open(self.log_path()).unwrap();
        let mut command = match self.launcher.split_first() {
            None => corediscover(),
            Some((program, words)) => {
                let mut command = bare_command(program);
                command.args(words).arg(binary());
                command
            }
        };
        command.args(&self.arguments).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Running::start(&self.name, &mut command));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        let code = process.exit_code(PATIENCE);
        assert_eq!(code, Some(0), "{} stopped badly:\n{}", self.name, self.log());
    }

    /// Waits for the end of a process that ends by itself; gives its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        process.exit_code(PATIENCE)
    }

    /// Changes an argument of the next start.
    pub(crate) fn replace_argument(&mut self, old: &str, new: &str) {
        let argument = self.arguments.iter_mut().find(|argument| *argument == old).unwrap();
        new.clone_into(argument);
    }

    /// Adds flags of the command itself for the next start.
    pub(crate) fn insert_flags(&mut self, flags: &[&str]) {
        self.arguments.splice(1..1, words(flags));
    }

    /// Adds flags of the agent for the next start.
    pub(crate) fn append_flags(&mut self, flags: &[&str]) {
        self.arguments.extend(words(flags));
    }

    /// Where `port` of this machine is.
    pub(crate) fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// Whether the process runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(Running::is_alive)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What the process said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// One HTTP request: status, header fields in lower case, body. `None` when nobody answers.
    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String, Vec<u8>)> {
        request(SocketAddr::from((self.address, 8500)), method, path, body)
    }

    /// The body of a GET that was answered with 200.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        let (status, _, body) = self.request("GET", path, b"")?;
        (status == 200).then(|| serde_json::from_slice(&body).unwrap())
    }

    /// Whether a PUT was answered with 200, by a cluster that could say so: what fails for want of a leader is tried
    /// again.
    pub(crate) fn put(&self, path: &str, body: &str) -> bool {
        self.served("PUT", path, body).0 == 200
    }

    /// Whether a PUT was answered with 200 at once.
    pub(crate) fn put_once(&self, path: &str, body: &str) -> bool {
        self.request("PUT", path, body.as_bytes()).is_some_and(|(status, ..)| status == 200)
    }

    /// Status and body of a GET, by a cluster that could answer.
    pub(crate) fn read(&self, path: &str) -> (u16, Vec<u8>) {
        self.served("GET", path, "")
    }

    fn served(&self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        eventually(PATIENCE, &format!("{} serves {method} {path}", self.name), || {
            let (status, _, body) = self.request(method, path, body.as_bytes())?;
            (status < 500).then_some((status, body))
        })
    }

    /// The leader's RPC address, as this machine knows it.
    pub(crate) fn leader(&self) -> Option<String> {
        self.get("/v1/status/leader")?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// The lines of `dig +short` for a name, sorted.
    pub(crate) fn dig(&self, arguments: &[&str]) -> Vec<String> {
        let output = Command::new("dig")
            .args([&format!("@{}", self.address), "-p", "8600", "+short", "+tries=1", "+time=2"])
            .args(arguments)
            .output()
            .expect("dig is installed (dnsutils)");
        let mut lines: Vec<String> =
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Runs a command of the binary against this machine: exit code, stdout, stderr.
    pub(crate) fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = corediscover()
            .args(arguments)
            .env("CONSUL_HTTP_ADDR", format!("{}:8500", self.address))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Machine {
    /// What it said last is shown with the failure of its test.
    #[allow(clippy::print_stdout, reason = "captured by `cargo test` until it is wanted")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            println!("---- the last lines of {}:\n{}", self.name, last.join("\n"));
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits until every machine knows one and the same leader and sees `nodes` nodes passing; gives its address.
#[track_caller]
pub(crate) fn formed(machines: &[&Machine], nodes: usize) -> String {
    eventually(PATIENCE, "all machines see one leader and all nodes", || {
        let leaders: Vec<Option<String>> = machines.iter().map(|machine| machine.leader()).collect();
        let first = leaders.first()?.clone()?;
        let all = leaders.iter().all(|leader| leader.as_ref() == Some(&first));
        let seen = machines.iter().all(|machine| passing_nodes(machine) == Some(nodes));
        (all && seen).then_some(first)
    })
}

/// Who was declared dead by whom, as the logs say. That a real death is told so is seen in `stress::starvation`.
pub(crate) fn deaths(machines: &[Machine]) -> Vec<String> {
    let told = machines.iter().flat_map(|machine| {
        let log = machine.log();
        let lines = log.lines().filter(|line| line.contains("member failed"));
        lines.map(|line| format!("{}: {line}", machine.name)).collect::<Vec<_>>()
    });
    told.collect()
}

fn passing_nodes(machine: &Machine) -> Option<usize> {
    let checks = machine.get("/v1/health/state/passing?stale")?;
    Some(checks.as_array()?.iter().filter(|check| check["CheckID"] == "serfHealth").count())
}

/// One HTTP/1.1 request on a connection of its own.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
) -> Option<(u16, String, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(REQUEST_WAIT)).ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    // A server may answer and close before it has read a body that is too large.
    let _refused_early = stream.write_all(body).is_err();
    let mut answer = Vec::new();
    let _reset_after_answer = stream.read_to_end(&mut answer).is_err();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut body = answer[end + 4..].to_vec();
    let head = head.to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Some((status, head, body))
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let Ok(length) = usize::from_str_radix(&String::from_utf8_lossy(&bytes[..end]), 16) else { break };
        let start = end + 2;
        if length == 0 || bytes.len() < start + length {
            break;
        }
        body.extend_from_slice(&bytes[start..start + length]);
        bytes = &bytes[(start + length + 2).min(bytes.len())..];
    }
    body
}
