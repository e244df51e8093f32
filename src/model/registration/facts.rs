//! What Docker said about one container, in plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Characters of a container id that people and log lines use.
const SHORT_ID_CHARACTERS: usize = 12;

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Full id.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// The image as the user wrote it.
    pub image: String,
    /// When it was started (RFC 3339 in UTC, so that the order of texts is the order of times).
    pub started_at: String,
    /// What it is doing.
    pub state: State,
    /// State of its HEALTHCHECK, if it has one.
    pub health: Option<Health>,
    /// `NAME=value` entries, in order.
    pub environment: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that the image or the user exposed.
    pub exposed: BTreeSet<Port>,
    /// Ports Docker manages; no binding means exposed but not published.
    pub published: BTreeMap<Port, Vec<Binding>>,
    /// How it is connected.
    pub network: NetworkMode,
    /// Its address in each network, by the network's name; empty addresses are left out.
    pub addresses: BTreeMap<String, String>,
}

impl Facts {
    /// The first twelve characters of the id.
    pub fn short_id(&self) -> &str {
        short_id(&self.id)
    }
}

/// The first twelve characters of a container's id.
pub fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID_CHARACTERS).unwrap_or(id)
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It runs, and offers its services.
    #[default]
    Running,
    /// Frozen: it stays registered, and is hidden until it goes on.
    Paused,
    /// It has ended with this code.
    Exited(i64),
    /// Created, restarting, being removed: it offers nothing.
    Away,
}

impl State {
    /// Whether a registration stays while the container is in this state.
    pub fn offers_services(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether `-deregister on-success` keeps the services of this container: it ended by itself with an error.
    /// A code with bit 128 set is a signal, and counts as a wanted end, as in the original.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Exited(code) if code != 0 && code & 128 == 0)
    }
}

/// State of Docker's HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What the check says.
    pub status: HealthStatus,
    /// What the last probe printed.
    pub output: String,
}

/// What Docker's HEALTHCHECK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// Not known yet.
    Starting,
    /// The last probe was fine.
    Healthy,
    /// As many probes as were asked for have failed in a row.
    Unhealthy,
}

/// How a container is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Bridge,
    /// The machine's own network.
    Host,
    /// None at all.
    None,
    /// That of another container; its address, unless that one has none of its own.
    Container(Option<String>),
    /// A network made by the user.
    Named(String),
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Docker writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a container, `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Number.
    pub number: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.as_str())
    }
}

/// A text that is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port, as in 80/tcp")]
pub struct PortError(String);

impl FromStr for Port {
    type Err = PortError;
    fn from_str(text: &str) -> Result<Self, PortError> {
        let wrong = || PortError(text.to_owned());
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(wrong()),
        };
        Ok(Self { number: number.parse().map_err(|_| wrong())?, protocol })
    }
}

/// Where a port is published on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The machine's address; empty for all.
    pub address: String,
    /// The machine's port.
    pub port: u16,
}
