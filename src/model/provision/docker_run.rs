//! `cmd:run`: the docker line that starts an agent container, as the image progrium/consul printed it.
//!
//! For addresses and arguments of plain characters the text is that image's, byte for byte, tabs included, because
//! people's scripts run it as `$(docker run --rm IMAGE cmd:run 10.0.0.1 -d)`. The container publishes DNS on the
//! bridge's port 53 and expects an agent that listens on 0.0.0.0, DNS on port 53.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::shell::{WordError, eval_word};

/// The image's name when none is given.
pub const IMAGE_DEFAULT: &str = "corediscover";
/// The container's name when none is given; a later `--name` among docker's arguments wins.
pub const NAME_DEFAULT: &str = "consul";
/// What the shell that runs the line puts in as the container's host name.
const HOSTNAME_VARIABLE: &str = "$HOSTNAME";
/// What the agent publishes on the machine's address: server RPC, gossip, WAN gossip, the old CLI RPC, HTTP.
const PORTS: [&str; 7] =
    ["8300:8300", "8301:8301", "8301:8301/udp", "8302:8302", "8302:8302/udp", "8400:8400", "8500:8500"];

/// Why there is no docker line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerRunError {
    /// IPv6 addresses have the separator in them.
    #[error(
        "`{0}` could be an IPv6 address or several addresses: write IPv6 in brackets, as in [fd00::1]::[fd00::2]"
    )]
    AmbiguousColons(String),
    /// Neither an address nor a host name.
    #[error(
        "`{0}` is not an address: the form is ADVERTISE[::JOIN[::client]], for example 10.0.0.2::10.0.0.1"
    )]
    Address(String),
    /// Nothing before the first separator.
    #[error("the address to advertise is missing: the form is ADVERTISE[::JOIN[::client]]")]
    NoAddress,
    /// Something other than a separator after a bracket.
    #[error("`{0}` is not what follows a bracket: the form is [ADVERTISE][::[JOIN][::client]]")]
    AfterBracket(String),
    /// No number of servers.
    #[error("`{0}` is not a number of servers: EXPECT and --expect take 1, 3, 5 …")]
    Expect(String),
    /// An argument that the shell would change.
    #[error("the argument {argument:?} cannot be printed: {reason}")]
    Word {
        /// What was given.
        argument: String,
        /// Why it would change.
        reason: WordError,
    },
}

/// A machine, as a spec names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// IPv6, which is bracketed beside ports.
    V6(Ipv6Addr),
    /// IPv4 or a host name.
    Plain(String),
}

impl Host {
    fn parse_plain(text: &str) -> Result<Self, DockerRunError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if text.is_empty()
            || text.starts_with('-')
            || !text.bytes().all(plain)
            || (numeric && text.parse::<Ipv4Addr>().is_err())
        {
            return Err(DockerRunError::Address(text.to_owned()));
        }
        Ok(Self::Plain(text.to_owned()))
    }

    /// The text of `-p HOST:ports`.
    fn published(&self, ports: &str) -> String {
        match self {
            Self::V6(address) => format!("[{address}]:{ports}"),
            Self::Plain(text) => format!("{text}:{ports}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V6(address) => address.fmt(f),
            Self::Plain(text) => f.write_str(text),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Plain(address.to_string()),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

/// What the first argument says: `ADVERTISE[SEP JOIN[SEP CLIENT]]`, where SEP is `:` or `::`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// The address that the agent tells the others.
    pub advertise: Host,
    /// An agent to join; without one, the agent waits for other servers.
    pub join: Option<Host>,
    /// Whether the agent is no server.
    pub client: bool,
}

impl FromStr for RunSpec {
    type Err = DockerRunError;

    fn from_str(text: &str) -> Result<Self, DockerRunError> {
        let (advertise, rest) = take_host(text)?;
        let advertise = advertise.ok_or(DockerRunError::NoAddress)?;
        let (join, rest) = match rest {
            None => (None, None),
            Some(rest) => take_host(rest)?,
        };
        Ok(Self { advertise, join, client: rest.is_some_and(|rest| !rest.trim_matches(':').is_empty()) })
    }
}

/// The host at the start of `text` (`None` when there is nothing before a separator), and what follows its separator.
fn take_host(text: &str) -> Result<(Option<Host>, Option<&str>), DockerRunError> {
    if let Some(inner) = text.strip_prefix('[') {
        let fault = || DockerRunError::Address(text.to_owned());
        let (address, rest) = inner.split_once(']').ok_or_else(fault)?;
        let address = address.parse().map_err(|_| fault())?;
        let rest = match rest.strip_prefix(':') {
            Some(rest) => Some(rest.strip_prefix(':').unwrap_or(rest)),
            None if rest.is_empty() => None,
            None => return Err(DockerRunError::AfterBracket(rest.to_owned())),
        };
        return Ok((Some(Host::V6(address)), rest));
    }
    if looks_like_ipv6(text) {
        return Err(DockerRunError::AmbiguousColons(text.to_owned()));
    }
    let (host, rest) = match text.split_once(':') {
        None => (text, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
    };
    let host = if host.is_empty() { None } else { Some(Host::parse_plain(host)?) };
    Ok((host, rest))
}

/// Whether `text` begins as an IPv6 address does: two groups of hexadecimal digits, or nothing but one address.
fn looks_like_ipv6(text: &str) -> bool {
    let is_group = |field: &str| field.len() <= 4 && field.bytes().all(|byte| byte.is_ascii_hexdigit());
    let groups =
        text.split(':').take_while(|field| is_group(field)).filter(|field| !field.is_empty()).count();
    groups >= 2 || text.parse::<Ipv6Addr>().is_ok()
}

/// The number of servers to wait for, from `EXPECT` or `--expect`.
///
/// # Errors
/// When it is not a number, or zero.
pub fn parse_expect(text: &str) -> Result<u32, DockerRunError> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(DockerRunError::Expect(text.to_owned())),
    }
}

/// Everything the docker line depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerRun {
    /// Addresses and mode.
    pub spec: RunSpec,
    /// Where containers reach this machine: DNS is published there.
    pub bridge: IpAddr,
    /// How many servers to wait for.
    pub expect: u32,
    /// The image.
    pub image: String,
    /// The container's name.
    pub name: String,
    /// The container's host name; `None` leaves it to the shell that runs the line, as `$HOSTNAME`.
    pub hostname: Option<String>,
    /// Arguments for `docker run`, as the user typed them.
    pub arguments: Vec<String>,
}

impl DockerRun {
    /// The line, with its line break.
    ///
    /// # Errors
    /// When an argument would not survive `$(…)`.
    pub fn line(&self) -> Result<String, DockerRunError> {
        let bridge = Host::from(self.bridge);
        let ports = PORTS.iter().map(|ports| self.spec.advertise.published(ports));
        let dns_ports = ["53:53", "53:53/udp"].iter().map(|ports| bridge.published(ports));
        let hostname = match &self.hostname {
            None => HOSTNAME_VARIABLE.to_owned(),
            Some(name) => word(name)?,
        };
        let mut line = format!("eval docker run --name {} -h {hostname}", word(&self.name)?);
        for published in ports.chain(dns_ports) {
            line.push_str(" \t-p ");
            line.push_str(&word(&published)?);
        }
        let arguments =
            self.arguments.iter().map(|argument| word(argument)).collect::<Result<Vec<_>, _>>()?.join(" ");
        // A client has an empty first flag: two blanks, as the original prints.
        let mode = if self.spec.client { "" } else { "-server" };
        let meeting = match &self.spec.join {
            Some(join) => format!("-join {join}"),
            None => format!("-bootstrap-expect {}", self.expect),
        };
        let advertise = &self.spec.advertise;
        Ok(format!("{line} \t{arguments} \t{} {mode} -advertise {advertise} {meeting}\n", word(&self.image)?))
    }
}

fn word(text: &str) -> Result<String, DockerRunError> {
    eval_word(text).map_err(|reason| DockerRunError::Word { argument: text.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::{DockerRun, DockerRunError, RunSpec, parse_expect};

    fn flags(spec: &str) -> String {
        let run = DockerRun {
            spec: spec.parse().unwrap(),
            bridge: "172.17.0.1".parse().unwrap(),
            expect: 3,
            image: "IMAGE".to_owned(),
            name: "consul".to_owned(),
            hostname: None,
            arguments: Vec::new(),
        };
        let line = run.line().unwrap();
        line.split_once("\tIMAGE ").unwrap().1.trim_end().to_owned()
    }

    #[test]
    fn the_flags_follow_the_form_of_the_spec() {
        assert_eq!(flags("10.0.0.2"), "-server -advertise 10.0.0.2 -bootstrap-expect 3");
        for spec in ["10.0.0.2:10.0.0.1", "10.0.0.2::10.0.0.1"] {
            assert_eq!(flags(spec), "-server -advertise 10.0.0.2 -join 10.0.0.1");
        }
        for spec in ["10.0.0.2:10.0.0.1:client", "10.0.0.2::10.0.0.1::client", "10.0.0.2:10.0.0.1:x:y"] {
            assert_eq!(flags(spec), " -advertise 10.0.0.2 -join 10.0.0.1");
        }
        for spec in ["10.0.0.2:::client", "10.0.0.2::::client"] {
            assert_eq!(flags(spec), " -advertise 10.0.0.2 -bootstrap-expect 3");
        }
        assert_eq!(flags("10.0.0.2:"), "-server -advertise 10.0.0.2 -bootstrap-expect 3");
        assert_eq!(flags("A:J:x:y"), " -advertise A -join J");
    }

    #[test]
    fn ipv6_is_read_in_brackets() {
        assert_eq!(flags("[fd00::1]"), "-server -advertise fd00::1 -bootstrap-expect 3");
        assert_eq!(flags("[fd00::1]::[fd00::2]"), "-server -advertise fd00::1 -join fd00::2");
        assert_eq!(flags("[fd00::1]:[fd00::2]:client"), " -advertise fd00::1 -join fd00::2");
        assert_eq!(flags("[fd00::1]:::client"), " -advertise fd00::1 -bootstrap-expect 3");
    }

    #[test]
    fn ipv6_without_brackets_is_refused_with_the_form_to_use() {
        for spec in [
            "fd00::1",
            "fd00::",
            "::1",
            "fd00:1:2:3:4:5:6:7",
            "fd00::1::fd00::2",
            "10.0.0.1::fd00::2",
            "fd00::1::client",
        ] {
            let error = spec.parse::<RunSpec>().unwrap_err();
            assert!(matches!(error, DockerRunError::AmbiguousColons(_)), "{spec}: {error}");
            assert!(error.to_string().contains("[fd00::1]::[fd00::2]"), "{error}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for spec in
            ["", ":10.0.0.1", "10.0.0", "10.0.0.1 ", "-d", "10.0.0.1::a;b", "[fd00::1", "[x]", "[fd00::1]x"]
        {
            assert!(spec.parse::<RunSpec>().is_err(), "{spec}");
        }
        assert_eq!(parse_expect("5"), Ok(5));
        for wrong in ["0", "-1", "three", ""] {
            assert!(parse_expect(wrong).is_err(), "{wrong}");
        }
    }
}
