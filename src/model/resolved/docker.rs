//! The `dns` list of Docker's daemon.json, with everything else in that file left as it is, to the byte.

use std::net::IpAddr;
use std::ops::Range;

use serde_json::Value;

/// The file that dockerd reads when it starts.
pub const DAEMON_FILE: &str = "/etc/docker/daemon.json";
/// Names the start of dockerd (systemd's `InvocationID`) that our setting came too late for. Beside the resolver's file for
/// containers, where the unit may write, and as short-lived; the resolver reads `*.conf` alone.
pub const UNREAD: &str = "/run/systemd/resolved.conf.d/01-consul-containers.dockerd";
/// Names the start of dockerd that gives containers our address although it is no longer in the file: until that start has
/// ended, somebody must answer there. In the same place.
pub const TOLD: &str = "/run/systemd/resolved.conf.d/01-consul-containers.told";
/// The address of Docker's bridge when nobody chose another.
pub const BRIDGE_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 17, 0, 1));

/// Why the file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum DaemonFileError {
    /// dockerd would not read it either. The error has line and column.
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// dockerd wants an object.
    #[error("it is JSON, but not an object")]
    NotAnObject,
    /// dockerd wants a list of addresses.
    #[error("`dns` is not a list of addresses")]
    NotAList,
}

/// The file's text with `address` as the first of `dns`; `None` when it is that already. An operator's list is kept
/// behind it.
///
/// # Errors
/// When the text is not what dockerd reads.
pub fn with_server(text: &str, address: IpAddr) -> Result<Option<String>, DaemonFileError> {
    let address = address.to_string();
    if text.trim().is_empty() {
        return Ok(Some(fresh(&address)));
    }
    let members = members(text)?;
    let Some(dns) = members.iter().find(|member| member.key == "dns") else {
        let Some(first) = members.first() else { return Ok(Some(fresh(&address))) };
        let start = text.find('{').map_or(0, |brace| brace + 1);
        let blanks = &text[start..first.start];
        let (before, behind) = text.split_at(first.start);
        return Ok(Some(format!("{before}\"dns\": [\"{address}\"],{blanks}{behind}")));
    };
    let before = dns.list(text)?;
    let others = before.iter().filter(|entry| **entry != address);
    let list: Vec<String> = std::iter::once(&address).chain(others).cloned().collect();
    Ok((list != before).then(|| replaced(text, dns.value.clone(), &list_text(&list))))
}

/// The file's text without `address` in `dns`; `None` when it is not there.
///
/// # Errors
/// As [`with_server`].
pub fn without_server(text: &str, address: IpAddr) -> Result<Option<String>, DaemonFileError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let members = members(text)?;
    let Some(at) = members.iter().position(|member| member.key == "dns") else { return Ok(None) };
    let dns = &members[at];
    let before = dns.list(text)?;
    let left: Vec<String> = before.iter().filter(|entry| **entry != address.to_string()).cloned().collect();
    if left.len() == before.len() {
        return Ok(None);
    }
    if !left.is_empty() {
        return Ok(Some(replaced(text, dns.value.clone(), &list_text(&left))));
    }
    let cut = match (members.get(at + 1), at.checked_sub(1).map(|before| &members[before])) {
        (Some(next), _) => dns.start..next.start,
        (None, Some(previous)) => previous.value.end..dns.value.end,
        (None, None) => dns.start..dns.value.end,
    };
    Ok(Some(replaced(text, cut, "")))
}

/// Whether the text is what [`with_server`] makes of no file: nobody else has a part in it.
pub fn is_all_ours(text: &str, address: IpAddr) -> bool {
    text == fresh(&address.to_string())
}

/// The address that an operator chose for Docker's bridge (`bip`).
///
/// # Errors
/// As [`with_server`].
pub fn bridge(text: &str) -> Result<Option<IpAddr>, DaemonFileError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text)?;
    let address = value.get("bip").and_then(Value::as_str).and_then(|bip| bip.split('/').next());
    Ok(address.and_then(|address| address.parse().ok()))
}

fn fresh(address: &str) -> String {
    format!("{{\n  \"dns\": [\"{address}\"]\n}}\n")
}

fn list_text(list: &[String]) -> String {
    let entries: Vec<String> = list.iter().map(|entry| Value::from(entry.as_str()).to_string()).collect();
    format!("[{}]", entries.join(", "))
}

fn replaced(text: &str, range: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..range.start], &text[range.end..])
}

/// One `"key": value` of the outermost object.
struct Member {
    key: String,
    /// Where the key begins.
    start: usize,
    value: Range<usize>,
}

impl Member {
    fn list(&self, text: &str) -> Result<Vec<String>, DaemonFileError> {
        serde_json::from_str(&text[self.value.clone()]).map_err(|_| DaemonFileError::NotAList)
    }
}

/// The members of the outermost object, in their order.
fn members(text: &str) -> Result<Vec<Member>, DaemonFileError> {
    if !serde_json::from_str::<Value>(text)?.is_object() {
        return Err(DaemonFileError::NotAnObject);
    }
    // It is valid from here on: only the places are looked for.
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = text.find('{').map_or(0, |brace| brace + 1);
    loop {
        at = skip(bytes, at, |byte| byte.is_ascii_whitespace() || byte == b',');
        if bytes.get(at).is_none_or(|byte| *byte != b'"') {
            return Ok(found);
        }
        let start = at;
        at = end_of_value(bytes, at);
        let key = serde_json::from_str(&text[start..at])?;
        at = skip(bytes, at, |byte| byte.is_ascii_whitespace() || byte == b':');
        let value = at..end_of_value(bytes, at);
        at = value.end;
        found.push(Member { key, start, value });
    }
}

fn skip(bytes: &[u8], mut at: usize, of: impl Fn(u8) -> bool) -> usize {
    while bytes.get(at).is_some_and(|byte| of(*byte)) {
        at += 1;
    }
    at
}

/// Where a value of valid JSON ends.
fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            // Part of a number or a word, or between the values of a list.
            _ => {
                let word = depth == 0;
                at = skip(bytes, at + 1, |byte| {
                    word && (byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
                });
                if word {
                    return at;
                }
                continue;
            }
        }
        at += 1;
        if depth == 0 {
            return at.min(bytes.len());
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{bridge, is_all_ours, with_server, without_server};

    fn ours() -> IpAddr {
        "169.254.53.1".parse().unwrap()
    }

    #[track_caller]
    fn check(before: &str, after: &str) {
        assert_eq!(with_server(before, ours()).unwrap().as_deref(), Some(after));
        assert_eq!(with_server(after, ours()).unwrap(), None, "a second time changes nothing");
    }

    #[test]
    fn everything_that_is_there_stays_to_the_byte_and_comes_back() {
        for (before, after) in [
            (
                "{\n    \"bip\": \"172.17.42.1/24\"\n}\n",
                "{\n    \"dns\": [\"169.254.53.1\"],\n    \"bip\": \"172.17.42.1/24\"\n}\n",
            ),
            (
                "{\"a\":{\"dns\":[\"x\"]},\"b\":[1,2]}",
                "{\"dns\": [\"169.254.53.1\"],\"a\":{\"dns\":[\"x\"]},\"b\":[1,2]}",
            ),
            (
                "{\t\"x\\\"\": -1.5e3, \"y\": null}",
                "{\t\"dns\": [\"169.254.53.1\"],\t\"x\\\"\": -1.5e3, \"y\": null}",
            ),
            (
                "{\"a\": 1, \"dns\": [\"10.0.0.2\"], \"b\": 2}",
                "{\"a\": 1, \"dns\": [\"169.254.53.1\", \"10.0.0.2\"], \"b\": 2}",
            ),
        ] {
            check(before, after);
            assert_eq!(without_server(after, ours()).unwrap().as_deref(), Some(before));
            assert_eq!(without_server(before, ours()).unwrap(), None);
        }
    }

    #[test]
    fn a_file_of_our_own_is_known_as_such() {
        let text = with_server("", ours()).unwrap().unwrap();
        assert_eq!(text, "{\n  \"dns\": [\"169.254.53.1\"]\n}\n");
        assert!(is_all_ours(&text, ours()) && !is_all_ours("{\"dns\": [\"169.254.53.1\"]}", ours()));
        check("{ }", &text);
        check("{\"dns\": []}", "{\"dns\": [\"169.254.53.1\"]}");
        assert_eq!(
            without_server("{\"a\": 1, \"dns\": [\"169.254.53.1\"]}", ours()).unwrap().unwrap(),
            "{\"a\": 1}"
        );
    }

    #[test]
    fn what_dockerd_would_not_read_is_refused_with_its_place() {
        let error = with_server("{\n  \"bip\": 1,\n}", ours()).unwrap_err().to_string();
        assert!(error.contains("line 3 column 1"), "{error}");
        assert!(with_server("[]", ours()).is_err());
        assert!(with_server("{\"dns\": \"10.0.0.1\"}", ours()).is_err());
        assert!(without_server("{\"dns\": [1]}", ours()).is_err());
    }

    #[test]
    fn the_bridges_address_is_the_operators() {
        assert_eq!(bridge("{\"bip\": \"172.17.42.1/24\"}").unwrap(), Some("172.17.42.1".parse().unwrap()));
        assert_eq!(bridge("{}").unwrap(), None);
    }
}
