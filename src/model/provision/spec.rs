//! The one description from which all provisioning output is made, checked once when it is built.
//!
//! It holds what is the same on every machine. What differs (address, host name, machine-id) is only named here
//! and looked up by the machine itself, so that one text serves them all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::binary::{BINARY_PATH, Binary, SHA512_DIGITS};
use super::endpoint::TlsError;
use super::etcd::{ENDPOINTS_MAX, Etcd, PEERS_MAX};
pub use crate::model::address::AddressSource;
use crate::model::names::{DNS_LABEL_BYTES_MAX, Datacenter, NameError};
use crate::model::resolved::STANDARD_PORT;
use crate::model::sync::servers::SERVERS_MAX;

/// Servers when nothing else is said: one may fail.
pub const SERVERS_DEFAULT: u8 = 3;
/// Longest domain in bytes, as the agent reads `domain`: names of nodes and services stand before it, and a name in DNS has
/// 253 in all.
pub const DOMAIN_BYTES_MAX: usize = 199;
/// Longest name in DNS, in bytes without the final dot.
const NAME_BYTES_MAX: usize = 253;
/// Consul's DNS port for agents that are not to be root.
pub const DNS_PORT_DEFAULT: u16 = 8600;

/// Why a text cannot be part of a [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// An even number tolerates no more failures than the odd one below it.
    #[error("{0} servers are not possible: use an odd number up to {SERVERS_MAX}; 3 and 5 are usual")]
    Servers(String),
    /// Not a URL that can stand in a unit file and in YAML.
    #[error(
        "`{0}` is not usable: give http:// or https://, a host and what follows, with no blanks or quotes"
    )]
    Url(String),
    /// A path, a user or a query, where only an address has a meaning.
    #[error(
        "`{0}` is not a URL of etcd (hint: give http://HOST:PORT or https://HOST:PORT, nothing after the port)"
    )]
    Endpoint(String),
    /// Nobody listens there.
    #[error("`{0}` has no port `{1}`: a port is a number between 1 and 65535; etcd's is 2379")]
    EndpointPort(String, String),
    /// Endpoints and the files for their encryption.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Not absolute, or with characters that units and shells read differently.
    #[error(
        "`{0}` is not usable as a file on the machines: give an absolute path of letters, digits and `/._-`"
    )]
    MachineFile(String),
    /// None, or so many that the line becomes too long for fleet.
    #[error("{0} etcd endpoints are not possible: give 1 to {ENDPOINTS_MAX}")]
    EndpointCount(usize),
    /// Both say which etcd is used.
    #[error("a discovery URL is for the machines' own etcd2: give it, or the URLs of another etcd, not both")]
    DiscoveryWithEndpoints,
    /// Not an address or a host name.
    #[error("`{0}` is no machine to join at: give an address or a host name, without a port")]
    Peer(String),
    /// So many that nobody typed them.
    #[error("{0} machines to join at are not possible: give 1 to {PEERS_MAX}; one that answers is enough")]
    PeerCount(usize),
    /// Machines meet in one place.
    #[error("machines meet in etcd, or by gossip at the addresses to join: give one of the two")]
    JoinWithEtcd,
    /// The first ones are the servers, so there must be as many.
    #[error(
        "--join names {peers} of the {servers} servers: name all of them, the servers first; all other machines \
         become clients"
    )]
    FewPeers {
        /// How many are named.
        peers: usize,
        /// How many servers there are to be.
        servers: u8,
    },
    /// fleet keeps its units in etcd.
    #[error("fleet needs etcd: give --etcd, or leave fleet out and use plain units")]
    FleetWithoutEtcd,
    /// Containers bring the binary themselves.
    #[error("containers bring the binary with them: use image=NAME, or leave the binary out")]
    NeedsImage,
    /// The output holds the binary.
    #[error("this output holds the binary itself, at {0}: leave the binary out")]
    HoldsBinary(&'static str),
    /// Not a version that is written.
    #[error("version `{0}` of Ignition is not written: use 3.3.0 or 3.4.0")]
    IgnitionVersion(String),
    /// Not a variant that is written.
    #[error("`{0}` is no variant of Butane that is written: use flatcar-1.0, flatcar-1.1 or fcos-1.5")]
    ButaneVariant(String),
    /// Not what os-release says.
    #[error("`{0}` is no system for an extension: use flatcar, ID=SYSEXT_LEVEL of another, or _any")]
    SysextHost(String),
    /// One machine is no cluster, and the addresses end.
    #[error("`{0}` machines are not possible: give 1 to {1}")]
    Machines(String, u8),
    /// They would wait for each other for ever.
    #[error("{machines} machines cannot hold {servers} servers: more --machines, or fewer --servers")]
    FewMachines {
        /// How many machines there are.
        machines: u8,
        /// How many of them are to be servers.
        servers: u8,
    },
    /// Not one of the three ways in which a machine can get the binary.
    #[error("`{0}` is no way to get the binary: use url=URL,sha512=DIGEST or image=NAME or path=/PATH")]
    Binary(String),
    /// Without it, whoever controls the network controls the machines.
    #[error(
        "the sha512 of the binary must be its {SHA512_DIGITS} hexadecimal digits: `sha512sum corediscover`"
    )]
    Digest,
    /// Not absolute, or with characters that units and shells read differently.
    #[error("`{0}` is not usable as the binary's path: give an absolute path of letters, digits and `/._-`")]
    Path(String),
    /// systemd empties `/tmp` at boot, and `/usr` is read-only on CoreOS.
    #[error(
        "`{0}` is not a place for the binary: /tmp is emptied at boot and may forbid programs; use {BINARY_PATH}"
    )]
    TemporaryPath(String),
    /// Not what `docker pull` takes.
    #[error("`{0}` is not an image name: use [REGISTRY/]NAME[:TAG] or NAME@sha256:DIGEST")]
    Image(String),
    /// The domain that DNS serves.
    #[error(
        "`{0}` is not a domain: use labels of letters, digits and inner hyphens, separated by dots, of at most \
         {DOMAIN_BYTES_MAX} bytes"
    )]
    Domain(String),
    /// As the datacenter's own rule says.
    #[error(transparent)]
    Datacenter(#[from] NameError),
    /// How a machine finds its own name.
    #[error("`{0}` is no source of a node name: use hostname or machine-id")]
    NodeSource(String),
    /// Port 0 cannot be written into a resolver's configuration.
    #[error("this is no port: use {DNS_PORT_DEFAULT}, or 53 for systemd older than 246")]
    DnsPort,
}

/// An odd number of servers, 1 to [`SERVERS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Servers(u8);

impl Servers {
    /// The number.
    pub fn count(self) -> u8 {
        self.0
    }

    /// One alone: what fewer than three machines can have.
    pub fn one() -> Self {
        Self(1)
    }
}

impl Default for Servers {
    fn default() -> Self {
        Self(SERVERS_DEFAULT)
    }
}

impl FromStr for Servers {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.parse::<u8>() {
            Ok(count) if count % 2 == 1 && count <= SERVERS_MAX => Ok(Self(count)),
            _ => Err(SpecError::Servers(text.to_owned())),
        }
    }
}

/// The domain that the agents' DNS serves, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the one that agents serve when nothing else is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self("consul".to_owned())
    }
}

impl FromStr for Domain {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.len() <= DOMAIN_BYTES_MAX && is_domain_name(&name) {
            Ok(Self(name))
        } else {
            Err(SpecError::Domain(text.to_owned()))
        }
    }
}

/// Whether a text is a name of DNS: labels of letters, digits and inner hyphens.
pub(super) fn is_domain_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=DNS_LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}

/// What a machine is called in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeSource {
    /// Its host name, as the agent does by itself.
    #[default]
    Hostname,
    /// Its machine-id: for machines that are all called `localhost`.
    MachineId,
}

impl NodeSource {
    /// The word that a user writes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hostname => "hostname",
            Self::MachineId => "machine-id",
        }
    }
}

impl FromStr for NodeSource {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "hostname" => Ok(Self::Hostname),
            "machine-id" => Ok(Self::MachineId),
            _ => Err(SpecError::NodeSource(text.to_owned())),
        }
    }
}

/// Everything that provisioning output depends on; each part is valid by its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// How many of the machines become servers.
    pub servers: Servers,
    /// Where the machines meet.
    pub etcd: Etcd,
    /// Whether machines run fleet.
    pub fleet: bool,
    /// How they get the binary.
    pub binary: Binary,
    /// The datacenter's name.
    pub datacenter: Datacenter,
    /// The domain of DNS.
    pub domain: Domain,
    /// Where a machine finds its address.
    pub address: AddressSource,
    /// What a machine is called.
    pub node: NodeSource,
    /// The agent's DNS port.
    pub dns_port: DnsPort,
    /// Where HTTP and DNS listen; none is the agent's default, loopback.
    pub client: Vec<IpAddr>,
}

impl Spec {
    /// Where programs of the machine itself reach its agent: loopback if it listens there.
    pub fn agent_address(&self) -> IpAddr {
        let local = |address: &IpAddr| match address {
            IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            address => *address,
        };
        let reachable: Vec<IpAddr> = self.client.iter().map(local).collect();
        let loopback = reachable.iter().find(|address| address.is_loopback());
        loopback.or(reachable.first()).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            servers: Servers::default(),
            etcd: Etcd::Local { discovery: None },
            fleet: true,
            binary: Binary::default(),
            datacenter: Datacenter::default(),
            domain: Domain::default(),
            address: AddressSource::default(),
            node: NodeSource::default(),
            dns_port: DnsPort::default(),
            client: Vec::new(),
        }
    }
}

/// The port of the agent's DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsPort(u16);

impl DnsPort {
    /// The one that resolvers ask when nobody says another.
    pub const STANDARD: Self = Self(STANDARD_PORT);

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl Default for DnsPort {
    fn default() -> Self {
        Self(DNS_PORT_DEFAULT)
    }
}

impl FromStr for DnsPort {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(SpecError::DnsPort),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Domain, Servers, SpecError};

    #[test]
    fn servers_are_an_odd_number() {
        assert_eq!("3".parse::<Servers>().unwrap().count(), 3);
        for wrong in ["0", "2", "11", "-1", "three", ""] {
            assert!(matches!(wrong.parse::<Servers>(), Err(SpecError::Servers(_))), "{wrong}");
        }
    }

    #[test]
    fn a_domain_is_made_of_labels() {
        assert_eq!("Corp.Example.".parse::<Domain>().unwrap().as_str(), "corp.example");
        for wrong in ["", ".", "a..b", "-a", "a b", "~consul"] {
            assert!(wrong.parse::<Domain>().is_err(), "{wrong}");
        }
        let long = |bytes: usize| format!("{}.example", vec!["a"; (bytes - 7) / 2].join("."));
        assert_eq!(long(199).len(), 199);
        assert!(long(199).parse::<Domain>().is_ok());
        assert!(long(201).parse::<Domain>().is_err(), "the agent refuses 200 bytes and more");
    }
}
