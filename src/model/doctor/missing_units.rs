//! The units that a machine should have, and the command that writes those that are missing: with the settings of the units
//! that are there, and nothing in place of these.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::fleet::shell::quote;
use crate::model::provision::Spec;
use crate::model::provision::binary::BINARY_PATH;
use crate::model::provision::render::RenderError;
use crate::model::provision::spec::{DnsPort, Domain};
use crate::model::provision::units::{AGENT, Manager, has_use, unit_files};

/// Where the administrator's units are.
const FOLDER: &str = "/etc/systemd/system";

/// What is known of the settings of this machine's units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// This program, as a shell finds it.
    pub program: String,
    /// The binary that the units run; `None`: the usual one.
    pub binary: Option<String>,
    /// The domain that DNS serves.
    pub domain: String,
    /// The port of the agent's DNS; `None` where it has none.
    pub dns_port: Option<u16>,
    /// Where the agent listens.
    pub client: Vec<IpAddr>,
    /// The flags that say where the machines meet.
    pub meet: Vec<(&'static str, String)>,
    /// The units are fleet's.
    pub fleet: bool,
    /// Docker is there.
    pub docker: bool,
    /// systemd-resolved is there.
    pub resolver: bool,
}

impl Known {
    /// The units that such a machine has, in the order in which they start.
    ///
    /// # Errors
    /// Never for a template of this program.
    pub fn wanted(&self) -> Result<Vec<&'static str>, RenderError> {
        let port = self.dns_port.and_then(|port| port.to_string().parse().ok());
        let spec = Spec {
            dns_port: port.unwrap_or_default(),
            client: self.client.clone(),
            fleet: self.fleet,
            ..Spec::default()
        };
        let manager = if self.fleet { Manager::Fleet } else { Manager::Systemd };
        let names = unit_files(&spec, manager)?.into_iter().map(|file| file.name);
        Ok(names.filter(|name| has_use(name, self.docker, self.resolver)).collect())
    }

    /// Writes these units and no other. What only the agent's unit says is left out where that one is not written.
    pub fn command(&self, names: &[&str]) -> String {
        let mut words = vec!["units".to_owned(), "--systemd".to_owned()];
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        for name in names {
            add("--only", (*name).to_owned());
        }
        if names.contains(&AGENT) {
            self.meet.iter().for_each(|(flag, value)| add(flag, value.clone()));
        }
        if let Some(binary) = self.binary.as_ref().filter(|binary| *binary != BINARY_PATH) {
            add("--binary", format!("path={binary}"));
        }
        if self.domain != Domain::default().as_str() {
            add("--domain", self.domain.clone());
        }
        if let Some(port) = self.dns_port.filter(|port| *port != DnsPort::default().number()) {
            add("--dns-port", port.to_string());
        }
        if !self.client.is_empty() && self.client != [IpAddr::V4(Ipv4Addr::LOCALHOST)] {
            let addresses: Vec<String> = self.client.iter().map(ToString::to_string).collect();
            add("--client", addresses.join(","));
        }
        add("--out", FOLDER.to_owned());
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        format!("{} {}", self.program, words.join(" "))
    }
}
