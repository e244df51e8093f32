//! Blank machines in containers of the real engine: systemd as process 1, each with its own machine-id, etcd, Docker,
//! resolver and network address. They and their network are gone when the test ends, however it ends.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

use crate::docker::docker;
use crate::wait::eventually;

/// What `make node-image` builds.
const IMAGE: &str = "corediscover-node";
/// The machine's own bridge for containers, as CoreOS had it; user-data of that time names this address.
pub(crate) const BRIDGE: &str = "172.17.42.1";
/// What each machine tells its own Docker.
pub(crate) fn daemon_json() -> String {
    format!("{{\"bip\": \"{BRIDGE}/16\"}}")
}

/// Keeps the containers and networks of other tests where they are, until it is dropped. `vagrant up` lists all of the
/// engine's and then looks at each: it fails when one of them has gone meanwhile.
pub(crate) fn nobody_goes() -> MutexGuard<'static, ()> {
    static GOING: Mutex<()> = Mutex::new(());
    GOING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a container needs so that systemd and Docker run in it. Its kernel settings and its clock are the host's: it
/// may not change them.
const RIGHTS: &[&str] = &[
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--cap-drop=SYS_TIME",
    "--cap-drop=SYS_MODULE",
    "--cap-drop=SYS_RAWIO",
    "--security-opt=seccomp=unconfined",
    "--security-opt=systempaths=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp:exec",
];
/// How long a machine may take for a step on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);
/// Lines of a machine's journal that are shown when a test fails.
const JOURNAL_LINES_SHOWN: &str = "40";

/// A network of machines that has no way out.
pub(crate) struct Network {
    name: String,
    /// The first three numbers of its addresses.
    prefix: String,
}

impl Network {
    /// Makes it; `third` tells networks of one run apart.
    pub(crate) fn new(third: u8) -> Self {
        // The process id keeps two runs apart.
        let second = 64 + std::process::id() % 64;
        Self::made(format!("10.{second}.{third}"), &third.to_string())
    }

    /// The network of the README: one that RFC 5737 has for documents, so that it is nobody's.
    pub(crate) fn of_documents() -> Self {
        let prefix = "198.51.100";
        let own = Command::new("ip").args(["-4", "route"]).output().unwrap();
        let own = String::from_utf8(own.stdout).unwrap();
        assert!(!own.contains(&format!("{prefix}.")), "this host is in the README's network itself:\n{own}");
        Self::made(prefix.to_owned(), "documents")
    }

    fn made(prefix: String, word: &str) -> Self {
        let name = format!("cd-cluster-{}-{word}", std::process::id());
        docker(&["network", "create", "--internal", "--subnet", &format!("{prefix}.0/24"), &name]);
        Self { name, prefix }
    }

    /// The host's own address in it, where the machines reach what the host serves.
    pub(crate) fn host(&self) -> String {
        format!("{}.1", self.prefix)
    }

    /// The address of machine `number`, counted from 1: as in the clusters that we replace, host-1 is .3.
    pub(crate) fn address(&self, number: u8) -> String {
        format!("{}.{}", self.prefix, number + 2)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _going = nobody_goes();
        // Fails only if a machine is left, which has told about itself.
        drop(Command::new("docker").args(["network", "rm", &self.name]).output());
    }
}

/// One machine.
pub(crate) struct Machine {
    /// Its host name.
    pub(crate) name: String,
    /// Its address in the network.
    pub(crate) address: String,
    container: String,
}

impl Machine {
    /// A blank machine that is off.
    pub(crate) fn blank(network: &Network, number: u8) -> Self {
        let name = format!("host-{number}");
        let container = format!("{}-{name}", network.name);
        let address = network.address(number);
        let mut line = vec!["create", "--name", &container, "--hostname", &name, "--network", &network.name];
        line.extend(["--ip", &address]);
        line.extend(RIGHTS);
        line.push(IMAGE);
        docker(&line);
        let machine = Self { name, address, container };
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "etc/docker/daemon.json", &format!("{}\n", daemon_json()));
        machine.bring(root.path());
        machine
    }

    /// Gives the machine, which is off, user-data in the way of clouds without a network service (`NoCloud`).
    pub(crate) fn user_data(&self, text: &str) {
        let root = tempfile::tempdir().unwrap();
        let folder = "var/lib/cloud/seed/nocloud";
        put(root.path(), &format!("{folder}/user-data"), text);
        let meta_data = format!("instance-id: {0}\nlocal-hostname: {0}\n", self.name);
        put(root.path(), &format!("{folder}/meta-data"), &meta_data);
        self.bring(root.path());
    }

    /// Gives the machine, which is off, a member of an etcd that consists of `members`.
    pub(crate) fn etcd(&self, members: &[&Self]) {
        let cluster: Vec<String> =
            members.iter().map(|member| format!("{}=http://{}:2380", member.name, member.address)).collect();
        let (name, address, cluster) = (&self.name, &self.address, cluster.join(","));
        let root = tempfile::tempdir().unwrap();
        put(
            root.path(),
            "etc/default/etcd",
            &format!(
                "ETCD_NAME={name}\nETCD_ENABLE_V2=true\nETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379\n\
                 ETCD_ADVERTISE_CLIENT_URLS=http://{address}:2379\nETCD_LISTEN_PEER_URLS=http://{address}:2380\n\
                 ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{address}:2380\nETCD_INITIAL_CLUSTER={cluster}\n\
                 ETCD_INITIAL_CLUSTER_STATE=new\n"
            ),
        );
        let wants = root.path().join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink("/lib/systemd/system/etcd.service", wants.join("etcd.service")).unwrap();
        self.bring(root.path());
    }

    /// Lays a tree of files over the machine's; their owner is root.
    pub(crate) fn bring(&self, root: &Path) {
        let tar = Command::new("tar")
            .args(["--owner=0", "--group=0", "-c", "-C"])
            .arg(root)
            .args(fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()))
            .output()
            .unwrap();
        assert!(tar.status.success());
        let target = format!("{}:/", self.container);
        feed(Command::new("docker").args(["cp", "-", &target]), &tar.stdout);
    }

    /// A folder of the machine, as a tar.
    pub(crate) fn folder(&self, path: &str) -> Vec<u8> {
        let source = format!("{}:{path}", self.container);
        let output = Command::new("docker").args(["cp", "-a", &source, "-"]).output().unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Lays such a folder down on the machine.
    pub(crate) fn lay(&self, path: &str, tar: &[u8]) {
        let target = format!("{}:{path}", self.container);
        feed(Command::new("docker").args(["cp", "-a", "-", &target]), tar);
    }

    /// Switches the machine on.
    pub(crate) fn power_on(&self) {
        docker(&["start", &self.container]);
    }

    /// Cuts its power.
    pub(crate) fn power_off(&self) {
        docker(&["kill", &self.container]);
    }

    /// `systemctl reboot`, until it is off; [`Machine::power_on`] is the second half.
    pub(crate) fn shut_down(&self) {
        // The connection ends with the machine, so what this says does not matter; that it is off does.
        drop(self.try_run(&["systemctl", "--no-block", "reboot"]));
        eventually(PATIENCE, &format!("{} is off", self.name), || {
            (docker(&["inspect", "-f", "{{.State.Running}}", &self.container]) == "false").then_some(())
        });
    }

    /// Waits until systemd has started everything, and nothing has failed.
    #[track_caller]
    pub(crate) fn until_running(&self) {
        eventually(PATIENCE, &format!("{} runs", self.name), || {
            let state = self.try_run(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            assert_ne!(state, "degraded", "{}: {}", self.name, self.run(&["systemctl", "--failed"]));
            (state == "running").then_some(())
        });
    }

    /// Runs a program on the machine, whatever comes of it.
    pub(crate) fn try_run(&self, words: &[&str]) -> Output {
        Command::new("docker").args(["exec", &self.container]).args(words).output().unwrap()
    }

    /// Runs a program on the machine and gives what it prints.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {}: {errors}{}",
            self.name,
            words.join(" "),
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What the program prints if it ends well.
    pub(crate) fn answer(&self, words: &[&str]) -> Option<String> {
        let output = self.try_run(words);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs a program until it prints what `wanted` accepts, and gives that.
    #[track_caller]
    pub(crate) fn until(&self, words: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let what = format!("{}: {}", self.name, words.join(" "));
        eventually(PATIENCE, &what, || self.answer(words).filter(|text| wanted(text)))
    }

    /// Starts a program that goes on after this call.
    pub(crate) fn start(&self, words: &[&str]) {
        let mut line = vec!["exec", "--detach", &self.container];
        line.extend(words);
        docker(&line);
    }

    /// Gives the machine's engine an image: one folder of files, and what it is started with.
    pub(crate) fn image(&self, name: &str, tar: &[u8], changes: &[&str]) {
        let mut command = Command::new("docker");
        command.args(["exec", "-i", &self.container, "docker", "import"]);
        for change in changes {
            command.args(["--change", change]);
        }
        feed(command.args(["-", name]), tar);
    }

    /// The machine's own id.
    pub(crate) fn machine_id(&self) -> String {
        self.run(&["cat", "/etc/machine-id"])
    }

    /// What helps to understand a failure.
    fn tell(&self) {
        for words in [
            &["systemctl", "--failed", "--no-legend"][..],
            &["systemctl", "--no-pager", "status", "corediscover-*"],
            &[
                "journalctl",
                "--no-pager",
                "-o",
                "short-monotonic",
                "-u",
                "corediscover-*",
                "-n",
                JOURNAL_LINES_SHOWN,
            ],
        ] {
            let output = self.try_run(words);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // There is nowhere to tell that this failed.
            drop(writeln!(std::io::stderr().lock(), "--- {}: {}\n{text}", self.name, words.join(" ")));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        let _going = nobody_goes();
        // Fails only when the engine itself has gone.
        drop(Command::new("docker").args(["rm", "-f", "-v", &self.container]).output());
    }
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
}

/// Runs a command with this input; it must end well.
#[track_caller]
fn feed(command: &mut Command, input: &[u8]) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}
