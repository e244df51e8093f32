//! The only place that speaks with Docker: lists and inspects containers, follows its events.
//!
//! Events are never acted on; they say which containers to read again. What is not understood is reported as
//! unreadable, so that nothing is concluded from it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Context as _;
use async_trait::async_trait;
use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, EventMessage, HealthStatusEnum,
    NetworkSettings,
};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::engine::{Engine, Identity, Listing};
use crate::hint::WithHint as _;
use crate::model::registration::facts::{HealthStatus, short_id};
use crate::model::registration::{Binding, Facts, Health, NetworkMode, Port, State};

/// Where the original expects the socket: `docker run -v /var/run/docker.sock:/tmp/docker.sock`.
const SOCKET_OF_THE_ORIGINAL: &str = "/tmp/docker.sock";
/// Where the engine puts it.
pub const SOCKET_DEFAULT: &str = "/var/run/docker.sock";
/// How long Docker may take to begin an answer, in seconds. Inspecting is quick; a loaded engine is not.
const ANSWER_SECONDS_MAX: u64 = 20;
/// Containers that are inspected at the same time; more would only queue up inside the engine.
const INSPECTED_AT_ONCE: usize = 8;
/// Network mode of a container that shares the network of another; its id follows.
const CONTAINER_MODE_PREFIX: &str = "container:";

/// A connection to the engine of this machine.
pub struct DockerEngine {
    docker: Docker,
    known: Mutex<Known>,
}

/// What has been read and not been touched by an event since.
#[derive(Default)]
struct Known {
    facts: HashMap<String, Facts>,
    /// Counts events, so that what was read while one arrived is not taken for fresh.
    events: u64,
    last_event_nanoseconds: Option<i64>,
}

impl DockerEngine {
    /// Connects to the engine at `host` (the form of `DOCKER_HOST`); without one, to the socket where the original
    /// expects it, else where the engine puts it.
    ///
    /// # Errors
    /// When no engine answers there.
    pub async fn connect(host: Option<&str>) -> anyhow::Result<Self> {
        let host = match host {
            Some(host) if !host.is_empty() => host.to_owned(),
            _ if Path::new(SOCKET_OF_THE_ORIGINAL).exists() => format!("unix://{SOCKET_OF_THE_ORIGINAL}"),
            _ => format!("unix://{SOCKET_DEFAULT}"),
        };
        let docker = open(&host).await.with_context(|| format!("cannot reach Docker at {host}")).hint(
            "in a container add `-v /var/run/docker.sock:/tmp/docker.sock`; elsewhere set DOCKER_HOST",
        )?;
        Ok(Self { docker, known: Mutex::default() })
    }

    async fn inspect(&self, id: &str) -> Result<Option<Facts>, Error> {
        match self.docker.inspect_container(id, None::<InspectContainerOptions>).await {
            Ok(container) => Ok(Some(self.facts(container).await?)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn facts(&self, container: ContainerInspectResponse) -> Result<Facts, Error> {
        let mode =
            container.host_config.as_ref().and_then(|host| host.network_mode.clone()).unwrap_or_default();
        let mut facts = facts_of(container);
        if let Some(other) = mode.strip_prefix(CONTAINER_MODE_PREFIX) {
            let other = match self.docker.inspect_container(other, None::<InspectContainerOptions>).await {
                Ok(other) => facts_of(other),
                // Gone: then this container has no network left, and offers nothing.
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                    facts.network = NetworkMode::None;
                    return Ok(facts);
                }
                Err(error) => return Err(error),
            };
            let address = other.addresses.get("bridge").or_else(|| other.addresses.values().next());
            facts.network = NetworkMode::Container(address.cloned());
        }
        Ok(facts)
    }

    fn note_event(&self, event: &EventMessage) {
        let mut known = self.known.lock();
        known.events += 1;
        known.last_event_nanoseconds = event.time_nano.or(known.last_event_nanoseconds);
        let actor = event.actor.as_ref();
        let of_network = actor.and_then(|actor| actor.attributes.as_ref()?.get("container"));
        for id in actor.and_then(|actor| actor.id.as_ref()).into_iter().chain(of_network) {
            known.facts.remove(id);
        }
        // A container that borrows the network of another changes with it, without an event of its own.
        known.facts.retain(|_, facts| !matches!(facts.network, NetworkMode::Container(_)));
    }
}

/// Opens a connection and agrees on the version of the API.
async fn open(host: &str) -> anyhow::Result<Docker> {
    let docker = if let Some(path) = host.strip_prefix("unix://") {
        Docker::connect_with_unix(path, ANSWER_SECONDS_MAX, API_DEFAULT_VERSION)?
    } else if host.starts_with("tcp://") || host.starts_with("http://") {
        let wants_tls = std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
        anyhow::ensure!(!wants_tls, "DOCKER_TLS_VERIFY is set, and TLS towards Docker is not built");
        Docker::connect_with_http(host, ANSWER_SECONDS_MAX, API_DEFAULT_VERSION)?
    } else {
        anyhow::bail!("use unix:///path/to/socket or tcp://host:port");
    };
    Ok(docker.negotiate_version().await?)
}

/// What the engine says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersion {
    /// Its version.
    pub version: String,
    /// The newest version of the API that it speaks.
    pub api: String,
}

/// Asks the engine at `host` for its version.
///
/// # Errors
/// When no engine answers there.
pub async fn version(host: &str) -> anyhow::Result<EngineVersion> {
    let found = open(host).await?.version().await.context("cannot ask Docker for its version")?;
    Ok(EngineVersion {
        version: found.version.unwrap_or_default(),
        api: found.api_version.unwrap_or_default(),
    })
}

/// The name and process of a container that runs in a network of its own and asks the server of all, if there is one.
///
/// # Errors
/// When no engine answers.
pub async fn a_container(host: &str) -> anyhow::Result<Option<(String, u32)>> {
    let docker = open(host).await?;
    let listed = docker.list_containers(None).await.context("cannot list the containers")?;
    for id in listed.into_iter().filter_map(|container| container.id) {
        let found = docker.inspect_container(&id, None::<InspectContainerOptions>).await;
        let Ok(found) = found else { continue };
        // Who was given a server by hand asks that one.
        let given = found
            .host_config
            .as_ref()
            .is_some_and(|host| host.dns.as_ref().is_some_and(|dns| !dns.is_empty()));
        let pid = found.state.as_ref().and_then(|state| u32::try_from(state.pid?).ok());
        let facts = facts_of(found);
        let has_network = !given && matches!(facts.network, NetworkMode::Bridge | NetworkMode::Named(_));
        if let Some(pid) = pid.filter(|pid| *pid > 0 && has_network) {
            return Ok(Some((facts.name, pid)));
        }
    }
    Ok(None)
}

/// The gateway of the default bridge network of the engine at `DOCKER_HOST` (or the default socket): the address
/// of this machine that containers reach. `None` if that network has no gateway.
///
/// # Errors
/// When no engine answers.
pub async fn bridge_address() -> anyhow::Result<Option<IpAddr>> {
    let engine = DockerEngine::connect(std::env::var("DOCKER_HOST").ok().as_deref()).await?;
    let network = engine
        .docker
        .inspect_network("bridge", None::<InspectNetworkOptions>)
        .await
        .context("cannot ask Docker for its default bridge network")?;
    let configurations = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    Ok(configurations.into_iter().find_map(|configuration| {
        let first = || first_address(configuration.subnet.as_deref()?);
        configuration.gateway.and_then(|gateway| gateway.parse().ok()).or_else(first)
    }))
}

/// The first address of a network, `172.17.0.1` of `172.17.0.0/16`. Docker takes it for the gateway unless told
/// otherwise, and engines before 23 do not say so.
fn first_address(subnet: &str) -> Option<IpAddr> {
    match subnet.split_once('/')?.0.parse().ok()? {
        IpAddr::V4(network) => Some(Ipv4Addr::from_bits(network.to_bits().checked_add(1)?).into()),
        IpAddr::V6(network) => Some(Ipv6Addr::from_bits(network.to_bits().checked_add(1)?).into()),
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn identity(&self) -> anyhow::Result<Identity> {
        let info = self.docker.info().await.context("cannot ask Docker who it is")?;
        Ok(Identity { id: info.id.unwrap_or_default(), hostname: info.name.unwrap_or_default() })
    }

    async fn list(&self, with_exited: bool, afresh: bool) -> anyhow::Result<Listing> {
        let options = ListContainersOptionsBuilder::default().all(with_exited).build();
        let events = {
            let mut known = self.known.lock();
            if afresh {
                known.facts.clear();
            }
            known.events
        };
        let listed =
            self.docker.list_containers(Some(options)).await.context("cannot list the containers")?;
        let ids: HashSet<String> = listed.into_iter().filter_map(|container| container.id).collect();
        let mut listing = Listing::default();
        let mut unknown = Vec::new();
        {
            let mut known = self.known.lock();
            known.facts.retain(|id, _| ids.contains(id));
            for id in ids {
                match known.facts.get(&id) {
                    Some(facts) => listing.containers.push(facts.clone()),
                    None => unknown.push(id),
                }
            }
        }
        let inspections = unknown.into_iter().map(async |id| (self.inspect(&id).await, id));
        let mut inspections = futures_util::stream::iter(inspections).buffer_unordered(INSPECTED_AT_ONCE);
        while let Some((inspected, id)) = inspections.next().await {
            match inspected {
                Ok(Some(facts)) => {
                    let mut known = self.known.lock();
                    if known.events == events {
                        known.facts.insert(id, facts.clone());
                    }
                    listing.containers.push(facts);
                }
                Ok(None) => {}
                Err(error) => {
                    listing.unreadable.insert(short_id(&id).to_owned(), error.to_string());
                }
            }
        }
        listing.containers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(listing)
    }

    async fn follow(&self, look_again: &Notify) -> anyhow::Result<()> {
        let mut options = EventsOptionsBuilder::default().filters(&HashMap::from([(
            "type".to_owned(),
            vec!["container".to_owned(), "network".to_owned()],
        )]));
        if let Some(nanoseconds) = self.known.lock().last_event_nanoseconds {
            let since = format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
            options = options.since(&since);
        }
        let mut events = self.docker.events(Some(options.build()));
        while let Some(event) = events.next().await {
            let event = event.context("the stream of Docker's events broke")?;
            if is_a_change(event.action.as_deref().unwrap_or_default()) {
                self.note_event(&event);
                look_again.notify_one();
            }
        }
        anyhow::bail!("Docker ended the stream of its events")
    }
}

/// Each probe of a HEALTHCHECK is an `exec_create`, `exec_start` and `exec_die`: they and other reads change nothing.
fn is_a_change(action: &str) -> bool {
    let action = action.split(':').next().unwrap_or(action);
    !matches!(
        action,
        "exec_create"
            | "exec_start"
            | "exec_die"
            | "exec_detach"
            | "attach"
            | "detach"
            | "top"
            | "resize"
            | "copy"
            | "export"
            | "archive-path"
            | "extract-to-dir"
            | "commit"
    )
}

/// The facts in an answer of Docker.
fn facts_of(container: ContainerInspectResponse) -> Facts {
    let config = container.config.unwrap_or_default();
    let network = container.network_settings.unwrap_or_default();
    let mode = container.host_config.and_then(|host| host.network_mode).unwrap_or_default();
    let state = container.state.unwrap_or_default();
    Facts {
        id: container.id.unwrap_or_default(),
        name: container.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        started_at: state.started_at.clone().unwrap_or_default(),
        health: health_of(&state),
        state: state_of(&state),
        environment: config.env.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        exposed: config
            .exposed_ports
            .unwrap_or_default()
            .iter()
            .filter_map(|port| port.parse().ok())
            .collect(),
        addresses: addresses_of(&network),
        published: published_of(network),
        network: match mode.as_str() {
            "" | "default" | "bridge" => NetworkMode::Bridge,
            "host" => NetworkMode::Host,
            "none" => NetworkMode::None,
            other if other.starts_with(CONTAINER_MODE_PREFIX) => NetworkMode::Container(None),
            name => NetworkMode::Named(name.to_owned()),
        },
    }
}

fn state_of(state: &ContainerState) -> State {
    match state.status {
        Some(ContainerStateStatusEnum::RUNNING) => State::Running,
        Some(ContainerStateStatusEnum::PAUSED) => State::Paused,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => {
            State::Exited(state.exit_code.unwrap_or_default())
        }
        _ => State::Away,
    }
}

fn health_of(state: &ContainerState) -> Option<Health> {
    let health = state.health.as_ref()?;
    let status = match health.status? {
        HealthStatusEnum::STARTING => HealthStatus::Starting,
        HealthStatusEnum::HEALTHY => HealthStatus::Healthy,
        HealthStatusEnum::UNHEALTHY => HealthStatus::Unhealthy,
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => return None,
    };
    let last = health.log.as_ref().and_then(|log| log.last());
    Some(Health { status, output: last.and_then(|probe| probe.output.clone()).unwrap_or_default() })
}

fn published_of(network: NetworkSettings) -> BTreeMap<Port, Vec<Binding>> {
    let ports = network.ports.unwrap_or_default().into_iter();
    ports
        .filter_map(|(port, bindings)| {
            let bindings = bindings.unwrap_or_default().into_iter().filter_map(|binding| {
                let port = binding.host_port?.parse().ok().filter(|port| *port != 0)?;
                Some(Binding { address: binding.host_ip.unwrap_or_default(), port })
            });
            Some((port.parse().ok()?, bindings.collect()))
        })
        .collect()
}

/// IPv4 first, as in the original; IPv6 where a network has nothing else.
fn addresses_of(network: &NetworkSettings) -> BTreeMap<String, String> {
    let networks = network.networks.iter().flatten();
    networks
        .filter_map(|(name, endpoint)| {
            let candidates = [&endpoint.ip_address, &endpoint.global_ipv6_address];
            let address = candidates.into_iter().flatten().find(|address| !address.is_empty())?;
            Some((name.clone(), address.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{facts_of, first_address, is_a_change};
    use crate::model::registration::facts::HealthStatus;
    use crate::model::registration::{Binding, Facts, NetworkMode, State};

    fn read(answer: &str) -> Facts {
        facts_of(serde_json::from_str(answer).unwrap())
    }

    #[test]
    fn an_answer_of_engine_20_10_is_read() {
        let facts = read(include_str!("../../tests/fixtures/docker/inspect-engine-20.10.json"));
        assert_eq!(
            (&*facts.name, &*facts.image, facts.state),
            ("fixture", "corediscover-test-web:1", State::Running)
        );
        assert_eq!(facts.network, NetworkMode::Named("cdfix".to_owned()));
        assert_eq!(facts.addresses.keys().collect::<Vec<_>>(), ["cdfix"]);
        assert!(facts.environment.contains(&"SERVICE_NAME=site".to_owned()));
        assert_eq!(facts.labels["SERVICE_TAGS"], "a,b");
        assert_eq!(facts.exposed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80/tcp", "443/tcp"]);
        let binding = Binding { address: "0.0.0.0".to_owned(), port: 8096 };
        assert_eq!(facts.published[&"80/tcp".parse().unwrap()][0], binding);
        assert!(facts.published[&"443/tcp".parse().unwrap()].is_empty(), "exposed only");
        let health = facts.health.unwrap();
        assert_eq!((health.status, &*health.output), (HealthStatus::Healthy, "fine\n"));
    }

    #[test]
    fn an_answer_of_api_1_52_and_later_has_addresses_only_in_its_networks() {
        let facts = read(include_str!("../../tests/fixtures/docker/inspect-without-top-level-address.json"));
        assert_eq!((facts.state, facts.health), (State::Paused, None));
        assert_eq!(facts.network, NetworkMode::Bridge);
        assert_eq!(facts.addresses["bridge"], "172.17.0.2");
    }

    #[test]
    fn the_probes_of_a_healthcheck_are_no_changes() {
        for action in ["exec_create: /bin/sh -c true", "exec_die", "top", "attach"] {
            assert!(!is_a_change(action), "{action}");
        }
        for action in ["start", "die", "pause", "unpause", "rename", "health_status: healthy", "connect"] {
            assert!(is_a_change(action), "{action}");
        }
    }

    #[test]
    fn a_bridge_without_a_gateway_has_its_networks_first_address() {
        assert_eq!(first_address("172.17.0.0/16").unwrap().to_string(), "172.17.0.1");
        assert_eq!(first_address("fd00:1::/64").unwrap().to_string(), "fd00:1::1");
        assert_eq!(first_address("172.17.0.0"), None);
    }
}
