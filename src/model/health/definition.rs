//! How a check is done: what a registration says, once it has been found valid.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is asked, and how a result is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckKind {
    /// Set by a client, which must come back before the time is over.
    Ttl {
        /// Time until the check turns critical by itself.
        ttl: Duration,
    },
    /// An HTTP request: 2xx passes, 429 warns, all else is critical.
    Http {
        /// The whole URL.
        url: String,
        /// `GET` when empty.
        method: String,
        /// Header fields.
        header: BTreeMap<String, Vec<String>>,
        /// Request body.
        body: String,
        /// Redirects are an answer of their own.
        disable_redirects: bool,
        /// Certificates are not verified.
        tls_skip_verify: bool,
    },
    /// A TCP connection to `host:port`.
    Tcp {
        /// `host:port`.
        address: String,
    },
}

/// A valid check definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDefinition {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between two runs, at least 1 s; zero for TTL checks.
    pub interval: Duration,
    /// Longest time of one run; `None` is the kind's default (10 s).
    pub timeout: Option<Duration>,
    /// Successes in a row before it passes (0 = at once).
    pub success_before_passing: u32,
    /// Failures in a row before it warns.
    pub failures_before_warning: u32,
    /// Failures in a row before it is critical.
    pub failures_before_critical: u32,
    /// Remove the service when critical for so long; at least 1 minute.
    pub deregister_critical_service_after: Option<Duration>,
    /// Bytes of output kept; `None` is the agent's default (4096).
    pub output_max_size: Option<usize>,
}
