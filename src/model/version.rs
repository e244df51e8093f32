//! Which version we are, and which version of Consul clients may take us for.

/// Our own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of Consul whose behaviour we follow; clients parse it from `agent/self`, tags and `consul version`.
pub const CONSUL_VERSION: &str = "1.21.4";
/// What stands in the place of Consul's revision.
pub const REVISION: &str = concat!("corediscover-", env!("CARGO_PKG_VERSION"));
