//! What a request asks: path parameter, query options, body. Wrong options are refused in Consul's words.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::error::HttpError;
use crate::agent::handle::{Identity, ReadMode};
use crate::model::api::syntax;
use crate::model::catalog::{Instance, Node};
use crate::model::duration;

/// How long a blocking query waits when the client does not say (Consul's `default_query_time`).
const WAIT_DEFAULT: Duration = Duration::from_mins(5);
/// Longest wait that a client may ask for (Consul's `max_query_time`).
const WAIT_MAX: Duration = Duration::from_mins(10);
/// Part of the wait that is added at random, so that clients do not come back all at once.
const WAIT_JITTER_PART: u32 = 16;
/// Most query parameters of one request; Go's clients send fewer than ten.
const PARAMETERS_MAX: usize = 256;

/// The parameters of a URL, in their order.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads `a=1&b`; `None` when an escape is broken or there are too many.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if pairs.len() == PARAMETERS_MAX {
                return None;
            }
            pairs.push((decode(name, true)?.into_owned(), decode(value, true)?.into_owned()));
        }
        Some(Self { pairs })
    }

    /// Whether the parameter is there, with any value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(known, _)| known == name)
    }

    /// Its first value; `None` when absent.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Its first value; empty when absent.
    pub(super) fn text(&self, name: &str) -> &str {
        self.first(name).unwrap_or("")
    }

    /// All its values.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All parameters sorted by name, as Go encodes them.
    pub(super) fn encoded(&self) -> String {
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let parts: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        parts.join("&")
    }
}

/// Undoes percent encoding; `plus` also makes `+` a blank, as in queries. `None` for broken escapes and for bytes
/// that are no UTF-8.
pub(super) fn decode(text: &str, plus: bool) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%' || (plus && byte == b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (pair, after) = rest.split_at_checked(2)?;
                let digit =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
                rest = after;
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => {
                out.push('%');
                for digit in [byte >> 4, byte & 15] {
                    let digit = char::from_digit(digit.into(), 16).expect("four bits are one digit");
                    out.push(digit.to_ascii_uppercase());
                }
            }
        }
    }
    out
}

/// One request, with its body read.
#[derive(Debug)]
pub(super) struct Request {
    /// What follows the endpoint's path, decoded.
    pub(super) rest: String,
    pub(super) query: Query,
    pub(super) body: Bytes,
}

/// How a read is to be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadOptions {
    pub(super) mode: ReadMode,
    /// With stale reads: ask the leader when we are older than this.
    pub(super) max_stale: Option<Duration>,
    /// 0 does not wait.
    pub(super) index: u64,
    /// With its jitter.
    pub(super) wait: Duration,
}

impl Request {
    /// The path parameter, refused with `missing` when empty.
    pub(super) fn name(&self, missing: &str) -> Result<&str, HttpError> {
        if self.rest.is_empty() { Err(HttpError::invalid(missing)) } else { Ok(&self.rest) }
    }

    /// Whether it may wait for a change for minutes.
    pub(super) fn may_wait(&self) -> bool {
        self.query.has("index") || self.query.has("hash")
    }

    /// The body as JSON: its first value.
    pub(super) fn json(&self) -> Result<Value, HttpError> {
        Ok(syntax::parse_first(&self.body)?)
    }

    /// The options of a blocking-capable read.
    pub(super) fn read_options(&self, identity: &Identity) -> Result<ReadOptions, HttpError> {
        self.refuse_enterprise()?;
        let wait = match self.query.first("wait").filter(|text| !text.is_empty()) {
            None => WAIT_DEFAULT,
            Some(text) => {
                let nanoseconds =
                    duration::parse(text).map_err(|_| HttpError::invalid("Invalid wait time"))?;
                match u64::try_from(nanoseconds) {
                    Ok(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds).min(WAIT_MAX),
                    _ => WAIT_DEFAULT,
                }
            }
        };
        let index = match self.query.first("index").filter(|text| !text.is_empty()) {
            None => 0,
            Some(text) => text.parse().map_err(|_| HttpError::invalid("Invalid index"))?,
        };
        let (stale, consistent) = (self.query.has("stale"), self.query.has("consistent"));
        if stale && consistent {
            let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
            return Err(HttpError::invalid(text));
        }
        let max_stale = match self.query.first("max_stale").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let nanoseconds = duration::parse(text)
                    .map_err(|_| HttpError::invalid(format!("Invalid max_stale value {text:?}")))?;
                Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
            }
        };
        let mode = match (stale || max_stale.is_some(), consistent) {
            (_, true) => ReadMode::Consistent,
            (true, false) => ReadMode::Stale,
            (false, false) => ReadMode::Default,
        };
        self.own_datacenter(identity)?;
        let jitter = if index == 0 {
            Duration::ZERO
        } else {
            (wait / WAIT_JITTER_PART).mul_f64(f64::from(rand::random::<u16>()) / f64::from(u16::MAX))
        };
        Ok(ReadOptions { mode, max_stale, index, wait: wait + jitter })
    }

    /// Options of writes: only the datacenter and what the open-source Consul refuses.
    pub(super) fn write_options(&self, identity: &Identity) -> Result<(), HttpError> {
        self.refuse_enterprise()?;
        self.own_datacenter(identity)
    }

    fn refuse_enterprise(&self) -> Result<(), HttpError> {
        for (name, what) in [("ns", "Namespaces are"), ("partition", "Partitions are")] {
            if self.query.first(name).is_some_and(|value| !value.is_empty()) {
                let text = format!("Invalid query parameter: {name:?} - {what} a Consul Enterprise feature");
                return Err(HttpError::Invalid(text));
            }
        }
        Ok(())
    }

    fn own_datacenter(&self, identity: &Identity) -> Result<(), HttpError> {
        let other = self.query.first("datacenter").filter(|name| !name.is_empty());
        same_datacenter(other.unwrap_or_else(|| self.query.text("dc")), identity)
    }

    /// Whether a node has every pair of `?node-meta=key:value`.
    pub(super) fn wants_node(&self, node: &Node) -> bool {
        self.query.all("node-meta").all(|pair| {
            let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
            node.meta.as_ref().and_then(|meta| meta.get(key)).is_some_and(|found| found == value)
        })
    }

    /// Whether an instance has every `?tag=`, in any case, and its node every pair of `?node-meta=`.
    pub(super) fn wants_instance(&self, instance: &Instance<'_>) -> bool {
        self.query.all("tag").all(|tag| instance.has_tag(tag)) && self.wants_node(instance.node())
    }

    /// A flag that may carry a truth value: present without one is true.
    pub(super) fn truth(&self, name: &str) -> Result<bool, HttpError> {
        match self.query.first(name) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(text) => {
                parse_truth(text).ok_or_else(|| HttpError::invalid(format!("Invalid value for ?{name}")))
            }
        }
    }
}

/// Reads a truth value as Go does.
pub(super) fn parse_truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Refuses a datacenter that is not ours; the empty name is ours.
pub(super) fn same_datacenter(name: &str, identity: &Identity) -> Result<(), HttpError> {
    if name.is_empty() || name == identity.datacenter { Ok(()) } else { Err(HttpError::NoPathToDatacenter) }
}

/// Reads an unsigned number as Go does, with Go's error text.
pub(super) fn parse_number(text: &str) -> Result<u64, HttpError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let reason = if is_number { "value out of range" } else { "invalid syntax" };
    let error = || HttpError::Internal(format!("strconv.ParseUint: parsing {text:?}: {reason}"));
    if is_number { text.parse().map_err(|_| error()) } else { Err(error()) }
}

#[cfg(test)]
mod tests {
    use super::{Query, decode, parse_number};

    #[test]
    fn parameters_are_decoded_and_count_by_presence() {
        let query = Query::parse("recurse&a=1+2%2F&a=&&tag=x").unwrap();
        assert!(query.has("recurse") && !query.has("keys"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1 2/", ""]);
        assert_eq!(query.encoded(), "a=1+2%2F&a=&recurse=&tag=x");
        assert!(Query::parse("a=%zz").is_none());
        assert!(Query::parse(&"a&".repeat(10_000)).is_none());
    }

    #[test]
    fn paths_keep_their_plus_signs() {
        assert_eq!(decode("a%2Fb+c", false).unwrap(), "a/b+c");
        assert_eq!(decode("%ff", false), None);
        assert_eq!(decode("%2", false), None);
    }

    #[test]
    fn numbers_are_refused_in_gos_words() {
        assert_eq!(parse_number("18446744073709551615").unwrap(), u64::MAX);
        for (text, want) in [
            ("abc", "strconv.ParseUint: parsing \"abc\": invalid syntax"),
            ("+1", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
            ("", "strconv.ParseUint: parsing \"\": invalid syntax"),
            (
                "18446744073709551616",
                "strconv.ParseUint: parsing \"18446744073709551616\": value out of range",
            ),
        ] {
            assert_eq!(parse_number(text).unwrap_err().to_string(), want);
        }
    }
}
