//! `/v1/status`: who leads, who votes. Answers 200 without a leader too.

use super::Api;
use super::error::HttpError;
use super::request::Request;
use super::response::Answer;
use crate::model::api::json;

pub(super) async fn leader(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let status = api.agent.consensus.status().await;
    let mut out = Vec::new();
    json::text(&mut out, status.leader_address.as_deref().unwrap_or(""));
    Ok(Answer::json(out))
}

pub(super) async fn peers(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let status = api.agent.consensus.status().await;
    let mut out = Vec::new();
    json::texts(&mut out, status.peers.iter().map(|peer| &peer.address));
    Ok(Answer::json(out))
}
