//! Service definitions in: the body of `PUT /v1/agent/service/register`.
//!
//! The same functions read the `services` blocks of configuration files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::ApiError;
use super::check_definition::decode_service_checks;
use super::fields::{DecodeError, Fields, Table};
use crate::model::catalog::{Service, ServiceAddress, Weights};
use crate::model::sync::ServiceRegistration;

/// Most pairs of metadata of a node or service.
const META_PAIRS_MAX: usize = 64;
/// Longest key of a pair in bytes.
const META_KEY_BYTES_MAX: usize = 128;
/// Longest value of a pair in bytes.
const META_VALUE_BYTES_MAX: usize = 512;
/// Keys that begin so belong to Consul.
const META_RESERVED_PREFIX: &str = "consul-";

const SERVICE: Table = Table {
    type_name: "structs.ServiceDefinition",
    names: &[
        "ID",
        "Name",
        "Tags",
        "Address",
        "TaggedAddresses",
        "Meta",
        "Port",
        "SocketPath",
        "Check",
        "Checks",
        "Weights",
        "Token",
        "EnableTagOverride",
        "Kind",
        "Proxy",
        "Connect",
        "Locality",
    ],
    aliases: &[],
};

const ADDRESS: Table =
    Table { type_name: "structs.ServiceAddress", names: &["Address", "Port"], aliases: &[] };

const WEIGHTS: Table = Table { type_name: "structs.Weights", names: &["Passing", "Warning"], aliases: &[] };

/// Reads a service with its checks. Checks that are not listed stay; the caller says otherwise.
///
/// # Errors
/// With Consul's texts, in the order in which Consul looks.
pub fn decode_service(value: &Value) -> Result<ServiceRegistration, ApiError> {
    let fields = SERVICE.take(value)?;
    let name = fields.text("Name")?;
    if name.is_empty() {
        return Err(ApiError::Invalid("Missing service name".to_owned()));
    }
    let id = Some(fields.text("ID")?).filter(|id| !id.is_empty()).unwrap_or_else(|| name.clone());
    let address = fields.text("Address")?;
    if ["0.0.0.0", "::", "[::]"].contains(&address.as_str()) {
        return Err(ApiError::Invalid("Invalid service address".to_owned()));
    }
    let meta = fields.text_map("Meta")?.unwrap_or_default();
    validate_meta(&meta).map_err(|text| ApiError::Invalid(format!("Invalid Service Meta: {text}")))?;
    refuse_mesh(&fields)?;
    let weights = decode_weights(&fields)?;
    let port = port(fields.integer("Port")?)?;
    let mut tagged_addresses = decode_tagged_addresses(&fields)?;
    tag_own_address(&mut tagged_addresses, &address, port);
    let checks = decode_service_checks(
        fields.get("Check"),
        fields.list("Checks", "[]*structs.CheckType")?,
        &id,
        &name,
    )?;
    let service = Service {
        id,
        name,
        tags: fields.texts("Tags")?,
        address,
        tagged_addresses,
        meta,
        port,
        socket_path: fields.text("SocketPath")?,
        weights,
        enable_tag_override: fields.boolean("EnableTagOverride")?,
        ..Service::default()
    };
    Ok(ServiceRegistration { service, checks, replace_existing_checks: false })
}

/// A port of JSON as a port of the network.
pub(super) fn port(number: i64) -> Result<u16, ApiError> {
    u16::try_from(number)
        .map_err(|_| ApiError::Invalid(format!("Invalid service port {number}: must be between 0 and 65535")))
}

/// Addresses by network name.
pub(super) fn decode_tagged_addresses(
    fields: &Fields<'_>,
) -> Result<BTreeMap<String, ServiceAddress>, ApiError> {
    let read = |value: &Value| {
        let fields = ADDRESS.take(value)?;
        Ok::<_, DecodeError>((fields.text("Address")?, fields.integer("Port")?))
    };
    let addresses =
        fields.map("TaggedAddresses", "map[string]structs.ServiceAddress", read)?.unwrap_or_default();
    addresses
        .into_iter()
        .map(|(name, (address, number))| Ok((name, ServiceAddress { address, port: port(number)? })))
        .collect()
}

/// DNS weights, 1 and 1 when absent.
pub(super) fn decode_weights(fields: &Fields<'_>) -> Result<Weights, ApiError> {
    let Some(value) = fields.get("Weights") else { return Ok(Weights::default()) };
    let fields = WEIGHTS.take(value)?;
    let (passing, warning) = (fields.integer("Passing")?, fields.integer("Warning")?);
    let refuse = |text: &str| ApiError::Invalid(format!("Invalid Weights: {text}"));
    if passing < 1 {
        return Err(refuse("Passing must be greater than 0"));
    }
    if warning < 0 {
        return Err(refuse("Warning must be greater or equal than 0"));
    }
    match (u16::try_from(passing), u16::try_from(warning)) {
        (Ok(passing), Ok(warning)) => Ok(Weights { passing, warning }),
        _ => Err(refuse("DNS Weight must be between 0 and 65535")),
    }
}

/// A literal address is also the service's address in its own family's networks.
fn tag_own_address(tagged: &mut BTreeMap<String, ServiceAddress>, address: &str, port: u16) {
    let names = match address.parse() {
        Ok(IpAddr::V4(_)) => ["lan_ipv4", "wan_ipv4"],
        Ok(IpAddr::V6(_)) => ["lan_ipv6", "wan_ipv6"],
        Err(_) => return,
    };
    for name in names {
        tagged.entry(name.to_owned()).or_insert_with(|| ServiceAddress { address: address.to_owned(), port });
    }
}

/// The service mesh is no part of this agent: what would need it is refused, its empty forms are fine.
fn refuse_mesh(fields: &Fields<'_>) -> Result<(), ApiError> {
    for name in ["Kind", "Proxy", "Connect"] {
        if fields.is_set(name) {
            let text = format!("Invalid service: {name} is not supported, this agent has no service mesh");
            return Err(ApiError::Invalid(text));
        }
    }
    Ok(())
}

/// Checks metadata by Consul's rules.
///
/// # Errors
/// With Consul's text.
pub fn validate_meta(meta: &BTreeMap<String, String>) -> Result<(), String> {
    if meta.len() > META_PAIRS_MAX {
        return Err(format!("Node metadata cannot contain more than {META_PAIRS_MAX} key/value pairs"));
    }
    for (key, value) in meta {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let reason = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.bytes().all(allowed) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_KEY_BYTES_MAX {
            format!("Key is too long (limit: {META_KEY_BYTES_MAX} characters)")
        } else if key.starts_with(META_RESERVED_PREFIX) {
            format!("Key prefix '{META_RESERVED_PREFIX}' is reserved for internal use")
        } else if value.len() > META_VALUE_BYTES_MAX {
            format!("Value is too long (limit: {META_VALUE_BYTES_MAX} characters)")
        } else {
            continue;
        };
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {reason}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::decode_service;
    use crate::model::catalog::{ServiceAddress, Weights};
    use serde_json::json;

    #[test]
    fn the_body_of_registrator_is_understood() {
        let registration = decode_service(&json!({
            "ID": "host:web:80", "Name": "web", "Port": 80, "Tags": ["v1"], "Address": "10.0.0.1", "Meta": {"a": "b"},
            "EnableTagOverride": false, "Weights": null, "Proxy": null, "Connect": null,
            "Check": {"HTTP": "http://10.0.0.1:80/health", "Interval": "15s", "Timeout": "1s"}, "Checks": null
        }))
        .unwrap();
        let service = &registration.service;
        assert_eq!((service.id.as_str(), service.name.as_str(), service.port), ("host:web:80", "web", 80));
        assert_eq!(service.weights, Weights::default());
        let own = ServiceAddress { address: "10.0.0.1".into(), port: 80 };
        assert_eq!(
            service.tagged_addresses,
            [("lan_ipv4".into(), own.clone()), ("wan_ipv4".into(), own)].into()
        );
        assert_eq!(registration.checks[0].check_id, "service:host:web:80");
        assert_eq!(registration.checks[0].name, "Service 'web' check");
        assert_eq!(registration.checks[0].service_id, "host:web:80");
    }

    #[test]
    fn several_checks_are_numbered_from_one_and_an_empty_check_is_none() {
        let registration = decode_service(&json!({
            "name": "web", "check": {"ttl": "1s"}, "checks": [{"ttl": "2s"}, {"CheckID": "own", "ttl": "3s"}]
        }))
        .unwrap();
        let ids: Vec<_> = registration.checks.iter().map(|check| check.check_id.as_str()).collect();
        assert_eq!(ids, ["service:web:1", "service:web:2", "own"]);
        assert!(decode_service(&json!({"Name": "web", "Check": {"TTL": ""}})).unwrap().checks.is_empty());
    }

    #[test]
    fn services_that_cannot_be_are_refused_in_consuls_words() {
        for (body, want) in [
            (json!({}), "Missing service name"),
            (json!(null), "Missing service name"),
            (json!({"Name": "a", "Address": "0.0.0.0"}), "Invalid service address"),
            (
                json!({"Name": "a", "Meta": {"a b": "x"}}),
                "Invalid Service Meta: Couldn't load metadata pair ('a b', 'x'): Key contains invalid characters",
            ),
            (
                json!({"Name": "a", "Meta": {"consul-x": "x"}}),
                "Invalid Service Meta: Couldn't load metadata pair ('consul-x', 'x'): Key prefix 'consul-' is reserved for internal use",
            ),
            (
                json!({"Name": "a", "Weights": {"Passing": 0}}),
                "Invalid Weights: Passing must be greater than 0",
            ),
            (json!({"Name": "a", "Port": 70000}), "Invalid service port 70000: must be between 0 and 65535"),
            (
                json!({"Name": "a", "Port": "80"}),
                "Request decode failed: json: cannot unmarshal string into Go struct field .Port of type int",
            ),
            (
                json!({"Name": "a", "Check": {"Status": "zz", "TTL": "1s"}}),
                "Status for checks must 'passing', 'warning', 'critical'",
            ),
            (json!({"Name": "a", "Checks": [{}]}), "Invalid check: TTL must be > 0 for TTL checks"),
            (
                json!({"Name": "a", "Connect": {"SidecarService": {"Port": 1}}}),
                "Invalid service: Connect is not supported, this agent has no service mesh",
            ),
            (json!({"Name": "a", "bar": 1}), "Request decode failed: json: unknown field \"bar\""),
        ] {
            assert_eq!(decode_service(&body).unwrap_err().to_string(), want);
        }
        assert!(decode_service(&json!({"Name": "a", "Connect": {}, "Proxy": {"Mode": ""}})).is_ok());
    }
}
