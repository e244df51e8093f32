//! The check that `SERVICE_CHECK_*` keys ask for, and how Docker's HEALTHCHECK is told to the agent.

use serde::Serialize;

use super::facts::{Health, HealthStatus, Port};
use super::metadata::Metadata;

/// How often a check runs unless `SERVICE_CHECK_INTERVAL` says otherwise; the original's default.
const INTERVAL_DEFAULT: &str = "10s";
/// How long the agent believes what it was told of a HEALTHCHECK. The registrator repeats it every minute; when
/// nobody has for five, nobody knows, and the service is hidden.
const HEALTH_TTL: &str = "5m";
/// Most bytes of a probe's output that are handed on; the agent keeps 4096 by default.
const HEALTH_OUTPUT_BYTES_MAX: usize = 4096;

/// Status of a check, in Consul's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStatus {
    /// Found by DNS.
    Passing,
    /// Not found by DNS.
    Critical,
}

impl CheckStatus {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Critical => "critical",
        }
    }
}

/// A check in a registration's body, in the form and the order of Consul's Go client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    #[serde(rename = "CheckID", skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_false")]
    tls_skip_verify: bool,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "is_false")]
    grpc_use_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Where a service answers, as checks need it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The address that is registered.
    pub address: &'a str,
    /// The port that is registered.
    pub port: u16,
    /// The container's own port, which the id and `check-cmd` speak of.
    pub exposed: Port,
    /// First twelve characters of the container's id.
    pub container: &'a str,
}

/// The check that the keys ask for. Of several kinds the first of
/// http, https, cmd, script, ttl, tcp, grpc is taken, as in the original.
pub fn check_of(metadata: &Metadata, target: Target<'_>) -> Option<Check> {
    let text = |key: &str| metadata.get(key).map(str::to_owned);
    let host_and_port = format!("{}:{}", bracketed(target.address), target.port);
    let timeout = text("check_timeout");
    let mut check = if let Some(path) = metadata.get("check_http") {
        let http = Some(format!("http://{host_and_port}{path}"));
        Check { http, timeout, method: text("check_http_method"), ..Check::default() }
    } else if let Some(path) = metadata.get("check_https") {
        let http = Some(format!("https://{host_and_port}{path}"));
        let tls_skip_verify = metadata.get("check_tls_skip_verify").is_some();
        Check { http, timeout, method: text("check_https_method"), tls_skip_verify, ..Check::default() }
    } else if let Some(command) = metadata.get("check_cmd") {
        let port = target.exposed.number.to_string();
        Check { args: words(&["check-cmd", target.container, &port, command]), timeout, ..Check::default() }
    } else if let Some(script) = metadata.get("check_script") {
        let script =
            script.replace("$SERVICE_IP", target.address).replace("$SERVICE_PORT", &target.port.to_string());
        // The original sends the line as one argument, which no agent since 1.0 can run.
        Check { args: words(&["/bin/sh", "-c", &script]), timeout, ..Check::default() }
    } else if let Some(ttl) = text("check_ttl") {
        Check { ttl: Some(ttl), ..Check::default() }
    } else if metadata.get("check_tcp").is_some() {
        Check { tcp: Some(host_and_port), timeout, ..Check::default() }
    } else if metadata.get("check_grpc").is_some() {
        Check {
            grpc: Some(host_and_port),
            timeout,
            grpc_use_tls: metadata.get("check_grpc_use_tls").is_some(),
            tls_skip_verify: metadata.get("check_tls_skip_verify").is_some(),
            ..Check::default()
        }
    } else {
        return None;
    };
    if check.ttl.is_none() {
        check.interval = Some(text("check_interval").unwrap_or_else(|| INTERVAL_DEFAULT.to_owned()));
    }
    check.status = text("check_initial_status");
    check.deregister_critical_service_after = text("check_deregister_after");
    Some(check)
}

/// An IPv6 address in brackets, everything else as it is.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Id of the check that stands for the HEALTHCHECK of the container behind `service_id`.
pub fn health_check_id(service_id: &str) -> String {
    format!("docker-health:{service_id}")
}

/// Id of the check that the user asked for: the one an agent gives to a service's only check.
pub fn user_check_id(service_id: &str) -> String {
    format!("service:{service_id}")
}

/// The check that stands for a HEALTHCHECK, with the status it has now.
pub fn health_check(service_id: &str, health: &Health) -> Check {
    Check {
        id: Some(health_check_id(service_id)),
        name: Some("Docker HEALTHCHECK".to_owned()),
        ttl: Some(HEALTH_TTL.to_owned()),
        status: Some(status_of(health).as_str().to_owned()),
        ..Check::default()
    }
}

/// `starting` is critical: DNS hides a container until its first probe was fine.
pub fn status_of(health: &Health) -> CheckStatus {
    match health.status {
        HealthStatus::Healthy => CheckStatus::Passing,
        HealthStatus::Starting | HealthStatus::Unhealthy => CheckStatus::Critical,
    }
}

/// What the check shows to people.
pub fn output_of(health: &Health) -> String {
    let output = health.output.trim_end();
    if output.is_empty() {
        let word = match health.status {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        };
        return format!("the container's HEALTHCHECK is {word}");
    }
    let mut end = output.len().min(HEALTH_OUTPUT_BYTES_MAX);
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    output[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Health, HealthStatus, Target, check_of, health_check, output_of};
    use crate::model::registration::Facts;
    use crate::model::registration::metadata::Metadata;

    #[track_caller]
    fn check(keys: &str, want: &str) {
        check_at("10.0.0.1", keys, want);
    }

    #[track_caller]
    fn check_at(address: &str, keys: &str, want: &str) {
        let environment = keys.split(' ').map(|key| format!("SERVICE_{}", key.replace('+', " "))).collect();
        let facts = Facts { environment, ..Facts::default() };
        let exposed = "80/tcp".parse().unwrap();
        let target = Target { address, port: 32768, exposed, container: "0123456789ab" };
        let found = check_of(&Metadata::of(&facts, exposed), target);
        assert_eq!(serde_json::to_string(&found).unwrap(), want);
    }

    #[test]
    fn http_runs_every_ten_seconds_at_the_registered_address() {
        check("CHECK_HTTP=/health", r#"{"Interval":"10s","HTTP":"http://10.0.0.1:32768/health"}"#);
        check_at("fd00::1", "CHECK_HTTP=/", r#"{"Interval":"10s","HTTP":"http://[fd00::1]:32768/"}"#);
    }

    #[test]
    fn http_takes_interval_timeout_method_and_first_status() {
        check(
            "CHECK_HTTP=/ CHECK_INTERVAL=2s CHECK_TIMEOUT=1s CHECK_HTTP_METHOD=HEAD CHECK_INITIAL_STATUS=passing",
            r#"{"Interval":"2s","Timeout":"1s","HTTP":"http://10.0.0.1:32768/","Method":"HEAD","Status":"passing"}"#,
        );
    }

    #[test]
    fn https_is_http_with_its_own_method() {
        check(
            "CHECK_HTTPS=/x CHECK_HTTPS_METHOD=POST CHECK_HTTP_METHOD=GET",
            r#"{"Interval":"10s","HTTP":"https://10.0.0.1:32768/x","Method":"POST"}"#,
        );
    }

    #[test]
    fn cmd_names_the_container_and_its_own_port() {
        check(
            "CHECK_CMD=redis-cli+ping",
            r#"{"Args":["check-cmd","0123456789ab","80","redis-cli ping"],"Interval":"10s"}"#,
        );
    }

    #[test]
    fn a_script_gets_address_and_port_and_a_shell_to_run_it() {
        check(
            "CHECK_SCRIPT=nc+-z+$SERVICE_IP+$SERVICE_PORT",
            r#"{"Args":["/bin/sh","-c","nc -z 10.0.0.1 32768"],"Interval":"10s"}"#,
        );
    }

    #[test]
    fn ttl_has_no_interval() {
        check("CHECK_TTL=30s CHECK_INTERVAL=5s", r#"{"TTL":"30s"}"#);
    }

    #[test]
    fn tcp_takes_any_value() {
        check(
            "CHECK_TCP=true CHECK_TIMEOUT=3s",
            r#"{"Interval":"10s","Timeout":"3s","TCP":"10.0.0.1:32768"}"#,
        );
    }

    #[test]
    fn grpc_may_use_tls() {
        check(
            "CHECK_GRPC=1 CHECK_GRPC_USE_TLS=1 CHECK_TLS_SKIP_VERIFY=1",
            r#"{"Interval":"10s","TLSSkipVerify":true,"GRPC":"10.0.0.1:32768","GRPCUseTLS":true}"#,
        );
    }

    #[test]
    fn the_first_kind_wins_and_a_status_alone_is_no_check() {
        check(
            "CHECK_TCP=1 CHECK_TTL=5s CHECK_HTTP=/",
            r#"{"Interval":"10s","HTTP":"http://10.0.0.1:32768/"}"#,
        );
        check("CHECK_INITIAL_STATUS=passing CHECK_INTERVAL=1s", "null");
    }

    #[test]
    fn a_service_may_be_removed_when_it_stays_critical() {
        check(
            "CHECK_TTL=5s CHECK_DEREGISTER_AFTER=1h",
            r#"{"TTL":"5s","DeregisterCriticalServiceAfter":"1h"}"#,
        );
    }

    #[test]
    fn a_healthcheck_is_a_ttl_check_that_starts_where_docker_is() {
        let health = Health { status: HealthStatus::Starting, output: String::new() };
        assert_eq!(
            serde_json::to_string(&health_check("vm:web:80", &health)).unwrap(),
            r#"{"CheckID":"docker-health:vm:web:80","Name":"Docker HEALTHCHECK","TTL":"5m","Status":"critical"}"#
        );
    }

    #[test]
    fn a_probes_output_is_cut_between_characters() {
        let health = Health { status: HealthStatus::Unhealthy, output: "ü".repeat(4096) };
        assert_eq!(output_of(&health).len(), 4096);
        let health = Health { status: HealthStatus::Unhealthy, output: format!("a{}", "ü".repeat(4096)) };
        assert_eq!(output_of(&health).len(), 4095);
        let health = Health { status: HealthStatus::Unhealthy, output: "\n".to_owned() };
        assert_eq!(output_of(&health), "the container's HEALTHCHECK is unhealthy");
    }
}
