//! The house rules, enforced: who may import whom, where heavy crates live, how large files are.

use std::fs;
use std::path::{Path, PathBuf};

/// Non-test lines that a file may have.
const LINES_MAX: usize = 500;

/// The middle ring: what the commands run. Its parts never import each other.
const MIDDLE: &[&str] = &["agent", "bootstrap", "fleet", "provision_server", "registrator", "resolved"];
/// What the middle ring stands on, beside `model`; none of it imports the middle ring.
const BELOW: &[&str] = &["client", "host", "tasks", "hint", "model"];
/// Parts of the middle ring that a machine has before there is an agent to ask, and the agent itself.
const WITHOUT_CLIENT: &[&str] = &["agent", "bootstrap", "provision_server", "resolved"];

/// What the code under a path must not name, beside what its ring forbids. The longest matching path of each list decides.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "src/model/",
        &[
            "tokio",
            "reqwest",
            "hyper",
            "bollard",
            "etcd_client",
            "hickory_",
            "openraft",
            "tracing",
            "ssh2",
            "rand::",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "std::net::Tcp",
            "std::net::Udp",
            "Instant::now",
            "SystemTime",
            "crate::client",
            "crate::host",
            "crate::tasks",
            "crate::hint",
        ],
    ),
    ("src/host/", &["crate::client"]),
    ("src/tasks.rs", &["crate::"]),
    ("src/hint.rs", &["crate::"]),
];

/// Parts of the program that code in this place must not import, by the rings.
fn outer_and_sideways(name: &str) -> Vec<String> {
    let part = name.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
    let mut forbidden = Vec::new();
    if MIDDLE.contains(&part) || BELOW.contains(&part) {
        forbidden.push("crate::cli::".to_owned());
        forbidden
            .extend(MIDDLE.iter().filter(|other| **other != part).map(|other| format!("crate::{other}")));
    }
    if WITHOUT_CLIENT.contains(&part) {
        forbidden.push("crate::client".to_owned());
    }
    forbidden
}

/// The parts of the agent: they meet in `handle`, `rpc` (the wire) and `mod.rs` only.
const AGENT_PARTS: &[&str] =
    &["checks", "config", "consensus", "dns", "http", "leader", "local", "membership", "replica"];

/// Crates and calls, and the only places that may name them.
const PLACES: &[(&str, &[&str])] = &[
    ("bollard", &["src/registrator/docker.rs", "src/registrator/docker/", "src/agent/checks/docker.rs"]),
    ("etcd_client", &["src/bootstrap/etcd_v3.rs"]),
    ("openraft::", &["src/agent/consensus/"]),
    ("hickory_", &["src/agent/dns/"]),
    ("ssh2::", &["src/fleet/"]),
    ("tera::", &["src/model/provision/render.rs"]),
    ("reqwest", &["src/client/", "src/bootstrap/etcd_v2/", "src/agent/checks/http.rs"]),
    ("clap::", &["src/cli/"]),
    ("hyper::", &["src/agent/http/", "src/provision_server/"]),
    ("println!", &["src/cli/output.rs"]),
    ("eprintln!", &["src/cli/output.rs"]),
    ("unsafe ", &[]),
];

#[test]
fn the_dependency_rule_holds() {
    let broken: Vec<String> = sources().iter().flat_map(|path| violations(path, &code_of(path))).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_check_finds_planted_faults_with_file_and_line() {
    let planted =
        "//! Fine: crate::agent in a comment.\nuse std::net::IpAddr;\nlet now = SystemTime::now();\n";
    assert_eq!(
        violations(Path::new("src/model/a.rs"), planted),
        ["src/model/a.rs:3: must not name `SystemTime`"]
    );
    let sideways = "use crate::agent::http::Server;\n";
    assert_eq!(
        violations(Path::new("src/agent/dns/a.rs"), sideways),
        ["src/agent/dns/a.rs:1: dns must not import its neighbour http"]
    );
    assert_eq!(
        violations(
            Path::new("src/resolved/a.rs"),
            "use crate::registrator::run;\nuse crate::client::Client;\n"
        ),
        [
            "src/resolved/a.rs:1: must not name `crate::registrator`",
            "src/resolved/a.rs:2: must not name `crate::client`"
        ]
    );
    let heavy = "use bollard::Docker;\n";
    assert_eq!(
        violations(Path::new("src/registrator/mod.rs"), heavy),
        [
            "src/registrator/mod.rs:1: `bollard` belongs to src/registrator/docker.rs, src/registrator/docker/, \
          src/agent/checks/docker.rs"
        ]
    );
}

#[test]
fn every_file_says_what_it_is_for_and_is_small() {
    let mut broken = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            broken.push(format!("{}: does not begin with `//!`", path.display()));
        }
        let lines = code_of(&path).lines().count();
        if lines > LINES_MAX && !is_test_file(&path) {
            broken.push(format!("{}: {lines} lines, {LINES_MAX} are allowed", path.display()));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn violations(path: &Path, code: &str) -> Vec<String> {
    let name = path.to_str().unwrap();
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default();
        let mut say = |what: String| found.push(format!("{name}:{}: {what}", number + 1));
        for (_, words) in FORBIDDEN.iter().filter(|(prefix, _)| name.starts_with(prefix)) {
            words
                .iter()
                .filter(|word| names(line, word))
                .for_each(|word| say(format!("must not name `{word}`")));
        }
        for word in outer_and_sideways(name) {
            if names(line, &word) {
                say(format!("must not name `{word}`"));
            }
        }
        for (word, places) in PLACES {
            let allowed = places.iter().any(|place| name.starts_with(place));
            if names(line, word) && !allowed {
                say(format!("`{word}` belongs to {}", places.join(", ")));
            }
        }
        if let Some(part) = part_of(name) {
            for other in AGENT_PARTS.iter().filter(|other| **other != part) {
                if line.contains(&format!("agent::{other}")) {
                    say(format!("{part} must not import its neighbour {other}"));
                }
            }
        }
    }
    found
}

/// Whether `line` names `word` as a word of its own, not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn part_of(name: &str) -> Option<&str> {
    let part = name.strip_prefix("src/agent/")?.split('/').next()?;
    AGENT_PARTS.contains(&part).then_some(part)
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    files.sort();
    assert!(files.len() > 20, "the test must run in the package's root");
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        part == "tests"
            || part == "tests.rs"
            || part.ends_with("_tests")
            || part.ends_with("_tests.rs")
            || part == "testing.rs"
    })
}

/// The file's lines up to its inline tests; nothing of a test file.
fn code_of(path: &Path) -> String {
    if is_test_file(path) {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        {
            break;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}
