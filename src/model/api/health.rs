//! `/v1/health`: rows of checks and of instances with their checks.

use super::{catalog, json};
use crate::model::catalog::{Check, Instance};

/// Writes a check, as `health/*` and `agent/checks` show it.
pub fn check(out: &mut Vec<u8>, check: &Check) {
    json::field(out, "{\"Node\":", &check.node);
    json::field(out, ",\"CheckID\":", &check.check_id);
    json::field(out, ",\"Name\":", &check.name);
    json::field(out, ",\"Status\":", check.status.as_str());
    json::field(out, ",\"Notes\":", &check.notes);
    json::field(out, ",\"Output\":", &check.output);
    json::field(out, ",\"ServiceID\":", &check.service_id);
    json::field(out, ",\"ServiceName\":", &check.service_name);
    json::raw(out, ",\"ServiceTags\":");
    json::texts(out, &check.service_tags);
    json::field(out, ",\"Type\":", &check.kind);
    json::field(out, ",\"Interval\":", &check.interval);
    json::field(out, ",\"Timeout\":", &check.timeout);
    json::raw(out, ",\"ExposedPort\":0,\"Definition\":");
    json::raw(out, if check.definition.is_empty() { "{}" } else { &check.definition });
    catalog::indexes(out, check.create_index, check.modify_index);
}

/// Writes a row of `health/service/X`: node, service, the node's checks and then the service's.
pub fn service_row(out: &mut Vec<u8>, instance: Instance<'_>) {
    json::raw(out, "{\"Node\":");
    catalog::node(out, instance.node());
    json::raw(out, ",\"Service\":");
    catalog::node_service(out, instance.service);
    json::raw(out, ",\"Checks\":");
    json::list(out, instance.checks(), |out, one| check(out, one));
    out.push(b'}');
}
