//! `corediscover up` as a process: it works, it says what is missing, and it leaves nothing behind.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::etcd::Etcd;
use crate::support::machine::{PATIENCE, request};
use crate::support::{Running, corediscover, eventually};

/// A run of `up` on a loopback network of its own, with a folder of its own for temporary files.
struct Up {
    base: Ipv4Addr,
    scratch: tempfile::TempDir,
}

impl Up {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        // support::loopback counts up from 127.x.0.1 and never comes this far.
        let network = 200 + NEXT.fetch_add(1, Ordering::Relaxed);
        let run = 16 + (std::process::id() % 200) as u8;
        let scratch = tempfile::Builder::new().prefix("corediscover-test-up-").tempdir().unwrap();
        Self { base: Ipv4Addr::new(127, run, network, 1), scratch }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = corediscover();
        command
            .args(["up", "--base", &self.base.to_string()])
            .args(arguments)
            .env("TMPDIR", self.scratch.path());
        command
    }

    /// Exit code, stdout, stderr of a run that ends by itself.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// A run that goes on, writing into a file.
    fn start(&self, arguments: &[&str]) -> Running {
        let log = File::create(self.log()).unwrap();
        let mut command = self.command(arguments);
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        Running::start("up", &mut command)
    }

    fn log(&self) -> std::path::PathBuf {
        self.scratch.path().join("said")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    /// Processes that this run started and that are still there.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("TMPDIR={}\0", self.scratch.path().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end while it is looked at.
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environment).contains(&mark) {
                found.push(id);
            }
        }
        found
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(self.processes(), Vec::<u32>::new());
        let files: Vec<_> = list(self.scratch.path()).into_iter().filter(|name| name != "said").collect();
        assert!(files.is_empty(), "{files:?}");
    }

    fn last_address(&self) -> Ipv4Addr {
        let [a, b, c, d] = self.base.octets();
        Ipv4Addr::new(a, b, c, d + 2)
    }
}

fn list(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn the_check_passes_with_a_summary_and_leaves_nothing_behind() {
    let up = Up::new();
    let (code, text, errors) = up.run(&["--check", "--json", "--no-docker"]);
    assert_eq!(code, Some(0), "{text}{errors}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["ok"], &report["machines"]), (&Value::from(true), &Value::from(3)));
    assert_eq!(report["voters"].as_array().unwrap().len(), 3);
    assert!(report["leader"].as_str().unwrap().ends_with(":8300"));
    assert!(report["ready_seconds"].as_f64().unwrap() > 0.0);
    up.nothing_is_left();
    // The addresses are free again, and a person gets a sentence.
    let (code, text, errors) = up.run(&["--check", "--no-docker", "--machines", "1"]);
    assert_eq!(code, Some(0), "{text}{errors}");
    assert!(text.starts_with("ok: 1 machines, 1 servers, leader "), "{text}");
    up.nothing_is_left();
}

#[test]
fn the_check_fails_with_what_is_missing_and_leaves_nothing_behind() {
    let up = Up::new();
    let occupied = TcpListener::bind((up.last_address(), 8500)).unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let (code, text, errors) = up.run(&["--check", "--json", "--no-docker"]);
    assert_eq!(code, Some(1), "{text}{errors}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["ok"], false);
    let missing = report["missing"].as_str().unwrap();
    assert!(missing.contains("machine-3") && missing.contains(&address), "{missing}");
    assert!(errors.contains(&address) && errors.contains("in use"), "{errors}");
    assert!(errors.contains("hint: ") && errors.contains("--base"), "{errors}");
    up.nothing_is_left();
    // Without --check too.
    let (code, _, errors) = up.run(&["--no-docker"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains(&address) && errors.contains("hint: "), "{errors}");
    up.nothing_is_left();

    for (arguments, text) in [
        (&["--machines", "0"][..], "--machines 0"),
        (&["--machines", "51"], "--machines 51"),
        (&["--base", "10.0.0.1"], "--base"),
        (&["--base", "127.0.1.254"], "--base"),
        (&["--base", "x"], "--base"),
    ] {
        let output =
            corediscover().arg("up").args(arguments).env("TMPDIR", up.scratch.path()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(text), "{arguments:?}: {errors}");
        assert!(errors.contains("hint: ") || errors.contains("try '--help'"), "{arguments:?}: {errors}");
    }
    let (code, _, errors) = up.run(&["--data-dir", "/proc/no/folder"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("/proc/no/folder") && errors.contains("hint: "), "{errors}");
    up.nothing_is_left();
}

#[test]
fn it_runs_on_a_real_etcd_and_an_interrupt_stops_everything() {
    let etcd = Etcd::start();
    let up = Up::new();
    // With the registrator, where Docker answers.
    let mut process = up.start(&["--etcd", &etcd.url()]);
    eventually(PATIENCE, "up is ready", || up.said().contains("Ctrl-C stops the cluster.").then_some(()));
    assert_eq!(etcd.pairs("/consul.io/bootstrap/machines").len(), 3);
    let said = up.said();
    let last = up.last_address();
    assert!(said.contains("Ready after ") && said.contains("machine-3"), "{said}");

    // What it says to try works as it stands.
    let commands: Vec<&str> =
        said.lines().map(str::trim).filter(|line| line.contains(&last.to_string())).collect();
    for word in ["members", "status"] {
        let line = commands.iter().find(|line| line.contains(&format!(" {word} "))).unwrap();
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("machine-2"), "{line}");
    }
    let body = br#"{"Name": "web", "Port": 80}"#;
    let answer = request((up.base, 8500).into(), "PUT", "/v1/agent/service/register", body);
    assert_eq!(answer.unwrap().0, 200);
    eventually(PATIENCE, "the service is in the table", || {
        up.said().lines().any(|line| line.starts_with("web ") && line.ends_with(" 1")).then_some(())
    });

    process.signal(Signal::SIGINT);
    assert_eq!(process.exit_code(PATIENCE), Some(0), "{}", up.said());
    up.nothing_is_left();
    assert_eq!(etcd.pairs("/consul.io/bootstrap/machines").len(), 0, "the claims were given back");
}

#[test]
fn machines_end_by_themselves_when_up_is_killed_and_their_data_serves_the_next_run() {
    let up = Up::new();
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("kept").display().to_string();
    let arguments = ["--no-docker", "--data-dir", &folder];
    let mut process = up.start(&arguments);
    eventually(PATIENCE, "up is ready", || up.said().contains("Ready after ").then_some(()));
    let running = up.processes();
    assert!(running.len() == 4 && running.contains(&process.id()), "up and three machines: {running:?}");
    let put = request((up.base, 8500).into(), "PUT", "/v1/kv/kept", b"value").unwrap();
    assert_eq!((put.0, put.2.as_slice()), (200, &b"true"[..]));
    process.kill();
    eventually(PATIENCE, "the machines end", || up.processes().is_empty().then_some(()));

    let mut process = up.start(&arguments);
    eventually(PATIENCE, "up is ready again", || up.said().contains("Ready after ").then_some(()));
    let got = request((up.last_address(), 8500).into(), "GET", "/v1/kv/kept?raw", b"").unwrap();
    assert_eq!((got.0, got.2.as_slice()), (200, &b"value"[..]));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code(PATIENCE), Some(0), "{}", up.said());
    up.nothing_is_left();
    assert!(Path::new(&folder).join("machine-1").is_dir(), "data that was asked for stays");
}
