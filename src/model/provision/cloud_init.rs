//! User-data for cloud-init: Debian, Ubuntu and other machines with systemd and apt.
//!
//! Files are written and commands run once in a machine's life; what has to happen at every boot is in the units.

use serde::Serialize;

use super::binary::Binary;
use super::render::{RenderError, indented, render};
use super::spec::Spec;
use super::units::{INSTALL, Manager, RESOLVED, UnitFile, unit_files};
use crate::model::resolved::{KEEP_SERVERS, PACKAGES as PACKAGES_RESOLVER};

/// The unit that installs what is missing; it is only written here, where apt is.
const PACKAGES: &str = "corediscover-packages.service";
/// Longest pause between two tries, in seconds.
const PAUSE_MAX: u8 = 60;
/// Indentation of a unit's text: below `content:` of an entry in `write_files`.
const CONTENT_INDENT: usize = 6;

#[derive(Serialize)]
struct Values {
    servers: u8,
    files: Vec<FileValues>,
    units: Vec<String>,
}

#[derive(Serialize)]
struct FileValues {
    name: &'static str,
    content: String,
}

/// A program that has to be there.
#[derive(Serialize)]
struct Need {
    program: &'static str,
    /// Debian packages with it, and what it does not work without. Only what is missing is asked for: older systems have no
    /// package of some of these, but the program in another.
    packages: &'static str,
    /// What is done before they are installed.
    before: Option<&'static str>,
}

#[derive(Serialize)]
struct PackagesValues {
    needs: Vec<Need>,
    /// The unit that may have found too little before, and is started again: it does not wait, for a machine without these
    /// packages and without a network would wait for ever.
    awaited_by: &'static str,
    pause_max: u8,
    ending: &'static str,
}

/// `corediscover-packages.service`.
fn packages_unit(spec: &Spec) -> Result<UnitFile, RenderError> {
    let need = |program, packages| Need { program, packages, before: None };
    let mut needs = match spec.binary {
        Binary::Download { .. } => {
            vec![need("dockerd", "docker.io ca-certificates"), need("curl", "curl ca-certificates")]
        }
        Binary::Path(_) | Binary::Image(_) => vec![need("dockerd", "docker.io")],
    };
    // All packages are fetched before the first one is installed: this one ends the resolver that fetches them.
    needs.push(Need { before: Some(KEEP_SERVERS), ..need("resolvectl", PACKAGES_RESOLVER) });
    let values = PackagesValues {
        needs,
        awaited_by: RESOLVED,
        pause_max: PAUSE_MAX,
        ending: Manager::Systemd.ending(),
    };
    Ok(UnitFile { name: PACKAGES, text: render("packages", &values)? })
}

/// The user-data of `spec`.
///
/// # Errors
/// Never for a template of this program.
pub fn cloud_init(spec: &Spec) -> Result<String, RenderError> {
    let mut files = vec![packages_unit(spec)?];
    files.extend(unit_files(spec, Manager::Systemd)?);
    render(
        "cloud-init",
        &Values {
            servers: spec.servers.count(),
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
        assert_eq!(read["write_files"].as_array().unwrap().len(), 5);
        let commands = read["runcmd"].as_array().unwrap();
        let start = commands.last().unwrap().as_array().unwrap();
        assert_eq!(start[..3], ["systemctl", "--no-block", "start"], "{text}");
        assert!(start.contains(&"corediscover-agent.service".into()), "{text}");
        assert!(!text.contains("curl"), "nothing is fetched: {text}");
    }

    #[test]
    fn a_machine_without_a_resolver_is_given_one_before_it_is_told_of_the_agent() {
        let text = cloud_init(&Spec::default()).unwrap();
        let line = "command -v resolvectl >/dev/null || {";
        let line = text.lines().find(|found| found.contains(line)).unwrap();
        let (kept, asked_for) = line.split_once("resolved.conf.d/50-kept.conf; fi ); ").unwrap();
        assert!(kept.contains("/etc/resolv.conf"), "the servers that it has stay: {kept}");
        assert!(asked_for.contains("$$missing systemd-resolved libnss-resolve\""), "{asked_for}");
        // One that has it is told at once, network or not; one that has not when it is installed.
        let (_, later) = text.split_once("test -z \"$$installed\" || ").unwrap();
        assert!(
            later.starts_with("systemctl --no-block restart corediscover-resolved.service || :'"),
            "{later}"
        );
        assert!(!text.contains("Before=corediscover-resolved.service"), "nobody waits for a network: {text}");
    }

    #[test]
    fn a_machine_that_fetches_the_binary_has_curl() {
        let binary = format!("url=https://a.example/c,sha512={}", "0".repeat(128)).parse().unwrap();
        let text = cloud_init(&Spec { binary, ..Spec::default() }).unwrap();
        assert!(text.contains("command -v curl"), "{text}");
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read["write_files"].as_array().unwrap().len(), 6);
    }
}
