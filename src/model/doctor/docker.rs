//! Docker, as the registrator needs it: it runs, may be asked, and speaks a version that we do.

use super::{Check, Finding};

/// The check's name.
pub const NAME: &str = "docker";
/// The oldest version of the API that is understood, that of engine 1.12: earlier answers lack what the registrator reads.
const OLDEST: (u32, u32) = (1, 24);
/// The group that the registrator's unit runs in.
const GROUP: &str = "docker";

/// The engine's socket, as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path.
    pub path: String,
    /// The bits of its mode.
    pub mode: u32,
    /// The name of its group, or its number where it has none.
    pub group: String,
}

/// What became of asking the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// It answered: its version, and its API's.
    Answers {
        /// The engine's version.
        version: String,
        /// The newest version of the API that it speaks.
        api: String,
    },
    /// No process of it runs.
    Stopped,
    /// This user may not ask.
    Denied,
    /// It did not answer, and why.
    Silent(String),
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// How it is reached: `unix:///var/run/docker.sock`.
    pub host: String,
    /// Its socket, if it is one and there.
    pub socket: Option<Socket>,
    /// What became of asking.
    pub engine: Engine,
    /// It is installed: its program or its unit is there.
    pub installed: bool,
    /// The registrator's unit is installed, so that Docker is needed.
    pub needed: bool,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    if !facts.installed && facts.socket.is_none() && facts.host.starts_with("unix:") {
        return if facts.needed {
            let finding = Finding::error(
                "Docker is not installed, and the registrator is",
                "there is neither its socket nor its unit; without it no container is registered",
                "apt-get install -y docker.io # or systemctl disable --now corediscover-registrator.service",
            );
            Check::of(NAME, vec![finding])
        } else {
            Check::not_checked(NAME, "it is not installed, and no registrator either")
        };
    }
    let mut findings: Vec<Finding> = facts.socket.iter().filter_map(open_socket).collect();
    let path = facts.socket.as_ref().map_or("", |socket| &socket.path);
    match &facts.engine {
        Engine::Answers { version, api } => {
            findings.extend(old(version, api));
            findings.extend(facts.socket.iter().filter(|_| facts.needed).filter_map(closed_socket));
        }
        Engine::Stopped => findings.push(Finding::error(
            "the Docker daemon does not run",
            "no dockerd is there; containers are neither run nor registered",
            "systemctl start docker.service",
        )),
        Engine::Denied => {
            let check = Check::of(NAME, findings);
            return check.but_not(format!("this user may not ask at {path}: run this as root"));
        }
        Engine::Silent(why) => findings.push(Finding::error(
            format!("Docker does not answer at {}", facts.host),
            why.clone(),
            "systemctl restart docker.service",
        )),
    }
    Check::of(NAME, findings)
}

fn old(version: &str, api: &str) -> Option<Finding> {
    let (major, minor) = api.split_once('.')?;
    let found: (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (found < OLDEST).then(|| {
        Finding::error(
            format!("Docker {version} speaks API {api}, and {}.{} is needed", OLDEST.0, OLDEST.1),
            "the engine is older than the registrator knows",
            "apt-get install -y --only-upgrade docker.io",
        )
    })
}

/// Everybody may ask: who may talk to Docker is root.
fn open_socket(socket: &Socket) -> Option<Finding> {
    (socket.mode & 0o002 != 0).then(|| {
        Finding::error(
            format!("every user of this machine may use Docker through {}, and become root", socket.path),
            format!("the socket's mode is {:04o}", socket.mode),
            format!("chmod 0660 {}", socket.path),
        )
    })
}

/// The registrator may not ask: it runs in the group `docker`.
fn closed_socket(socket: &Socket) -> Option<Finding> {
    let may = socket.group == GROUP && socket.mode & 0o060 == 0o060 || socket.mode & 0o006 == 0o006;
    (!may).then(|| {
        Finding::error(
            format!("the registrator may not use {}", socket.path),
            format!(
                "it runs in the group {GROUP}, and the socket has group {} and mode {:04o}",
                socket.group, socket.mode
            ),
            format!("chgrp {GROUP} {0} && chmod 0660 {0}", socket.path),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Engine, Facts, Socket, judge};

    fn facts() -> Facts {
        Facts {
            host: "unix:///var/run/docker.sock".to_owned(),
            socket: Some(Socket {
                path: "/var/run/docker.sock".to_owned(),
                mode: 0o660,
                group: "docker".to_owned(),
            }),
            engine: Engine::Answers { version: "20.10.24".to_owned(), api: "1.41".to_owned() },
            installed: true,
            needed: true,
        }
    }

    fn with_socket(mode: u32, group: &str) -> Facts {
        let socket = Socket { mode, group: group.to_owned(), path: "/s".to_owned() };
        Facts { socket: Some(socket), ..facts() }
    }

    #[track_caller]
    fn symptom(facts: &Facts) -> String {
        let found = judge(facts);
        let [finding] = &found.findings[..] else { panic!("{found:?}") };
        finding.symptom.clone()
    }

    #[test]
    fn an_engine_that_answers_is_fine() {
        assert!(judge(&facts()).is_fine());
    }

    #[test]
    fn an_engine_that_does_not_run_or_is_silent_or_too_old_is_found() {
        assert_eq!(symptom(&Facts { engine: Engine::Stopped, ..facts() }), "the Docker daemon does not run");
        let silent = Facts { engine: Engine::Silent("no answer".to_owned()), ..facts() };
        assert!(symptom(&silent).contains("does not answer at unix://"));
        let old = Engine::Answers { version: "1.11.2".to_owned(), api: "1.23".to_owned() };
        assert_eq!(
            symptom(&Facts { engine: old, ..facts() }),
            "Docker 1.11.2 speaks API 1.23, and 1.24 is needed"
        );
    }

    #[test]
    fn a_socket_that_the_registrator_may_not_use_or_everybody_may_is_found() {
        for (mode, group) in [(0o600, "docker"), (0o660, "root"), (0o640, "docker")] {
            assert_eq!(symptom(&with_socket(mode, group)), "the registrator may not use /s");
        }
        assert!(symptom(&with_socket(0o666, "root")).contains("become root"));
        assert!(judge(&Facts { needed: false, ..with_socket(0o600, "root") }).is_fine());
    }

    #[test]
    fn who_may_not_ask_is_told_to_be_root_and_where_nothing_needs_docker_nothing_is_wrong() {
        assert!(judge(&Facts { engine: Engine::Denied, ..facts() }).not_checked[0].contains("root"));
        let none =
            Facts { socket: None, installed: false, needed: false, engine: Engine::Stopped, ..facts() };
        assert!(judge(&none).findings.is_empty());
        assert!(symptom(&Facts { needed: true, ..none }).contains("not installed"));
    }
}
