//! `/v1/agent`: the agent's own services and checks, its members, itself; and the body of a check update.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::fields::Table;
use super::{ApiError, catalog, health, json};
use crate::model::catalog::{Check, Service, Status};
use crate::model::membership::Member;

const UPDATE: Table = Table { type_name: "agent.checkUpdate", names: &["Status", "Output"], aliases: &[] };

/// Reads the body of `PUT /v1/agent/check/update/X`.
///
/// # Errors
/// With Consul's texts.
pub fn decode_check_update(value: &Value) -> Result<(Status, String), ApiError> {
    let fields = UPDATE.take(value)?;
    let status = match fields.text("Status")?.as_str() {
        "" => Status::Passing,
        text => {
            Status::parse(text).ok_or_else(|| ApiError::Invalid(format!("Invalid check status: '{text}'")))?
        }
    };
    Ok((status, fields.text("Output")?))
}

/// Writes a service as the agent shows it: `Port` always, `Tags` and `Meta` never `null`.
pub fn service(out: &mut Vec<u8>, service: &Service, datacenter: &str, content_hash: Option<&str>) {
    out.push(b'{');
    if !service.kind.is_empty() {
        json::field(out, "\"Kind\":", &service.kind);
        out.push(b',');
    }
    json::field(out, "\"ID\":", &service.id);
    json::field(out, ",\"Service\":", &service.name);
    json::raw(out, ",\"Tags\":");
    json::texts(out, &service.tags);
    json::raw(out, ",\"Meta\":");
    json::text_map(out, &service.meta);
    json::number_field(out, ",\"Port\":", service.port.into());
    json::field(out, ",\"Address\":", &service.address);
    if !service.socket_path.is_empty() {
        json::field(out, ",\"SocketPath\":", &service.socket_path);
    }
    if !service.tagged_addresses.is_empty() {
        json::raw(out, ",\"TaggedAddresses\":");
        catalog::tagged_addresses(out, &service.tagged_addresses);
    }
    catalog::weights(out, ",\"Weights\":", service);
    json::raw(out, ",\"EnableTagOverride\":");
    json::boolean(out, service.enable_tag_override);
    if let Some(hash) = content_hash {
        json::field(out, ",\"ContentHash\":", hash);
    }
    json::field(out, ",\"Datacenter\":", datacenter);
    out.push(b'}');
}

/// Writes a check of the agent: as in health, without indexes (they are the catalog's).
pub fn check(out: &mut Vec<u8>, check: &Check) {
    if check.create_index == 0 && check.modify_index == 0 {
        health::check(out, check);
    } else {
        health::check(out, &Check { create_index: 0, modify_index: 0, ..check.clone() });
    }
}

/// Writes a member.
pub fn member(out: &mut Vec<u8>, member: &Member) {
    json::field(out, "{\"Name\":", &member.name);
    json::field(out, ",\"Addr\":", &member.address.to_string());
    json::number_field(out, ",\"Port\":", member.port.into());
    json::raw(out, ",\"Tags\":");
    json::text_map(out, &member.tags);
    json::number_field(out, ",\"Status\":", member.status as u64);
    // The protocol versions of Consul's gossip; clients only show them.
    json::raw(out, ",\"ProtocolMin\":1,\"ProtocolMax\":5,\"ProtocolCur\":2");
    json::raw(out, ",\"DelegateMin\":2,\"DelegateMax\":5,\"DelegateCur\":4}");
}

/// What `/v1/agent/self` says.
#[derive(Debug)]
pub struct Myself<'a> {
    /// Its datacenter.
    pub datacenter: &'a str,
    /// Its name.
    pub node_name: &'a str,
    /// Its UUID.
    pub node_id: &'a str,
    /// Whether it is a server.
    pub server: bool,
    /// The version of Consul that it behaves as: plain semver, clients parse it.
    pub version: &'a str,
    /// Our own name and version.
    pub revision: &'a str,
    /// Effective settings.
    pub debug_config: &'a BTreeMap<String, Value>,
    /// It as a member; `None` before gossip knows it.
    pub member: Option<&'a Member>,
    /// As `info` prints: section, name, value.
    pub stats: &'a BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    /// The node's metadata.
    pub meta: &'a BTreeMap<String, String>,
}

/// Writes `/v1/agent/self`, with exactly the keys that clients compare.
pub fn myself(out: &mut Vec<u8>, myself: &Myself<'_>) {
    json::field(out, "{\"Config\":{\"Datacenter\":", myself.datacenter);
    json::field(out, ",\"PrimaryDatacenter\":", myself.datacenter);
    json::field(out, ",\"NodeName\":", myself.node_name);
    json::field(out, ",\"NodeID\":", myself.node_id);
    json::field(out, ",\"Revision\":", myself.revision);
    json::raw(out, ",\"Server\":");
    json::boolean(out, myself.server);
    json::field(out, ",\"Version\":", myself.version);
    json::raw(out, "},\"DebugConfig\":");
    json::object(out, myself.debug_config, json::value);
    // The coordinate of an agent that has measured nothing yet: there is no round-trip estimation.
    json::raw(
        out,
        ",\"Coord\":{\"Vec\":[0,0,0,0,0,0,0,0],\"Error\":1.5,\"Adjustment\":0,\"Height\":0.00001}",
    );
    json::raw(out, ",\"Member\":");
    match myself.member {
        Some(one) => member(out, one),
        None => json::raw(out, "null"),
    }
    json::raw(out, ",\"Stats\":");
    json::object(out, myself.stats, |out, section| {
        json::object(out, section, |out, value| json::text(out, value));
    });
    json::raw(out, ",\"Meta\":");
    let mut meta = myself.meta.clone();
    meta.entry("consul-network-segment".to_owned()).or_default();
    json::text_map(out, &meta);
    json::raw(out, ",\"xDS\":{}}");
}

/// State of a service over all its checks, as `agent/health/service/*` says it.
pub fn aggregated_status<'a>(checks: impl IntoIterator<Item = &'a Arc<Check>>) -> &'static str {
    let mut worst = Status::Passing;
    for check in checks {
        if check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:") {
            return "maintenance";
        }
        worst = worst.max(check.status);
    }
    worst.as_str()
}
