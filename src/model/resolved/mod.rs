//! How a machine's own resolver, systemd-resolved, finds the agent: which way fits which version, and the texts for it.
//!
//! All files but Docker's are under `/run`: a machine that lost its power comes up with its own resolvers alone.

pub mod bridge;
pub mod docker;
pub mod firewall;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// File of [`Mode::DropIn`] and [`Mode::Plain`]. consul-coreos called it so: it sorts first, because the first server
/// is asked first.
pub const DROP_IN: &str = "/run/systemd/resolved.conf.d/00-consul-dns.conf";
/// File of [`Mode::Delegate`].
pub const DELEGATE: &str = "/run/systemd/dns-delegate.d/00-consul.dns-delegate";
/// File that makes the resolver answer containers.
pub const CONTAINERS: &str = "/run/systemd/resolved.conf.d/01-consul-containers.conf";
/// Says that the resolver has not read its files yet, and how it has to: there only between the two. Beside its files, where
/// the unit may write; the resolver reads `*.conf` alone.
pub const UNSETTLED: &str = "/run/systemd/resolved.conf.d/02-consul.unsettled";
/// File that tells systemd-networkd to leave [`LINK`] alone; the resolver takes no settings for a link that it manages.
pub const UNMANAGED: &str = "/run/systemd/network/00-consul-dns.network";
/// The resolver's own unit.
pub const RESOLVER: &str = "systemd-resolved.service";
/// The link of our own.
pub const LINK: &str = "cdns0";
/// Its address: link-local (RFC 3927), so that no network of the machine has it. Containers of every bridge reach it,
/// as they reach all addresses of the machine that runs them.
pub const LINK_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 1);
/// The port of DNS when nothing else is said.
pub const STANDARD_PORT: u16 = 53;

/// Debian's packages with the resolver, and with what lets the C library ask it; Ubuntu has it from the start.
pub const PACKAGES: &str = "systemd-resolved libnss-resolve";
/// What keeps DNS working when /etc/resolv.conf becomes the resolver's: the servers that it names are asked on. Where it names
/// none but this machine itself, what was kept before stays. A line for a shell, which it leaves as it was, without `$`, `%`,
/// `\`, `!` or `'`: units, scripts and terminals hold it too. The resolver is not root, and must read the file whatever the
/// umask is.
pub const KEEP_SERVERS: &str = "( umask 022; if grep -s \"^nameserver\" /etc/resolv.conf | grep -q -v \"[[:space:]]127[.]\"; then \
     mkdir -p /etc/systemd/resolved.conf.d && { echo \"[Resolve]\"; \
     sed -n -e \"/^nameserver[[:space:]]*127[.]/d\" -e \"s/^nameserver[[:space:]]*/DNS=/p\" \
     -e \"s/^search[[:space:]]*/Domains=/p\" /etc/resolv.conf; } >/etc/systemd/resolved.conf.d/50-kept.conf; fi )";

/// First version that reads `dns-delegate` files (systemd.dns-delegate(5)).
const DELEGATE_SINCE: u32 = 258;
/// First version whose resolver can answer at other addresses than 127.0.0.53 (resolved.conf(5)).
pub const CONTAINERS_SINCE: u32 = 247;
/// First version that takes a port behind a server's address (systemd's NEWS).
const PORTS_SINCE: u32 = 246;
/// First version with a resolver at 127.0.0.53 that programs ask (systemd's NEWS); before, they ask the servers
/// themselves, one after the other, and would ask the agent for every name.
const STUB_SINCE: u32 = 231;
/// First version that reads drop-ins (systemd's NEWS).
const DROP_INS_SINCE: u32 = 218;

/// A way to point the resolver at the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A `dns-delegate` file: the domain alone goes to the agent. No restart, only a reload.
    Delegate,
    /// Settings of a link of our own: the domain alone goes to the agent. No restart, no file.
    Link,
    /// A drop-in of resolved.conf: other names go to the agent too, beside the machine's own servers.
    DropIn,
    /// The same for a resolver that knows no ports: the agent must be on port 53.
    Plain,
}

impl Mode {
    /// The word that a user writes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delegate => "delegate",
            Self::Link => "link",
            Self::DropIn => "drop-in",
            Self::Plain => "plain",
        }
    }

    fn since(self) -> u32 {
        match self {
            Self::Delegate => DELEGATE_SINCE,
            Self::Link | Self::DropIn => PORTS_SINCE,
            Self::Plain => DROP_INS_SINCE,
        }
    }

    /// The way for this version of systemd: the one that was asked for, else the best.
    ///
    /// # Errors
    /// When this version cannot do it.
    pub fn choose(asked: Option<Self>, version: u32, port: u16) -> Result<Self, ModeError> {
        let mode = match asked {
            Some(mode) if version < mode.since() => return Err(ModeError::Version { mode, version }),
            Some(mode) => mode,
            None if version >= DELEGATE_SINCE => Self::Delegate,
            None if version >= PORTS_SINCE => Self::Link,
            None if version >= STUB_SINCE => Self::Plain,
            None => return Err(ModeError::NoStub(version)),
        };
        if mode == Self::Plain && port != STANDARD_PORT {
            return Err(ModeError::Port { version, port });
        }
        Ok(mode)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a version of systemd cannot do what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// The mode came later.
    #[error("mode {mode} needs systemd {}, this machine has {version}", mode.since())]
    Version {
        /// What was asked for.
        mode: Mode,
        /// What is there.
        version: u32,
    },
    /// A server has no port there.
    #[error("the resolver of this machine (systemd {version}) is to ask the agent on port 53, not {port}")]
    Port {
        /// What is there.
        version: u32,
        /// Where the agent is.
        port: u16,
    },
    /// Programs ask the servers themselves.
    #[error("systemd {0} has no resolver that sends one domain to the agent")]
    NoStub(u32),
}

impl ModeError {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Version { .. } => "leave --mode out: the best way for this version is taken",
            Self::Port { .. } => {
                "start the agent with `-dns-port 53`, and give --dns-port 53 here; units: `corediscover units --dns-port 53`"
            }
            Self::NoStub(_) => {
                "systemd 231 is needed; or `--mode plain --dns-port 53`, where programs ask the agent for every name: \
                 it then needs `-dns-port 53` and a `-recursor`"
            }
        }
    }
}

/// The number in the first line of `systemctl --version`: `systemd 252 (252.38-1~deb12u1)`.
pub fn version(text: &str) -> Option<u32> {
    let word = text.split_whitespace().nth(1)?;
    let digits = word.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// What the resolver is to ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The agent's DNS.
    pub agent: SocketAddr,
    /// The domain, without dots at its ends.
    pub domain: String,
}

impl Target {
    /// The agent as resolved.conf and resolvectl spell it: no port where it is the usual one.
    pub fn server(&self) -> String {
        if self.agent.port() == STANDARD_PORT { self.agent.ip().to_string() } else { self.agent.to_string() }
    }

    /// The domain for routing alone: it is not a search list.
    pub fn route(&self) -> String {
        format!("~{}", self.domain)
    }

    /// The text of [`DROP_IN`].
    pub fn drop_in(&self) -> String {
        format!("[Resolve]\nDNS={}\nDomains={}\n", self.server(), self.route())
    }

    /// The text of [`DELEGATE`].
    pub fn delegate(&self) -> String {
        format!("[Delegate]\nDNS={}\nDomains={}\n", self.server(), self.route())
    }
}

/// The text of [`CONTAINERS`]. The resolver binds addresses that do not exist yet too (`IP_FREEBIND`).
pub fn containers(addresses: &[IpAddr]) -> String {
    let lines = addresses.iter().map(|address| format!("DNSStubListenerExtra={address}\n"));
    format!("[Resolve]\n{}", lines.collect::<String>())
}

/// The addresses in such a text.
pub fn container_addresses(text: &str) -> Vec<IpAddr> {
    let values = text.lines().filter_map(|line| line.strip_prefix("DNSStubListenerExtra="));
    values.filter_map(|value| value.parse().ok()).collect()
}

/// The text of [`UNMANAGED`].
pub fn unmanaged() -> String {
    format!("[Match]\nName={LINK}\n\n[Link]\nUnmanaged=yes\n")
}

#[cfg(test)]
mod tests {
    use super::{Mode, ModeError, Target, container_addresses, containers, version};

    fn target(agent: &str) -> Target {
        Target { agent: agent.parse().unwrap(), domain: "consul".to_owned() }
    }

    #[test]
    fn each_version_gets_the_best_way_that_it_knows() {
        for (number, port, mode) in [
            (260, 8600, Mode::Delegate),
            (258, 53, Mode::Delegate),
            (257, 8600, Mode::Link),
            (246, 8600, Mode::Link),
            (245, 53, Mode::Plain),
            (231, 53, Mode::Plain),
        ] {
            assert_eq!(Mode::choose(None, number, port), Ok(mode), "{number}");
        }
        assert_eq!(Mode::choose(None, 245, 8600), Err(ModeError::Port { version: 245, port: 8600 }));
        assert_eq!(Mode::choose(None, 225, 53), Err(ModeError::NoStub(225)));
    }

    #[test]
    fn a_way_that_is_asked_for_is_taken_if_the_version_has_it() {
        assert_eq!(Mode::choose(Some(Mode::DropIn), 258, 8600), Ok(Mode::DropIn));
        assert_eq!(Mode::choose(Some(Mode::Plain), 225, 53), Ok(Mode::Plain));
        let refused = Mode::choose(Some(Mode::Delegate), 252, 8600).unwrap_err();
        assert_eq!(refused.to_string(), "mode delegate needs systemd 258, this machine has 252");
        assert!(Mode::choose(Some(Mode::Plain), 252, 8600).is_err());
    }

    #[test]
    fn the_files_name_the_agent_and_route_only_its_domain() {
        assert_eq!(target("127.0.0.1:8600").drop_in(), "[Resolve]\nDNS=127.0.0.1:8600\nDomains=~consul\n");
        assert_eq!(target("[fd00::7]:8600").delegate(), "[Delegate]\nDNS=[fd00::7]:8600\nDomains=~consul\n");
        assert_eq!(target("[fd00::7]:53").server(), "fd00::7", "old resolvers know no ports");
    }

    #[test]
    fn the_version_is_read_from_what_systemctl_prints() {
        assert_eq!(version("systemd 252 (252.38-1~deb12u1)\n+PAM +AUDIT\n"), Some(252));
        assert_eq!(version("systemd 258~rc2 (258~rc2)"), Some(258));
        assert_eq!(version("systemd"), None);
    }

    #[test]
    fn the_addresses_for_containers_are_read_back() {
        let addresses = ["169.254.53.1".parse().unwrap(), "172.17.0.1".parse().unwrap()];
        assert_eq!(container_addresses(&containers(&addresses)), addresses);
    }
}
