//! How things are: what is set, and whether a name of the domain really gets to the agent.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::{docker, link, probe, system};
use crate::hint::causes;
use crate::host::files::read_if_there;
use crate::model::resolved::{
    CONTAINERS, DELEGATE, DROP_IN, LINK, LINK_ADDRESS, Mode, STANDARD_PORT, Target, container_addresses,
};

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// There is an address.
    Found,
    /// The answer is that there is none.
    Unknown,
    /// An answer that is none, or no way to ask, and why.
    Failed(String),
    /// No answer, and why.
    Silent(String),
}

/// How things are.
#[derive(Debug)]
pub struct Status {
    /// systemd's version.
    pub systemd: u32,
    /// The resolver runs.
    pub resolves: bool,
    /// How it finds the agent; `None` when nothing was applied.
    pub mode: Option<Mode>,
    /// What is set: place and value.
    pub settings: Vec<(String, String)>,
    /// Where it answers containers.
    pub containers: Vec<IpAddr>,
    /// Docker gives containers the first of these.
    pub docker: bool,
    /// The name that was asked for.
    pub name: String,
    /// What the agent says.
    pub agent: Lookup,
    /// What programs of this machine get.
    pub machine: Lookup,
    /// What containers get, if they are served.
    pub container: Option<Lookup>,
}

impl Status {
    /// Whether names of the domain get to the agent, for all that are served.
    pub fn works(&self) -> bool {
        self.mode.is_some()
            && self.machine == Lookup::Found
            && self.container.as_ref().is_none_or(|lookup| *lookup == Lookup::Found)
    }
}

/// Looks at files and links, and asks for the servers of the cluster, which every agent knows.
///
/// # Errors
/// Without systemd, or when something cannot be read.
pub fn status(target: &Target) -> anyhow::Result<Status> {
    let systemd = system::version()?;
    let resolves = system::resolves()?;
    let mut settings = Vec::new();
    let mut mode = None;
    if resolves && link::exists() {
        let (server, domain) = (link::read("dns")?, link::read("domain")?);
        if !domain.is_empty() {
            mode = Some(Mode::Link);
            settings.push((format!("dns of {LINK}"), server));
            settings.push((format!("domain of {LINK}"), domain));
        }
    }
    for path in [DELEGATE, DROP_IN] {
        let Some(text) = text_of(path)? else { continue };
        mode = Some(match path {
            DELEGATE => Mode::Delegate,
            _ if has_port(&text) => Mode::DropIn,
            _ => Mode::Plain,
        });
        settings.push((path.to_owned(), text.lines().skip(1).collect::<Vec<_>>().join(", ")));
    }
    let containers = text_of(CONTAINERS)?.map_or(Vec::new(), |text| container_addresses(&text));
    let name = format!("consul.service.{}", target.domain);
    Ok(Status {
        systemd,
        resolves,
        mode,
        settings,
        docker: docker::is_told()?,
        agent: ask(target.agent, &name),
        machine: if resolves {
            ask_as_programs_do(&name)?
        } else {
            Lookup::Failed("no resolver runs".to_owned())
        },
        container: (!containers.is_empty()).then(|| ask((LINK_ADDRESS, STANDARD_PORT).into(), &name)),
        containers,
        name,
    })
}

/// Whether the drop-in's server has a port.
fn has_port(text: &str) -> bool {
    let server = text.lines().find_map(|line| line.strip_prefix("DNS=")).unwrap_or_default();
    server.parse::<IpAddr>().is_err()
}

fn text_of(path: &str) -> anyhow::Result<Option<String>> {
    Ok(read_if_there(Path::new(path))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

pub(super) fn ask(server: SocketAddr, name: &str) -> Lookup {
    match probe::ask(server, name) {
        Ok(answer) if answer.rcode == 0 && answer.records > 0 => Lookup::Found,
        // No error, or no such name.
        Ok(answer) if answer.rcode == 0 || answer.rcode == 3 => Lookup::Unknown,
        Ok(answer) => Lookup::Failed(format!("{server} answers with code {}", answer.rcode)),
        Err(error) => Lookup::Silent(causes(&error)),
    }
}

fn ask_as_programs_do(name: &str) -> anyhow::Result<Lookup> {
    let output = system::output("resolvectl", &["--legend=no", "query", name])?;
    if output.status.success() {
        return Ok(Lookup::Found);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(if said.ends_with("not found") { Lookup::Unknown } else { Lookup::Failed(said) })
}
