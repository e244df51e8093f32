//! How a machine's own resolver finds the agent: a drop-in of systemd-resolved.
//!
//! The drop-in lives under `/run`, so a machine that lost its power comes up with its own resolvers alone. The unit
//! writes it when the agent is ready, restarts the resolver only if it changed, and removes it when it stops.

use std::net::IpAddr;

use serde::Serialize;

use super::render::{RenderError, render};
use super::spec::Spec;
use super::units::Manager;

/// Folder of the drop-in; systemd-resolved reads it beside `/etc/systemd/resolved.conf.d`.
pub const FOLDER: &str = "/run/systemd/resolved.conf.d";
/// The name that consul-coreos used: it sorts first, because the first server is asked first.
pub const FILE: &str = "00-consul-dns.conf";
/// The port that needs no mention in `DNS=`; others need systemd 246.
const DNS_PORT_STANDARD: u16 = 53;

#[derive(Serialize)]
struct Values<'a> {
    folder: &'a str,
    file: &'a str,
    domain: &'a str,
    dns_port: u16,
    port_needs_version: bool,
    drop_in_lines: Vec<String>,
    ending: &'a str,
}

/// The lines of the drop-in.
fn drop_in_lines(spec: &Spec) -> Vec<String> {
    let server = match (spec.agent_address(), spec.dns_port.number()) {
        (address, DNS_PORT_STANDARD) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    };
    vec!["[Resolve]".to_owned(), format!("DNS={server}"), format!("Domains=~{}", spec.domain.as_str())]
}

/// The drop-in itself.
pub fn drop_in(spec: &Spec) -> String {
    let mut text = drop_in_lines(spec).join("\n");
    text.push('\n');
    text
}

/// `corediscover-resolved.service`.
///
/// # Errors
/// Never for a template of this program.
pub fn unit(spec: &Spec, manager: Manager) -> Result<String, RenderError> {
    let port = spec.dns_port.number();
    render(
        "resolved",
        &Values {
            folder: FOLDER,
            file: FILE,
            domain: spec.domain.as_str(),
            dns_port: port,
            port_needs_version: port != DNS_PORT_STANDARD,
            drop_in_lines: drop_in_lines(spec),
            ending: manager.ending(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::drop_in;
    use crate::model::provision::Spec;

    #[test]
    fn the_drop_in_names_the_agent_and_only_its_domain() {
        assert_eq!(drop_in(&Spec::default()), "[Resolve]\nDNS=127.0.0.1:8600\nDomains=~consul\n");
    }

    #[test]
    fn old_resolvers_get_no_port_and_special_addresses_are_followed() {
        let spec = Spec { dns_port: "53".parse().unwrap(), ..Spec::default() };
        assert_eq!(drop_in(&spec), "[Resolve]\nDNS=127.0.0.1\nDomains=~consul\n");
        let spec = Spec {
            client: vec!["fd00::7".parse().unwrap()],
            domain: "corp.example".parse().unwrap(),
            ..Spec::default()
        };
        assert_eq!(drop_in(&spec), "[Resolve]\nDNS=[fd00::7]:8600\nDomains=~corp.example\n");
    }
}
