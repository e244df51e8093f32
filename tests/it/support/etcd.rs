//! A real etcd (Debian's package) on a loopback address of its own, with its data kept over restarts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::machine::request;
use super::{Running, eventually, loopback};

/// How long etcd may take to answer; it elects itself within a second, but the machine may be busy.
const START_DEADLINE: Duration = Duration::from_secs(30);
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// A running etcd; killed and removed at the end of the test.
pub(crate) struct Etcd {
    address: Ipv4Addr,
    port: u16,
    folder: tempfile::TempDir,
    serves_v2: bool,
    /// Clients need a certificate, and see one for 127.0.0.1.
    encrypted: bool,
    process: Option<Running>,
}

impl Etcd {
    /// Starts an empty etcd and waits until it answers; fails if the package is missing.
    pub(crate) fn start() -> Self {
        Self::new(loopback(), CLIENT_PORT, false, false)
    }

    /// The same, and it serves both APIs.
    pub(crate) fn start_with_v2() -> Self {
        Self::new(loopback(), CLIENT_PORT, true, false)
    }

    /// Both APIs, and only for clients with a certificate of `tests/fixtures/etcd-tls`.
    pub(crate) fn start_encrypted() -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Self::new(Ipv4Addr::LOCALHOST, port, true, true)
    }

    fn new(address: Ipv4Addr, port: u16, serves_v2: bool, encrypted: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Self { address, port, folder, serves_v2, encrypted, process: None };
        etcd.restart();
        etcd
    }

    /// Where clients find it.
    pub(crate) fn socket(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port))
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.encrypted { "https" } else { "http" }, self.socket())
    }

    /// Kills it at once, as a power loss would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let client = self.url();
        let peer_address = if self.encrypted { loopback() } else { self.address };
        let peer = format!("http://{peer_address}:{PEER_PORT}");
        let mut command = Command::new("etcd");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .args(["--name", "one", "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            // A lease lives at least one and a half election timeouts: this allows leases of a second.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--log-level", "error", "--logger", "zap"])
            .arg(format!("--enable-v2={}", self.serves_v2))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.encrypted {
            command.arg("--client-cert-auth").args(["--trusted-ca-file", &tls_file("ca.pem")]);
            command.args(["--cert-file", &tls_file("server.pem"), "--key-file", &tls_file("server-key.pem")]);
        }
        self.process = Some(Running::start("etcd (Debian package `etcd`)", &mut command));
        eventually(START_DEADLINE, "etcd listens", || TcpStream::connect(self.socket()).ok());
        eventually(START_DEADLINE, "etcd answers", || self.try_etcdctl(&["get", "ready"]));
    }

    /// Starts it again, and everything is forgotten.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
        self.restart();
    }

    /// Runs the real etcdctl; gives what it prints.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> String {
        self.try_etcdctl(args).unwrap_or_else(|| panic!("etcdctl {args:?} failed"))
    }

    fn try_etcdctl(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url(), "--command-timeout", "5s"])
            .args(if self.encrypted { tls_flags() } else { Vec::new() })
            .args(args)
            .output()
            .expect("etcdctl is there (Debian package `etcd`)");
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The key-value pairs under a prefix, as etcdctl shows them.
    pub(crate) fn pairs(&self, prefix: &str) -> Vec<(String, String)> {
        let printed = self.etcdctl(&["get", "--prefix", prefix]);
        let lines: Vec<&str> = printed.lines().collect();
        lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    }

    /// The same for keys of the v2 API.
    pub(crate) fn pairs_v2(&self, prefix: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        values(&self.get_v2(prefix)["node"], &mut pairs);
        pairs
    }

    /// etcd's whole answer about a key and all below it.
    pub(crate) fn get_v2(&self, key: &str) -> Value {
        let path = format!("/v2/keys{key}?recursive=true&quorum=true");
        let (_, _, body) = request(self.socket(), "GET", &path, b"").expect("etcd answers");
        serde_json::from_slice(&body).unwrap()
    }

    /// One change by the v2 API, as `curl -d` does it; gives the status and etcd's answer.
    pub(crate) fn put_v2(&self, key: &str, query: &str) -> (u16, Value) {
        let path = format!("/v2/keys{key}?{query}");
        let (status, _, body) = request(self.socket(), "PUT", &path, b"").expect("etcd answers");
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Removes a key or a directory of the v2 API.
    pub(crate) fn remove_v2(&self, key: &str) {
        let path = format!("/v2/keys{key}?recursive=true");
        let (status, ..) = request(self.socket(), "DELETE", &path, b"").expect("etcd answers");
        assert_eq!(status, 200);
    }
}

/// A file of `tests/fixtures/etcd-tls`.
pub(crate) fn tls_file(name: &str) -> String {
    format!("{}/tests/fixtures/etcd-tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tls_flags() -> Vec<String> {
    [("--cacert", "ca.pem"), ("--cert", "client.pem"), ("--key", "client-key.pem")]
        .into_iter()
        .flat_map(|(flag, name)| [flag.to_owned(), tls_file(name)])
        .collect()
}

fn values(node: &Value, pairs: &mut Vec<(String, String)>) {
    if let (Some(key), Some(value)) = (node["key"].as_str(), node["value"].as_str()) {
        pairs.push((key.to_owned(), value.to_owned()));
    }
    for child in node["nodes"].as_array().into_iter().flatten() {
        values(child, pairs);
    }
}
