//! User-data for CoreOS: one `#cloud-config`, the same bytes for every machine and every boot.
//!
//! coreos-cloudinit replaces `$private_ipv4` and `$public_ipv4` on the machine; everything else in it is literal.

use serde::Serialize;

use super::etcd::{DISCOVERY_PLACEHOLDER, Etcd};
use super::render::{RenderError, indented, render};
use super::spec::Spec;
use super::units::{INSTALL, Manager, TlsValues, unit_files};

/// Indentation of a unit's text: below `content:` of an entry in `coreos.units`.
const CONTENT_INDENT: usize = 8;
/// Indentation of a drop-in's text: below `content:` of an entry in `drop_ins`.
const DROP_IN_INDENT: usize = 12;

#[derive(Serialize)]
struct Values {
    servers: u8,
    placeholder: bool,
    discovery: Option<String>,
    fleet: bool,
    etcd: Option<String>,
    etcd_files: Option<TlsValues>,
    address: &'static str,
    units: Vec<UnitValues>,
}

#[derive(Serialize)]
struct UnitValues {
    name: String,
    start: bool,
    content: Option<String>,
    drop_in: Option<DropIn>,
}

#[derive(Serialize)]
struct DropIn {
    name: &'static str,
    content: String,
}

#[derive(Serialize)]
struct ChecksValues {
    variable: &'static str,
    placeholder: bool,
}

/// The cloud-config of `spec`.
///
/// # Errors
/// Never for a template of this program.
pub fn cloud_config(spec: &Spec) -> Result<String, RenderError> {
    let discovery = match &spec.etcd {
        Etcd::Local { discovery: Some(url) } => Some(url.to_string()),
        Etcd::Local { discovery: None } => Some(DISCOVERY_PLACEHOLDER.to_owned()),
        Etcd::Given { .. } | Etcd::Absent { .. } => None,
    };
    let placeholder = needs_discovery(spec);
    let mut units = vec![plain("docker.service")];
    if discovery.is_some() {
        let checks =
            render("etcd2-checks", &ChecksValues { variable: spec.address.variable(), placeholder })?;
        let drop_in = DropIn { name: "10-checks.conf", content: indented(&checks, DROP_IN_INDENT) };
        units.push(UnitValues { drop_in: Some(drop_in), ..plain("etcd2.service") });
    }
    if spec.fleet {
        units.push(plain("fleet.service"));
    }
    for file in unit_files(spec, Manager::Systemd)? {
        units.push(UnitValues {
            // The agent's unit requires it, and waits for it.
            start: file.name != INSTALL,
            content: Some(indented(&file.text, CONTENT_INDENT)),
            ..plain(file.name)
        });
    }
    render(
        "cloud-config",
        &Values {
            servers: spec.servers.count(),
            placeholder,
            discovery,
            fleet: spec.fleet,
            etcd: spec.etcd.endpoints(),
            etcd_files: spec.etcd.tls().map(TlsValues::of),
            address: spec.address.substitution(),
            units,
        },
    )
}

/// Whether a discovery URL has to be put into the cloud-config of `spec` before machines can use it.
pub fn needs_discovery(spec: &Spec) -> bool {
    spec.etcd == Etcd::Local { discovery: None }
}

fn plain(name: &str) -> UnitValues {
    UnitValues { name: name.to_owned(), start: true, content: None, drop_in: None }
}

#[cfg(test)]
mod tests {
    use super::cloud_config;
    use crate::model::provision::Spec;
    use crate::model::provision::draft::Draft;
    use crate::model::provision::etcd::{Etcd, TlsFiles};
    use crate::model::provision::format::Format;
    use crate::model::provision::spec::AddressSource;

    #[test]
    fn the_machines_own_etcd_is_configured_with_the_discovery_url() {
        let spec = Spec {
            etcd: Etcd::Local { discovery: Some("https://discovery.example/1".parse().unwrap()) },
            address: AddressSource::Public,
            ..Spec::default()
        };
        let text = cloud_config(&spec).unwrap();
        assert!(text.starts_with("#cloud-config\n"));
        assert!(text.contains("    discovery: \"https://discovery.example/1\"\n"), "{text}");
        assert!(text.contains("\"http://$public_ipv4:2379\"") && !text.contains("$private_ipv4"), "{text}");
        assert!(!text.contains("<token>"), "{text}");
    }

    #[test]
    fn without_a_discovery_url_the_file_says_what_to_replace_and_etcd2_refuses_to_start() {
        let text = cloud_config(&Spec::default()).unwrap();
        assert!(text.contains("# BEFORE THE FIRST BOOT: replace <token>"), "{text}");
        assert!(text.contains("*\"<token>\") echo"), "{text}");
    }

    #[test]
    fn machines_with_another_etcd_run_none_themselves() {
        let draft = Draft {
            etcd: ["https://10.0.0.9:2379", "https://10.0.0.8:2379"].map(|url| url.parse().unwrap()).to_vec(),
            etcd_files: TlsFiles {
                ca: Some("/etc/etcd/ca.pem".parse().unwrap()),
                cert: Some("/etc/etcd/cert.pem".parse().unwrap()),
                key: Some("/etc/etcd/key.pem".parse().unwrap()),
            },
            ..Draft::default()
        };
        let with_fleet = Draft { fleet: Some(true), ..draft.clone() }.into_spec(Format::CloudConfig).unwrap();
        let fleet = cloud_config(&with_fleet).unwrap();
        assert!(
            fleet.contains(
                "    etcd_cafile: \"/etc/etcd/ca.pem\"\n    etcd_certfile: \"/etc/etcd/cert.pem\"\n"
            ),
            "{fleet}"
        );
        assert!(fleet.contains("    etcd_keyfile: \"/etc/etcd/key.pem\"\n"), "{fleet}");
        let spec = draft.into_spec(Format::CloudConfig).unwrap();
        let text = cloud_config(&spec).unwrap();
        assert!(!text.contains("  etcd2:") && !text.contains("fleet.service"), "{text}");
        assert!(!text.contains("\"etcd2.service\""), "{text}");
        assert!(text.contains("--etcd https://10.0.0.9:2379,https://10.0.0.8:2379 \\\n"), "{text}");
        assert!(text.contains("--etcd-ca /run/corediscover-etcd/ca.pem \\\n"), "{text}");
    }
}
