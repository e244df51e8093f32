//! Finds what machines would read differently than it was meant: in unit files and in cloud-config.
//!
//! Our own output passes; the rules are here to keep it so, and for files that people bring along. It is no parser of
//! systemd or YAML: those have their own.

mod cloud_config;
mod unit;

use std::fmt;

pub use cloud_config::cloud_config;
pub use unit::unit;

/// fleet refuses a physical line of this many bytes or more (go-systemd's unit parser).
pub const LINE_BYTES_LIMIT: usize = 2048;

/// What a text does against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A physical line that fleet refuses.
    LineTooLong,
    /// A comment inside a continued line: systemd skips it, fleet fails.
    CommentInContinuation,
    /// An option before the first section: dropped in silence.
    OptionBeforeSection,
    /// A line that is no option, or a damaged section name.
    NotAnOption,
    /// A key of `[X-Fleet]` that fleet does not know.
    FleetKey,
    /// Keys of `[X-Fleet]` that some versions of fleet refuse together.
    FleetCombination,
    /// `[Install]` in a unit for fleet.
    FleetInstall,
    /// A script or program in a folder for temporary files.
    TemporaryScript,
    /// The Docker API, open to everybody who reaches the machine.
    DockerOnTcp,
    /// Waiting for a time instead of for what is awaited.
    Sleep,
    /// Cleaning up that fails when there is nothing to clean up.
    CleanupMustNotFail,
    /// An address of `/etc/environment` that may be empty.
    AddressUnchecked,
    /// A download that systemd's start timeout cuts off.
    DownloadTimeout,
    /// DNS published on UDP alone: truncated answers cannot be asked for again.
    DnsOnlyUdp,
    /// The first line is not exactly `#cloud-config`.
    Header,
    /// A scalar that YAML versions read differently.
    Unquoted,
    /// A quoted number or boolean where a bare one is wanted.
    WrongType,
    /// URLs in a flow list, which coreos-cloudinit's YAML cannot read.
    FlowList,
    /// A tab in the indentation.
    Tab,
    /// Not YAML.
    NotYaml,
    /// `${private_ipv4}`, which coreos-cloudinit leaves as it is.
    BracedVariable,
    /// Variables side by side, of which only the first is replaced.
    AdjacentVariables,
    /// A variable with a letter or digit right after it.
    VariableRunsOn,
    /// A key that coreos-cloudinit does not know, or a value that it refuses.
    Schema,
    /// A file where it cannot stay: emptied at boot, or read-only.
    FilePath,
}

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line of the text, from 1.
    pub line: usize,
    /// What it does against.
    pub rule: Rule,
    /// What is wrong, and what to write instead.
    pub reason: String,
}

impl Finding {
    fn new(line: usize, rule: Rule, reason: impl Into<String>) -> Self {
        Self { line, rule, reason: reason.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Whether a text opens Docker's API, without encryption, to the network.
fn opens_docker(text: &str) -> bool {
    ["0.0.0.0:2375", "tcp://:2375", "[::]:2375"].iter().any(|form| text.contains(form))
}

/// Whether `path` is in a folder for temporary files.
fn is_temporary(path: &str) -> bool {
    ["/tmp/", "/var/tmp/"].iter().any(|folder| path.starts_with(folder))
}
