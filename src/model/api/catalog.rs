//! `/v1/catalog`: registrations that do not belong to an agent, and rows of nodes and services.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::fields::Table;
use super::service_definition::{decode_tagged_addresses, decode_weights, port};
use super::{ApiError, json};
use crate::model::catalog::{
    Catalog, Check, Deregistration, Instance, Node, NodeRegistration, NodeRow, Registration, Service,
    ServiceAddress, Status,
};

const REGISTER: Table = Table {
    type_name: "structs.RegisterRequest",
    names: &[
        "Datacenter",
        "ID",
        "Node",
        "Address",
        "TaggedAddresses",
        "NodeMeta",
        "Service",
        "Check",
        "Checks",
        "SkipNodeUpdate",
        "Locality",
        "Token",
        "WriteRequest",
    ],
    aliases: &[],
};

const SERVICE: Table = Table {
    type_name: "structs.NodeService",
    names: &[
        "Kind",
        "ID",
        "Service",
        "Tags",
        "Address",
        "TaggedAddresses",
        "Meta",
        "Port",
        "SocketPath",
        "Weights",
        "EnableTagOverride",
        "Proxy",
        "Connect",
        "Locality",
        "PeerName",
        "CreateIndex",
        "ModifyIndex",
    ],
    aliases: &[],
};

const CHECK: Table = Table {
    type_name: "structs.HealthCheck",
    names: &[
        "Node",
        "CheckID",
        "Name",
        "Status",
        "Notes",
        "Output",
        "ServiceID",
        "ServiceName",
        "ServiceTags",
        "Type",
        "Interval",
        "Timeout",
        "ExposedPort",
        "Definition",
        "PeerName",
        "CreateIndex",
        "ModifyIndex",
    ],
    aliases: &[],
};

const DEREGISTER: Table = Table {
    type_name: "structs.DeregisterRequest",
    names: &["Datacenter", "Node", "ServiceID", "CheckID", "Token", "WriteRequest"],
    aliases: &[],
};

/// A registration, and the datacenter it is for (empty for our own).
pub type Addressed<T> = (T, String);

/// Reads the body of `PUT /v1/catalog/register`.
///
/// # Errors
/// [`ApiError::Server`] for what a Consul server would refuse.
pub fn decode_register(value: &Value) -> Result<Addressed<Registration>, ApiError> {
    let fields = REGISTER.take(value)?;
    let node = NodeRegistration {
        id: fields.text("ID")?,
        node: fields.text("Node")?,
        address: fields.text("Address")?,
        datacenter: fields.text("Datacenter")?,
        tagged_addresses: fields.text_map("TaggedAddresses")?,
        meta: fields.text_map("NodeMeta")?,
    };
    let skip_node_update = fields.boolean("SkipNodeUpdate")?;
    let service = fields.get("Service").map(decode_node_service).transpose()?;
    let mut checks = Vec::new();
    for check in fields.get("Check").into_iter().chain(fields.list("Checks", "structs.HealthChecks")?) {
        checks.push(decode_health_check(check)?);
    }
    if node.node.is_empty() {
        return Err(ApiError::Server("Must provide node"));
    }
    if node.address.is_empty() && !skip_node_update {
        return Err(ApiError::Server("Must provide address if SkipNodeUpdate is not set"));
    }
    let service = match service {
        Some(service) if service.name.is_empty() && !service.id.is_empty() => {
            return Err(ApiError::Server("Must provide service name with ID"));
        }
        Some(service) if service.name.is_empty() => {
            return Err(ApiError::Server("Must provide service name"));
        }
        Some(mut service) if service.id.is_empty() => {
            service.id.clone_from(&service.name);
            Some(service)
        }
        other => other,
    };
    let datacenter = node.datacenter.clone();
    Ok((Registration { node, skip_node_update, service, checks }, datacenter))
}

fn decode_node_service(value: &Value) -> Result<Service, ApiError> {
    let fields = SERVICE.take(value)?;
    Ok(Service {
        id: fields.text("ID")?,
        name: fields.text("Service")?,
        tags: fields.texts("Tags")?,
        address: fields.text("Address")?,
        tagged_addresses: decode_tagged_addresses(&fields)?,
        meta: fields.text_map("Meta")?.unwrap_or_default(),
        port: port(fields.integer("Port")?)?,
        socket_path: fields.text("SocketPath")?,
        weights: decode_weights(&fields)?,
        enable_tag_override: fields.boolean("EnableTagOverride")?,
        kind: fields.text("Kind")?,
        create_index: 0,
        modify_index: 0,
    })
}

fn decode_health_check(value: &Value) -> Result<Check, ApiError> {
    let fields = CHECK.take(value)?;
    let name = fields.text("Name")?;
    let status = match fields.text("Status")?.as_str() {
        "" => Status::Critical,
        text => {
            Status::parse(text).ok_or_else(|| ApiError::Invalid(format!("Invalid check status: '{text}'")))?
        }
    };
    let mut definition = Vec::new();
    match fields.get("Definition") {
        Some(value) => json::value(&mut definition, value),
        None => json::raw(&mut definition, "{}"),
    }
    Ok(Check {
        check_id: Some(fields.text("CheckID")?).filter(|id| !id.is_empty()).unwrap_or_else(|| name.clone()),
        name,
        status,
        notes: fields.text("Notes")?,
        output: fields.text("Output")?,
        service_id: fields.text("ServiceID")?,
        kind: fields.text("Type")?,
        interval: fields.text("Interval")?,
        timeout: fields.text("Timeout")?,
        definition: String::from_utf8(definition).expect("JSON is UTF-8"),
        ..Check::default()
    })
}

/// Reads the body of `PUT /v1/catalog/deregister`.
///
/// # Errors
/// [`ApiError::Server`] for what a Consul server would refuse.
pub fn decode_deregister(value: &Value) -> Result<Addressed<Deregistration>, ApiError> {
    let fields = DEREGISTER.take(value)?;
    let given = |name| fields.text(name).map(|text| Some(text).filter(|text| !text.is_empty()));
    let deregistration = Deregistration {
        node: fields.text("Node")?,
        service_id: given("ServiceID")?,
        check_id: given("CheckID")?,
    };
    if deregistration.node.is_empty() {
        return Err(ApiError::Server("Must provide node"));
    }
    Ok((deregistration, fields.text("Datacenter")?))
}

/// Writes a row of `catalog/nodes`.
pub fn node(out: &mut Vec<u8>, node: &Node) {
    json::field(out, "{\"ID\":", &node.id);
    json::field(out, ",\"Node\":", &node.node);
    json::field(out, ",\"Address\":", &node.address);
    json::field(out, ",\"Datacenter\":", &node.datacenter);
    json::raw(out, ",\"TaggedAddresses\":");
    json::text_map_or_null(out, node.tagged_addresses.as_ref());
    json::raw(out, ",\"Meta\":");
    json::text_map_or_null(out, node.meta.as_ref());
    indexes(out, node.create_index, node.modify_index);
}

/// Writes the end of every row.
pub(super) fn indexes(out: &mut Vec<u8>, create: u64, modify: u64) {
    json::number_field(out, ",\"CreateIndex\":", create);
    json::number_field(out, ",\"ModifyIndex\":", modify);
    out.push(b'}');
}

pub(super) fn tagged_addresses(out: &mut Vec<u8>, addresses: &BTreeMap<String, ServiceAddress>) {
    json::object(out, addresses, |out, address| {
        json::field(out, "{\"Address\":", &address.address);
        json::number_field(out, ",\"Port\":", address.port.into());
        out.push(b'}');
    });
}

pub(super) fn weights(out: &mut Vec<u8>, before: &str, service: &Service) {
    json::raw(out, before);
    json::number_field(out, "{\"Passing\":", service.weights.passing.into());
    json::number_field(out, ",\"Warning\":", service.weights.warning.into());
    out.push(b'}');
}

/// Writes a service as it stands on its node (`NodeService`): `Meta` is `null` when empty, `Port` absent when 0.
pub fn node_service(out: &mut Vec<u8>, service: &Service) {
    out.push(b'{');
    if !service.kind.is_empty() {
        json::field(out, "\"Kind\":", &service.kind);
        out.push(b',');
    }
    json::field(out, "\"ID\":", &service.id);
    json::field(out, ",\"Service\":", &service.name);
    json::raw(out, ",\"Tags\":");
    json::texts(out, &service.tags);
    json::field(out, ",\"Address\":", &service.address);
    if !service.tagged_addresses.is_empty() {
        json::raw(out, ",\"TaggedAddresses\":");
        tagged_addresses(out, &service.tagged_addresses);
    }
    json::raw(out, ",\"Meta\":");
    json::text_map_or_null(out, Some(&service.meta).filter(|meta| !meta.is_empty()));
    if service.port != 0 {
        json::number_field(out, ",\"Port\":", service.port.into());
    }
    if !service.socket_path.is_empty() {
        json::field(out, ",\"SocketPath\":", &service.socket_path);
    }
    weights(out, ",\"Weights\":", service);
    json::raw(out, ",\"EnableTagOverride\":");
    json::boolean(out, service.enable_tag_override);
    json::raw(out, ",\"Proxy\":{\"Mode\":\"\",\"MeshGateway\":{},\"Expose\":{}},\"Connect\":{}");
    indexes(out, service.create_index, service.modify_index);
}

/// Writes a row of `catalog/service/X` (`ServiceNode`).
pub fn service_node(out: &mut Vec<u8>, instance: Instance<'_>) {
    let (node, service) = (instance.node(), instance.service);
    json::field(out, "{\"ID\":", &node.id);
    json::field(out, ",\"Node\":", &node.node);
    json::field(out, ",\"Address\":", &node.address);
    json::field(out, ",\"Datacenter\":", &node.datacenter);
    json::raw(out, ",\"TaggedAddresses\":");
    json::text_map_or_null(out, node.tagged_addresses.as_ref());
    json::raw(out, ",\"NodeMeta\":");
    json::text_map_or_null(out, node.meta.as_ref());
    json::field(out, ",\"ServiceKind\":", &service.kind);
    json::field(out, ",\"ServiceID\":", &service.id);
    json::field(out, ",\"ServiceName\":", &service.name);
    json::raw(out, ",\"ServiceTags\":");
    json::texts(out, &service.tags);
    json::field(out, ",\"ServiceAddress\":", &service.address);
    if !service.tagged_addresses.is_empty() {
        json::raw(out, ",\"ServiceTaggedAddresses\":");
        tagged_addresses(out, &service.tagged_addresses);
    }
    weights(out, ",\"ServiceWeights\":", service);
    json::raw(out, ",\"ServiceMeta\":");
    json::text_map(out, &service.meta);
    json::number_field(out, ",\"ServicePort\":", service.port.into());
    json::field(out, ",\"ServiceSocketPath\":", &service.socket_path);
    json::raw(out, ",\"ServiceEnableTagOverride\":");
    json::boolean(out, service.enable_tag_override);
    json::raw(
        out,
        ",\"ServiceProxy\":{\"Mode\":\"\",\"MeshGateway\":{},\"Expose\":{}},\"ServiceConnect\":{}",
    );
    indexes(out, service.create_index, service.modify_index);
}

/// Writes `catalog/services`: every name with the tags of those of its instances that `keep` takes; names without
/// such an instance are left out.
pub fn service_names(out: &mut Vec<u8>, catalog: &Catalog, mut keep: impl FnMut(&Instance<'_>) -> bool) {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in catalog.services() {
        for instance in catalog.instances_of(row).filter(&mut keep) {
            let tags = instance.service.tags.iter().map(String::as_str);
            names.entry(&row.name).or_default().extend(tags);
        }
    }
    json::object(out, names, json::texts);
}

/// Writes `catalog/node/X`: services by id; `null` for an unknown node.
pub fn node_with_services<'a>(
    out: &mut Vec<u8>,
    row: Option<&'a NodeRow>,
    keep: impl FnMut(&&'a std::sync::Arc<Service>) -> bool,
) {
    let Some(row) = row else { return json::raw(out, "null") };
    json::raw(out, "{\"Node\":");
    node(out, &row.node);
    json::raw(out, ",\"Services\":");
    let services = row.services.values().filter(keep).map(|service| (&service.id, service));
    json::object(out, services, |out, service| node_service(out, service));
    out.push(b'}');
}

/// Writes `catalog/node-services/X`: services as a list.
pub fn node_with_service_list<'a>(
    out: &mut Vec<u8>,
    row: Option<&'a NodeRow>,
    keep: impl FnMut(&&'a std::sync::Arc<Service>) -> bool,
) {
    let Some(row) = row else { return json::raw(out, "{\"Node\":null,\"Services\":null}") };
    json::raw(out, "{\"Node\":");
    node(out, &row.node);
    json::raw(out, ",\"Services\":");
    json::list(out, row.services.values().filter(keep), |out, service| node_service(out, service));
    out.push(b'}');
}
