//! One service of one container, and the body that registers it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::checks::{Check, CheckStatus, health_check, output_of, status_of, user_check_id};
use super::facts::Health;

/// Metadata key that marks a service as ours; its value is the owner ([`super::Rules::owner`]).
pub const META_OWNER: &str = "corediscover-registrator";
/// Metadata key that names the container (twelve characters) behind a service of ours.
pub const META_CONTAINER: &str = "corediscover-container";

/// A service as it should be registered; what changes by itself (health, pause) is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique at the agent.
    pub id: String,
    /// What DNS finds it by.
    pub name: String,
    /// Tags, in order.
    pub tags: Vec<String>,
    /// Port, from 1.
    pub port: u16,
    /// An address that others can reach.
    pub address: String,
    /// Attributes of the user, and the two keys of ours.
    pub meta: BTreeMap<String, String>,
    /// The check that `SERVICE_CHECK_*` asks for.
    pub check: Option<Check>,
    /// Whether Docker checks the container's health.
    pub has_health: bool,
}

/// A service that should be registered now, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The service.
    pub service: Service,
    /// State of the container's HEALTHCHECK.
    pub health: Option<Health>,
    /// Whether the container is paused.
    pub paused: bool,
    /// First twelve characters of the container's id.
    pub container: String,
    /// When the container was started.
    pub started_at: String,
}

impl Wanted {
    /// Status and output of the check that stands for the HEALTHCHECK.
    pub fn health_report(&self) -> Option<(CheckStatus, String)> {
        self.health.as_ref().map(|health| (status_of(health), output_of(health)))
    }

    /// The body of `PUT /v1/agent/service/register`, fields in the order of Consul's Go client.
    pub fn body(&self) -> Body<'_> {
        let service = &self.service;
        let mut check = service.check.clone();
        let checks = self.health.as_ref().map(|health| vec![health_check(&service.id, health)]);
        if checks.is_some()
            && let Some(check) = &mut check
        {
            // With one check the agent calls it `service:ID`, with several `service:ID:1`. Its name should not
            // depend on whether there is a HEALTHCHECK.
            check.id = Some(user_check_id(&service.id));
        }
        Body {
            id: &service.id,
            name: &service.name,
            tags: &service.tags,
            port: service.port,
            address: &service.address,
            meta: &service.meta,
            check,
            checks,
        }
    }
}

/// See [`Wanted::body`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Body<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    port: u16,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    meta: &'a BTreeMap<String, String>,
    check: Option<Check>,
    checks: Option<Vec<Check>>,
}
