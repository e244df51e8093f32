//! What this machine itself says: units, listeners, Docker, the clock, files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::Settings;
use super::store::Store;
use crate::bootstrap::remembered;
use crate::hint::causes;
use crate::host::modes::Modes;
use crate::host::{clock as host_clock, docker_socket, interfaces, program, sockets, unit_files};
use crate::model::doctor::clock;
use crate::model::doctor::command_line;
use crate::model::doctor::docker::{Engine, Facts as Docker};
use crate::model::doctor::files::Purpose;
use crate::model::doctor::identity::File;
use crate::model::doctor::open_docker::{Asked, Facts as OpenDocker, Setting, candidates};
use crate::model::doctor::ports::Listener;
use crate::model::doctor::units::{Facts, PROPERTIES, read};
use crate::model::election::Incarnation;
use crate::model::names::ClusterId;
use crate::model::provision::units::{self, REGISTRATOR};
use crate::registrator;

/// How long a look at files or tables of this machine may take: a disk or a network file system may hang.
const LOOK_WAIT: Duration = Duration::from_secs(20);
/// How long systemd may take for an answer.
const SYSTEMD_WAIT: Duration = Duration::from_secs(10);
/// How long Docker may take for its version.
const DOCKER_WAIT: Duration = Duration::from_secs(10);
/// Last lines of a unit's journal that are searched for an error.
const JOURNAL_LINES: &str = "50";
/// There is this folder where systemd is process 1 (`sd_booted(3)`).
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// The engine's process, and where its program is.
const ENGINE: &str = "dockerd";
const ENGINE_PROGRAMS: [&str; 3] = ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"];
/// The engine's unit.
const ENGINE_UNIT: &str = "docker.service";
/// Files that say where Docker listens, beside its unit.
const ENGINE_FILES: [&str; 4] = [
    "/etc/docker/daemon.json",
    "/etc/default/docker",
    "/etc/sysconfig/docker",
    "/run/flannel_docker_opts.env",
];

/// Asks systemd for our units, and for what those in trouble said last.
pub(super) async fn units(settings: &Settings) -> Result<Facts, String> {
    let properties = format!("--property={PROPERTIES}");
    let arguments: Vec<&str> = ["show", properties.as_str()].into_iter().chain(units::ALL).collect();
    let text = program::run("systemctl", &arguments, SYSTEMD_WAIT).await.map_err(|error| causes(&error))?;
    let mut units = read(&text);
    for unit in units.iter_mut().filter(|unit| unit.is_installed() && unit.is_troubled()) {
        let name = unit.name().to_owned();
        let arguments = ["--no-pager", "-q", "-o", "cat", "-n", JOURNAL_LINES, "-u", &name];
        // Without a journal the unit's state has to be enough.
        let journal = program::run("journalctl", &arguments, SYSTEMD_WAIT).await.unwrap_or_default();
        unit.said = journal.lines().rfind(|line| line.contains("error: ")).map(str::to_owned);
    }
    let uptime = std::fs::read_to_string("/proc/uptime").map_err(|error| format!("/proc/uptime: {error}"))?;
    let uptime_seconds = uptime.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let known = settings.known(docker_is_installed() || Path::new(registrator::SOCKET_DEFAULT).exists());
    Ok(Facts {
        units,
        files: settings.units.iter().map(|(name, _)| *name).collect(),
        uptime_seconds,
        wanted: known.wanted().map_err(|error| causes(&error.into()))?,
        known,
        agent_answers: false,
    })
}

/// Whether there is an engine that could be started.
fn docker_is_installed() -> bool {
    unit_files::find(ENGINE_UNIT).is_some()
        || ENGINE_PROGRAMS.iter().any(|program| Path::new(program).exists())
}

/// The last error in a unit's journal since its last start, with its advice. `None` without one, or without a journal.
pub(super) async fn said_since_its_start(unit: &str) -> Option<String> {
    let show = ["show", "--property=InvocationID", "--value", unit];
    let start = program::run("systemctl", &show, SYSTEMD_WAIT).await.ok()?;
    let start = format!("_SYSTEMD_INVOCATION_ID={}", start.trim());
    let arguments = ["--no-pager", "-q", "-o", "cat", "-n", JOURNAL_LINES, &start];
    let journal = program::run("journalctl", &arguments, SYSTEMD_WAIT).await.ok()?;
    last_error(&journal)
}

/// The last error of a journal, with its causes and its advice in one line.
fn last_error(journal: &str) -> Option<String> {
    let lines: Vec<&str> = journal.lines().collect();
    let at = lines.iter().rposition(|line| line.starts_with("error: "))?;
    let more = lines[at + 1..].iter().map(|line| line.trim_start());
    let more = more.take_while(|line| line.starts_with("-> ") || line.starts_with("hint: "));
    Some(
        std::iter::once(lines[at])
            .chain(more)
            .map(|line| line.trim_start_matches("-> "))
            .collect::<Vec<_>>()
            .join("; "),
    )
}

/// All sockets that wait for others.
pub(super) async fn listeners() -> Result<Vec<Listener>, String> {
    let looked = program::within("look who listens", LOOK_WAIT, sockets::listeners).await;
    looked.map_err(|error| causes(&error))
}

/// What the disk says about who this machine is.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) machine_id: File,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) cluster: Option<ClusterId>,
    pub(super) addresses: Vec<IpAddr>,
    /// What of it could not be read, and why.
    pub(super) unread: Option<String>,
}

/// Reads it.
pub(super) async fn disk(settings: &Settings) -> Disk {
    let (path, data_dir) = (settings.machine_id_file.clone(), settings.data_dir.clone());
    let given = settings.machine_id.clone();
    let looked = program::within("read the disk", LOOK_WAIT, move || {
        let machine_id = match given {
            Some(id) => File::Text(id.to_string()),
            None => machine_id(&path),
        };
        let (remembered, unread) = match remembered(&data_dir) {
            Ok(remembered) => (remembered, None),
            Err(error) => (Default::default(), Some(causes(&error))),
        };
        let (incarnation, local) = remembered;
        let addresses = interfaces::addresses()?.into_iter().map(|(_, address)| address).collect();
        let cluster = local.record.filter(|record| record.formed).map(|record| record.cluster_id);
        Ok(Disk { machine_id, incarnation, cluster, addresses, unread })
    });
    looked.await.unwrap_or_else(|error| Disk {
        machine_id: File::Unreadable(causes(&error)),
        incarnation: None,
        cluster: None,
        addresses: Vec::new(),
        unread: Some(causes(&error)),
    })
}

fn machine_id(path: &Path) -> File {
    match std::fs::read(path) {
        Ok(bytes) => File::Text(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::Missing,
        Err(error) => File::Unreadable(error.to_string()),
    }
}

/// Asks Docker for its version. It is not asked where it does not run: systemd would start it for that.
pub(super) async fn docker(settings: &Settings) -> Result<Docker, String> {
    let host = settings.docker_host.clone();
    let needed = settings.has_unit(REGISTRATOR);
    let path = host.strip_prefix("unix://").map(str::to_owned);
    let looked = program::within("look at Docker's socket", LOOK_WAIT, move || {
        let socket = path.as_deref().map(docker_socket::file).transpose()?.flatten();
        let installed = docker_is_installed();
        let stopped = path.is_some() && Path::new(SYSTEMD_RUNS).exists() && !sockets::runs(ENGINE)?;
        let engine = match path.as_deref().filter(|_| !stopped) {
            _ if stopped => Some(Engine::Stopped),
            Some(path) => match docker_socket::may_talk(Path::new(path)) {
                Ok(true) => None,
                Ok(false) => Some(Engine::Denied),
                Err(error) => Some(Engine::Silent(causes(&error))),
            },
            None => None,
        };
        Ok((socket, installed, engine))
    });
    let (socket, installed, engine) = looked.await.map_err(|error| causes(&error))?;
    let engine = match engine {
        Some(engine) => engine,
        None => match tokio::time::timeout(DOCKER_WAIT, registrator::version(&host)).await {
            Ok(Ok(found)) => Engine::Answers { version: found.version, api: found.api },
            Ok(Err(error)) => Engine::Silent(causes(&error)),
            Err(_) => Engine::Silent(format!("no answer within {DOCKER_WAIT:?}")),
        },
    };
    Ok(Docker { host, socket, engine, installed, needed })
}

/// Asks the listeners that may be Docker's whether its API is open.
pub(super) async fn open_docker(listeners: &Result<Vec<Listener>, String>) -> Result<OpenDocker, String> {
    let candidates = candidates(listeners.as_ref().map_err(Clone::clone)?);
    let looked = program::within("ask for Docker's API", LOOK_WAIT, move || {
        let ask = |at| docker_socket::answers_without_tls(at).map_err(|error| causes(&error));
        let asked = candidates.into_iter().map(|at| Asked { at, answers: ask(at) }).collect();
        let unit = unit_files::find(ENGINE_UNIT).into_iter();
        let of_unit = unit.flat_map(|unit| {
            let paths: Vec<PathBuf> = unit.paths().into_iter().map(Path::to_owned).collect();
            let texts: Vec<String> = unit.texts().into_iter().map(str::to_owned).collect();
            paths.into_iter().zip(texts)
        });
        let files = ENGINE_FILES.iter().map(PathBuf::from);
        let of_files = files.filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)));
        let setting = |(path, text): (PathBuf, String)| Setting { path: path.display().to_string(), text };
        Ok(OpenDocker {
            asked,
            settings: of_files.chain(of_unit).map(setting).collect(),
            sockets: unit_files::all("socket").into_iter().map(setting).collect(),
        })
    });
    looked.await.map_err(|error| causes(&error))
}

/// What is known about the clock.
pub(super) async fn clock(store: &Store) -> clock::Facts {
    let container = host_clock::is_container();
    let synchronised = if container {
        Err("this is a container".to_owned())
    } else {
        host_clock::is_synchronised().await.map_err(|error| causes(&error))
    };
    clock::Facts { synchronised, container, others: store.clocks() }
}

/// Looks at what the units run, at the units, and at what the agent keeps.
pub(super) async fn files(settings: &Settings) -> Result<Modes, String> {
    let (units, data_dir) = (settings.units.clone(), settings.data_dir.clone());
    let key = settings.etcd_key().map(Path::to_owned);
    let looked = program::within("look at the files", LOOK_WAIT, move || {
        let mut modes = Modes::default();
        for (_, unit) in &units {
            unit.paths().into_iter().for_each(|path| modes.file(path, Purpose::Unit));
            for command in command_line::commands(&unit.texts()) {
                let [program, arguments @ ..] = &command.words[..] else { continue };
                modes.file(Path::new(program), Purpose::Runs);
                // What a shell is given to run is as good as a program; our own arguments are no scripts.
                let is_ours = program.ends_with("/corediscover");
                let scripts = arguments.iter().filter(|word| !is_ours && word.starts_with('/'));
                scripts.map(Path::new).for_each(|path| modes.file(path, Purpose::Runs));
            }
        }
        if let Ok(program) = std::env::current_exe() {
            modes.file(&program, Purpose::Runs);
        }
        modes.tree(&data_dir, Purpose::State);
        if let Some(key) = &key {
            modes.file(key, Purpose::Key);
        }
        Ok(modes)
    });
    looked.await.map_err(|error| causes(&error))
}

#[cfg(test)]
mod tests {
    use super::last_error;

    #[test]
    fn the_last_error_of_a_journal_is_told_with_its_causes_and_its_advice() {
        let journal =
            "error: an old one\nhint: old\nwrote a file\nerror: no\n -> because\nhint: do it\nmore\n";
        assert_eq!(last_error(journal).unwrap(), "error: no; because; hint: do it");
        assert_eq!(last_error("error: alone").unwrap(), "error: alone");
        assert_eq!(last_error("wrote a file\n"), None);
    }
}
