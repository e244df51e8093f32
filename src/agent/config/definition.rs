//! A service or a check as a configuration file has it.

use serde_json::Value;

use crate::hint::WithHint as _;
use crate::model::api::{decode_check, decode_service};
use crate::model::sync::{CheckRegistration, ServiceRegistration};

/// What a file says about one service or one check.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The file, for who has to correct it.
    pub file: String,
    /// As written.
    pub value: Value,
}

impl Definition {
    /// The service.
    ///
    /// # Errors
    /// Names the file and the service when it cannot be registered.
    pub fn service(&self) -> anyhow::Result<ServiceRegistration> {
        decode_service(&self.value)
            .map_err(|error| self.wrong("service", error.into()))
            .hint("its fields are those of `PUT /v1/agent/service/register`")
    }

    /// The check.
    ///
    /// # Errors
    /// As [`Definition::service`].
    pub fn check(&self) -> anyhow::Result<CheckRegistration> {
        decode_check(&self.value)
            .map_err(|error| self.wrong("check", error.into()))
            .hint("its fields are those of `PUT /v1/agent/check/register`")
    }

    fn wrong(&self, what: &str, error: anyhow::Error) -> anyhow::Error {
        let name = self.value["name"].as_str().or(self.value["Name"].as_str()).unwrap_or_default();
        error.context(format!("failed to parse {}: {what} {name:?} is not valid", self.file))
    }
}
