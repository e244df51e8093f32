//! User-data for cloud-init: Debian, Ubuntu and other machines with systemd and apt.
//!
//! Files are written and commands run once in a machine's life; what has to happen at every boot is in the units.

use serde::Serialize;

use super::binary::Binary;
use super::render::{RenderError, indented, render};
use super::spec::Spec;
use super::units::{INSTALL, Manager, unit_files};

/// Indentation of a unit's text: below `content:` of an entry in `write_files`.
const CONTENT_INDENT: usize = 6;

#[derive(Serialize)]
struct Values {
    servers: u8,
    downloads: bool,
    files: Vec<FileValues>,
    units: Vec<String>,
}

#[derive(Serialize)]
struct FileValues {
    name: &'static str,
    content: String,
}

/// The user-data of `spec`.
///
/// # Errors
/// Never for a template of this program.
pub fn cloud_init(spec: &Spec) -> Result<String, RenderError> {
    let files = unit_files(spec, Manager::Systemd)?;
    render(
        "cloud-init",
        &Values {
            servers: spec.servers.count(),
            downloads: matches!(spec.binary, Binary::Download { .. }),
            // The agent's unit requires the one that fetches the binary, and waits for it.
            units: files
                .iter()
                .filter(|file| file.name != INSTALL)
                .map(|file| file.name.to_owned())
                .collect(),
            files: files
                .into_iter()
                .map(|file| FileValues { name: file.name, content: indented(&file.text, CONTENT_INDENT) })
                .collect(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::cloud_init;
    use crate::model::provision::Spec;

    #[test]
    fn units_are_written_enabled_and_started_without_waiting() {
        let text = cloud_init(&Spec::default()).unwrap();
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read["write_files"].as_array().unwrap().len(), 3);
        let commands = read["runcmd"].as_array().unwrap();
        let start = commands.last().unwrap().as_array().unwrap();
        assert_eq!(start[..3], ["systemctl", "--no-block", "start"], "{text}");
        assert!(start.contains(&"corediscover-agent.service".into()), "{text}");
        assert!(!text.contains("curl"), "nothing is fetched: {text}");
    }

    #[test]
    fn a_machine_that_fetches_the_binary_has_curl() {
        let binary = format!("url=https://a.example/c,sha512={}", "0".repeat(128)).parse().unwrap();
        let text = cloud_init(&Spec { binary, ..Spec::default() }).unwrap();
        assert!(text.contains("command -v curl"), "{text}");
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read["write_files"].as_array().unwrap().len(), 4);
    }
}
