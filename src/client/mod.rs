//! The client of the agent's HTTP API, ours or any that is compatible with Consul's.
//!
//! Commands, the registrator and templates talk to an agent only through here. Nothing here prints, logs or
//! repeats a request: whoever asks decides what a failure means.

mod address;
mod endpoints;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::de::DeserializeOwned;

pub use address::{Address, AddressError, HTTP_PORT_DEFAULT};
pub use types::{AgentCheck, AgentService, Member};

/// How long connecting may take; an agent is on this machine or beside it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// How long a whole request may take unless the caller says otherwise. Longer than the election of a new leader,
/// for which an agent holds requests.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);

/// Header that carries a token, as Consul's clients send it.
const TOKEN_HEADER: &str = "X-Consul-Token";

/// A secret that the agent may ask for; never shown in errors or logs.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token, or `None` for an empty text (an unset variable in a unit file).
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        if text.is_empty() { None } else { Some(Self(text)) }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Why a request got no useful answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke, or the time was up. The agent may or may not have seen the request.
    #[error("cannot reach the agent at {address}")]
    Unreachable {
        /// Where the agent was expected.
        address: Address,
        /// What the network said.
        source: reqwest::Error,
    },
    /// The agent answered with a status that is not 2xx. The text is that of Consul's Go client; scripts search for it.
    #[error("Unexpected response code: {code} ({body})")]
    Status {
        /// The HTTP status.
        code: u16,
        /// The agent's own words.
        body: String,
    },
    /// The answer was not what the API promises.
    #[error("the agent's answer to {path} is not understood")]
    Answer {
        /// The path that was asked for.
        path: String,
        /// What is wrong with the JSON.
        source: serde_json::Error,
    },
    /// A key that cannot be written into a URL.
    #[error("the key `{0}` cannot be written into a URL")]
    Key(String),
    /// The client itself could not be made.
    #[error("cannot build the HTTP client")]
    Build(#[source] reqwest::Error),
    /// The token has characters that no HTTP header can carry.
    #[error("the token has characters that no HTTP header can carry")]
    Token,
}

impl ClientError {
    /// The HTTP status, if the agent answered at all.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether no agent answered.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// An answer of the agent, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Headers by lower-case name; of a repeated header, the last value.
    pub headers: BTreeMap<String, String>,
    /// The body's bytes.
    pub body: Bytes,
}

impl Reply {
    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The index for the next blocking query, if the answer has one.
    pub fn index(&self) -> Option<u64> {
        self.headers.get("x-consul-index")?.parse().ok()
    }

    /// This answer if its status is 2xx.
    ///
    /// # Errors
    /// [`ClientError::Status`] otherwise.
    pub fn accepted(self) -> Result<Self, ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        Err(ClientError::Status { code: self.status, body: self.text().trim_end().to_owned() })
    }
}

/// Names and values of a query string, in order; a flag has an empty value.
pub type Query<'a> = &'a [(&'a str, &'a str)];

/// A cheap, cloneable handle that keeps its connections open.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    address: Address,
    base: Arc<str>,
}

impl Client {
    /// A client of the agent at `address`. Connects when first used.
    ///
    /// # Errors
    /// [`ClientError::Token`] or [`ClientError::Build`].
    pub fn new(address: Address, token: Option<Token>) -> Result<Self, ClientError> {
        let mut headers = reqwest::header::HeaderMap::new();
        if let Some(Token(token)) = token {
            let mut value = reqwest::header::HeaderValue::from_str(&token).map_err(|_| ClientError::Token)?;
            value.set_sensitive(true);
            headers.insert(TOKEN_HEADER, value);
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_without_roots())
            .default_headers(headers)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME_MAX);
        if let Address::Unix(path) = &address {
            builder = builder.unix_socket(path.clone());
        }
        let http = builder.build().map_err(ClientError::Build)?;
        let base = address.base_url().into();
        Ok(Self { http, address, base })
    }

    /// Where the agent is expected.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// `GET path`; the path is given as it goes over the wire, percent-encoded where needed ([`escape`]).
    ///
    /// # Errors
    /// [`ClientError::Unreachable`]; a status that is not 2xx is no error here.
    pub async fn get(&self, path: &str, query: Query<'_>) -> Result<Reply, ClientError> {
        self.ask(Method::GET, path, query, Bytes::new(), REQUEST_TIME_MAX).await
    }

    /// `GET path` that may wait for a change up to `wait`, plus what the agent adds to it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_blocking(
        &self,
        path: &str,
        query: Query<'_>,
        wait: Duration,
    ) -> Result<Reply, ClientError> {
        // The agent adds up to a sixteenth of the wait, so that waiting clients do not all return at once.
        self.ask(Method::GET, path, query, Bytes::new(), wait + wait / 8 + REQUEST_TIME_MAX).await
    }

    /// `PUT path` with `body`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put(
        &self,
        path: &str,
        query: Query<'_>,
        body: impl Into<Bytes>,
    ) -> Result<Reply, ClientError> {
        self.ask(Method::PUT, path, query, body.into(), REQUEST_TIME_MAX).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str, query: Query<'_>) -> Result<Reply, ClientError> {
        self.ask(Method::DELETE, path, query, Bytes::new(), REQUEST_TIME_MAX).await
    }

    /// `GET path`, read as JSON.
    ///
    /// # Errors
    /// Every [`ClientError`]: here a status that is not 2xx is one too.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query<'_>,
    ) -> Result<T, ClientError> {
        let reply = self.get(path, query).await?.accepted()?;
        serde_json::from_slice(&reply.body)
            .map_err(|source| ClientError::Answer { path: path.to_owned(), source })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Bytes,
        time_max: Duration,
    ) -> Result<Reply, ClientError> {
        let unreachable = |source| ClientError::Unreachable { address: self.address.clone(), source };
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(time_max);
        if !query.is_empty() {
            request = request.query(query);
        }
        if !body.is_empty() {
            request = request.body(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let body = response.bytes().await.map_err(unreachable)?;
        Ok(Reply { status, headers, body })
    }
}

/// `text` as one element of a path: everything but unreserved characters (RFC 3986 §2.3) is percent-encoded.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

/// A TLS configuration that needs no files. Reqwest would look for the system's certificates even for plain HTTP,
/// and in a container from scratch, where there are none, fail.
fn tls_without_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring offers the default protocol versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::{Bytes, ClientError, Reply, Token, escape};

    #[test]
    fn a_refusal_reads_as_in_consuls_go_client() {
        let body = Bytes::from_static(b"No cluster leader\n");
        let reply = Reply { status: 500, headers: std::collections::BTreeMap::new(), body };
        let error = reply.accepted().unwrap_err();
        assert_eq!(error.to_string(), "Unexpected response code: 500 (No cluster leader)");
        assert_eq!(error.code(), Some(500));
        assert!(!matches!(error, ClientError::Unreachable { .. }));
    }

    #[test]
    fn path_elements_are_escaped() {
        assert_eq!(escape("core-01:nginx:80"), "core-01%3Anginx%3A80");
        assert_eq!(escape("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
    }

    #[test]
    fn an_empty_token_is_none_and_a_token_is_never_shown() {
        assert!(Token::new("").is_none());
        assert_eq!(format!("{:?}", Token::new("secret")), "Some(Token(hidden))");
    }
}
