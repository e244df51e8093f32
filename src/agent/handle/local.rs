//! What this agent owns: the services and checks that were registered at it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::model::catalog::{Check, Service, Status};
use crate::model::sync::{CheckRegistration, ServiceRegistration};

/// Why the local state refused something. The texts are Consul's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// 404.
    #[error("Unknown service ID {0:?}. Ensure that the service ID is passed, not the service name.")]
    UnknownService(String),
    /// 404.
    #[error("Unknown check ID {0:?}. Ensure that the check ID is passed, not the check name.")]
    UnknownCheck(String),
    /// 404.
    #[error("ServiceID {0:?} does not exist")]
    UnknownServiceOfCheck(String),
    /// 404.
    #[error("CheckID {0:?} does not have associated TTL")]
    NotTtl(String),
    /// 500; nothing was registered.
    #[error(
        "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true"
    )]
    ScriptsDisabled,
    /// 500; the registration is in memory but not on disk, and was undone.
    #[error("failed persisting: {0}")]
    Persist(String),
}

/// Maintenance of a node (`None`) or of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// The service id, or the node itself.
    pub service_id: Option<String>,
    /// On or off.
    pub enable: bool,
    /// For people; empty for Consul's default text.
    pub reason: String,
}

/// The agent's own services and checks as HTTP and the command line see them.
#[async_trait]
pub trait Local: Send + Sync {
    /// Registered services by id, without `consul`.
    fn services(&self) -> BTreeMap<String, Arc<Service>>;

    /// Registered checks by id, without `serfHealth`.
    fn checks(&self) -> BTreeMap<String, Arc<Check>>;

    /// Registers or replaces a service with its checks; on disk when this returns, in the catalog soon after.
    async fn register_service(&self, registration: ServiceRegistration) -> Result<(), LocalError>;

    /// Removes a service with its checks.
    async fn deregister_service(&self, service_id: &str) -> Result<(), LocalError>;

    /// Registers or replaces a check.
    async fn register_check(&self, registration: CheckRegistration) -> Result<(), LocalError>;

    /// Removes a check.
    async fn deregister_check(&self, check_id: &str) -> Result<(), LocalError>;

    /// Sets a TTL check's state and restarts its time.
    async fn update_ttl(&self, check_id: &str, status: Status, output: &str) -> Result<(), LocalError>;

    /// Begins or ends maintenance.
    async fn maintain(&self, maintenance: Maintenance) -> Result<(), LocalError>;
}
