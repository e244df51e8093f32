//! Where an agent is: the grammar of `CONSUL_HTTP_ADDR` and `-http-addr`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Port of the HTTP API when an address names none.
pub const HTTP_PORT_DEFAULT: u16 = 8500;

/// Why a text is not the address of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a host with a port nor one of the schemes.
    #[error("`{0}` is not an address of an agent: use host:port, http://host:port or unix:///path/to/socket")]
    Form(String),
    /// TLS towards the agent.
    #[error("`{0}`: https is not built; use http://host:port or unix:///path/to/socket")]
    Https(String),
}

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Plain HTTP; an IPv6 host is kept in brackets.
    Http {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// HTTP over a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The start of every URL, without a slash at its end. Over a unix socket the host is only a word.
    pub(super) fn base_url(&self) -> String {
        match self {
            Self::Http { host, port } => format!("http://{host}:{port}"),
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

impl Default for Address {
    /// The agent on this machine.
    fn default() -> Self {
        Self::Http { host: "127.0.0.1".to_owned(), port: HTTP_PORT_DEFAULT }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `host`, `host:port`, `:port`, `http://host:port` (a `tcp://` as well) or `unix:///path`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::Form(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        if text.starts_with("https://") {
            return Err(AddressError::Https(text.to_owned()));
        }
        let authority = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("tcp://"))
            .unwrap_or(text)
            .trim_end_matches('/');
        let (host, port) = split_port(authority).ok_or_else(wrong)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]%".contains(&byte);
        if authority.is_empty() || !host.bytes().all(fits) {
            return Err(wrong());
        }
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Http { host: host.to_owned(), port })
    }
}

/// `host[:port]` with an IPv6 host in brackets; `None` for a port that is no number.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let host_end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(host_end);
    match rest.strip_prefix(':') {
        Some(port) => Some((host, port.parse().ok()?)),
        None if rest.is_empty() => Some((host, HTTP_PORT_DEFAULT)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn addresses_are_read_as_consul_reads_them() {
        for (text, read) in [
            ("10.0.0.1:8500", "http://10.0.0.1:8500"),
            ("http://agent:1234", "http://agent:1234"),
            ("http://agent:1234/", "http://agent:1234"),
            ("agent", "http://agent:8500"),
            (":8501", "http://127.0.0.1:8501"),
            ("[fd00::1]:8500", "http://[fd00::1]:8500"),
            ("[fd00::1]", "http://[fd00::1]:8500"),
            ("tcp://10.0.0.1:80", "http://10.0.0.1:80"),
            ("unix:///run/agent.sock", "unix:///run/agent.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), read);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be_one() {
        for text in
            ["", "http://", "unix://relative", "a:port", "a:99999", "fd00::1", "a b:80", "ftp://a", "a/b"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("use host:port"), "{text}: {error}");
        }
        let error = "https://a:8501".parse::<Address>().unwrap_err();
        assert!(error.to_string().contains("https is not built"), "{error}");
    }
}
