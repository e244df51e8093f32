//! HTTP to etcd: one endpoint after the other until one answers; a failure names each endpoint and its reason.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::Method;
use reqwest::header::DATE;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::bootstrap::etcd::Tls;
use crate::bootstrap::version::Version;
use crate::hint::fault;
use crate::model::election::Revision;

/// How long one endpoint may take: an etcd that elects a leader answers within two election timeouts (2 s).
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
/// How long all endpoints together may take: three that are silent.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// How long a TCP connection may take to come up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How often a silent connection is asked whether it lives: a watch may be silent for days.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How often that may stay without an answer.
const KEEP_ALIVE_RETRIES: u32 = 3;
/// Largest answer in bytes: a thousand machines with a kilobyte each, four times over.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// etcd's own count of changes, in every answer.
const INDEX_HEADER: &str = "x-etcd-index";

/// Which endpoint to ask first, and how.
#[derive(Debug)]
pub(in crate::bootstrap) struct Http {
    client: reqwest::Client,
    endpoints: Vec<String>,
    /// The one that answered last.
    preferred: AtomicUsize,
}

/// An answer, whatever its status, but none that says that the endpoint itself has failed (5xx).
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) index: Option<Revision>,
    /// The endpoint's clock, as HTTP tells it.
    date: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
#[error("{reasons}")]
pub(super) struct Unanswered {
    reasons: String,
    /// Somebody took the connection and spoke no HTTP: an etcd that serves gRPC alone there, or one that died.
    no_http: bool,
}

impl Http {
    pub(in crate::bootstrap) fn new(endpoints: &[String], tls: Option<&Tls>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(tls)?)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_keepalive(KEEP_ALIVE_INTERVAL)
            .tcp_keepalive_interval(KEEP_ALIVE_INTERVAL)
            .tcp_keepalive_retries(KEEP_ALIVE_RETRIES)
            .build()
            .context("cannot build the HTTP client for etcd")?;
        Ok(Self { client, endpoints: endpoints.to_vec(), preferred: AtomicUsize::new(0) })
    }

    /// One request to the first endpoint that answers. A write whose outcome is unknown may reach a second one: all
    /// our writes are conditional, so that it is refused there if it was done already.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<Reply, Unanswered> {
        let mut failed = Unanswered { reasons: String::new(), no_http: false };
        let asked = tokio::time::timeout(CALL_DEADLINE, async {
            let first = self.preferred.load(Ordering::Relaxed);
            for position in 0..self.endpoints.len() {
                let position = (first + position) % self.endpoints.len();
                let attempt = self.attempt(position, method.clone(), path, form, Some(ATTEMPT_DEADLINE));
                match attempt.await {
                    Ok(reply) => {
                        self.preferred.store(position, Ordering::Relaxed);
                        return Some(reply);
                    }
                    Err(failure) => failed.add(failure),
                }
            }
            None
        });
        match asked.await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(failed),
            Err(_) => {
                failed.add(Unanswered {
                    reasons: format!("no answer within {CALL_DEADLINE:?}"),
                    no_http: false,
                });
                Err(failed)
            }
        }
    }

    /// As [`Http::version`], with what the endpoint says about the time.
    pub(in crate::bootstrap) async fn version_and_date(&self) -> Result<(Option<Version>, Option<String>)> {
        match self.ask(Method::GET, "/version", &[]).await {
            Ok(reply) if reply.status == 404 => Ok((None, reply.date)),
            Ok(reply) => Ok((Some(Version::read(&reply.body)?), reply.date)),
            Err(Unanswered { no_http: true, .. }) => Ok((None, None)),
            Err(unanswered) => Err(unanswered).context("cannot ask for etcd's version"),
        }
    }

    /// etcd's version; `None`: somebody is there, but serves no HTTP, as an etcd whose gRPC has a port of its own.
    pub(in crate::bootstrap) async fn version(&self) -> Result<Option<Version>> {
        Ok(self.version_and_date().await?.0)
    }

    /// Where etcd 2 says that its members answer; empty where it does not say it.
    pub(in crate::bootstrap) async fn member_urls(&self) -> Result<Vec<String>> {
        let reply =
            self.ask(Method::GET, "/v2/members", &[]).await.context("cannot ask for etcd's members")?;
        if reply.status == 404 {
            return Ok(Vec::new());
        }
        let answer: serde_json::Value =
            serde_json::from_slice(&reply.body).context("etcd's list of members is not understood")?;
        let members = answer["members"].as_array().into_iter().flatten();
        let urls = members.filter_map(|member| member["clientURLs"].as_array()).flatten();
        Ok(urls.filter_map(|url| Some(url.as_str()?.to_owned())).collect())
    }

    /// One request to the endpoint that answered last, which may wait for ever with its answer.
    pub(super) async fn wait(&self, path: &str) -> Result<Reply, Unanswered> {
        self.attempt(self.preferred.load(Ordering::Relaxed), Method::GET, path, &[], None).await
    }

    async fn attempt(
        &self,
        position: usize,
        method: Method,
        path: &str,
        form: &[(&str, &str)],
        deadline: Option<Duration>,
    ) -> Result<Reply, Unanswered> {
        let endpoint = &self.endpoints[position];
        let mut request = self.client.request(method, format!("{endpoint}{path}"));
        if let Some(deadline) = deadline {
            request = request.timeout(deadline);
        }
        if !form.is_empty() {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(encoded(form));
        }
        let failed = |error: reqwest::Error| Unanswered {
            reasons: format!("{endpoint}: {}", reason(&error)),
            no_http: !error.is_connect() && !error.is_timeout() && !is_about_tls(&error),
        };
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let index = response.headers().get(INDEX_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let date = response.headers().get(DATE).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let reasons = format!("{endpoint}: the answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(Unanswered { reasons, no_http: false });
            }
            body.extend_from_slice(&chunk);
        }
        if status >= 500 {
            let said = String::from_utf8_lossy(&body);
            let reasons = format!("{endpoint}: status {status}: {}", said.trim());
            return Err(Unanswered { reasons, no_http: false });
        }
        Ok(Reply { status, index, date, body })
    }
}

impl Unanswered {
    fn add(&mut self, other: Self) {
        if !self.reasons.is_empty() {
            self.reasons.push_str(", ");
        }
        self.reasons.push_str(&other.reasons);
        self.no_http |= other.no_http;
    }
}

/// The innermost cause: the layers above it only say that a request failed.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return format!("no answer within {ATTEMPT_DEADLINE:?}");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if is_about_tls(error) {
        return format!(
            "{cause} (etcd and this machine do not accept each other's certificates: check --etcd-ca, --etcd-cert)"
        );
    }
    cause.to_string()
}

fn is_about_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    // What an I/O error wraps is not its source.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || wrapped.is_some_and(|wrapped| is_about_tls(wrapped))
        || error.source().is_some_and(is_about_tls)
}

/// `name=value&…`, for a body or a query.
pub(super) fn encoded(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        percent_encode(value, "", &mut text);
    }
    text
}

/// A key as part of a URL's path.
pub(super) fn path_of(key: &str) -> String {
    let mut path = String::from("/v2/keys");
    percent_encode(key, "/", &mut path);
    path
}

fn percent_encode(text: &str, kept: &str, encoded: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
}

/// Trusts the given authority alone. Without TLS it is a configuration that needs no files: reqwest would look for
/// the system's certificates even for plain HTTP, and fail where there are none.
fn tls_config(tls: Option<&Tls>) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in tls.iter().flat_map(|tls| CertificateDer::pem_slice_iter(&tls.authority)) {
        let certificate = certificate.context("the authority of etcd's certificate is no PEM text");
        roots.add(certificate?).context("the authority of etcd's certificate cannot be used")?;
    }
    if tls.is_some() && roots.is_empty() {
        return Err(fault(
            "the authority of etcd's certificate holds no certificate",
            "give a PEM file with --etcd-ca",
        ));
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("cannot prepare TLS for etcd")?
            .with_root_certificates(roots);
    let Some((certificate, key)) = tls.and_then(|tls| tls.identity.as_ref()) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .context("our certificate for etcd is no PEM text")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the key of our certificate is no PEM text")?;
    builder.with_client_auth_cert(chain, key).context("our certificate for etcd and its key do not fit")
}

#[cfg(test)]
mod tests {
    use super::{Http, encoded, path_of};
    use crate::bootstrap::etcd::Tls;

    #[test]
    fn values_and_keys_survive_their_way_into_a_request() {
        assert_eq!(encoded(&[("a", "{\"b c\": 1}&"), ("d", "é")]), "a=%7B%22b%20c%22%3A%201%7D%26&d=%C3%A9");
        assert_eq!(path_of("/a b/c?d"), "/v2/keys/a%20b/c%3Fd");
    }

    #[test]
    fn a_file_without_certificates_is_no_authority() {
        let tls = Tls { authority: b"nothing".to_vec(), identity: None };
        let error = Http::new(&["https://127.0.0.1:1".to_owned()], Some(&tls)).unwrap_err();
        assert!(crate::hint::report(&error).contains("--etcd-ca"), "{error:?}");
    }
}
