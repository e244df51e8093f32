//! Ports of the agent that another program holds.

use std::net::IpAddr;

use super::{Check, Finding};

/// The check's name.
pub const NAME: &str = "ports";
/// The program that holds ports for containers.
const DOCKER_PROXY: &str = "docker-proxy";

/// How a port is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A program that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, as the kernel has it.
    pub name: String,
    /// The file that it runs, where that can be read.
    pub program: Option<String>,
    /// The unit that it belongs to, if that has a file.
    pub unit: Option<String>,
}

/// A socket that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// How it is reached.
    pub protocol: Protocol,
    /// Where.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
    /// Whose it is; `None` when this user may not know.
    pub holder: Option<Holder>,
}

/// A port that the agent needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// What for: `HTTP`.
    pub what: &'static str,
    /// How it is reached.
    pub protocol: Protocol,
    /// Where.
    pub address: IpAddr,
    /// The number.
    pub port: u16,
}

/// Judges them. `agent_answers`: an agent of ours answers at its HTTP port, so that a container may hold it.
pub fn judge(needed: &[Needed], listeners: &[Listener], agent_answers: bool) -> Check {
    let mut findings: Vec<Finding> = Vec::new();
    let mut unknown = Vec::new();
    for need in needed {
        let others = listeners.iter().filter(|listener| collides(need, listener));
        for listener in others {
            let port = format!("port {}/{} ({})", need.port, need.protocol.word(), need.what);
            let Some(holder) = &listener.holder else {
                if !agent_answers {
                    unknown.push(format!("{port} is held by a program that only root sees"));
                }
                continue;
            };
            if is_ours(holder) || (agent_answers && holder.name == DOCKER_PROXY) {
                continue;
            }
            let finding = Finding::error(
                format!("{port} is held by {} (pid {})", holder.name, holder.pid),
                format!(
                    "{} listens at {}, where the agent has to",
                    holder.unit.as_deref().or(holder.program.as_deref()).unwrap_or(&holder.name),
                    std::net::SocketAddr::new(listener.address, listener.port)
                ),
                fix(holder, need.port),
            );
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    unknown.dedup();
    let check = Check::of(NAME, findings);
    unknown.into_iter().fold(check, Check::but_not)
}

/// Whether this is a process of this program, by whatever name it was called.
pub fn is_ours(holder: &Holder) -> bool {
    let file = holder.program.as_deref().and_then(|path| path.rsplit('/').next());
    file.map_or(holder.name == "corediscover", |file| file.starts_with("corediscover"))
}

fn collides(need: &Needed, listener: &Listener) -> bool {
    need.protocol == listener.protocol
        && need.port == listener.port
        && (need.address == listener.address
            || need.address.is_unspecified()
            || listener.address.is_unspecified())
}

fn fix(holder: &Holder, port: u16) -> String {
    match &holder.unit {
        Some(unit) => format!("systemctl disable --now {unit}"),
        None if holder.name == DOCKER_PROXY => format!("docker stop $(docker ps -q --filter publish={port})"),
        None => format!("kill {}", holder.pid),
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Listener, Needed, Protocol, judge};

    fn needed(address: &str, port: u16) -> Needed {
        Needed { what: "HTTP", protocol: Protocol::Tcp, address: address.parse().unwrap(), port }
    }

    fn listener(address: &str, port: u16, name: &str, program: Option<&str>) -> Listener {
        let holder = Holder {
            pid: 17,
            name: name.to_owned(),
            program: program.map(str::to_owned),
            unit: (name == "nginx").then(|| "nginx.service".to_owned()),
        };
        Listener { protocol: Protocol::Tcp, address: address.parse().unwrap(), port, holder: Some(holder) }
    }

    #[test]
    fn another_program_on_our_port_is_named_with_the_command_that_ends_it() {
        let found = judge(
            &[needed("127.0.0.1", 8500)],
            &[listener("0.0.0.0", 8500, "nginx", Some("/usr/sbin/nginx"))],
            false,
        );
        let [finding] = &found.findings[..] else { panic!("{found:?}") };
        assert_eq!(finding.symptom, "port 8500/tcp (HTTP) is held by nginx (pid 17)");
        assert_eq!(finding.fix, "systemctl disable --now nginx.service");
        let found = judge(&[needed("::1", 8500)], &[listener("::", 8500, "python3", None)], false);
        assert_eq!(found.findings[0].fix, "kill 17");
    }

    #[test]
    fn our_own_agent_another_address_and_another_protocol_are_fine() {
        let listeners = [
            listener("127.0.0.1", 8500, "consul", Some("/opt/bin/corediscover (deleted)")),
            listener("10.0.0.1", 8500, "nginx", None),
            Listener { protocol: Protocol::Udp, ..listener("127.0.0.1", 8500, "nginx", None) },
            listener("127.0.0.1", 8501, "nginx", None),
        ];
        assert!(judge(&[needed("127.0.0.1", 8500)], &listeners, false).is_fine());
    }

    #[test]
    fn a_container_may_hold_the_port_for_an_agent_that_answers() {
        let listeners = [listener("0.0.0.0", 8500, "docker-proxy", Some("/usr/bin/docker-proxy"))];
        assert!(judge(&[needed("127.0.0.1", 8500)], &listeners, true).is_fine());
        let found = judge(&[needed("127.0.0.1", 8500)], &listeners, false);
        assert_eq!(found.findings[0].fix, "docker stop $(docker ps -q --filter publish=8500)");
    }

    #[test]
    fn a_holder_that_only_root_sees_is_not_guessed() {
        let hidden = Listener { holder: None, ..listener("127.0.0.1", 8500, "", None) };
        let found = judge(&[needed("127.0.0.1", 8500)], &[hidden], false);
        assert!(found.findings.is_empty() && found.not_checked[0].contains("only root"), "{found:?}");
    }

    #[test]
    fn hashicorps_own_agent_is_another_program() {
        let listeners = [listener("127.0.0.1", 8500, "consul", Some("/usr/bin/consul"))];
        assert_eq!(judge(&[needed("127.0.0.1", 8500)], &listeners, true).findings.len(), 1);
    }
}
