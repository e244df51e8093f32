//! Whether names of the domain are found: by the resolver, by programs, and inside a container.

use std::path::Path;
use std::time::Duration;

use super::machine;
use super::settings::Settings;
use crate::hint::causes;
use crate::host::{program, unit_files};
use crate::model::doctor::docker::{Engine, Facts as Docker};
use crate::model::doctor::resolver::{Answer, Facts, Inside};
use crate::model::provision::units::RESOLVED;
use crate::model::resolved::docker::TOLD;
use crate::model::resolved::firewall::Firewall;
use crate::model::resolved::{Mode, RESOLVER, Target};
use crate::registrator::a_container;
use crate::resolved::{Lookup, Status, ask_inside, firewall, status};

/// How long the resolver may take: it asks its servers one after the other, some seconds each.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long nft may take to list its chains.
const FIREWALL_WAIT: Duration = Duration::from_secs(10);
/// How long Docker may take to name a container.
const DOCKER_WAIT: Duration = Duration::from_secs(10);
/// What `getent` says when there is no such name.
const NO_SUCH_NAME: &str = "failed:";

/// What the resolver says.
#[derive(Debug)]
pub(super) struct Resolver {
    status: Status,
    /// The resolver can ask port 53 alone.
    pub(super) is_plain: bool,
}

/// Asks the resolver and the agent.
pub(super) async fn ask(settings: &Settings) -> Result<Resolver, String> {
    let Some(agent) = settings.dns_target() else { return Err("the agent's DNS is switched off".to_owned()) };
    let target = Target { agent, domain: settings.domain.clone() };
    let asked = program::within("ask the resolver", ANSWER_WAIT, move || status(&target)).await;
    asked
        .map(|status| Resolver { is_plain: status.mode == Some(Mode::Plain), status })
        .map_err(|error| causes(&error))
}

/// Asks as programs do, through the C library.
pub(super) async fn library(settings: &Settings) -> Result<Answer, String> {
    let name = format!("consul.service.{}", settings.domain);
    match program::run("getent", &["ahosts", &name], ANSWER_WAIT).await {
        Ok(_) => Ok(Answer::Found),
        Err(error) if error.to_string().contains(NO_SUCH_NAME) => Ok(Answer::Unknown),
        Err(error) => Err(causes(&error)),
    }
}

/// Asks from inside a container that runs.
pub(super) async fn inside(
    settings: &Settings,
    docker: &Result<Docker, String>,
    resolver: &Result<Resolver, String>,
) -> Result<Inside, String> {
    if !matches!(docker, Ok(Docker { engine: Engine::Answers { .. }, .. })) {
        return Err("Docker does not answer".to_owned());
    }
    let Ok(resolver) = resolver else { return Err("the resolver was not asked".to_owned()) };
    if resolver.status.containers.is_empty() {
        return Err("the resolver was not told to answer containers (`resolved apply --docker`)".to_owned());
    }
    let found = tokio::time::timeout(DOCKER_WAIT, a_container(&settings.docker_host)).await;
    let (container, pid) = match found {
        Ok(Ok(Some(found))) => found,
        Ok(Ok(None)) => return Err("no container with a network of its own runs".to_owned()),
        Ok(Err(error)) => return Err(causes(&error)),
        Err(_) => return Err(format!("Docker names no container within {DOCKER_WAIT:?}")),
    };
    let name = resolver.status.name.clone();
    let asked = program::within("ask in a container", ANSWER_WAIT, move || ask_inside(pid, &name)).await;
    let asked = asked.map_err(|error| causes(&error))?;
    Ok(Inside {
        container,
        server: asked.server,
        answer: answer_of(&asked.answer),
        behind: asked.behind.as_ref().map(answer_of),
    })
}

/// Who decides what comes in; a firewall that does not say so in time is none that is known.
pub(super) async fn find_firewall() -> Firewall {
    let looked = program::within("look at the firewall", FIREWALL_WAIT, || Ok(firewall())).await;
    looked.unwrap_or(Firewall::Iptables)
}

/// What the unit that is to serve containers could not do, if that may matter.
pub(super) async fn said(settings: &Settings, resolver: &Result<Resolver, String>) -> Option<String> {
    let is_served = |found: &Resolver| !found.status.containers.is_empty() && found.status.docker;
    if !settings.serves_containers() || resolver.as_ref().is_ok_and(is_served) {
        return None;
    }
    machine::said_since_its_start(RESOLVED).await
}

impl Resolver {
    /// For the judgement.
    pub(super) fn facts(
        &self,
        settings: &Settings,
        docker: &Result<Docker, String>,
        library: Result<Answer, String>,
        inside: Result<Inside, String>,
        said: Option<String>,
        firewall: Firewall,
    ) -> Facts {
        Facts {
            name: self.status.name.clone(),
            runs: self.status.resolves,
            applied: self.status.mode.is_some(),
            agent: answer_of(&self.status.agent),
            resolver: answer_of(&self.status.machine),
            library,
            for_containers: self.status.container.as_ref().map(answer_of),
            inside,
            unit: settings.has_unit(RESOLVED),
            installed: unit_files::find(RESOLVER).is_some(),
            docker: docker.as_ref().is_ok_and(|docker| docker.installed),
            wanted: settings.serves_containers(),
            // Until its next start dockerd may give them an address that its file has no more.
            told: self.status.docker || Path::new(TOLD).exists(),
            said,
            firewall,
            apply: format!("{} resolved apply{}", settings.program, settings.resolved_flags()),
        }
    }
}

fn answer_of(lookup: &Lookup) -> Answer {
    match lookup {
        Lookup::Found => Answer::Found,
        Lookup::Unknown => Answer::Unknown,
        Lookup::Failed(reason) => Answer::Failed(reason.clone()),
        Lookup::Silent(reason) => Answer::Silent(reason.clone()),
    }
}
