//! What etcd's v2 API answers: nodes and errors, read from JSON. Reads bytes and does nothing else.

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use crate::bootstrap::keys::{Keys, Pair, view_of};
use crate::hint::fault;
use crate::model::election::{Revision, View};

/// The key, or one of its parents, is not there.
pub(super) const KEY_NOT_FOUND: u32 = 100;
/// `prevIndex` or `prevValue` says something else than the key.
pub(super) const COMPARE_FAILED: u32 = 101;
/// The key is a directory.
const NOT_A_FILE: u32 = 102;
/// A parent of the key is a value.
const NOT_A_DIRECTORY: u32 = 104;
/// `prevExist=false`, and the key is there.
pub(super) const KEY_EXISTS: u32 = 105;
/// etcd asks for a user, or the user may not.
const UNAUTHORIZED: u32 = 110;
/// The events since `waitIndex` are no longer known (etcd keeps the last thousand).
pub(super) const INDEX_CLEARED: u32 = 401;

/// A node of the tree: a value or a directory.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    /// Only the root has none.
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    pub(super) dir: bool,
    pub(super) value: Option<String>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default, rename = "createdIndex")]
    created: Revision,
    #[serde(default, rename = "modifiedIndex")]
    pub(super) modified: Revision,
}

/// An answer to a successful request, or an event.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) node: Node,
    #[serde(rename = "prevNode")]
    previous: Option<Node>,
}

impl Answer {
    /// Whether the event is news: on an etcd before 2.3 every renewal of a claim is an event that changes nothing.
    pub(super) fn is_news(&self) -> bool {
        self.node.dir || self.previous.as_ref().is_none_or(|previous| previous.value != self.node.value)
    }
}

/// etcd's reason why it did not.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    #[serde(rename = "errorCode")]
    pub(super) code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    cause: String,
    /// etcd's index at that moment.
    #[serde(default)]
    pub(super) index: Revision,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Read {
    Done(Answer),
    Refused(Fault),
    /// The connection of a long wait was ended by the server, in good order.
    Empty,
    /// Nothing of the v2 API: not served here, or somebody else answers.
    Foreign,
}

/// Reads an answer of `/v2/keys`.
///
/// # Errors
/// A success that is not understood.
pub(super) fn read(status: u16, body: &[u8]) -> Result<Read> {
    if (200..300).contains(&status) {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Read::Empty);
        }
        return Ok(Read::Done(serde_json::from_slice(body).context("etcd's answer is not understood")?));
    }
    Ok(serde_json::from_slice(body).map_or(Read::Foreign, Read::Refused))
}

impl Fault {
    /// The error for the person who runs the machine; `key` is what was asked for.
    pub(super) fn error(&self, key: &str) -> anyhow::Error {
        let cause = if self.cause.is_empty() { key } else { &self.cause };
        let text = format!("etcd refuses: {} ({cause}, error {})", self.message, self.code);
        let advice = match self.code {
            NOT_A_FILE => "another program made a directory of this key: choose another --prefix",
            NOT_A_DIRECTORY => "a part of the prefix is a value in this etcd: choose another --prefix",
            UNAUTHORIZED => "allow guests to read and write below the prefix: `etcdctl role grant guest`",
            _ => return anyhow!(text),
        };
        fault(text, advice)
    }
}

/// What is at and below a node.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) pairs: Vec<Pair>,
    directories: Vec<String>,
}

impl Tree {
    fn of(node: Node) -> Self {
        let mut tree = Self::default();
        let mut waiting = vec![node];
        while let Some(node) = waiting.pop() {
            waiting.extend(node.nodes);
            if node.dir {
                tree.directories.push(node.key);
            } else if let Some(value) = node.value {
                let (created, modified) = (node.created, node.modified);
                tree.pairs.push(Pair { key: node.key, value: value.into_bytes(), created, modified });
            }
        }
        tree
    }

    /// Refuses a directory where a value has to be: it could neither be created nor replaced, for ever.
    pub(super) fn refuse_directory(&self, key: &str) -> Result<()> {
        if self.directories.iter().any(|directory| directory == key) {
            return Err(fault(
                format!("{key} is a directory in this etcd"),
                "another program made it: choose another --prefix",
            ));
        }
        Ok(())
    }

    pub(super) fn value_at(&self, key: &str) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.key == key)
    }

    /// What the keys below `keys`' prefix say.
    pub(super) fn view(&self, keys: &Keys) -> Result<View> {
        self.refuse_directory(&keys.cluster())?;
        view_of(keys.prefix(), &self.pairs, claim_revision)
    }
}

/// Reads the answer to "all below the prefix"; `None` where the v2 API is not served.
///
/// # Errors
/// What etcd refuses, or a prefix that cannot be one.
pub(super) fn tree_of(prefix: &str, status: u16, body: &[u8]) -> Result<Option<Tree>> {
    match read(status, body)? {
        Read::Done(Answer { node, .. }) if node.dir => Ok(Some(Tree::of(node))),
        Read::Done(_) => Err(fault(format!("{prefix} is a value in this etcd"), "choose another --prefix")),
        Read::Refused(fault) if fault.code == KEY_NOT_FOUND => Ok(Some(Tree::default())),
        Read::Refused(fault) => Err(fault.error(prefix)),
        Read::Foreign if status == 404 => Ok(None),
        Read::Empty | Read::Foreign => bail!("etcd's answer is not understood (status {status})"),
    }
}

/// A claim's revision. There are no leases: every renewal raises the index of the keys, so that it says nothing.
/// What was claimed, and when first, does.
pub(super) fn claim_revision(machine: &Pair, details: &Pair) -> Revision {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    (machine.created, &machine.value, &details.value).hash(&mut hasher);
    hasher.finish().cast_signed()
}

/// What an answer to "all below the prefix" says, whatever it is; `None` where the v2 API is not served.
///
/// # Errors
/// As the store reports them.
pub fn view_of_answer(prefix: &str, status: u16, body: &[u8]) -> Result<Option<View>> {
    tree_of(prefix, status, body)?.map(|tree| tree.view(&Keys::new(prefix))).transpose()
}

/// For `crate::fuzz`: any bytes as what a watch is told.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz_event(status: u16, body: &[u8]) {
    match read(status, body) {
        Ok(Read::Done(event)) => drop(event.is_news()),
        Ok(Read::Refused(fault)) => assert!(!crate::hint::report(&fault.error("/p")).is_empty()),
        Ok(Read::Empty | Read::Foreign) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{Read, read, view_of_answer};
    use crate::model::election::View;

    const EVENT: &str = r#"{"action": "compareAndSwap",
        "node": {"key": "/p/machines/a", "value": "10.0.0.1", "modifiedIndex": 9, "createdIndex": 4},
        "prevNode": {"key": "/p/machines/a", "value": "10.0.0.1", "modifiedIndex": 4, "createdIndex": 4}}"#;

    fn is_news(event: &str) -> bool {
        match read(200, event.as_bytes()).unwrap() {
            Read::Done(answer) => answer.is_news(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_renewal_that_changes_nothing_is_no_news_and_everything_else_is() {
        assert!(!is_news(EVENT));
        assert!(is_news(&EVENT.replacen("10.0.0.1", "10.0.0.2", 1)));
        assert!(is_news(r#"{"action": "create", "node": {"key": "/p/cluster", "value": "x"}}"#));
        assert!(is_news(
            r#"{"action": "expire", "node": {"key": "/p/machines/a", "modifiedIndex": 9},
                "prevNode": {"key": "/p/machines/a", "value": "10.0.0.1"}}"#
        ));
        assert!(is_news(
            r#"{"action": "delete", "node": {"key": "/p", "dir": true}, "prevNode": {"key": "/p"}}"#
        ));
    }

    #[track_caller]
    fn refused(status: u16, body: &str, texts: &[&str]) {
        let report = crate::hint::report(&view_of_answer("/p", status, body.as_bytes()).unwrap_err());
        for text in texts {
            assert!(report.contains(text), "`{text}` is not in: {report}");
        }
    }

    #[test]
    fn etcds_errors_say_what_to_do() {
        let error = |code: u32, message: &str| {
            format!(r#"{{"errorCode": {code}, "message": "{message}", "cause": "/p/x", "index": 7}}"#)
        };
        let missing = view_of_answer("/p", 404, error(100, "Key not found").as_bytes()).unwrap();
        assert_eq!(missing, Some(View::default()));
        assert_eq!(view_of_answer("/p", 404, b"404 page not found").unwrap(), None, "no v2 API here");
        refused(403, &error(102, "Not a file"), &["Not a file (/p/x, error 102)", "hint: ", "--prefix"]);
        refused(400, &error(104, "Not a directory"), &["error 104", "--prefix"]);
        refused(401, &error(110, "The request requires user authentication"), &["error 110", "role grant"]);
        refused(500, &error(300, "Raft Internal Error"), &["Raft Internal Error"]);
        refused(
            200,
            r#"{"action": "get", "node": {"key": "/p", "value": "x"}}"#,
            &["/p is a value", "hint: "],
        );
        refused(403, "<html>", &["not understood (status 403)"]);
        let directory =
            r#"{"node": {"key": "/p", "dir": true, "nodes": [{"key": "/p/cluster", "dir": true}]}}"#;
        refused(200, directory, &["/p/cluster is a directory", "hint: ", "--prefix"]);
        refused(200, "<html>", &["not understood"]);
    }
}
