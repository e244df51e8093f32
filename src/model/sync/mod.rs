//! Who owns what in the catalog, and the commands that make it agree: agents their own node, the leader the members.

mod members;
mod pace;
mod plan;
mod registration;
mod rows;
pub mod servers;
mod storage;
#[cfg(test)]
mod tests;

pub use members::{LeaderView, UNHEARD_GRACE, dead_nodes, plan_members};
pub use pace::full_sync_interval;
pub use plan::{BATCH_COMMANDS_MAX, Owned, Scope, overridden_tags, plan};
pub use registration::{CheckRegistration, ServiceRegistration};
pub use rows::{agent_node, check_row};
pub use storage::{STORAGE_CHECK, plan_storage};
