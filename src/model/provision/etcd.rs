//! Where the machines meet: in which etcd, or by gossip at which addresses; and URLs that can stand in units and YAML.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

pub use super::endpoint::{Endpoint, MachineFile, Tls, TlsFiles};
use super::spec::{Servers, SpecError, is_domain_name};

/// Where the machine's own etcd answers.
pub const ETCD_LOCAL: &str = "http://127.0.0.1:2379";
/// The text in place of a discovery URL that was not given; `etcd2` refuses to start with it, and says why.
pub const DISCOVERY_PLACEHOLDER: &str = "https://discovery.etcd.io/<token>";
/// Longest URL in bytes: with every `%` doubled it stands in one line of a unit, and fleet refuses 2048 bytes.
pub const URL_BYTES_MAX: usize = 800;
/// Most etcd endpoints: all of them stand in one line of a unit.
pub const ENDPOINTS_MAX: usize = 16;
/// Most addresses to join at: one that answers is enough.
pub const PEERS_MAX: usize = 16;

/// A URL of characters that YAML, units and shells in quotes all read alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Url {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fault = || SpecError::Url(text.to_owned());
        let rest =
            text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(fault)?;
        let has_host = rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!&()*+,;=%".contains(&byte);
        if has_host && text.len() <= URL_BYTES_MAX && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(fault())
        }
    }
}

/// Another machine, by address or host name; the port is gossip's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(String);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for Peer {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let is_address = text.parse::<IpAddr>().is_ok();
        // A name of digits and dots is an address with a mistake.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if is_address || (!is_number && is_domain_name(text)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SpecError::Peer(text.to_owned()))
        }
    }
}

/// Where the machines meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Etcd {
    /// Each machine runs etcd2, as CoreOS did; the machines find each other through this URL.
    Local {
        /// `None` writes [`DISCOVERY_PLACEHOLDER`], to be replaced before the first boot.
        discovery: Option<Url>,
    },
    /// An etcd that is there already.
    Given {
        /// Where it answers.
        endpoints: Vec<Endpoint>,
        /// Files on the machines for its encryption; `None` without.
        tls: Option<Tls<MachineFile>>,
    },
    /// No etcd: the servers meet by gossip.
    Absent {
        /// Machines to join at. The first of them, as many as there are to be servers, are the servers: only they may
        /// begin the cluster.
        join: Vec<Peer>,
    },
}

impl Etcd {
    /// From what a user gave: endpoints, or a discovery URL, or machines to join at, or nothing; and files for encryption.
    ///
    /// # Errors
    /// When more than one is given, or too many of one, or the files do not fit.
    pub fn new(
        endpoints: Vec<Endpoint>,
        discovery: Option<Url>,
        join: Vec<Peer>,
        files: TlsFiles<MachineFile>,
    ) -> Result<Self, SpecError> {
        let tls = files.for_endpoints(&endpoints)?;
        if !join.is_empty() {
            return match join.len() {
                _ if !endpoints.is_empty() || discovery.is_some() => Err(SpecError::JoinWithEtcd),
                1..=PEERS_MAX => Ok(Self::Absent { join }),
                count => Err(SpecError::PeerCount(count)),
            };
        }
        match (endpoints.len(), discovery) {
            (0, discovery) => Ok(Self::Local { discovery }),
            (_, Some(_)) => Err(SpecError::DiscoveryWithEndpoints),
            (1..=ENDPOINTS_MAX, None) => Ok(Self::Given { endpoints, tls }),
            (count, None) => Err(SpecError::EndpointCount(count)),
        }
    }

    /// The endpoints as `--etcd` takes them, separated by commas; `None` without etcd.
    pub fn endpoints(&self) -> Option<String> {
        match self {
            Self::Local { .. } => Some(ETCD_LOCAL.to_owned()),
            Self::Given { endpoints, .. } => {
                Some(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
            Self::Absent { .. } => None,
        }
    }

    /// Files on the machines for the encryption of an etcd that is there already.
    pub fn tls(&self) -> Option<&Tls<MachineFile>> {
        match self {
            Self::Given { tls, .. } => tls.as_ref(),
            Self::Local { .. } | Self::Absent { .. } => None,
        }
    }

    /// Those of the machines to join at that are the servers; none where the machines meet in etcd.
    pub fn servers(&self, servers: Servers) -> &[Peer] {
        let join = self.join();
        &join[..join.len().min(usize::from(servers.count()))]
    }

    /// The machines to join at; none where the machines meet in etcd.
    pub fn join(&self) -> &[Peer] {
        match self {
            Self::Absent { join } => join,
            Self::Local { .. } | Self::Given { .. } => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Etcd, Peer, TlsFiles, Url};
    use crate::model::provision::SpecError;

    #[test]
    fn urls_that_quotes_blanks_or_variables_would_break_are_refused() {
        let kept = "https://releases.example.org:8443/corediscover%20v1?arch=x86_64&x=[1]";
        assert_eq!(kept.parse::<Url>().unwrap().as_str(), kept);
        for wrong in [
            "ftp://a/",
            "https://",
            "https:///x",
            "https://a/'",
            "https://a/ b",
            "https://a/$x",
            "https://a/\\",
        ] {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_discovery_url_and_an_etcd_exclude_each_other() {
        let endpoint: Endpoint = "http://10.0.0.1:2379".parse().unwrap();
        let url: Url = "https://discovery.etcd.io/1".parse().unwrap();
        let new = |endpoints, discovery, join| Etcd::new(endpoints, discovery, join, TlsFiles::default());
        assert_eq!(new(vec![endpoint.clone()], Some(url), vec![]), Err(SpecError::DiscoveryWithEndpoints));
        assert_eq!(new(vec![endpoint.clone(); 17], None, vec![]), Err(SpecError::EndpointCount(17)));
        let peer: Peer = "10.0.0.1".parse().unwrap();
        assert_eq!(new(vec![endpoint], None, vec![peer.clone()]), Err(SpecError::JoinWithEtcd));
        assert_eq!(new(vec![], None, vec![peer; 17]), Err(SpecError::PeerCount(17)));
    }

    #[test]
    fn a_machine_to_join_at_is_an_address_or_a_host_name() {
        for right in ["10.0.0.1", "fd00::1", "host-1", "a.example.org"] {
            assert_eq!(right.parse::<Peer>().unwrap().to_string(), right);
        }
        for wrong in ["", "10.0.0", "10.0.0.1:8301", "a b", "-a", "http://a"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}
