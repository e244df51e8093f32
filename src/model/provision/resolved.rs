//! The units by which a machine's own resolver finds the agent, and containers the resolver: they run
//! `corediscover resolved`, with the spec's options.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use super::binary::Binary;
use super::render::{RenderError, render};
use super::spec::{DnsPort, Spec};
use super::units::Manager;
use crate::model::resolved::STANDARD_PORT;

#[derive(Serialize)]
struct Values<'a> {
    binary: &'a str,
    installs: bool,
    domain: &'a str,
    flags: String,
    serves_containers: bool,
    /// Kinds of namespaces that it may make: a network, to ask from as a container does.
    namespaces: &'static str,
    ending: &'a str,
}

/// What differs from the defaults of `resolved apply`, with a blank before each flag.
pub fn flags(spec: &Spec) -> String {
    let mut flags = String::new();
    let mut add = |flag: &str, value: &str| {
        for word in [" --", flag, " ", value] {
            flags.push_str(word);
        }
    };
    if !spec.domain.is_default() {
        add("domain", spec.domain.as_str());
    }
    if spec.agent_address() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        add("address", &spec.agent_address().to_string());
    }
    if spec.dns_port != DnsPort::default() {
        add("dns-port", &spec.dns_port.number().to_string());
    }
    flags
}

/// Whether the resolver is to answer containers: not where the agent itself does so, at the same port.
fn serves_containers(spec: &Spec) -> bool {
    spec.dns_port.number() != STANDARD_PORT || spec.client.iter().all(IpAddr::is_loopback)
}

/// `corediscover-resolved.service`.
///
/// # Errors
/// Never for a template of this program.
pub fn unit(spec: &Spec, manager: Manager) -> Result<String, RenderError> {
    render(
        "resolved",
        &Values {
            binary: spec.binary.path(),
            installs: !matches!(spec.binary, Binary::Path(_)),
            domain: spec.domain.as_str(),
            flags: flags(spec),
            serves_containers: serves_containers(spec),
            namespaces: if serves_containers(spec) { "net" } else { "yes" },
            ending: manager.ending(),
        },
    )
}

#[derive(Serialize)]
struct ContainersValues<'a> {
    binary: &'a str,
    ending: &'a str,
}

/// `corediscover-containers.service`: Docker's settings outlive a boot, and what they name does not. `None` where the agent
/// answers containers itself, and for fleet, which starts its units long after Docker.
///
/// # Errors
/// Never for a template of this program.
pub fn containers_unit(spec: &Spec, manager: Manager) -> Result<Option<String>, RenderError> {
    if !serves_containers(spec) || manager == Manager::Fleet {
        return Ok(None);
    }
    let values = ContainersValues { binary: spec.binary.path(), ending: manager.ending() };
    render("containers", &values).map(Some)
}

#[cfg(test)]
mod tests {
    use super::{containers_unit, unit};
    use crate::model::provision::Spec;
    use crate::model::provision::units::Manager;

    #[track_caller]
    fn commands(spec: &Spec) -> Vec<String> {
        let text = unit(spec, Manager::Systemd).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("Exec"));
        lines.map(|line| line.replace("/opt/bin/corediscover ", "")).collect()
    }

    #[test]
    fn the_unit_says_only_what_differs_from_the_defaults() {
        assert_eq!(
            commands(&Spec::default()),
            [
                "ExecStart=resolved apply",
                "ExecStart=-resolved apply --docker --restart-docker idle",
                "ExecStopPost=-resolved remove --no-block"
            ]
        );
        let spec = Spec {
            client: vec!["fd00::7".parse().unwrap()],
            domain: "corp.example".parse().unwrap(),
            dns_port: "5353".parse().unwrap(),
            ..Spec::default()
        };
        assert_eq!(
            commands(&spec)[0],
            "ExecStart=resolved apply --domain corp.example --address fd00::7 --dns-port 5353"
        );
    }

    #[test]
    fn an_agent_that_answers_containers_itself_keeps_its_port() {
        for (client, lines) in [("127.0.0.1", 3), ("172.17.0.1", 2), ("0.0.0.0", 2)] {
            let spec = Spec {
                dns_port: "53".parse().unwrap(),
                client: vec![client.parse().unwrap()],
                ..Spec::default()
            };
            assert_eq!(commands(&spec).len(), lines, "{client}");
            let early = containers_unit(&spec, Manager::Systemd).unwrap();
            assert_eq!(early.is_some(), lines == 3, "{client}");
        }
    }
}
