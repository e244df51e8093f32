//! What is registered at an agent: from HTTP, configuration files or its own disk.

use serde::{Deserialize, Serialize};

use crate::model::catalog::{Service, Status};
use crate::model::health::CheckDefinition;

/// A service to register, already checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRegistration {
    /// The service; indexes are ignored.
    pub service: Service,
    /// Its checks; `service_id` is the service's.
    pub checks: Vec<CheckRegistration>,
    /// Remove checks of the service that are not listed.
    pub replace_existing_checks: bool,
}

/// A check to register, already checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckRegistration {
    /// Unique on the node.
    pub check_id: String,
    /// Its name.
    pub name: String,
    /// For people.
    pub notes: String,
    /// The service instance it belongs to, or empty.
    pub service_id: String,
    /// What it starts with; `None` is critical for a new check and the present state for a known one.
    pub status: Option<Status>,
    /// How it is checked.
    pub definition: CheckDefinition,
}
