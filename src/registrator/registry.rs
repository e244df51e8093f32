//! Where services are registered: what every registry must offer, and the registry that a URI names.

use async_trait::async_trait;

use crate::model::registration::{Command, Registered};

/// Schemes of the original that are known but not built.
const SCHEMES_NOT_BUILT: &[&str] =
    &["consul-tls", "consulkv", "consulkv-unix", "etcd", "etcd-legacy", "skydns2", "coredns", "zookeeper"];

/// A registry of services.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Fails when the registry cannot be reached; otherwise a line about it for the log.
    async fn ping(&self) -> anyhow::Result<String>;

    /// The address under which others know this machine, if the registry knows it.
    async fn machine_address(&self) -> anyhow::Result<Option<String>>;

    /// Everything that is registered here.
    async fn registered(&self) -> anyhow::Result<Registered>;

    /// Carries out one command; repeating it does no harm.
    async fn carry_out(&self, command: &Command) -> anyhow::Result<()>;
}

/// What a registry URI says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryUri {
    /// `consul://[host:port]`, `consul:`, `consul-unix:///path`: the text is what the client reads, empty for the
    /// default.
    Consul(String),
}

/// Why a registry URI cannot be used. The first words are the original's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryUriError {
    /// No scheme.
    #[error("bad adapter uri: {0}")]
    NoScheme(String),
    /// Neither ours nor the original's.
    #[error("unrecognized adapter: {0}")]
    Unrecognised(String),
    /// One of the original's.
    #[error("the adapter {0} is not built; consul://host:port and consul-unix:///path work")]
    NotBuilt(String),
    /// `consul://host/path` meant the KV store up to version 5 of the original.
    #[error("{0} has a path, which is not built; consul://host:port registers at the agent")]
    Path(String),
}

impl std::str::FromStr for RegistryUri {
    type Err = RegistryUriError;

    fn from_str(text: &str) -> Result<Self, RegistryUriError> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(RegistryUriError::NoScheme(text.to_owned()));
        };
        match scheme {
            "consul" => {
                let authority = rest.strip_prefix("//").unwrap_or(rest).trim_end_matches('/');
                if authority.contains('/') {
                    return Err(RegistryUriError::Path(text.to_owned()));
                }
                Ok(Self::Consul(authority.to_owned()))
            }
            "consul-unix" => Ok(Self::Consul(format!("unix:{rest}"))),
            "" => Err(RegistryUriError::NoScheme(text.to_owned())),
            known if SCHEMES_NOT_BUILT.contains(&known) => Err(RegistryUriError::NotBuilt(known.to_owned())),
            _ => Err(RegistryUriError::Unrecognised(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RegistryUri;

    #[track_caller]
    fn check(uri: &str, want: &str) {
        let read = match uri.parse() {
            Ok(RegistryUri::Consul(address)) => format!("consul at `{address}`"),
            Err(error) => error.to_string(),
        };
        assert_eq!(read, want);
    }

    #[test]
    fn the_agent_is_named_as_in_the_original() {
        check("consul://10.0.0.1:8500", "consul at `10.0.0.1:8500`");
        check("consul://10.0.0.1:8500/", "consul at `10.0.0.1:8500`");
        check("consul://", "consul at ``");
        check("consul:", "consul at ``");
        check("consul://[fd00::1]:8500", "consul at `[fd00::1]:8500`");
        check("consul-unix:///run/consul.sock", "consul at `unix:///run/consul.sock`");
    }

    #[test]
    fn what_is_not_built_says_what_is() {
        check(
            "etcd://127.0.0.1:2379/services",
            "the adapter etcd is not built; consul://host:port and consul-unix:///path work",
        );
        check(
            "consul://10.0.0.1:8500/services",
            "consul://10.0.0.1:8500/services has a path, which is not built; consul://host:port registers at the agent",
        );
    }

    #[test]
    fn anything_else_is_refused_in_the_originals_words() {
        check("10.0.0.1", "bad adapter uri: 10.0.0.1");
        check("redis://a", "unrecognized adapter: redis://a");
    }
}
