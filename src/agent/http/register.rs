//! `/v1/agent/service` and `/v1/agent/check`: what is registered at this agent, TTL updates, maintenance.

use super::Api;
use super::error::HttpError;
use super::request::{Request, parse_truth};
use super::response::Answer;
use crate::agent::handle::Maintenance;
use crate::model::api::{agent as rows, decode_check, decode_service};
use crate::model::catalog::Status;

pub(super) async fn service(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let mut registration = decode_service(&request.json()?)?;
    registration.replace_existing_checks = match request.query.first("replace-existing-checks") {
        None => false,
        Some(text) => text.is_empty() || parse_truth(text).unwrap_or(false),
    };
    api.agent.local.register_service(registration).await?;
    Ok(Answer::empty())
}

pub(super) async fn remove_service(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    api.agent.local.deregister_service(request.name("Missing service ID")?).await?;
    Ok(Answer::empty())
}

pub(super) async fn check(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let registration = decode_check(&request.json()?)?;
    api.agent.local.register_check(registration).await?;
    Ok(Answer::empty())
}

pub(super) async fn remove_check(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    api.agent.local.deregister_check(request.name("Missing check ID")?).await?;
    Ok(Answer::empty())
}

pub(super) async fn note(api: &Api, request: &Request, status: Status) -> Result<Answer, HttpError> {
    let check_id = request.name("Missing check ID")?;
    api.agent.local.update_ttl(check_id, status, request.query.text("note")).await?;
    Ok(Answer::empty())
}

pub(super) async fn update(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let (status, output) = rows::decode_check_update(&request.json()?)?;
    api.agent.local.update_ttl(request.name("Missing check ID")?, status, &output).await?;
    Ok(Answer::empty())
}

pub(super) async fn service_maintenance(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let service_id = request.name("Missing service ID")?.to_owned();
    maintain(api, request, Some(service_id)).await
}

pub(super) async fn node_maintenance(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    maintain(api, request, None).await
}

async fn maintain(api: &Api, request: &Request, service_id: Option<String>) -> Result<Answer, HttpError> {
    let text = request
        .query
        .first("enable")
        .filter(|text| !text.is_empty())
        .ok_or_else(|| HttpError::invalid("Missing value for enable"))?;
    let enable =
        parse_truth(text).ok_or_else(|| HttpError::invalid(format!("Invalid value for enable: {text:?}")))?;
    let reason = request.query.text("reason").to_owned();
    api.agent.local.maintain(Maintenance { service_id, enable, reason }).await?;
    Ok(Answer::empty())
}
