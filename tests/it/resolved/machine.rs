//! A machine with the real systemd as its first process and the real systemd-resolved, in namespaces of its own.
//!
//! It shares only programs with the machine that runs the tests, whose own resolver never notices. See `machine.sh`.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::support::docker::unique_name;
use crate::support::machine::PATIENCE;
use crate::support::{Running, bare_command, binary, eventually};

/// Debian packages with what the machine needs; on this machine they would take over /etc/resolv.conf.
const PACKAGES: &[&str] = &["systemd-resolved", "libnss-resolve"];
/// Where control groups are: all of them, or two of the hybrid form.
const CONTROL_GROUPS: &[&str] = &["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];
/// Where the machine's link has a server for all other names.
pub(super) const UPSTREAM: &str = "10.99.0.53";
/// What that server says for every name outside the domain.
pub(super) const ELSEWHERE: &str = "192.0.2.1";

/// A machine that is gone when the test ends, however it ends.
pub(super) struct Machine {
    booted: Running,
    /// The name of its control groups.
    group: String,
    /// The first process, as this machine numbers it.
    init: u32,
    agent: Mutex<Option<Running>>,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// A machine that has booted, with a server for other names behind its link.
    pub(super) fn boot() -> (Self, Asked) {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test boots systemd in namespaces, which only root may: run the tests as root"
        );
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let group = unique_name("machine");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/resolved/machine.sh");
        let mut command = bare_command("unshare");
        command
            .args(["-m", "-n", "-p", "-u", "-i", "-f", "--kill-child", "sh"])
            .args([&script, &root, packages(), binary().parent().unwrap()])
            .arg(&group)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut booted = Running::start("unshare (util-linux)", &mut command);
        let init = eventually(PATIENCE, "the machine has a first process", || child_of(booted.id()));
        let release = format!("/proc/{init}/root/etc/os-release");
        eventually(PATIENCE, "the machine has a root of its own", || {
            let said = std::fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(booted.is_alive(), "the machine does not boot: {said}");
            (std::fs::read_to_string(&release).ok()? == "ID=test\n").then_some(())
        });
        let machine = Self { booted, group, init, agent: Mutex::new(None), _folder: folder };
        eventually(PATIENCE, "systemd-resolved runs", || {
            machine.output(&["systemctl", "is-active", "systemd-resolved"]).status.success().then_some(())
        });
        let asked = machine.listen(&format!("{UPSTREAM}:53"), answer_from_elsewhere);
        machine.run(&["resolvectl", "dns", "up0", UPSTREAM]);
        (machine, asked)
    }

    /// Starts an agent that knows the service `web` at 10.1.2.3; what the resolver asks it is written down on the way.
    pub(super) fn start_agent(&self) -> Asked {
        let configuration = self.path("/tmp/agent.json");
        let service = r#"{"services": [{"name": "web", "address": "10.1.2.3", "port": 80}]}"#;
        File::create(configuration)
            .and_then(|mut file| std::io::Write::write_all(&mut file, service.as_bytes()))
            .unwrap();
        let mut command =
            self.command(&["corediscover", "agent", "-dev", "-node", "m1", "-dns-port", "8601"]);
        command.args(["-config-file", "/tmp/agent.json"]).stdout(Stdio::null()).stderr(Stdio::null());
        *self.agent.lock().unwrap() = Some(Running::start("the agent", &mut command));
        eventually(PATIENCE, "the agent knows its service", || {
            let answer = self.output(&["dig", "+short", "-p", "8601", "@127.0.0.1", "web.service.consul"]);
            (answer.stdout == b"10.1.2.3\n").then_some(())
        });
        self.listen("127.0.0.1:8600", ask_the_agent)
    }

    /// Kills the agent; what stands before it does not answer any more.
    pub(super) fn kill_agent(&self) {
        *self.agent.lock().unwrap() = None;
    }

    /// A place in the machine's files.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// What a file of the machine holds.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    /// A command that will run on the machine.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = bare_command("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-n", "-p", "-u", "-i", "-C", "-r", "-w", "env"]);
        command.arg("PATH=/opt/bin:/usr/sbin:/usr/bin").args(words);
        command
    }

    /// Runs a command to its end.
    pub(super) fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("nsenter (util-linux) is installed")
    }

    /// Runs a command that succeeds, and gives what it printed.
    #[track_caller]
    pub(super) fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs `corediscover resolved`.
    #[track_caller]
    pub(super) fn resolved(&self, words: &[&str]) -> String {
        let mut all = vec!["corediscover", "resolved"];
        all.extend(words);
        self.run(&all)
    }

    /// The process id of the resolver: another one after each restart.
    pub(super) fn resolver(&self) -> String {
        self.run(&["systemctl", "show", "--property=MainPID", "--value", "systemd-resolved"])
    }

    /// What the resolver has for each link and for all, but for the link of our own.
    pub(super) fn settings(&self) -> String {
        let mut words = Vec::new();
        for verb in ["dns", "domain", "default-route", "llmnr", "mdns", "dnssec", "dnsovertls"] {
            words.push(self.run(&["resolvectl", verb]));
        }
        words.push(self.run(&["ls", "/run/systemd"]));
        words.join("\n")
    }

    /// Opens a socket on the machine, writes down who is asked for there, and answers.
    fn listen(&self, at: &str, answer: fn(&[u8], &str) -> Option<Vec<u8>>) -> Asked {
        let asked = Asked::default();
        let (names, at) = (asked.names.clone(), at.parse::<SocketAddr>().unwrap());
        let network = File::open(format!("/proc/{}/ns/net", self.init)).unwrap();
        let (ready, started) = std::sync::mpsc::channel();
        // It ends with the process: nothing comes after the machine is gone.
        std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("the machine's network can be entered");
            let socket = UdpSocket::bind(at).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let name = name_in(&buffer[..length]);
                names.lock().unwrap().push(name.clone());
                if let Some(answer) = answer(&buffer[..length], &name) {
                    // The resolver may have given up.
                    drop(socket.send_to(&answer, from));
                }
            }
        });
        started.recv_timeout(PATIENCE).expect("a socket on the machine");
        asked
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.booted.kill();
        for tree in CONTROL_GROUPS {
            let path = Path::new(tree).join(&self.group);
            let end = Instant::now() + PATIENCE;
            // Its processes are killed, but not yet gone.
            while path.exists() && Instant::now() < end {
                remove_group(&path);
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }
}

/// Removes a control group and those in it, as far as they are empty.
fn remove_group(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    // Not before its last process is gone.
    drop(std::fs::remove_dir(path));
}

/// The names that somebody was asked for.
#[derive(Default)]
pub(super) struct Asked {
    names: Arc<Mutex<Vec<String>>>,
}

impl Asked {
    /// Those of the domain, and the others.
    pub(super) fn take(&self) -> (Vec<String>, Vec<String>) {
        let names = std::mem::take(&mut *self.names.lock().unwrap());
        names.into_iter().partition(|name| name == "consul" || name.ends_with(".consul"))
    }
}

/// The unpacked packages, fetched once and kept in the build folder.
fn packages() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("resolved-packages");
        if !folder.join("lib/systemd/systemd-resolved").exists() {
            let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            shell(new.path(), "apt-get", &["-qq", "update"]);
            for package in PACKAGES {
                shell(new.path(), "apt-get", &["-qq", "download", package]);
            }
            for entry in std::fs::read_dir(new.path()).unwrap() {
                shell(new.path(), "dpkg-deb", &["-x", entry.unwrap().path().to_str().unwrap(), "root"]);
            }
            // All of it under /usr, as on the machines: older packages have files in /lib.
            if new.path().join("root/lib").exists() {
                shell(new.path(), "cp", &["-a", "root/lib", "root/usr/"]);
            }
            // Another test process may have been quicker.
            drop(std::fs::rename(new.path().join("root/usr"), &folder));
        }
        folder
    })
}

#[track_caller]
fn shell(folder: &Path, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
}

fn child_of(parent: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The name of a question, in small letters.
fn name_in(question: &[u8]) -> String {
    let (mut labels, mut at) = (Vec::new(), 12);
    while let Some(length) = question.get(at).filter(|length| **length > 0) {
        let end = at + 1 + usize::from(*length);
        labels.push(String::from_utf8_lossy(question.get(at + 1..end).unwrap_or_default()).to_lowercase());
        at = end;
    }
    labels.join(".")
}

/// One address for each name, but for those of our domain, which nobody else knows.
fn answer_from_elsewhere(question: &[u8], name: &str) -> Option<Vec<u8>> {
    let end = 12 + name.len() + 2 + 4;
    let mut answer = question.get(..end)?.to_vec();
    let is_address = answer[end - 3] == 1;
    let ours = name == "consul" || name.ends_with(".consul");
    // A response with recursion; NXDOMAIN for ours.
    answer[2] = 0x81;
    answer[3] = if ours { 0x83 } else { 0x80 };
    answer[6..12].copy_from_slice(&[0, u8::from(is_address && !ours), 0, 0, 0, 0]);
    if is_address && !ours {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}

/// Asks the agent behind, from the machine's network.
fn ask_the_agent(question: &[u8], _name: &str) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.connect("127.0.0.1:8601").ok()?;
    socket.send(question).ok()?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).ok()?;
    Some(answer[..length].to_vec())
}
