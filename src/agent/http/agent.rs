//! `/v1/agent`: what this agent runs, whom it knows, and what it can be told to do.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Api;
use super::error::HttpError;
use super::read::{fits, list};
use super::request::Request;
use super::response::Answer;
use crate::agent::handle::{JoinReport, Topic};
use crate::model::api::{agent as rows, filter, json};
use crate::model::catalog::{Check, Service, key_of};

pub(super) fn services(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let filter = request.filter(filter::SERVICE)?;
    let datacenter = &api.agent.identity.datacenter;
    let write = |out: &mut Vec<u8>, service: &Service| rows::service(out, service, datacenter, None);
    let services = api.agent.local.services();
    let mut out = Vec::new();
    let wanted = services.iter().filter(|(_, service)| fits(filter.as_ref(), |row| write(row, service)));
    json::object(&mut out, wanted, |out, service| write(out, service));
    Ok(Answer::json(out))
}

pub(super) fn all_checks(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let filter = request.filter(filter::CHECK)?;
    let checks = api.agent.local.checks();
    let mut out = Vec::new();
    let wanted = checks.iter().filter(|(_, check)| fits(filter.as_ref(), |row| rows::check(row, check)));
    json::object(&mut out, wanted, |out, check| rows::check(out, check));
    Ok(Answer::json(out))
}

/// One service with the hash of its content; `?hash=` waits until that is another one.
pub(super) async fn service(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let id = request.name("Missing service ID")?;
    let identity = &api.agent.identity;
    let options = request.read_options(identity)?;
    let known = request.query.text("hash");
    let read = || {
        let service = api.agent.local.services().remove(id)?;
        let mut out = Vec::new();
        rows::service(&mut out, &service, &identity.datacenter, None);
        Some((content_hash(&out), service))
    };
    let deadline = Instant::now() + if known.is_empty() { Duration::ZERO } else { options.wait };
    let mut watch = api.agent.replica.watch(Topic::Node(key_of(&identity.node_name)));
    loop {
        let Some((hash, service)) = read() else {
            return Err(HttpError::NotFound(format!("unknown service ID: {id}")));
        };
        // What is registered here is in the catalog soon after: that wakes us.
        if hash != known || tokio::time::timeout_at(deadline, watch.changed()).await.is_err() {
            let mut out = Vec::new();
            rows::service(&mut out, &service, &identity.datacenter, Some(&hash));
            return Ok(Answer::json(out).content_hash(&hash));
        }
    }
}

/// FNV-1a over the service's JSON; clients only compare it.
fn content_hash(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

pub(super) fn health_by_id(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let id = request.name("Missing serviceID")?;
    let services = api.agent.local.services();
    let Some(service) = services.get(id) else {
        let reason = format!("ServiceId {id} not found");
        if wants_text(request) {
            return Ok(Answer::text(StatusCode::NOT_FOUND, reason.clone()).reason(&reason));
        }
        let body = r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#;
        return Ok(Answer::json(body).status(StatusCode::NOT_FOUND).reason(&reason));
    };
    let checks = checks_of(api, service);
    let status = rows::aggregated_status(&checks);
    if wants_text(request) {
        return Ok(Answer::text(status_code(status), status).reason(status));
    }
    let mut out = Vec::new();
    service_health(&mut out, api, service, &checks);
    Ok(Answer::json(out).status(status_code(status)).reason(status))
}

pub(super) fn health_by_name(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing service Name")?;
    let services = api.agent.local.services();
    let found: Vec<_> = services
        .values()
        .filter(|service| service.name == name)
        .map(|service| (service, checks_of(api, service)))
        .collect();
    if found.is_empty() {
        let reason = format!("ServiceName {name} Not Found");
        let answer = if wants_text(request) {
            Answer::text(StatusCode::NOT_FOUND, reason.clone())
        } else {
            Answer::json("[]").status(StatusCode::NOT_FOUND)
        };
        return Ok(answer.reason(&reason));
    }
    let status = rows::aggregated_status(found.iter().flat_map(|(_, checks)| checks));
    if wants_text(request) {
        return Ok(Answer::text(status_code(status), status).reason(status));
    }
    let mut out = Vec::new();
    json::list(&mut out, &found, |out, (service, checks)| service_health(out, api, service, checks));
    Ok(Answer::json(out).status(status_code(status)).reason(status))
}

fn wants_text(request: &Request) -> bool {
    request.query.text("format") == "text"
}

/// The node's checks and the service's own.
fn checks_of(api: &Api, service: &Service) -> Vec<Arc<Check>> {
    let concerns = |check: &Arc<Check>| check.is_node_level() || check.service_id == service.id;
    api.agent.local.checks().into_values().filter(concerns).collect()
}

fn status_code(status: &str) -> StatusCode {
    match status {
        "passing" => StatusCode::OK,
        "warning" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn service_health(out: &mut Vec<u8>, api: &Api, service: &Service, checks: &[Arc<Check>]) {
    json::field(out, "{\"AggregatedStatus\":", rows::aggregated_status(checks));
    json::raw(out, ",\"Service\":");
    rows::service(out, service, &api.agent.identity.datacenter, None);
    json::raw(out, ",\"Checks\":");
    json::list(out, checks, |out, check| rows::check(out, check));
    out.push(b'}');
}

pub(super) fn members(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let filter = request.filter(filter::MEMBER)?;
    let members = api.agent.members.members();
    // One datacenter: nobody is known over a wide-area network.
    let shown = if request.query.text("wan").is_empty() { &members[..] } else { &[] };
    let mut out = Vec::new();
    list(&mut out, filter.as_ref(), shown, rows::member);
    Ok(Answer::json(out))
}

pub(super) async fn join(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let address = request.name("Missing address to join")?.to_owned();
    let report = api.agent.members.join(&[address]).await;
    if report.joined > 0 { Ok(Answer::empty()) } else { Err(HttpError::Internal(join_failure(&report))) }
}

/// Go's list of errors.
fn join_failure(report: &JoinReport) -> String {
    let count = report.failures.len();
    let noun = if count == 1 { "error" } else { "errors" };
    let lines: Vec<String> = report
        .failures
        .iter()
        .map(|(address, reason)| format!("\t* Failed to join {address}: {reason}\n"))
        .collect();
    format!("{count} {noun} occurred:\n{}\n", lines.concat())
}

pub(super) async fn force_leave(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing node name")?;
    api.agent.members.force_leave(name, request.query.has("prune")).await?;
    Ok(Answer::empty())
}

/// The process leaves and ends; this answer gets out first because open requests may finish.
pub(super) fn leave(api: &Api) -> Answer {
    api.agent.shutdown.cancel();
    Answer::empty()
}

/// Answers when everything has been read and taken, or why nothing was.
pub(super) async fn reload(api: &Api) -> Result<Answer, HttpError> {
    let (request, done) = oneshot::channel();
    let Some(desk) = &api.settings.reload else {
        return Err(HttpError::Internal("this agent has no configuration to read again".to_owned()));
    };
    desk.try_send(request)
        .map_err(|_| HttpError::Internal("the configuration is being read again already".to_owned()))?;
    match done.await {
        Ok(Ok(())) => Ok(Answer::empty()),
        Ok(Err(text)) => Err(HttpError::Internal(text)),
        Err(_) => Err(HttpError::Stopping),
    }
}
