//! What commonly goes wrong on a machine, and what to do about it: facts in, findings out.
//!
//! Each check has a file: its facts, and the judgement. Facts that could not be read are not judged: the check then says why.

pub mod address;
pub mod clock;
pub mod cluster;
pub mod command_line;
pub mod docker;
pub mod etcd;
pub mod files;
pub mod identity;
pub mod keys;
pub mod missing_units;
pub mod open_docker;
pub mod ports;
pub mod resolver;
pub mod units;

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It works now, and will not for ever or not for everybody.
    Warning,
    /// Something does not work, or is open to others.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What can be seen.
    pub symptom: String,
    /// Where it comes from.
    pub cause: String,
    /// A command line for a shell that repairs it. Where it belongs on another machine, a comment at its end says so.
    pub fix: String,
}

impl Finding {
    /// Something that does not work, or is open to others.
    pub fn error(symptom: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Error, symptom: symptom.into(), cause: cause.into(), fix: fix.into() }
    }

    /// Something that works now.
    pub fn warning(symptom: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(symptom, cause, fix) }
    }
}

/// What one check came to. Without findings, and with everything checked, all is fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What could not be checked, and why.
    pub not_checked: Vec<String>,
}

impl Check {
    /// Everything was checked.
    pub fn of(name: &'static str, findings: Vec<Finding>) -> Self {
        Self { name, findings, not_checked: Vec::new() }
    }

    /// Nothing could be checked.
    pub fn not_checked(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, findings: Vec::new(), not_checked: vec![why.into()] }
    }

    /// The same, with something more that could not be checked.
    #[must_use]
    pub fn but_not(mut self, why: impl Into<String>) -> Self {
        self.not_checked.push(why.into());
        self
    }

    /// Whether everything was checked and nothing is wrong.
    pub fn is_fine(&self) -> bool {
        self.findings.is_empty() && self.not_checked.is_empty()
    }
}

/// What all checks came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where the settings came from, one sentence each.
    pub settings: Vec<String>,
    /// The checks, in a fixed order.
    pub checks: Vec<Check>,
}

impl Report {
    /// How many findings of this level there are.
    pub fn count(&self, level: Level) -> usize {
        let findings = self.checks.iter().flat_map(|check| &check.findings);
        findings.filter(|finding| finding.level == level).count()
    }
}

/// The text for a person: where the settings came from, then a line for each check that is fine, and a block for each
/// finding.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for source in &self.settings {
            writeln!(f, "settings: {source}")?;
        }
        for check in &self.checks {
            if check.is_fine() {
                writeln!(f, "ok: {}", check.name)?;
            }
            for finding in &check.findings {
                writeln!(f, "{}: {}", finding.level, one_line(&finding.symptom))?;
                writeln!(f, "  cause: {}", one_line(&finding.cause))?;
                writeln!(f, "  fix: {}", finding.fix)?;
            }
            for why in &check.not_checked {
                writeln!(f, "not checked: {}: {}", check.name, one_line(why))?;
            }
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        match (errors, warnings) {
            (0, 0) => writeln!(f, "nothing is wrong"),
            _ => writeln!(f, "{}, {}", counted(errors, "error"), counted(warnings, "warning")),
        }
    }
}

fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// What programs say may have several lines; here each thing has one.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::{Check, Finding, Level, Report};

    #[test]
    fn a_report_has_a_line_for_what_is_fine_and_a_block_for_each_finding() {
        let report = Report {
            settings: vec!["from corediscover-agent.service".to_owned()],
            checks: vec![
                Check::of("ports", Vec::new()),
                Check::of("units", vec![Finding::error("it failed", "no disk", "reboot")])
                    .but_not("the rest: why"),
                Check::of("clock", vec![Finding::warning("late", "nobody sets it", "set it")]),
            ],
        };
        assert_eq!(
            report.to_string(),
            "settings: from corediscover-agent.service\nok: ports\nerror: it failed\n  cause: no disk\n  fix: reboot\n\
             not checked: units: the rest: why\nwarning: late\n  cause: nobody sets it\n  fix: set it\n\
             1 error, 1 warning\n"
        );
        assert_eq!((report.count(Level::Error), report.count(Level::Warning)), (1, 1));
    }

    #[test]
    fn a_report_without_findings_says_so() {
        let report =
            Report { settings: Vec::new(), checks: vec![Check::not_checked("etcd", "none is named")] };
        assert_eq!(report.to_string(), "not checked: etcd: none is named\nnothing is wrong\n");
    }
}
