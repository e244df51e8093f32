//! Answers as bytes on the wire: body, content type and Consul's header fields.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use crate::agent::handle::{Freshness, ReadMode};
use crate::model::api::json;

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const DEFAULT_POLICY: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
const REASON: HeaderName = HeaderName::from_static("x-consul-reason");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const RAW: HeaderValue = HeaderValue::from_static("text/plain");
const ALLOW_ALL: HeaderValue = HeaderValue::from_static("allow");
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");

/// What the header fields of a blocking-capable read say.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadMeta {
    pub(super) index: u64,
    pub(super) freshness: Freshness,
    /// Shown for catalog and health, not for keys.
    pub(super) consistency: Option<ReadMode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Raw,
    Empty,
}

/// A handler's answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    kind: Kind,
    body: Bytes,
    meta: Option<ReadMeta>,
    extra: Option<(HeaderName, HeaderValue)>,
}

impl Answer {
    fn new(status: StatusCode, kind: Kind, body: Bytes) -> Self {
        Self { status, kind, body, meta: None, extra: None }
    }

    /// 200 with JSON.
    pub(super) fn json(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, Kind::Json, body.into())
    }

    /// 200 with `true` or `false`.
    pub(super) fn boolean(value: bool) -> Self {
        Self::json(Bytes::from_static(if value { b"true" } else { b"false" }))
    }

    /// 200 without a body, the answer to writes at the agent.
    pub(super) fn empty() -> Self {
        Self::empty_with(StatusCode::OK)
    }

    /// A status without a body.
    pub(super) fn empty_with(status: StatusCode) -> Self {
        Self::new(status, Kind::Empty, Bytes::new())
    }

    /// A plain text, as all errors are.
    pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self::new(status, Kind::Text, text.into())
    }

    /// The bytes of a key, which no browser may take for a page.
    pub(super) fn raw(body: Bytes) -> Self {
        Self::new(StatusCode::OK, Kind::Raw, body)
    }

    /// 405.
    pub(super) fn method_not_allowed(method: &str, allow: &str) -> Self {
        Self::text(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed")).allow(allow)
    }

    /// 301.
    pub(super) fn moved_to(location: &str) -> Self {
        let mut answer = Self::empty_with(StatusCode::MOVED_PERMANENTLY);
        answer.extra = HeaderValue::from_str(location).ok().map(|value| (LOCATION, value));
        answer
    }

    pub(super) fn allow(mut self, methods: &str) -> Self {
        self.extra = HeaderValue::from_str(methods).ok().map(|value| (ALLOW, value));
        self
    }

    pub(super) fn reason(mut self, reason: &str) -> Self {
        self.extra = HeaderValue::from_str(reason).ok().map(|value| (REASON, value));
        self
    }

    pub(super) fn content_hash(mut self, hash: &str) -> Self {
        self.extra = HeaderValue::from_str(hash).ok().map(|value| (CONTENT_HASH, value));
        self
    }

    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn meta(mut self, meta: ReadMeta) -> Self {
        self.meta = Some(meta);
        self
    }

    /// Whether the body is JSON, so that `?pretty` concerns it.
    pub(super) fn is_json(&self) -> bool {
        self.kind == Kind::Json
    }

    /// Indents JSON; a newline ends it when the client asked, not when the agent always does so.
    pub(super) fn indent(&mut self, newline: bool) {
        let mut body = json::indent(&self.body);
        if newline {
            body.push(b'\n');
        }
        self.body = body.into();
    }

    /// The response with all its header fields.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(VARY, ACCEPT_ENCODING);
        headers.insert(DEFAULT_POLICY, ALLOW_ALL);
        match self.kind {
            Kind::Json => {
                headers.insert(CONTENT_TYPE, JSON);
            }
            Kind::Text => {
                headers.insert(CONTENT_TYPE, TEXT);
            }
            Kind::Raw => {
                headers.insert(CONTENT_TYPE, RAW);
                headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            Kind::Empty => {}
        }
        if let Some(meta) = self.meta {
            // 0 makes watchers spin: Consul reports 1.
            headers.insert(INDEX, HeaderValue::from(meta.index.max(1)));
            let known = if meta.freshness.known_leader { "true" } else { "false" };
            headers.insert(KNOWN_LEADER, HeaderValue::from_static(known));
            let contact = u64::try_from(meta.freshness.last_contact.as_millis()).unwrap_or(u64::MAX);
            headers.insert(LAST_CONTACT, HeaderValue::from(contact));
            if let Some(mode) = meta.consistency {
                let mode = match mode {
                    ReadMode::Default => "leader",
                    ReadMode::Consistent => "consistent",
                    ReadMode::Stale => "stale",
                };
                headers.insert(CONSISTENCY, HeaderValue::from_static(mode));
                headers.insert(BACKEND, HeaderValue::from_static("blocking-query"));
            }
        }
        if let Some((name, value)) = self.extra {
            headers.insert(name, value);
        }
        response
    }
}
