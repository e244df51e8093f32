//! The unit files of a machine: for systemd alone, or for fleet, which puts a copy on every machine.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::binary::{Binary, IMAGE_BINARY_PATH};
use super::endpoint::{MachineFile, Tls};
use super::render::{RenderError, render};
use super::resolved;
use super::spec::{DnsPort, NodeSource, Spec};

/// The agent's unit.
pub const AGENT: &str = "corediscover-agent.service";
/// The registrator's unit.
pub const REGISTRATOR: &str = "corediscover-registrator.service";
/// The unit that points the machine's resolver at the agent.
pub const RESOLVED: &str = "corediscover-resolved.service";
/// The unit that makes the resolver answer containers before Docker starts them.
pub const CONTAINERS: &str = "corediscover-containers.service";
/// The unit that fetches the binary; only written when it has to be fetched.
pub const INSTALL: &str = "corediscover-install.service";

/// All our units, in the order in which they should start. Which of them a machine has is for [`unit_files`] to say.
pub const ALL: [&str; 5] = [INSTALL, AGENT, REGISTRATOR, CONTAINERS, RESOLVED];

/// Whether a unit has something to do on a machine with or without Docker, and with or without systemd-resolved.
pub fn has_use(name: &str, docker: bool, resolver: bool) -> bool {
    match name {
        REGISTRATOR => docker,
        RESOLVED => resolver,
        CONTAINERS => docker && resolver,
        _ => true,
    }
}

/// Tries to get a new binary before the one that is there goes on: with the pauses between them about a quarter of a minute,
/// which a boot can wait. A machine with no binary tries for ever.
const TRIES: u8 = 5;
/// Longest pause between two tries, in seconds.
const PAUSE_MAX: u8 = 60;
/// The agent's HTTP port.
const HTTP_PORT: u16 = 8500;

/// Who starts the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// systemd: `systemctl enable --now`.
    Systemd,
    /// fleet: one global unit, a copy on every machine that is there or comes.
    Fleet,
}

impl Manager {
    /// The last section of each unit. A global unit has no `[Install]`: fleet starts it, and some versions of fleet
    /// would also enable it, so that it ran without fleet.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Systemd => "[Install]\nWantedBy=multi-user.target",
            Self::Fleet => "[X-Fleet]\nGlobal=true",
        }
    }
}

/// One unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

/// Files on the machines for etcd's encryption, for templates.
#[derive(Serialize)]
pub(super) struct TlsValues {
    ca: String,
    cert: Option<String>,
    key: Option<String>,
}

impl TlsValues {
    pub(super) fn of(tls: &Tls<MachineFile>) -> Self {
        let identity = tls.identity.as_ref();
        Self {
            ca: tls.ca.to_string(),
            cert: identity.map(|(cert, _)| cert.to_string()),
            key: identity.map(|(_, key)| key.to_string()),
        }
    }

    /// The files, with the flags of `bootstrap` that name them.
    pub(super) fn flags(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let files = [
            ("--etcd-ca", Some(&self.ca)),
            ("--etcd-cert", self.cert.as_ref()),
            ("--etcd-key", self.key.as_ref()),
        ];
        files.into_iter().filter_map(|(flag, path)| Some((flag, path?.as_str())))
    }
}

#[derive(Serialize)]
struct AgentValues<'a> {
    head: &'a str,
    binary: &'a str,
    installs: bool,
    advertise: String,
    etcd: Option<String>,
    etcd_files: Option<TlsValues>,
    join: Vec<String>,
    /// The machines that are servers; empty: this one is or is not, as `is_server` says.
    server_at: Vec<String>,
    is_server: bool,
    servers: u8,
    agent_flags: String,
    ending: &'a str,
}

#[derive(Serialize)]
struct RegistratorValues<'a> {
    binary: &'a str,
    registry: String,
    ending: &'a str,
}

#[derive(Serialize)]
struct InstallValues<'a> {
    binary: &'a str,
    folder: &'a str,
    file: &'a str,
    url: Option<String>,
    sha512: Option<&'a str>,
    image: Option<&'a str>,
    image_binary: &'a str,
    tries: u8,
    pause_max: u8,
    ending: &'a str,
}

/// What one machine is in a cluster whose servers are named beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// How its agent's unit begins.
    pub head: &'a str,
    /// Where the others reach it.
    pub advertise: IpAddr,
    /// Whether it is one of the servers that begin the cluster.
    pub is_server: bool,
}

/// How a unit begins that is the same on every machine.
const HEAD: &str = "Written by corediscover. The same text serves every machine of the cluster.";

/// All unit files of `spec`, in the order in which they should start.
///
/// # Errors
/// Never for a template of this program.
pub fn unit_files(spec: &Spec, manager: Manager) -> Result<Vec<UnitFile>, RenderError> {
    all_files(spec, manager, None)
}

/// As [`unit_files`], for one machine alone.
///
/// # Errors
/// Never for a template of this program.
pub fn unit_files_at(spec: &Spec, place: Place<'_>) -> Result<Vec<UnitFile>, RenderError> {
    all_files(spec, Manager::Systemd, Some(place))
}

fn all_files(spec: &Spec, manager: Manager, place: Option<Place<'_>>) -> Result<Vec<UnitFile>, RenderError> {
    let mut files = Vec::new();
    if let Some(text) = install(spec, manager)? {
        files.push(UnitFile { name: INSTALL, text });
    }
    files.push(UnitFile { name: AGENT, text: agent(spec, manager, place)? });
    files.push(UnitFile { name: REGISTRATOR, text: registrator(spec, manager)? });
    if let Some(text) = resolved::containers_unit(spec, manager)? {
        files.push(UnitFile { name: CONTAINERS, text });
    }
    files.push(UnitFile { name: RESOLVED, text: resolved::unit(spec, manager)? });
    Ok(files)
}

fn agent(spec: &Spec, manager: Manager, place: Option<Place<'_>>) -> Result<String, RenderError> {
    let source = || unit_word(&spec.address.to_string());
    let peers = spec.etcd.join();
    let named = if place.is_none() { spec.etcd.servers(spec.servers) } else { &[] };
    render(
        "agent",
        &AgentValues {
            head: place.map_or(HEAD, |place| place.head),
            binary: spec.binary.path(),
            installs: !matches!(spec.binary, Binary::Path(_)),
            advertise: place.map_or_else(source, |place| place.advertise.to_string()),
            etcd: spec.etcd.endpoints(),
            etcd_files: spec.etcd.tls().map(TlsValues::of),
            join: peers.iter().map(ToString::to_string).collect(),
            server_at: named.iter().map(ToString::to_string).collect(),
            is_server: place.is_some_and(|place| place.is_server),
            servers: spec.servers.count(),
            agent_flags: agent_flags(spec),
            ending: manager.ending(),
        },
    )
}

/// A word of a command line as systemd reads it: templates have blanks and quotes, which single quotes keep; `%` begins a
/// specifier and `$` a variable, inside quotes too.
fn unit_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:@".contains(&byte);
    if text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut word = String::from("'");
    for character in text.chars() {
        match character {
            '%' => word.push_str("%%"),
            '$' => word.push_str("$$"),
            '\'' | '\\' => word.extend(['\\', character]),
            other => word.push(other),
        }
    }
    word.push('\'');
    word
}

/// What the agent must be told beside its role; its own defaults are left unsaid.
fn agent_flags(spec: &Spec) -> String {
    let mut flags = format!("-datacenter {}", spec.datacenter);
    let mut add = |flag: &str| {
        flags.push(' ');
        flags.push_str(flag);
    };
    if spec.node == NodeSource::MachineId {
        add("-node %m");
    }
    if !spec.domain.is_default() {
        add(&format!("-domain {}", spec.domain.as_str()));
    }
    if spec.dns_port != DnsPort::default() {
        add(&format!("-dns-port {}", spec.dns_port.number()));
    }
    if !spec.client.is_empty() {
        let addresses: Vec<String> = spec.client.iter().map(ToString::to_string).collect();
        add(&format!("-client \"{}\"", addresses.join(" ")));
    }
    flags
}

fn registrator(spec: &Spec, manager: Manager) -> Result<String, RenderError> {
    let registry = format!("consul://{}", SocketAddr::new(spec.agent_address(), HTTP_PORT));
    render(
        "registrator",
        &RegistratorValues { binary: spec.binary.path(), registry, ending: manager.ending() },
    )
}

fn install(spec: &Spec, manager: Manager) -> Result<Option<String>, RenderError> {
    let (url, sha512, image) = match &spec.binary {
        Binary::Path(_) => return Ok(None),
        // systemd reads `%` as the start of a specifier.
        Binary::Download { url, sha512 } => {
            (Some(url.as_str().replace('%', "%%")), Some(sha512.as_str()), None)
        }
        Binary::Image(name) => (None, None, Some(name.as_str())),
    };
    let binary = spec.binary.path();
    let (folder, file) = binary.rsplit_once('/').unwrap_or(("", binary));
    render(
        "install",
        &InstallValues {
            binary,
            folder,
            file,
            url,
            sha512,
            image,
            image_binary: IMAGE_BINARY_PATH,
            tries: TRIES,
            pause_max: PAUSE_MAX,
            ending: manager.ending(),
        },
    )
    .map(Some)
}

#[cfg(test)]
mod tests {
    use super::{Manager, UnitFile, unit_files};
    use crate::model::provision::Spec;
    use crate::model::provision::etcd::{Etcd, TlsFiles};
    use crate::model::provision::spec::{AddressSource, NodeSource};

    fn text(spec: &Spec, manager: Manager, name: &str) -> String {
        let files = unit_files(spec, manager).unwrap();
        files.into_iter().find(|file| file.name == name).unwrap().text
    }

    #[test]
    fn the_agent_gets_the_options_that_differ_from_its_defaults() {
        let spec = Spec {
            servers: "5".parse().unwrap(),
            datacenter: "ams".parse().unwrap(),
            domain: "corp.example".parse().unwrap(),
            address: AddressSource::Auto,
            node: NodeSource::MachineId,
            dns_port: "53".parse().unwrap(),
            client: vec!["127.0.0.1".parse().unwrap(), "172.17.0.1".parse().unwrap()],
            ..Spec::default()
        };
        let unit = text(&spec, Manager::Systemd, super::AGENT);
        assert!(
            unit.contains(
                "  -- -datacenter ams -node %m -domain corp.example -dns-port 53 -client \"127.0.0.1 172.17.0.1\"\n"
            ),
            "{unit}"
        );
        assert!(unit.contains("  --advertise auto \\\n") && unit.contains("  --expect 5 \\\n"), "{unit}");
        assert!(!unit.contains("/etc/environment"), "{unit}");
    }

    #[test]
    fn the_agent_looks_its_address_up_itself() {
        for (source, written) in [
            ("private", "--advertise private "),
            ("interface:eth1", "--advertise interface:eth1 "),
            (
                r#"{{ GetAllInterfaces | include "name" "^e\\d%$" | attr 'address' }}"#,
                r#"--advertise '{{ GetAllInterfaces | include "name" "^e\\\\d%%$$" | attr \'address\' }}' "#,
            ),
        ] {
            let address = match source.parse() {
                Ok(address) => address,
                // The single quotes are no template's: only how they are written matters here.
                Err(_) => AddressSource::Template(source.to_owned()),
            };
            let unit = text(&Spec { address, ..Spec::default() }, Manager::Systemd, super::AGENT);
            assert!(unit.contains(written), "{unit}");
            assert!(!unit.contains("/bin/sh") && !unit.contains("/etc/environment"), "{unit}");
        }
    }

    #[test]
    fn the_agent_reads_copies_of_the_files_for_etcds_encryption_that_root_made() {
        let path = |name: &str| Some(format!("/etc/etcd/{name}").parse().unwrap());
        let files = TlsFiles { ca: path("ca.pem"), cert: path("a.crt"), key: path("a.key") };
        let endpoints = vec!["https://10.0.0.9".parse().unwrap()];
        let etcd = Etcd::new(endpoints, None, vec![], files).unwrap();
        let unit = text(&Spec { etcd, fleet: false, ..Spec::default() }, Manager::Systemd, super::AGENT);
        // It has a user of its own, who may not read what is root's.
        for line in [
            "DynamicUser=yes",
            "RuntimeDirectory=corediscover-etcd",
            "RuntimeDirectoryMode=0700",
            "ExecStartPre=+/usr/bin/install -m 0444 /etc/etcd/a.key /run/corediscover-etcd/key.pem",
            "  --etcd https://10.0.0.9:2379 \\",
            "  --etcd-ca /run/corediscover-etcd/ca.pem \\",
            "  --etcd-cert /run/corediscover-etcd/cert.pem \\",
            "  --etcd-key /run/corediscover-etcd/key.pem \\",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line} is not in: {unit}");
        }
    }

    #[test]
    fn a_global_unit_has_no_install_section_and_a_plain_one_no_fleet_section() {
        for UnitFile { name, text } in unit_files(&Spec::default(), Manager::Fleet).unwrap() {
            assert!(text.ends_with("\n\n[X-Fleet]\nGlobal=true\n") && !text.contains("[Install]"), "{name}");
        }
        for UnitFile { name, text } in unit_files(&Spec::default(), Manager::Systemd).unwrap() {
            assert!(text.ends_with("\n\n[Install]\nWantedBy=multi-user.target\n"), "{name}");
            assert!(!text.contains("X-Fleet"), "{name}");
        }
    }

    #[test]
    fn a_binary_that_must_be_fetched_is_there_before_the_agent_starts() {
        let binary = format!("url=https://a.example/c%20d,sha512={}", "0".repeat(128)).parse().unwrap();
        let spec = Spec { binary, ..Spec::default() };
        assert!(
            text(&spec, Manager::Systemd, super::AGENT).contains("Requires=corediscover-install.service\n")
        );
        assert!(text(&spec, Manager::Systemd, super::INSTALL).contains("\"https://a.example/c%%20d\""));
        assert_eq!(unit_files(&Spec::default(), Manager::Systemd).unwrap().len(), 4);
    }

    #[test]
    fn all_units_are_known_by_name_in_the_order_in_which_they_start() {
        let spec = Spec { binary: "image=corediscover:1".parse().unwrap(), ..Spec::default() };
        let names: Vec<&str> =
            unit_files(&spec, Manager::Systemd).unwrap().iter().map(|file| file.name).collect();
        assert_eq!(names, super::ALL);
    }

    #[test]
    fn the_units_readme_describes_and_enables_every_unit_that_is_written() {
        let readme = include_str!("../../../units/README.md");
        let files = unit_files(&Spec::default(), Manager::Systemd).unwrap();
        let words: Vec<&str> = files.iter().map(|file| file.name.trim_end_matches(".service")).collect();
        assert!(readme.contains(&format!("systemctl enable --now {}`", words.join(" "))), "{readme}");
        for file in files {
            assert!(readme.contains(&format!("\n| `{}` | ", file.name)), "{} is not in the table", file.name);
        }
    }

    #[test]
    fn the_registrator_asks_the_agent_where_it_listens() {
        for (client, registry) in
            [("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("fd00::7", "[fd00::7]"), ("::", "[::1]")]
        {
            let spec = Spec { client: vec![client.parse().unwrap()], ..Spec::default() };
            let unit = text(&spec, Manager::Systemd, super::REGISTRATOR);
            assert!(unit.contains(&format!("registrator consul://{registry}:8500\n")), "{unit}");
        }
    }
}
