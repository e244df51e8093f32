//! The Docker engine is restarted, politely or not, under a running registrator: a real engine of this test's own, in a
//! network namespace of its own. The machine's engine is left alone.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::machine::{Machine, PATIENCE, formed};
use crate::support::netns::{Network, beside};
use crate::support::{Running, bare_command, binary, eventually};

/// How long the engine may take to end after it was asked to.
const END_WAIT: Duration = Duration::from_secs(30);
const IMAGE: &str = "engine-test:1";
/// What the registrator calls the service of that image.
const SERVICE: &str = "engine-test";

/// An engine with everything in one folder.
struct Engine {
    folder: tempfile::TempDir,
    launcher: Vec<String>,
    process: Option<Running>,
}

impl Engine {
    fn start(network: &Network) -> Self {
        // Not `ip netns exec`, which hides the control groups that the engine needs.
        let namespace = network.namespace(0).display().to_string();
        let launcher = vec!["nsenter".to_owned(), format!("--net={namespace}")];
        let folder = tempfile::tempdir().unwrap();
        std::fs::File::create(folder.path().join("daemon.json")).unwrap().write_all(b"{}").unwrap();
        let mut engine = Self { folder, launcher, process: None };
        engine.restart();
        engine
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("socket"))
    }

    /// Starts the engine, and waits until it answers.
    fn restart(&mut self) {
        // What a killed one left would keep the new one from starting.
        for name in ["pid", "exec/containerd/containerd.pid"] {
            drop(std::fs::remove_file(self.path(name)));
        }
        let log = std::fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
        let mut command = bare_command(&self.launcher[0]);
        command
            .args(&self.launcher[1..])
            .args(["dockerd", "--storage-driver", "vfs", "--shutdown-timeout", "1", "--host", &self.host()])
            .args(["--config-file", &self.path("daemon.json"), "--pidfile", &self.path("pid")])
            .args(["--data-root", &self.path("data"), "--exec-root", &self.path("exec")])
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.process = Some(Running::start("dockerd (Debian package `docker.io`)", &mut command));
        let answers = || self.try_docker(&["info"]);
        let answered = catch_unwind(AssertUnwindSafe(|| eventually(PATIENCE, "the engine answers", answers)));
        assert!(answered.is_ok(), "the engine does not answer:\n{}", self.log());
    }

    fn try_docker(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("docker").args(["--host", &self.host()]).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        self.try_docker(arguments).unwrap_or_else(|| panic!("docker {arguments:?}: {}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// An image from scratch: busybox's httpd on port 80.
    fn import_image(&self) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.path().join("bin/httpd")).expect("busybox-static is installed");
        let tar = Command::new("tar").arg("-C").arg(root.path()).args(["-c", "."]).output().unwrap();
        let mut import = Command::new("docker")
            .args(["--host", &self.host(), "import", "--change", "EXPOSE 80"])
            .args(["--change", r#"CMD ["/bin/httpd","-f","-p","80"]"#, "-", IMAGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
        assert!(import.wait().unwrap().success(), "docker import");
    }

    /// The published ports of what runs.
    fn ports(&self) -> Option<BTreeSet<u64>> {
        let ids = self.try_docker(&["ps", "--quiet"])?;
        let port = |id: &str| {
            self.try_docker(&["port", id, "80/tcp"])?.lines().next()?.rsplit(':').next()?.parse().ok()
        };
        ids.lines().map(port).collect()
    }

    /// SIGTERM, as `systemctl restart docker` sends it: containers are stopped.
    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            process.exit_code(END_WAIT);
        }
    }

    /// SIGKILL of the engine, and so of its containerd; the containers go on.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends what an engine that could not be asked leaves: its helpers and the processes of its containers.
    fn kill_the_rest(&self) {
        let mut marks = vec![self.folder.path().display().to_string()];
        let containers = std::fs::read_dir(self.path("data/containers")).into_iter().flatten().flatten();
        marks.extend(containers.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(number) = process.file_name().to_string_lossy().parse::<i32>() else { continue };
            let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&[read("cmdline"), read("cgroup")].concat()).into_owned();
            if marks.iter().any(|mark| text.contains(mark)) {
                let _gone_meanwhile = kill(Pid::from_raw(number), Signal::SIGKILL).is_err();
            }
        }
        for line in std::fs::read_to_string("/proc/self/mounts").unwrap().lines() {
            if let Some(mounted) = line.split(' ').nth(1).filter(|path| path.starts_with(&marks[0])) {
                drop(Command::new("umount").args(["--lazy", mounted]).output());
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(ids) = self.try_docker(&["ps", "--all", "--quiet"]) {
            for id in ids.lines() {
                drop(self.try_docker(&["rm", "--force", id]));
            }
        }
        // If it does not end by itself it is killed with the rest.
        drop(catch_unwind(AssertUnwindSafe(|| self.stop())));
        self.kill_the_rest();
    }
}

#[test]
fn a_restarted_engine_leaves_nothing_dangling_and_what_it_starts_again_is_found() {
    let _turn = beside();
    let network = Network::new(1, 1);
    let mut engine = Engine::start(&network);
    engine.import_image();
    let flags = ["-server", "-bootstrap"];
    let machine = Machine::agent_at("m0", network.address(0), network.launcher(0), &flags).started();
    let _inside = network.enter();
    formed(&[&machine], 1);
    let address = machine.address.to_string();
    let mut registrator = bare_command(&engine.launcher[0]);
    registrator.args(&engine.launcher[1..]).arg(binary()).env("DOCKER_HOST", engine.host());
    registrator.args(["registrator", "-ip", &address, &format!("consul://{address}:8500")]);
    registrator.stdout(Stdio::null()).stderr(Stdio::null());
    let mut registrator = Running::start("registrator", &mut registrator);
    let registered = || -> Option<BTreeSet<u64>> {
        let rows = machine.get(&format!("/v1/catalog/service/{SERVICE}"))?;
        rows.as_array()?.iter().map(|row| row["ServicePort"].as_u64()).collect()
    };
    let settled = |engine: &Engine, count: usize, what: &str| {
        eventually(PATIENCE, what, || {
            let (runs, known) = (engine.ports()?, registered()?);
            (runs == known && runs.len() == count).then_some(())
        });
    };
    let run = ["run", "--detach", "--publish-all"];
    let plain = engine.docker(&[&run[..], &[IMAGE]].concat());
    engine.docker(&[&run[..], &["--restart", "always", IMAGE]].concat());
    settled(&engine, 2, "both containers are registered");
    engine.stop();
    engine.restart();
    settled(
        &engine,
        1,
        "after a restart of the engine the one that came back is registered, the other is not",
    );
    engine.docker(&["start", &plain]);
    settled(&engine, 2, "the other one is registered when it is started again");
    engine.kill();
    engine.restart();
    engine.docker(&["restart", "--time", "0", &plain]);
    settled(&engine, 2, "after the engine's death what runs is registered");
    engine.docker(&["rm", "--force", &plain]);
    settled(&engine, 1, "what is removed is not");
    assert!(registrator.is_alive(), "it is still the same registrator");
}
