//! Finds what machines would read differently than it was meant: in unit files and in user-data of all kinds.
//!
//! Our own output passes; the rules are here to keep it so, and for files that people bring along. It is no parser of
//! systemd: that has its own.

mod cloud_config;
mod cloud_init;
mod ignition;
mod original;
mod ports;
mod rule;
mod schema;
mod substitution;
mod unit;
mod unit_name;

use std::fmt;

pub use cloud_config::cloud_config;
use cloud_config::in_original_order;
pub use cloud_init::cloud_init;
pub use ignition::{butane, ignition};
pub use original::original;
pub use rule::{Rule, Severity};
pub use unit::{UnitOption, options as unit_options, unit, unit_file};
pub use unit_name::fault as unit_name_fault;

use super::yaml::{self, Fault, Kind, Node, Style};

/// fleet refuses a physical line of this many bytes or more (go-systemd's unit parser).
pub const LINE_BYTES_LIMIT: usize = 2048;
/// What is wrong with Docker's API on a port without encryption, and what to do.
const OPEN_DOCKER: &str = "whoever reaches port 2375 owns the machine";
const OPEN_DOCKER_FIX: &str = "use Docker's socket, or TLS on 2376";

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line of the text, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What it does against.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub fix: String,
}

impl Finding {
    fn new(
        line: usize,
        column: usize,
        rule: Rule,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { line, column, rule, severity: rule.severity(), reason: reason.into(), fix: fix.into() }
    }

    fn at(node: &Node, rule: Rule, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(node.line, node.column, rule, reason, fix)
    }

    fn not_yaml(text: &str, fault: &Fault) -> Self {
        // A fault at the end of the text is reported in the line after it.
        let line = fault.line.clamp(1, text.lines().count().max(1));
        let reason = fault.reason.lines().next().unwrap_or_default();
        Self::new(
            line,
            fault.column,
            Rule::NotYaml,
            reason,
            "this is not YAML: look for a quote or bracket without its end, and at the indentation",
        )
    }

    /// The line that `coreos-cloudinit -validate` prints for it.
    pub fn original(&self) -> String {
        format!("line {}: {}: {}", self.line, self.severity.word(), self.reason)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {} ({})", self.line, self.column, self.severity.word(), self.reason, self.fix)
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// User-data for coreos-cloudinit.
    CloudConfig,
    /// User-data for cloud-init.
    CloudInit,
    /// User-data for Ignition.
    Ignition,
    /// What Butane makes Ignition of.
    Butane,
    /// A unit file.
    Unit,
    /// A part of a unit, in a folder beside it: what starts the unit need not stand here.
    DropIn,
    /// A script, which both cloud-inits run as it is.
    Script,
}

/// Keys that only cloud-init has, and that files for it rarely lack.
const CLOUD_INIT_SIGNS: [&str; 10] = [
    "runcmd:",
    "bootcmd:",
    "packages:",
    "package_update:",
    "package_upgrade:",
    "apt:",
    "chpasswd:",
    "locale:",
    "timezone:",
    "power_state:",
];

impl Language {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CloudConfig,
        Self::CloudInit,
        Self::Ignition,
        Self::Butane,
        Self::Unit,
        Self::DropIn,
        Self::Script,
    ];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CloudConfig => "cloud-config",
            Self::CloudInit => "cloud-init",
            Self::Ignition => "ignition",
            Self::Butane => "butane",
            Self::Unit => "unit",
            Self::DropIn => "drop-in",
            Self::Script => "script",
        }
    }

    /// What a file most probably is, by its name and its text.
    pub fn guess(name: &str, text: &str) -> Self {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().trim_end();
        let is_drop_in = name.rsplit_once('.').is_some_and(|(_, kind)| kind == "conf");
        let is_unit = unit_name_fault(name).is_none() && !first.starts_with("#cloud-config");
        let has_line =
            |starts: &[&str]| text.lines().any(|line| starts.iter().any(|start| line.starts_with(start)));
        if text.trim_start().starts_with('{') {
            Self::Ignition
        } else if first.starts_with("#!") {
            Self::Script
        } else if cloud_init::form_of(text).is_some() {
            Self::CloudInit
        } else if is_drop_in {
            Self::DropIn
        } else if is_unit
            || text.lines().any(|line| line == "[Unit]" || line == "[Service]")
                && !has_line(&["#cloud-config"])
        {
            Self::Unit
        } else if has_line(&["variant:"]) && has_line(&["version:"]) {
            Self::Butane
        } else if !has_line(&["coreos:"]) && (first == "## template: jinja" || has_line(&CLOUD_INIT_SIGNS)) {
            Self::CloudInit
        } else {
            Self::CloudConfig
        }
    }
}

/// Checks a text. An empty list: nothing to change.
pub fn lint(language: Language, text: &str) -> Vec<Finding> {
    let mut findings = match language {
        Language::CloudConfig => cloud_config(text),
        Language::CloudInit => cloud_init(text),
        Language::Ignition => ignition(text),
        Language::Butane => butane(text),
        Language::Unit => unit_file(text),
        Language::DropIn => unit(text),
        Language::Script => Vec::new(),
    };
    // A carriage return alone ends a line for YAML, and for nobody else.
    let lines = text.lines().count().max(1);
    for finding in &mut findings {
        finding.line = finding.line.min(lines);
    }
    findings
}

/// Whether a text opens Docker's API, without encryption, to the network.
fn opens_docker(text: &str) -> bool {
    ["0.0.0.0:2375", "tcp://:2375", "[::]:2375"].iter().any(|form| text.contains(form))
}

/// Whether `path` is in a folder for temporary files.
fn is_temporary(path: &str) -> bool {
    ["/tmp/", "/var/tmp/"].iter().any(|folder| path.starts_with(folder))
}

/// The texts of units and drop-ins below `path`, with the unit's name.
fn units_in<'a>(root: &'a Node, path: &[&str], content: &str) -> Vec<(&'a Node, &'a str)> {
    let mut node = root;
    for key in path {
        let Some(below) = node.get(key) else { return Vec::new() };
        node = below;
    }
    let mut found = Vec::new();
    for unit in node.items() {
        let name = unit.get("name").and_then(Node::text).unwrap_or_default();
        found.extend(unit.get(content).map(|text| (text, name)));
        for key in ["drop_ins", "dropins"] {
            let drop_ins = unit.get(key).map(Node::items).unwrap_or_default();
            found.extend(drop_ins.iter().filter_map(|drop_in| drop_in.get(content)).map(|text| (text, name)));
        }
    }
    found
}

/// Checks a unit that stands in another file. Its lines are lines of the file only where it is a block; elsewhere all
/// findings are where it begins.
fn embedded_unit(file: &str, node: &Node) -> Vec<Finding> {
    let Kind::Scalar { text, .. } = &node.kind else { return Vec::new() };
    unit(text).into_iter().map(|finding| placed(file, node, finding)).collect()
}

/// The finding of an embedded unit, as one of the file.
fn placed(file: &str, node: &Node, mut finding: Finding) -> Finding {
    if matches!(node.kind, Kind::Scalar { style: Style::Block, .. }) {
        finding.line += node.line;
        finding.line = finding.line.min(file.lines().count().max(1));
        finding.column = indentation(file, finding.line) + 1;
    } else {
        finding.reason = format!("in line {} of the unit: {}", finding.line, finding.reason);
        (finding.line, finding.column) = (node.line, node.column);
    }
    finding
}

/// Blanks at the beginning of a line, which is counted from 1.
fn indentation(file: &str, line: usize) -> usize {
    file.lines().nth(line - 1).map_or(0, |line| line.len() - line.trim_start().len())
}

/// Finds Docker's open port in any scalar, with the line inside a block.
fn check_docker(file: &str, node: &Node, findings: &mut Vec<Finding>) {
    let Kind::Scalar { text, style } = &node.kind else { return };
    for (number, _) in text.lines().enumerate().filter(|(_, line)| opens_docker(line)) {
        let (line, column) = if *style == Style::Block {
            // A folded block has other lines than the file.
            let place = (node.line + 1 + number).min(file.lines().count().max(1));
            (place, indentation(file, place) + 1)
        } else {
            (node.line, node.column)
        };
        findings.push(Finding::new(line, column, Rule::DockerOnTcp, OPEN_DOCKER, OPEN_DOCKER_FIX));
    }
}

/// Finds a scalar that versions of YAML read differently.
fn check_ambiguous(node: &Node, findings: &mut Vec<Finding>) {
    if node.is_ambiguous() {
        let text = node.text().unwrap_or_default();
        findings.push(Finding::at(
            node,
            Rule::Ambiguous,
            format!("`{text}` is a number, a time or a boolean to some readers of YAML, and text to others"),
            "put it in quotes where it is text, and write true or false where it is not",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::{Language, lint};

    #[test]
    fn a_file_is_known_by_its_name_or_its_text() {
        for (name, text, language) in [
            ("user-data", "#cloud-config\ncoreos:\n", Language::CloudConfig),
            ("user-data", "#cloud-config\nhostname: a\n", Language::CloudConfig),
            ("user-data", "#cloud-config\nruncmd:\n", Language::CloudInit),
            ("user-data", "#cloud-config\ncoreos:\nruncmd:\n", Language::CloudConfig),
            ("a.ign", "{\"ignition\": {}}", Language::Ignition),
            ("a.bu", "variant: fcos\nversion: 1.5.0\n", Language::Butane),
            ("a.service", "Description=a\n", Language::Unit),
            ("-", "# a\n[Unit]\n", Language::Unit),
            ("10-a.conf", "[Service]\n", Language::DropIn),
            ("user-data", "#!/bin/sh\n", Language::Script),
        ] {
            assert_eq!(Language::guess(name, text), language, "{name}: {text}");
        }
    }

    #[test]
    fn a_drop_in_need_not_say_what_starts_its_unit() {
        let text = "[Unit]\nDescription=a\n[Service]\nExecStart=/a\n";
        let found = |name| lint(Language::guess(name, text), text).len();
        assert_eq!((found("a.service"), found("10-a.conf")), (1, 0));
    }
}
