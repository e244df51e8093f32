//! One source of configuration: flags or a file. Absent means: not said here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Definition;

/// What one source says. Field names are Consul's configuration keys.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the names are the documented configuration keys")]
pub struct Fragment {
    pub node_name: Option<String>,
    pub node_id: Option<String>,
    pub node_meta: BTreeMap<String, String>,
    pub datacenter: Option<String>,
    pub domain: Option<String>,
    pub alt_domain: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub server: Option<bool>,
    /// Machines that are servers; if there are any, this one is a server if it is one of them.
    pub server_at: Vec<String>,
    pub dev: Option<bool>,
    pub bootstrap: Option<bool>,
    pub bootstrap_expect: Option<i64>,
    pub bind_addr: Option<String>,
    pub advertise_addr: Option<String>,
    pub client_addr: Option<String>,
    pub addresses_http: Option<String>,
    pub addresses_dns: Option<String>,
    pub port_dns: Option<i64>,
    pub port_http: Option<i64>,
    pub port_server: Option<i64>,
    pub port_serf_lan: Option<i64>,
    pub retry_join: Vec<String>,
    pub retry_interval: Option<Duration>,
    pub recursors: Vec<String>,
    pub log_level: Option<String>,
    pub pid_file: Option<PathBuf>,
    pub ui: Option<bool>,
    pub leave_on_terminate: Option<bool>,
    pub skip_leave_on_interrupt: Option<bool>,
    pub enable_script_checks: Option<bool>,
    pub check_update_interval: Option<Duration>,
    pub replace: Option<String>,
    pub replace_after: Option<Duration>,
    pub dns_only_passing: Option<bool>,
    pub dns_enable_truncate: Option<bool>,
    pub dns_node_ttl: Option<Duration>,
    pub dns_service_ttl: BTreeMap<String, Duration>,
    pub dns_udp_answer_limit: Option<i64>,
    pub dns_a_record_limit: Option<i64>,
    pub dns_recursor_timeout: Option<Duration>,
    pub dns_recursor_strategy: Option<String>,
    pub limits_http_max_conns_per_client: Option<i64>,
    pub limits_kv_max_value_size: Option<i64>,
    pub soa_refresh: Option<i64>,
    pub soa_retry: Option<i64>,
    pub soa_expire: Option<i64>,
    pub soa_min_ttl: Option<i64>,
    /// Service definitions, for `model::api`.
    pub services: Vec<Definition>,
    /// Check definitions.
    pub checks: Vec<Definition>,
    /// What to tell the operator: keys that are accepted and have no effect.
    pub warnings: Vec<String>,
}

macro_rules! later_wins {
    ($into:ident, $from:ident, $($field:ident)+) => {
        $(if $from.$field.is_some() { $into.$field = $from.$field; })+
    };
}

impl Fragment {
    /// Puts `later` over `self`: scalars are replaced, lists appended, maps merged, as Consul does.
    #[must_use]
    pub fn merge(mut self, later: Self) -> Self {
        later_wins!(self, later, node_name node_id datacenter domain alt_domain data_dir server dev bootstrap
            bootstrap_expect bind_addr advertise_addr client_addr addresses_http addresses_dns port_dns port_http
            port_server port_serf_lan retry_interval log_level pid_file ui leave_on_terminate
            skip_leave_on_interrupt enable_script_checks check_update_interval replace replace_after dns_only_passing dns_enable_truncate
            dns_node_ttl dns_udp_answer_limit dns_a_record_limit dns_recursor_timeout dns_recursor_strategy
            limits_http_max_conns_per_client limits_kv_max_value_size soa_refresh soa_retry soa_expire soa_min_ttl);
        self.node_meta.extend(later.node_meta);
        self.dns_service_ttl.extend(later.dns_service_ttl);
        self.server_at.extend(later.server_at);
        self.retry_join.extend(later.retry_join);
        self.recursors.extend(later.recursors);
        self.services.extend(later.services);
        self.checks.extend(later.checks);
        self.warnings.extend(later.warnings);
        self
    }
}
