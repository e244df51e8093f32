//! Which etcd the machines meet in, and URLs that can stand in units and YAML.

use std::fmt;
use std::str::FromStr;

use super::spec::SpecError;

/// Where the machine's own etcd answers.
pub const ETCD_LOCAL: &str = "http://127.0.0.1:2379";
/// The text in place of a discovery URL that was not given; `etcd2` refuses to start with it, and says why.
pub const DISCOVERY_PLACEHOLDER: &str = "https://discovery.etcd.io/<token>";
/// Longest URL in bytes: with every `%` doubled it stands in one line of a unit, and fleet refuses 2048 bytes.
pub const URL_BYTES_MAX: usize = 800;
/// Most etcd endpoints: all of them stand in one line of a unit.
pub const ENDPOINTS_MAX: usize = 16;

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

/// Where etcd answers: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fault = || SpecError::Endpoint(text.to_owned());
        let url: Url = text.trim_end_matches('/').parse().map_err(|_| fault())?;
        let host = url.as_str().split_once("://").map(|(_, host)| host).ok_or_else(fault)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if host.bytes().all(plain) { Ok(Self(url.0)) } else { Err(fault()) }
    }
}

/// Which etcd the machines meet in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Etcd {
    /// Each machine runs etcd2, as CoreOS did; the machines find each other through this URL.
    Local {
        /// `None` writes [`DISCOVERY_PLACEHOLDER`], to be replaced before the first boot.
        discovery: Option<Url>,
    },
    /// An etcd that is there already.
    Given(Vec<Endpoint>),
}

impl Etcd {
    /// From what a user gave: endpoints, or a discovery URL, or neither.
    ///
    /// # Errors
    /// When both are given, or there are too many endpoints.
    pub fn new(endpoints: Vec<Endpoint>, discovery: Option<Url>) -> Result<Self, SpecError> {
        match (endpoints.len(), discovery) {
            (0, discovery) => Ok(Self::Local { discovery }),
            (_, Some(_)) => Err(SpecError::DiscoveryWithEndpoints),
            (1..=ENDPOINTS_MAX, None) => Ok(Self::Given(endpoints)),
            (count, None) => Err(SpecError::EndpointCount(count)),
        }
    }

    /// The endpoints as `--etcd` takes them, separated by commas.
    pub fn endpoints(&self) -> String {
        match self {
            Self::Local { .. } => ETCD_LOCAL.to_owned(),
            Self::Given(endpoints) => endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Etcd, Url};
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
    fn an_etcd_endpoint_is_an_address_and_nothing_more() {
        assert_eq!("http://10.0.0.1:2379/".parse::<Endpoint>().unwrap().to_string(), "http://10.0.0.1:2379");
        assert!("https://[fd00::1]:2379".parse::<Endpoint>().is_ok());
        for wrong in ["10.0.0.1:2379", "http://user@a:2379", "http://a:2379/v2/keys", "http://a:2379?x"] {
            assert!(matches!(wrong.parse::<Endpoint>(), Err(SpecError::Endpoint(_))), "{wrong}");
        }
    }

    #[test]
    fn a_discovery_url_and_an_etcd_exclude_each_other() {
        let endpoint: Endpoint = "http://10.0.0.1:2379".parse().unwrap();
        let url: Url = "https://discovery.etcd.io/1".parse().unwrap();
        assert_eq!(Etcd::new(vec![endpoint.clone()], Some(url)), Err(SpecError::DiscoveryWithEndpoints));
        assert_eq!(Etcd::new(vec![endpoint; 17], None), Err(SpecError::EndpointCount(17)));
    }
}
