//! Check definitions in: the body of `PUT /v1/agent/check/register` and the `Check`/`Checks` of a service.
//!
//! The same functions read the `checks` blocks of configuration files.

use std::time::Duration;

use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, Table};
use crate::model::catalog::Status;
use crate::model::health::{CheckDefinition, CheckKind};
use crate::model::sync::CheckRegistration;

/// Shortest time between two runs of a check; Consul raises smaller ones to it.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Shortest `DeregisterCriticalServiceAfter`; Consul raises smaller ones to it.
const DEREGISTER_AFTER_MIN: Duration = Duration::from_mins(1);

const CHECK: Table = Table {
    type_name: "structs.CheckDefinition",
    names: &[
        "ID",
        "CheckID",
        "Name",
        "Notes",
        "ServiceID",
        "ServiceName",
        "Token",
        "Status",
        "ScriptArgs",
        "Script",
        "HTTP",
        "H2PING",
        "H2PingUseTLS",
        "Header",
        "Method",
        "Body",
        "DisableRedirects",
        "TCP",
        "TCPUseTLS",
        "UDP",
        "GRPC",
        "GRPCUseTLS",
        "OSService",
        "Interval",
        "Timeout",
        "TTL",
        "DockerContainerID",
        "Shell",
        "TLSServerName",
        "TLSSkipVerify",
        "AliasNode",
        "AliasService",
        "SuccessBeforePassing",
        "FailuresBeforeWarning",
        "FailuresBeforeCritical",
        "DeregisterCriticalServiceAfter",
        "OutputMaxSize",
    ],
    aliases: &[("Args", "ScriptArgs")],
};

/// Reads a check that stands for itself.
///
/// # Errors
/// With Consul's texts, in the order in which Consul looks.
pub fn decode_check(value: &Value) -> Result<CheckRegistration, ApiError> {
    let fields = CHECK.take(value)?;
    let common = Common::read(&fields)?;
    if common.name.is_empty() {
        return Err(ApiError::Invalid("Missing check name".to_owned()));
    }
    let status = parse_status(&common.status, "Bad check status")?;
    let definition = definition(&fields)?;
    let check_id = [&common.check_id, &common.id, &common.name].into_iter().find(|id| !id.is_empty());
    Ok(CheckRegistration {
        check_id: check_id.cloned().unwrap_or_default(),
        name: common.name,
        notes: common.notes,
        service_id: fields.text("ServiceID")?,
        status,
        definition,
    })
}

/// Reads the checks inside of a service: `Check` first, then `Checks`.
pub(super) fn decode_service_checks(
    single: Option<&Value>,
    several: &[Value],
    service_id: &str,
    service_name: &str,
) -> Result<Vec<CheckRegistration>, ApiError> {
    let mut all = Vec::new();
    if let Some(value) = single {
        let fields = CHECK.take(value)?;
        let shown = CHECK.names.iter().any(|name| fields.is_set(name));
        if shown {
            all.push(fields);
        }
    }
    for value in several {
        all.push(CHECK.take(value)?);
    }
    let definitions = all.iter().map(definition).collect::<Result<Vec<_>, _>>()?;
    let count = all.len();
    let mut checks = Vec::with_capacity(count);
    for (position, (fields, definition)) in all.iter().zip(definitions).enumerate() {
        let common = Common::read(fields)?;
        let status = parse_status(&common.status, "Status for checks must 'passing', 'warning', 'critical'")?;
        let check_id = match (common.check_id, count) {
            (id, _) if !id.is_empty() => id,
            (_, 1) => format!("service:{service_id}"),
            _ => format!("service:{service_id}:{}", position + 1),
        };
        let name =
            if common.name.is_empty() { format!("Service '{service_name}' check") } else { common.name };
        let service_id = service_id.to_owned();
        checks.push(CheckRegistration {
            check_id,
            name,
            notes: common.notes,
            service_id,
            status,
            definition,
        });
    }
    Ok(checks)
}

struct Common {
    id: String,
    check_id: String,
    name: String,
    notes: String,
    status: String,
}

impl Common {
    fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            id: fields.text("ID")?,
            check_id: fields.text("CheckID")?,
            name: fields.text("Name")?,
            notes: fields.text("Notes")?,
            status: fields.text("Status")?,
        })
    }
}

fn parse_status(text: &str, otherwise: &str) -> Result<Option<Status>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    Status::parse(text).map(Some).ok_or_else(|| ApiError::Invalid(otherwise.to_owned()))
}

fn definition(fields: &Fields<'_>) -> Result<CheckDefinition, ApiError> {
    let (interval, ttl) = (fields.duration("Interval")?, fields.duration("TTL")?);
    let has_script = fields.is_set("ScriptArgs") || fields.is_set("Script");
    let is_alias = fields.is_set("AliasNode") || fields.is_set("AliasService");
    let runs = ["HTTP", "TCP", "UDP", "GRPC", "H2PING", "OSService"].iter().any(|name| fields.is_set(name));
    let runs = runs || has_script || fields.is_set("DockerContainerID");
    let (success_before_passing, failures_before_warning, failures_before_critical) = (
        count(fields, "SuccessBeforePassing")?,
        count(fields, "FailuresBeforeWarning")?,
        count(fields, "FailuresBeforeCritical")?,
    );
    let refusal = if !interval.is_zero() && !ttl.is_zero() {
        "Interval and TTL cannot both be specified"
    } else if runs && interval.is_zero() {
        "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"
    } else if is_alias && (runs || !interval.is_zero()) {
        "Interval cannot be set for Alias checks"
    } else if is_alias && !ttl.is_zero() {
        "TTL must be not be set for Alias checks"
    } else if !runs && !is_alias && ttl.is_zero() {
        "TTL must be > 0 for TTL checks"
    } else if fields.integer("OutputMaxSize")? < 0 {
        "MaxOutputMaxSize must be positive"
    } else if failures_before_warning > failures_before_critical {
        "FailuresBeforeWarning can't be higher than FailuresBeforeCritical"
    } else {
        ""
    };
    if !refusal.is_empty() {
        return Err(ApiError::InvalidCheck(refusal.to_owned()));
    }
    let kind = kind(fields, ttl, has_script)?;
    let deregister_after = fields.duration("DeregisterCriticalServiceAfter")?;
    let timeout = fields.duration("Timeout")?;
    Ok(CheckDefinition {
        kind,
        interval: if interval.is_zero() { interval } else { interval.max(INTERVAL_MIN) },
        timeout: (!timeout.is_zero()).then_some(timeout),
        success_before_passing,
        failures_before_warning,
        failures_before_critical,
        deregister_critical_service_after: (!deregister_after.is_zero())
            .then(|| deregister_after.max(DEREGISTER_AFTER_MIN)),
        output_max_size: usize::try_from(fields.integer("OutputMaxSize")?).ok().filter(|size| *size > 0),
    })
}

fn count(fields: &Fields<'_>, name: &'static str) -> Result<u32, ApiError> {
    u32::try_from(fields.integer(name)?)
        .map_err(|_| ApiError::InvalidCheck(format!("{name} must not be negative or above {}", u32::MAX)))
}

fn kind(fields: &Fields<'_>, ttl: Duration, has_script: bool) -> Result<CheckKind, ApiError> {
    let unsupported = [
        ("DockerContainerID", "Docker"),
        ("GRPC", "gRPC"),
        ("UDP", "UDP"),
        ("H2PING", "H2PING"),
        ("OSService", "OSService"),
        ("AliasNode", "Alias"),
        ("AliasService", "Alias"),
        ("TCPUseTLS", "TCP+TLS"),
        ("TLSServerName", "TLSServerName"),
    ];
    if let Some((_, what)) = unsupported.iter().find(|(name, _)| fields.is_set(name)) {
        let text = format!("{what} checks are not supported by this agent; use an HTTP, TCP or TTL check");
        return Err(ApiError::InvalidCheck(text));
    }
    if has_script {
        // The types are looked at, so that a wrong one is named before the switch.
        fields.texts("ScriptArgs")?;
        fields.text("Script")?;
        return Err(ApiError::ScriptsDisabled);
    }
    let (url, address) = (fields.text("HTTP")?, fields.text("TCP")?);
    Ok(if !ttl.is_zero() {
        CheckKind::Ttl { ttl }
    } else if url.is_empty() {
        CheckKind::Tcp { address }
    } else {
        CheckKind::Http {
            url,
            method: fields.text("Method")?,
            header: fields.lists("Header")?,
            body: fields.text("Body")?,
            disable_redirects: fields.boolean("DisableRedirects")?,
            tls_skip_verify: fields.boolean("TLSSkipVerify")?,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::decode_check;
    use crate::model::catalog::Status;
    use crate::model::health::CheckKind;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_check_takes_its_id_from_its_name_and_numbers_are_nanoseconds() {
        let check = decode_check(&json!({"Name": "up", "TTL": 15_000_000_000_u64, "Notes": "n"})).unwrap();
        assert_eq!((check.check_id.as_str(), check.name.as_str(), check.notes.as_str()), ("up", "up", "n"));
        assert_eq!(check.status, None);
        assert_eq!(check.definition.kind, CheckKind::Ttl { ttl: Duration::from_secs(15) });
        let check = decode_check(&json!({
            "id": "i", "name": "up", "service_id": "web", "status": "passing", "http": "http://h/", "header": {"A": ["b"]},
            "method": "PUT", "tls_skip_verify": true, "interval": "10ms", "timeout": "2s",
            "deregister_critical_service_after": "1s", "output_max_size": 5
        }))
        .unwrap();
        assert_eq!((check.check_id.as_str(), check.service_id.as_str()), ("i", "web"));
        assert_eq!(check.status, Some(Status::Passing));
        assert_eq!(check.definition.interval, Duration::from_secs(1));
        assert_eq!(check.definition.deregister_critical_service_after, Some(Duration::from_mins(1)));
        assert_eq!(check.definition.output_max_size, Some(5));
        assert!(matches!(check.definition.kind, CheckKind::Http { tls_skip_verify: true, .. }));
    }

    #[test]
    fn checks_that_cannot_work_are_refused_in_consuls_words() {
        for (body, want) in [
            (json!({"TTL": "1s"}), "Missing check name"),
            (json!({"Name": "a", "Status": "zz", "TTL": "1s"}), "Bad check status"),
            (json!({"Name": "a"}), "Invalid check: TTL must be > 0 for TTL checks"),
            (
                json!({"Name": "a", "HTTP": "x"}),
                "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
            ),
            (
                json!({"Name": "a", "TTL": "1s", "Interval": "1s"}),
                "Invalid check: Interval and TTL cannot both be specified",
            ),
            (
                json!({"Name": "a", "AliasService": "x", "Interval": "1s"}),
                "Invalid check: Interval cannot be set for Alias checks",
            ),
            (
                json!({"Name": "a", "AliasNode": "x", "TTL": "1s"}),
                "Invalid check: TTL must be not be set for Alias checks",
            ),
            (
                json!({"Name": "a", "TCP": "x", "Interval": "1s", "FailuresBeforeWarning": 2}),
                "Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
            ),
            (
                json!({"Name": "a", "GRPC": "x", "Interval": "1s"}),
                "Invalid check: gRPC checks are not supported by this agent; use an HTTP, TCP or TTL check",
            ),
            (
                json!({"Name": "a", "Script": "true", "Interval": "1s"}),
                "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
            ),
            (json!({"Name": "a", "TTL": "foo"}), "Request decode failed: time: invalid duration \"foo\""),
            (json!({"Name": "a", "Foo": 1}), "Request decode failed: json: unknown field \"Foo\""),
        ] {
            assert_eq!(decode_check(&body).unwrap_err().to_string(), want);
        }
    }
}
