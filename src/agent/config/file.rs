//! Configuration files with Consul's keys: strict about names, tolerant about types.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use super::Definition;
use super::dialect::Dialect;
use super::fragment::Fragment;
use crate::model::duration;

/// Largest configuration file that is read, in bytes: a guard against the wrong path (a log, a device).
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Keys of Consul that have no meaning here; configurations that carry them still work.
const IGNORED_KEYS: &[&str] = &[
    "acl",
    "acl_datacenter",
    "acl_default_policy",
    "atlas_acl_token",
    "atlas_infrastructure",
    "atlas_join",
    "atlas_token",
    "audit",
    "auto_encrypt",
    "autopilot",
    "cloud",
    "connect",
    "disable_anonymous_signature",
    "disable_host_node_id",
    "disable_keyring_file",
    "disable_remote_exec",
    "disable_update_check",
    "enable_debug",
    "experiments",
    "gossip_lan",
    "gossip_wan",
    "http_config",
    "locality",
    "log_json",
    "partition",
    "peering",
    "performance",
    "primary_datacenter",
    "protocol",
    "raft_logstore",
    "raft_protocol",
    "raft_snapshot_interval",
    "raft_snapshot_threshold",
    "raft_trailing_logs",
    "rejoin_after_leave",
    "retry_max",
    "rpc",
    "segments",
    "telemetry",
    "ui_dir",
    "unix_sockets",
    "use_streaming_backend",
    "version",
    "xds",
];

/// Reads files, and those of folders in alphabetical order, each over the one before: of a folder, all files are read when
/// `dialect` is said, and otherwise the `*.json` and `*.hcl` files. Files with other names are in `dialect`, JSON if none is said.
///
/// # Errors
/// Names the file and what is wrong in it.
pub fn read_paths(paths: &[PathBuf], dialect: Option<Dialect>) -> anyhow::Result<Fragment> {
    let mut merged = Fragment::default();
    for path in paths {
        if path.is_dir() {
            for file in files_of(path, dialect)? {
                merged = merged.merge(read_file(&file, dialect)?);
            }
        } else {
            merged = merged.merge(read_file(path, dialect)?);
        }
    }
    Ok(merged)
}

fn files_of(folder: &Path, dialect: Option<Dialect>) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?
    {
        let path = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        if (dialect.is_some() && path.is_file()) || Dialect::of(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, dialect: Option<Dialect>) -> anyhow::Result<Fragment> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > FILE_BYTES_MAX {
        bail!("{} has {size} bytes; a configuration file may have {FILE_BYTES_MAX}", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let dialect = dialect.or(Dialect::of(path)).unwrap_or(Dialect::Json);
    parse_file(&path.display().to_string(), dialect, &text)
}

/// Parses the text of the file `name`.
///
/// # Errors
/// Consul's texts: `failed to parse FILE: 1 error occurred: …`.
pub fn parse_file(name: &str, dialect: Dialect, text: &str) -> anyhow::Result<Fragment> {
    let map = dialect.read(name, text)?;
    let mut reader = Reader { file: name, fragment: Fragment::default(), errors: Vec::new() };
    for (key, value) in &map {
        reader.top(key, value);
    }
    if reader.errors.is_empty() {
        for service in &reader.fragment.services {
            service.service()?;
        }
        for check in &reader.fragment.checks {
            check.check()?;
        }
        return Ok(reader.fragment);
    }
    let count = reader.errors.len();
    let plural = if count == 1 { "error" } else { "errors" };
    let list: String = reader.errors.iter().map(|error| format!("\t* {error}\n")).collect();
    bail!("failed to parse {name}: {count} {plural} occurred:\n{list}")
}

struct Reader<'a> {
    file: &'a str,
    fragment: Fragment,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn top(&mut self, key: &str, value: &Value) {
        if value.is_null() {
            return;
        }
        match key {
            "node_name" => self.fragment.node_name = self.text(key, value),
            "node_id" => self.fragment.node_id = self.text(key, value),
            "node_meta" => self.fragment.node_meta = self.text_map(key, value),
            "datacenter" => self.fragment.datacenter = self.text(key, value),
            "domain" => self.fragment.domain = self.text(key, value),
            "alt_domain" => self.fragment.alt_domain = self.text(key, value),
            "data_dir" => self.fragment.data_dir = self.text(key, value).map(PathBuf::from),
            "server" => self.fragment.server = self.boolean(key, value),
            "bootstrap" => self.fragment.bootstrap = self.boolean(key, value),
            "bootstrap_expect" => self.fragment.bootstrap_expect = self.number(key, value),
            "bind_addr" => self.fragment.bind_addr = self.text(key, value),
            "advertise_addr" => self.fragment.advertise_addr = self.text(key, value),
            "client_addr" => self.fragment.client_addr = self.text(key, value),
            "retry_join" | "start_join" => {
                let list = self.texts(key, value);
                self.fragment.retry_join.extend(list);
            }
            "retry_interval" => self.fragment.retry_interval = self.duration(key, value),
            "recursors" | "recursor" => {
                let list = self.texts(key, value);
                self.fragment.recursors.extend(list);
            }
            "log_level" => self.fragment.log_level = self.text(key, value),
            "pid_file" => self.fragment.pid_file = self.text(key, value).map(PathBuf::from),
            "ui" => self.fragment.ui = self.boolean(key, value),
            "leave_on_terminate" => self.fragment.leave_on_terminate = self.boolean(key, value),
            "skip_leave_on_interrupt" => self.fragment.skip_leave_on_interrupt = self.boolean(key, value),
            "enable_script_checks" | "enable_local_script_checks" => {
                self.fragment.enable_script_checks = self.boolean(key, value);
            }
            "check_update_interval" => self.fragment.check_update_interval = self.duration(key, value),
            "replace" => self.fragment.replace = self.text(key, value),
            "replace_after" => self.fragment.replace_after = self.duration(key, value),
            "service" | "services" => self.fragment.services.extend(self.definitions(value)),
            "check" | "checks" => self.fragment.checks.extend(self.definitions(value)),
            "addresses" => self.group(key, value, Self::address),
            "ports" => self.group(key, value, Self::port),
            "dns_config" => self.group(key, value, Self::dns),
            "limits" => self.group(key, value, Self::limits),
            "ui_config" => self.group(key, value, Self::ui),
            "encrypt" => {
                self.errors.push("encrypt is not supported yet: gossip would not be encrypted".to_owned());
            }
            ignored if IGNORED_KEYS.contains(&ignored) => {
                self.fragment.warnings.push(format!("the configuration key {ignored} has no effect"));
            }
            unknown => self.errors.push(format!("invalid config key {unknown}")),
        }
    }

    fn group(&mut self, key: &str, value: &Value, member: fn(&mut Self, &str, &str, &Value)) {
        match value {
            Value::Object(map) => {
                for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                    member(self, name, &format!("{key}.{name}"), value);
                }
            }
            _ => self.wrong_type(key, "an object", value),
        }
    }

    fn address(&mut self, name: &str, path: &str, value: &Value) {
        match name {
            "http" => self.fragment.addresses_http = self.text(path, value),
            "dns" => self.fragment.addresses_dns = self.text(path, value),
            "https" | "grpc" | "grpc_tls" | "rpc" => {}
            _ => self.errors.push(format!("invalid config key {path}")),
        }
    }

    fn port(&mut self, name: &str, path: &str, value: &Value) {
        match name {
            "dns" => self.fragment.port_dns = self.number(path, value),
            "http" => self.fragment.port_http = self.number(path, value),
            "server" => self.fragment.port_server = self.number(path, value),
            "serf_lan" => self.fragment.port_serf_lan = self.number(path, value),
            "https" => {
                if self.number(path, value).is_some_and(|port| port > 0) {
                    self.errors
                        .push("ports.https is not supported yet: the API would not be encrypted".to_owned());
                }
            }
            "serf_wan" | "grpc" | "grpc_tls" | "rpc" | "proxy_min_port" | "proxy_max_port"
            | "sidecar_min_port" | "sidecar_max_port" | "expose_min_port" | "expose_max_port" => {}
            _ => self.errors.push(format!("invalid config key {path}")),
        }
    }

    fn dns(&mut self, name: &str, path: &str, value: &Value) {
        match name {
            "only_passing" => self.fragment.dns_only_passing = self.boolean(path, value),
            "enable_truncate" => self.fragment.dns_enable_truncate = self.boolean(path, value),
            "node_ttl" => self.fragment.dns_node_ttl = self.duration(path, value),
            "service_ttl" => {
                if let Value::Object(map) = value {
                    for (service, ttl) in map {
                        if let Some(ttl) = self.duration(&format!("{path}.{service}"), ttl) {
                            self.fragment.dns_service_ttl.insert(service.clone(), ttl);
                        }
                    }
                } else {
                    self.wrong_type(path, "an object", value);
                }
            }
            "udp_answer_limit" => self.fragment.dns_udp_answer_limit = self.number(path, value),
            "a_record_limit" => self.fragment.dns_a_record_limit = self.number(path, value),
            "recursor_timeout" => self.fragment.dns_recursor_timeout = self.duration(path, value),
            "recursor_strategy" => self.fragment.dns_recursor_strategy = self.text(path, value),
            "soa" => self.group(path, value, Self::soa),
            "allow_stale"
            | "max_stale"
            | "disable_compression"
            | "enable_additional_node_meta_txt"
            | "use_cache"
            | "cache_max_age"
            | "prefer_namespace" => {
                self.fragment.warnings.push(format!("the configuration key {path} has no effect"));
            }
            _ => self.errors.push(format!("invalid config key {path}")),
        }
    }

    fn limits(&mut self, name: &str, path: &str, value: &Value) {
        match name {
            "http_max_conns_per_client" => {
                self.fragment.limits_http_max_conns_per_client = self.number(path, value);
            }
            "kv_max_value_size" => self.fragment.limits_kv_max_value_size = self.number(path, value),
            "https_handshake_timeout"
            | "request_limits"
            | "rpc_client_timeout"
            | "rpc_handshake_timeout"
            | "rpc_max_burst"
            | "rpc_max_conns_per_client"
            | "rpc_rate"
            | "txn_max_req_len" => {
                self.fragment.warnings.push(format!("the configuration key {path} has no effect"));
            }
            _ => self.errors.push(format!("invalid config key {path}")),
        }
    }

    fn soa(&mut self, name: &str, path: &str, value: &Value) {
        match name {
            "refresh" => self.fragment.soa_refresh = self.number(path, value),
            "retry" => self.fragment.soa_retry = self.number(path, value),
            "expire" => self.fragment.soa_expire = self.number(path, value),
            "min_ttl" => self.fragment.soa_min_ttl = self.number(path, value),
            _ => self.errors.push(format!("invalid config key {path}")),
        }
    }

    fn ui(&mut self, name: &str, path: &str, value: &Value) {
        if name == "enabled" {
            self.fragment.ui = self.boolean(path, value);
        }
    }

    fn wrong_type(&mut self, key: &str, wanted: &str, value: &Value) {
        self.errors.push(format!("{key}: {wanted} is expected, not {value}"));
    }

    fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(boolean) => Some(boolean.to_string()),
            _ => {
                self.wrong_type(key, "a string", value);
                None
            }
        }
    }

    fn texts(&mut self, key: &str, value: &Value) -> Vec<String> {
        match value {
            Value::Array(list) => list.iter().filter_map(|item| self.text(key, item)).collect(),
            single => self.text(key, single).into_iter().filter(|text| !text.is_empty()).collect(),
        }
    }

    fn text_map(&mut self, key: &str, value: &Value) -> std::collections::BTreeMap<String, String> {
        let empty = Map::new();
        let map = value.as_object().unwrap_or_else(|| {
            self.wrong_type(key, "an object", value);
            &empty
        });
        map.iter().filter_map(|(name, value)| Some((name.clone(), self.text(key, value)?))).collect()
    }

    fn boolean(&mut self, key: &str, value: &Value) -> Option<bool> {
        match value {
            Value::Bool(boolean) => Some(*boolean),
            Value::String(text) if text == "true" || text == "1" => Some(true),
            Value::String(text) if text == "false" || text == "0" => Some(false),
            _ => {
                self.wrong_type(key, "true or false", value);
                None
            }
        }
    }

    fn number(&mut self, key: &str, value: &Value) -> Option<i64> {
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.wrong_type(key, "a whole number", value);
        }
        number
    }

    fn duration(&mut self, key: &str, value: &Value) -> Option<Duration> {
        let parsed = value.as_str().and_then(|text| duration::parse_positive(text).ok());
        if parsed.is_none() {
            self.wrong_type(key, "a duration such as \"10s\"", value);
        }
        parsed
    }

    /// One, or a list of them.
    fn definitions(&self, value: &Value) -> Vec<Definition> {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        values.iter().map(|value| Definition { file: self.file.to_owned(), value: value.clone() }).collect()
    }
}
