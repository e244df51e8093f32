//! Checks: what they are, and how results become a status. Running them is the agent's job.

mod definition;
mod maintenance;
mod output;
mod threshold;
mod ttl;

pub use definition::{CheckDefinition, CheckKind};
pub use maintenance::{
    MAINTENANCE_KIND, NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX, maintenance_check, maintenance_id,
};
pub use output::{
    ACCEPT, Failure, OUTPUT_BYTES_MAX, Tail, USER_AGENT, cap_head, http_answer, http_failure, http_status,
    tcp_failure, tcp_success,
};
pub use threshold::Thresholds;
pub use ttl::Ttl;
