//! Where an etcd answers, and what its encryption needs: one rule for the generators and for `bootstrap`, so that no unit
//! is written that `bootstrap` refuses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::spec::SpecError;

/// etcd's port for clients, where a URL names none.
const ETCD_PORT: u16 = 2379;
/// Longest host in bytes: the longest name in DNS.
const HOST_BYTES_MAX: usize = 253;

/// Where etcd answers: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// Whether it is asked with encryption.
    pub fn is_encrypted(&self) -> bool {
        self.0.starts_with("https://")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fault = || SpecError::Endpoint(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(fault)?;
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (address, behind) = inner.split_once(']').ok_or_else(fault)?;
                let _: Ipv6Addr = address.parse().map_err(|_| fault())?;
                let host = &rest[..address.len() + 2];
                match behind.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if behind.is_empty() => (host, None),
                    None => return Err(fault()),
                }
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_name = (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(plain);
        if !matches!(scheme, "http" | "https") || !(host.starts_with('[') || is_name) {
            return Err(fault());
        }
        let port = match port {
            None => ETCD_PORT,
            Some(port) if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(fault());
            }
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(SpecError::EndpointPort(text.to_owned(), port.to_owned())),
            },
        };
        Ok(Self(format!("{scheme}://{host}:{port}")))
    }
}

/// Why endpoints and files for their encryption do not fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// One client asks them all.
    #[error("--etcd mixes http and https")]
    Mixed,
    /// Nobody else can say whether it is the right etcd.
    #[error("--etcd with https needs the authority that signed etcd's certificate")]
    NoAuthority,
    /// There is nothing to check.
    #[error("--etcd-ca is for https")]
    AuthorityWithoutTls,
    /// There is nobody to show it to.
    #[error("--etcd-cert and --etcd-key are for https")]
    IdentityWithoutTls,
    /// One proves the other.
    #[error("--etcd-cert and --etcd-key belong together")]
    HalfAnIdentity,
}

impl TlsError {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Mixed => "give all URLs with the same scheme",
            Self::NoAuthority => "give its PEM file with --etcd-ca",
            Self::AuthorityWithoutTls | Self::IdentityWithoutTls => {
                "write the URLs of --etcd with https://, or leave the file out"
            }
            Self::HalfAnIdentity => "give both PEM files, or neither",
        }
    }
}

/// Files for the encryption, as a user gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles<P> {
    /// The authority that signed etcd's certificate.
    pub ca: Option<P>,
    /// Our certificate.
    pub cert: Option<P>,
    /// Its key.
    pub key: Option<P>,
}

impl<P> Default for TlsFiles<P> {
    fn default() -> Self {
        Self { ca: None, cert: None, key: None }
    }
}

/// What it needs to ask etcd with encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls<P> {
    /// The authority that signed etcd's certificate.
    pub ca: P,
    /// Our certificate and its key, where etcd wants to know who asks.
    pub identity: Option<(P, P)>,
}

impl<P> TlsFiles<P> {
    /// These files where none is given, else those of `below`, one by one.
    #[must_use]
    pub fn or(self, below: Self) -> Self {
        Self { ca: self.ca.or(below.ca), cert: self.cert.or(below.cert), key: self.key.or(below.key) }
    }

    /// What it needs to ask these endpoints; `None` without encryption.
    ///
    /// # Errors
    /// When files and endpoints do not fit together.
    pub fn for_endpoints(self, endpoints: &[Endpoint]) -> Result<Option<Tls<P>>, TlsError> {
        let encrypted = endpoints.iter().filter(|endpoint| endpoint.is_encrypted()).count();
        if encrypted != 0 && encrypted != endpoints.len() {
            return Err(TlsError::Mixed);
        }
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(TlsError::HalfAnIdentity),
        };
        match self.ca {
            Some(ca) if encrypted > 0 => Ok(Some(Tls { ca, identity })),
            Some(_) => Err(TlsError::AuthorityWithoutTls),
            None if encrypted > 0 => Err(TlsError::NoAuthority),
            None if identity.is_some() => Err(TlsError::IdentityWithoutTls),
            None => Ok(None),
        }
    }
}

/// A file on the machines: an absolute path that units, shells and YAML all read alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFile(String);

impl fmt::Display for MachineFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MachineFile {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        if is_plain_path(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SpecError::MachineFile(text.to_owned()))
        }
    }
}

/// Whether a path is absolute, and of characters that units, shells and YAML all read alike.
pub(super) fn is_plain_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let climbs = text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    text.starts_with('/') && !climbs && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, MachineFile, Tls, TlsError, TlsFiles};
    use crate::model::provision::SpecError;

    #[test]
    fn an_endpoint_is_an_address_with_a_port_and_nothing_more() {
        for (text, endpoint) in [
            ("http://10.0.0.1:2379/", "http://10.0.0.1:2379"),
            ("https://etcd.example", "https://etcd.example:2379"),
            ("http://[::1]", "http://[::1]:2379"),
            ("https://[fd00::1]:4001", "https://[fd00::1]:4001"),
            ("http://a:65535", "http://a:65535"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), endpoint);
        }
        for wrong in [
            "",
            "10.0.0.1:2379",
            "ftp://a",
            "http://",
            "http://user@a:2379",
            "http://u:p@a",
            "http://a:2379/v2/keys",
            "http://a:2379?x",
            "http://fd00::1:2379",
            "http://[x]:2379",
            "http://[::1]x",
            "http://a:",
            "http://a:+1",
            "http://a b",
            "http://a'",
        ] {
            assert!(matches!(wrong.parse::<Endpoint>(), Err(SpecError::Endpoint(_))), "{wrong}");
        }
        for wrong in ["http://a:0", "http://a:65536", "http://[::1]:99999999999"] {
            assert!(matches!(wrong.parse::<Endpoint>(), Err(SpecError::EndpointPort(..))), "{wrong}");
        }
    }

    #[test]
    fn an_etcd_with_encryption_needs_its_authority_and_one_without_needs_no_file() {
        let check = |urls: &[&str], files: [Option<u8>; 3]| {
            let endpoints: Vec<Endpoint> = urls.iter().map(|url| url.parse().unwrap()).collect();
            let [ca, cert, key] = files;
            TlsFiles { ca, cert, key }.for_endpoints(&endpoints)
        };
        let (open, closed) = (&["http://a", "http://b"][..], &["https://a", "https://b"][..]);
        assert_eq!(check(open, [None; 3]), Ok(None));
        assert_eq!(check(closed, [Some(1), None, None]), Ok(Some(Tls { ca: 1, identity: None })));
        let identity = Some((2, 3));
        assert_eq!(check(closed, [Some(1), Some(2), Some(3)]), Ok(Some(Tls { ca: 1, identity })));
        assert_eq!(check(closed, [None; 3]), Err(TlsError::NoAuthority));
        assert_eq!(check(closed, [Some(1), Some(2), None]), Err(TlsError::HalfAnIdentity));
        assert_eq!(check(&["http://a", "https://b"], [Some(1), None, None]), Err(TlsError::Mixed));
        assert_eq!(check(open, [Some(1), None, None]), Err(TlsError::AuthorityWithoutTls));
        assert_eq!(check(open, [None, Some(2), Some(3)]), Err(TlsError::IdentityWithoutTls));
    }

    #[test]
    fn a_file_on_the_machines_has_an_absolute_path_of_plain_characters() {
        assert!("/etc/etcd/ca.pem".parse::<MachineFile>().is_ok());
        for wrong in ["", "ca.pem", "/etc/../ca.pem", "/etc/a b", "/etc/$x", "/etc/%h", "/etc/"] {
            assert!(wrong.parse::<MachineFile>().is_err(), "{wrong}");
        }
    }
}
