//! From a request to its answer: which text or which bytes of the binary.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};

use super::{Program, Settings, Snapshot};
use crate::hint;
use crate::model::provision::served::{BINARY_PATH, DIGEST_PATH};

const TEXT: &str = "text/plain; charset=utf-8";
/// When a client should ask again whose binary is being replaced, in seconds.
const RETRY_SECONDS: &str = "5";

/// What is sent.
struct Content {
    bytes: Bytes,
    /// What the bytes are, as HTTP says it.
    kind: &'static str,
    /// Changes with the content.
    tag: Option<String>,
}

impl Content {
    fn text(text: impl Into<Bytes>, kind: &'static str) -> Self {
        Self { bytes: text.into(), kind, tag: None }
    }

    fn program(snapshot: Snapshot) -> Self {
        let tag = Some(format!("\"{}\"", snapshot.digest));
        Self { bytes: snapshot.content, kind: "application/octet-stream", tag }
    }
}

/// Answers one request of a machine that connected to `local`.
pub(super) fn answer<B>(
    settings: &Settings,
    program: &Program,
    local: SocketAddr,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let is_head = request.method() == Method::HEAD;
    let response = if is_head || request.method() == Method::GET {
        match find(settings, program, local, request.uri().path()) {
            Ok(Ok(content)) => send(content, request.headers()),
            Ok(Err(reason)) => plain(StatusCode::NOT_FOUND, format!("{reason}\n")),
            Err(error) => {
                let text = hint::causes(&error);
                tracing::error!("cannot answer {}: {text}", request.uri().path());
                let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n"));
                set(&mut response, RETRY_AFTER, RETRY_SECONDS);
                response
            }
        }
    } else {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "this server is only read\n".to_owned());
        set(&mut response, ALLOW, "GET, HEAD");
        response
    };
    if is_head { without_body(response) } else { response }
}

/// What is at `path`, or why nothing ever will be with these settings: clients ask again for what failed, not for that.
fn find(
    settings: &Settings,
    program: &Program,
    local: SocketAddr,
    path: &str,
) -> anyhow::Result<Result<Content, String>> {
    if let Some(digest) = path.strip_prefix(BINARY_PATH).and_then(|rest| rest.strip_prefix('/')) {
        let reason = || "no binary with this sha512: it was served two binaries ago or never".to_owned();
        return Ok(program.with_digest(digest)?.map(Content::program).ok_or_else(reason));
    }
    let now = program.look()?;
    if path == BINARY_PATH {
        return Ok(Ok(Content::program(now)));
    }
    if path == DIGEST_PATH {
        let name = BINARY_PATH.trim_start_matches('/');
        return Ok(Ok(Content::text(format!("{}  {name}\n", now.digest), TEXT)));
    }
    let pages = settings.pages(&settings.base(local), &now.digest)?;
    if path == "/" {
        return Ok(Ok(Content::text(pages.index, TEXT)));
    }
    let found = pages.documents.into_iter().find(|document| document.path == path);
    Ok(match found.map(|document| (document.text, document.content_type)) {
        Some((Ok(text), content_type)) => Ok(Content::text(text, content_type)),
        Some((Err(error), _)) => Err(format!("these settings cannot be said in this form: {error}")),
        None => Err("there is no such path; / lists all".to_owned()),
    })
}

fn send(content: Content, asked: &HeaderMap) -> Response<Full<Bytes>> {
    let Content { bytes, kind, tag } = content;
    let length = bytes.len();
    let value = |name: &HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    let known = value(&IF_NONE_MATCH).is_some_and(|list| {
        list.split(',')
            .map(str::trim)
            .any(|one| Some(one.trim_start_matches("W/")) == tag.as_deref() || one == "*")
    });
    let same = value(&IF_RANGE).is_none_or(|one| Some(one) == tag.as_deref());
    let range = tag.as_ref().filter(|_| same).and_then(|_| value(&RANGE)).map(|text| range(text, length));
    let mut response = match range {
        _ if tag.is_some() && known => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        Some(Range::Part { start, end }) => {
            let mut response = Response::new(Full::new(bytes.slice(start..end)));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, CONTENT_RANGE, &format!("bytes {start}-{}/{length}", end - 1));
            response
        }
        Some(Range::Outside) => {
            let mut response =
                plain(StatusCode::RANGE_NOT_SATISFIABLE, "there are not so many bytes\n".to_owned());
            set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
            return response;
        }
        Some(Range::All) | None => Response::new(Full::new(bytes)),
    };
    set(&mut response, CONTENT_TYPE, kind);
    // What machines are given changes with the binary.
    set(&mut response, CACHE_CONTROL, "no-cache");
    if let Some(tag) = tag {
        set(&mut response, ETAG, &tag);
        set(&mut response, ACCEPT_RANGES, "bytes");
    }
    response
}

/// Which part was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// From `start` up to, and not with, `end`.
    Part { start: usize, end: usize },
    /// None of it is there.
    Outside,
    /// Several parts, or something else that is not understood: everything is sent, as HTTP allows.
    All,
}

fn range(text: &str, length: usize) -> Range {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.trim().split_once('-')) else {
        return Range::All;
    };
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(usize::MAX))
    };
    match (first, last) {
        ("", "") => Range::All,
        ("", count) => match number(count) {
            Some(0) => Range::Outside,
            Some(count) => Range::Part { start: length.saturating_sub(count), end: length },
            None => Range::All,
        },
        (first, "") => match number(first) {
            Some(start) if start < length => Range::Part { start, end: length },
            Some(_) => Range::Outside,
            None => Range::All,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => {
                let end = last.saturating_add(1).min(length);
                if start < length { Range::Part { start, end } } else { Range::Outside }
            }
            _ => Range::All,
        },
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, TEXT);
    response
}

/// The head alone, with the length that the body would have had.
fn without_body(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    use hyper::body::Body as _;
    if let Some(length) = response.body().size_hint().exact() {
        set(&mut response, CONTENT_LENGTH, &length.to_string());
    }
    *response.body_mut() = Full::default();
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &str) {
    // All our values are plain ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http_body_util::BodyExt as _;
    use hyper::header::RETRY_AFTER;
    use hyper::{Request, StatusCode};

    use super::{Program, Range, Settings, answer, range};
    use crate::model::provision::draft::Draft;

    #[tokio::test]
    async fn what_these_settings_never_give_is_not_asked_for_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"program").unwrap();
        let listen = "10.0.0.1:8080".parse().unwrap();
        // fleet needs etcd, in the one form that has fleet.
        let peers = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|peer| peer.parse().unwrap());
        let draft = Draft { join: peers.to_vec(), fleet: Some(true), ..Draft::default() };
        let program = Program::open(file.path().to_owned()).unwrap();
        let settings =
            Settings { listen, url: None, program: file.path().to_owned(), draft, explained: false };
        for (path, status, part) in [
            ("/cloud-config", StatusCode::NOT_FOUND, "cannot be said in this form: fleet needs etcd"),
            ("/no/such", StatusCode::NOT_FOUND, "there is no such path"),
            ("/ignition", StatusCode::OK, "ignition"),
        ] {
            let request = Request::get(path).body(()).unwrap();
            let response = answer(&settings, &program, listen, &request);
            assert_eq!(response.status(), status, "{path}");
            assert!(response.headers().get(RETRY_AFTER).is_none(), "{path}");
            let text = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&text).contains(part), "{path}: {text:?}");
        }
        // The binary is being replaced: soon it will be there.
        drop(file);
        let response = answer(&settings, &program, listen, &Request::get("/ignition").body(()).unwrap());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().get(RETRY_AFTER).is_some());
    }

    #[test]
    fn ranges_are_read_as_http_says() {
        for (text, expected) in [
            ("bytes=0-4", Range::Part { start: 0, end: 5 }),
            ("bytes=3-", Range::Part { start: 3, end: 10 }),
            ("bytes=-3", Range::Part { start: 7, end: 10 }),
            ("bytes=-30", Range::Part { start: 0, end: 10 }),
            ("bytes=5-100", Range::Part { start: 5, end: 10 }),
            ("bytes=0-99999999999999999999999", Range::Part { start: 0, end: 10 }),
            ("bytes=10-", Range::Outside),
            ("bytes=10-12", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=5-3", Range::All),
            ("bytes=0-1,3-4", Range::All),
            ("bytes=-", Range::All),
            ("bytes=a-b", Range::All),
            ("lines=1-2", Range::All),
        ] {
            assert_eq!(range(text, 10), expected, "{text}");
        }
    }
}
