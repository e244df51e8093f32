//! HTTP checks: one request, whose status code is the result and whose body is the output.
//!
//! Each run makes its own connection, as Consul does: a kept one would not notice that nobody listens any more.
//! Proxies of the environment are not used.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{ACCEPT, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Url};

use super::tls;
use crate::model::catalog::Status;
use crate::model::health::{self, CheckKind, Failure, Tail, http_answer, http_failure, http_status};

/// Redirects that are followed (Go's limit).
const REDIRECTS_MAX: usize = 10;

/// HTTP clients for all ways in which a check can be asked.
pub(super) struct HttpProbes {
    /// By: certificates are not verified, redirects are not followed.
    clients: BTreeMap<(bool, bool), Client>,
}

impl HttpProbes {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut clients = BTreeMap::new();
        for skip_verify in [false, true] {
            for disable_redirects in [false, true] {
                let tls = if skip_verify { tls::unverified()? } else { tls::verified()? };
                let redirects =
                    if disable_redirects { Policy::none() } else { Policy::limited(REDIRECTS_MAX) };
                let client = Client::builder()
                    .tls_backend_preconfigured(tls)
                    .redirect(redirects)
                    .no_proxy()
                    .http1_only()
                    .pool_max_idle_per_host(0)
                    .build()
                    .context("cannot prepare HTTP for checks")?;
                clients.insert((skip_verify, disable_redirects), client);
            }
        }
        Ok(Self { clients })
    }

    /// Asks once; a check of another kind is critical.
    pub(super) async fn ask(
        &self,
        kind: &CheckKind,
        timeout: Duration,
        output_max: usize,
    ) -> (Status, String) {
        let CheckKind::Http { url, method, header, body, disable_redirects, tls_skip_verify } = kind else {
            return (Status::Critical, "not an HTTP check".to_owned());
        };
        let method = if method.is_empty() { "GET" } else { method };
        let critical = |address: &str, failure: &Failure| {
            (Status::Critical, http_failure(method, url, address, failure))
        };
        let (parsed, verb, headers) = match request_parts(url, method, header) {
            Ok(parts) => parts,
            Err(reason) => return critical("", &Failure::Other(reason)),
        };
        let address = address_of(&parsed);
        let Some(client) = self.clients.get(&(*tls_skip_verify, *disable_redirects)) else {
            return critical(&address, &Failure::Other("no HTTP client".to_owned()));
        };
        let request =
            client.request(verb, parsed).headers(headers).body(body.clone()).timeout(timeout).send();
        let mut response = match request.await {
            Ok(response) => response,
            Err(error) => return critical(&address, &failure(&error)),
        };
        let code = response.status();
        let status_text = code
            .canonical_reason()
            .map_or_else(|| code.as_str().to_owned(), |reason| format!("{} {reason}", code.as_str()));
        let mut tail = Tail::new(output_max);
        loop {
            match response.chunk().await {
                Ok(Some(part)) => tail.push(&part),
                Ok(None) => break,
                Err(error) => {
                    // Consul reports what it has got so far, and judges by the code.
                    tracing::debug!("the answer of {url} was cut short: {error}");
                    break;
                }
            }
        }
        (http_status(code.as_u16()), http_answer(method, url, &status_text, &tail.into_text()))
    }
}

type RequestParts = (Url, Method, HeaderMap);

fn request_parts(
    url: &str,
    method: &str,
    header: &BTreeMap<String, Vec<String>>,
) -> Result<RequestParts, String> {
    let parsed = Url::parse(url).map_err(|error| error.to_string())?;
    let verb = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, values) in header {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        for value in values {
            let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
            // There is one host; of several, the last counts.
            if name == HOST {
                headers.insert(HOST, value);
            } else {
                headers.append(name.clone(), value);
            }
        }
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(health::USER_AGENT));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static(health::ACCEPT));
    Ok((parsed, verb, headers))
}

fn address_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Failure::TimedOut;
    }
    let mut innermost = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        innermost = this.to_string();
        if innermost.starts_with("dns error") {
            return Failure::NoSuchHost;
        }
        if let Some(io) = this.downcast_ref::<std::io::Error>()
            && io.kind() == ErrorKind::ConnectionRefused
        {
            return Failure::Refused;
        }
        cause = this.source();
    }
    Failure::Other(innermost)
}
