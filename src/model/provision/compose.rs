//! A compose file: agent and registrator as containers, for machines with Docker and whatever else.
//!
//! Compose replaces `${NAME}` itself: what differs between machines comes from its environment, and it refuses to start
//! without, with the command that helps.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Serialize;

use super::binary::Binary;
use super::render::{RenderError, render};
use super::spec::{AddressSource, NodeSource, Spec};
use super::units::TlsValues;
use super::yaml::quoted;

/// The image when none is named: what `make image` builds.
pub const IMAGE_DEFAULT: &str = "corediscover:latest";
/// The agent's HTTP port.
const HTTP_PORT: u16 = 8500;
/// What compose puts in as the machine's name.
const MACHINE_ID: &str = "${MACHINE_ID:?set it to the content of /etc/machine-id}";

#[derive(Serialize)]
struct Values<'a> {
    servers: u8,
    image: &'a str,
    command: Vec<String>,
    /// Files of the machine that the agent reads.
    files: Vec<String>,
    registry: String,
}

/// The compose file of `spec`.
///
/// # Errors
/// Never for a template of this program.
pub fn compose(spec: &Spec) -> Result<String, RenderError> {
    let image = match &spec.binary {
        Binary::Image(name) => name.as_str(),
        // Refused before a spec for this form is made.
        Binary::Path(_) | Binary::Download { .. } => IMAGE_DEFAULT,
    };
    render(
        "compose",
        &Values {
            servers: spec.servers.count(),
            image,
            command: command(spec).iter().map(|word| quoted(word)).collect(),
            files: spec
                .etcd
                .tls()
                .map(TlsValues::of)
                .iter()
                .flat_map(TlsValues::flags)
                .map(|(_, path)| path.to_owned())
                .collect(),
            registry: format!("consul://{}", SocketAddr::new(spec.agent_address(), HTTP_PORT)),
        },
    )
}

/// The agent's arguments. The image's own configuration is for a container with a network of its own: all of it is
/// said again here.
fn command(spec: &Spec) -> Vec<String> {
    let advertise = match &spec.address {
        // The container does not see the machine's files.
        AddressSource::Private | AddressSource::Public => {
            let name = spec.address.variable();
            format!("${{{name}:?run docker compose --env-file /etc/environment up -d}}")
        }
        seen => seen.to_string().replace('$', "$$"),
    };
    let servers = spec.servers.count().to_string();
    let mut words: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|&word| word.to_owned()));
    if let Some(etcd) = spec.etcd.endpoints() {
        add(&["bootstrap", "--etcd", &etcd]);
        let files = spec.etcd.tls().map(TlsValues::of);
        for (flag, path) in files.iter().flat_map(TlsValues::flags) {
            add(&[flag, path]);
        }
        add(&["--machine-id-file", "/etc/machine-id", "--advertise", &advertise]);
        add(&["--expect", &servers, "--data-dir", "/data", "--"]);
    } else {
        add(&["agent", "-bootstrap-expect", &servers]);
        for server in spec.etcd.servers(spec.servers) {
            add(&["-server-at", &server.to_string()]);
        }
        for peer in spec.etcd.join() {
            add(&["-join", &peer.to_string()]);
        }
        add(&["-advertise", &advertise, "-data-dir", "/data"]);
    }
    add(&["-datacenter", spec.datacenter.as_str()]);
    if spec.node == NodeSource::MachineId {
        add(&["-node", MACHINE_ID]);
    }
    add(&["-domain", spec.domain.as_str(), "-dns-port", &spec.dns_port.number().to_string()]);
    let client: Vec<String> = match spec.client.as_slice() {
        [] => vec![IpAddr::V4(Ipv4Addr::LOCALHOST).to_string()],
        addresses => addresses.iter().map(ToString::to_string).collect(),
    };
    add(&["-client", &client.join(" ")]);
    words
}

#[cfg(test)]
mod tests {
    use super::compose;
    use crate::model::provision::draft::Draft;
    use crate::model::provision::etcd::TlsFiles;
    use crate::model::provision::format::Format;

    fn agent(draft: Draft) -> Vec<String> {
        let text = compose(&draft.into_spec(Format::Compose).unwrap()).unwrap();
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        serde_json::from_value(read["services"]["agent"]["command"].clone()).unwrap()
    }

    #[test]
    fn the_agent_listens_where_the_spec_says_and_not_where_the_image_does() {
        let words = agent(Draft::default());
        assert_eq!(words[..3], ["bootstrap", "--etcd", "http://127.0.0.1:2379"]);
        assert_eq!(words[words.len() - 4..], ["-dns-port", "8600", "-client", "127.0.0.1"]);
    }

    #[test]
    fn the_agent_sees_the_machines_files_for_an_etcd_with_encryption() {
        let files = ["ca", "cert", "key"].map(|name| Some(format!("/etc/etcd/{name}.pem").parse().unwrap()));
        let [ca, cert, key] = files;
        let etcd = vec!["https://10.0.0.9".parse().unwrap()];
        let draft = Draft { etcd, etcd_files: TlsFiles { ca, cert, key }, ..Draft::default() };
        let words = agent(draft.clone()).join(" ");
        let flags = "--etcd-ca /etc/etcd/ca.pem --etcd-cert /etc/etcd/cert.pem --etcd-key /etc/etcd/key.pem";
        assert!(words.contains(flags), "{words}");
        let text = compose(&draft.into_spec(Format::Compose).unwrap()).unwrap();
        assert!(text.contains("      - \"/etc/etcd/key.pem:/etc/etcd/key.pem:ro\"\n"), "{text}");
    }

    #[test]
    fn without_etcd_the_agents_join() {
        let join = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap()).to_vec();
        let words = agent(Draft { join, servers: Some("1".parse().unwrap()), ..Draft::default() });
        let wanted = "agent -bootstrap-expect 1 -server-at 10.0.0.1 -join 10.0.0.1 -join 10.0.0.2";
        assert_eq!(words[..9].join(" "), wanted);
    }

    #[test]
    fn a_template_reaches_the_agent_as_it_is() {
        let template = r#"{{ GetAllInterfaces | include "name" "^eth\\d$" | attr "address" }}"#;
        let words = agent(Draft { advertise: Some(template.parse().unwrap()), ..Draft::default() });
        assert!(words.contains(&template.replace('$', "$$")), "{words:?}");
    }

    #[test]
    fn what_differs_between_machines_comes_from_their_environment() {
        let draft = Draft {
            advertise: Some("private".parse().unwrap()),
            node: Some("machine-id".parse().unwrap()),
            ..Draft::default()
        };
        let words = agent(draft);
        assert!(words.iter().any(|word| word.starts_with("${COREOS_PRIVATE_IPV4:?")), "{words:?}");
        assert!(words.iter().any(|word| word.starts_with("${MACHINE_ID:?")), "{words:?}");
    }
}
