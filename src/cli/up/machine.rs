//! The child processes of `up`: one agent a machine, and the registrator.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::super::Output;
use crate::client::{Address, Client, ClientError};
use crate::hint::WithHint as _;
use crate::host::files::create_private_folder;
use crate::registrator::SOCKET_DEFAULT;

/// How long a machine may take to stop before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How much of a log is shown when something went wrong, in bytes from its end.
const LOG_BYTES_SHOWN: usize = 4000;
/// HTTP port of every machine.
const PORT_HTTP: u16 = 8500;

/// Where the machines meet.
pub(super) enum Coordinator {
    /// A file that the machines share.
    Embedded(PathBuf),
    /// A real etcd.
    Etcd(String),
}

/// Where the machines keep their data.
pub(super) struct DataFolder {
    path: PathBuf,
    remove: bool,
}

impl DataFolder {
    /// A folder that stays.
    pub(super) fn keep(path: &Path) -> anyhow::Result<Self> {
        create_private_folder(path).hint("choose another folder with --data-dir")?;
        let path = path.canonicalize().with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { path, remove: false })
    }

    /// A folder that goes when this value goes.
    pub(super) fn temporary() -> anyhow::Result<Self> {
        // A random name that must not be there yet: nobody else can have prepared it.
        let path = std::env::temp_dir().join(format!("corediscover-up-{}", uuid::Uuid::new_v4()));
        create_private_folder(&path).hint("choose another folder with --data-dir")?;
        Ok(Self { path, remove: true })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if self.remove
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// All children.
pub(super) struct Cluster {
    processes: Vec<Process>,
}

impl Cluster {
    /// Starts a machine for each address, and the registrator if asked.
    pub(super) fn start(
        addresses: &[Ipv4Addr],
        servers: u8,
        coordinator: &Coordinator,
        data: &DataFolder,
        docker: bool,
    ) -> anyhow::Result<Self> {
        let mut processes = Vec::new();
        for (number, address) in (1..).zip(addresses) {
            let name = format!("machine-{number}");
            let folder = data.path().join(&name);
            create_private_folder(&folder)?;
            let mut command = own_binary()?;
            command.arg("bootstrap");
            match coordinator {
                Coordinator::Embedded(file) => command.arg("--embedded").arg(file),
                Coordinator::Etcd(url) => command.arg("--etcd").arg(url),
            };
            command
                .args([
                    "--machine-id",
                    &name,
                    "--expect",
                    &servers.to_string(),
                    "--advertise",
                    &address.to_string(),
                ])
                .arg("--data-dir")
                .arg(&folder)
                .args(["--", "--end-with-parent", "--node", &name])
                .args(["--bind", &address.to_string(), "--client", &address.to_string()]);
            processes.push(Process::spawn(name, command, folder.join("log"))?);
        }
        if docker && let Some(first) = addresses.first() {
            let mut command = own_binary()?;
            command.args([
                "registrator",
                "--end-with-parent",
                "-retry-attempts=-1",
                "-ip",
                &first.to_string(),
            ]);
            command.arg(format!("consul://{first}:{PORT_HTTP}"));
            command.env("DOCKER_HOST", format!("unix://{SOCKET_DEFAULT}"));
            processes.push(Process::spawn(
                "registrator".to_owned(),
                command,
                data.path().join("registrator.log"),
            )?);
        }
        Ok(Self { processes })
    }

    /// Fails when a child has ended, with the end of its log.
    pub(super) fn complain_about_the_dead(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            let ended = process.child.try_wait().with_context(|| format!("cannot watch {}", process.name))?;
            if let Some(status) = ended {
                let log = process.log_end();
                let name = &process.name;
                return Err(anyhow::anyhow!("{}", log.trim_end()))
                    .with_context(|| format!("{name} ended ({status})"))
                    .hint("if an address is in use, stop the other agent or choose another --base");
            }
        }
        Ok(())
    }

    /// Prints the end of every log.
    pub(super) fn show_logs(&self, output: &mut Output) {
        for process in &self.processes {
            output.note(&format!("--- {} ---\n{}", process.name, process.log_end().trim_end()));
        }
    }

    /// Stops all children, the kind way first.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for process in &self.processes {
            process.ask_to_stop()?;
        }
        let mut stubborn = Vec::new();
        for process in &mut self.processes {
            if tokio::time::timeout(STOP_WAIT, process.child.wait()).await.is_err() {
                process.child.kill().await.with_context(|| format!("cannot kill {}", process.name))?;
                stubborn.push(process.name.clone());
            }
        }
        if !stubborn.is_empty() {
            bail!("killed after {STOP_WAIT:?}: {}", stubborn.join(", "));
        }
        Ok(())
    }
}

impl Process {
    fn spawn(name: String, mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let copy = file.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .kill_on_drop(true)
            // Ctrl-C of the terminal reaches this process alone, which then stops the machines in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    fn ask_to_stop(&self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
            return Ok(());
        };
        match kill_process(pid, Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot stop {}", self.name)),
        }
    }

    fn log_end(&self) -> String {
        match std::fs::read(&self.log) {
            Ok(bytes) => {
                String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_BYTES_SHOWN)..]).into_owned()
            }
            Err(error) => format!("cannot read {}: {error}", self.log.display()),
        }
    }
}

fn own_binary() -> anyhow::Result<Command> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Command::new(path))
}

/// Whether a Docker engine accepts connections on this host.
pub(super) fn docker_answers() -> bool {
    UnixStream::connect(SOCKET_DEFAULT).is_ok()
}

/// The API of the machine at `address`.
pub(super) fn client(address: Ipv4Addr) -> Result<Client, ClientError> {
    Client::new(Address::Http { host: address.to_string(), port: PORT_HTTP }, None)
}
