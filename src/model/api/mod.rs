//! Consul's JSON: what clients send and what they read, one file per family of paths.
//!
//! In: bytes become a [`serde_json::Value`] ([`syntax`]), a field table turns it into a value that cannot be wrong
//! ([`fields`] and the families). Out: rows are written straight into bytes ([`json`]). Nothing here knows a socket
//! or a status code.

pub mod agent;
pub mod catalog;
pub mod check_definition;
pub mod fields;
pub mod filter;
pub mod health;
pub mod json;
pub mod kv;
#[cfg(test)]
mod properties;
pub mod service_definition;
pub mod syntax;

pub use check_definition::decode_check;
pub use fields::DecodeError;
pub use service_definition::decode_service;

/// Why a body was refused. The texts are Consul's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Not the JSON that was expected.
    #[error("Request decode failed: {0}")]
    Decode(#[from] DecodeError),
    /// Well-formed, but not a valid registration.
    #[error("{0}")]
    Invalid(String),
    /// The check that it describes is not valid, or of a kind that this agent cannot run.
    #[error("Invalid check: {0}")]
    InvalidCheck(String),
    /// Script checks come from files of the machine only.
    #[error(
        "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true"
    )]
    ScriptsDisabled,
    /// What a Consul server, not its agent, would refuse.
    #[error("{0}")]
    Server(&'static str),
}
