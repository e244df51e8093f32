//! `/v1/kv`: keys. Locks need sessions, which do not exist yet: asking for one is an error, not a plain write.

use hyper::StatusCode;

use super::Api;
use super::error::HttpError;
use super::request::{Request, parse_number};
use super::response::{Answer, ReadMeta};
use crate::agent::handle::{KvBlocking, KvRead};
use crate::model::api::kv as rows;
use crate::model::catalog::{Command, Condition, KvDelete, KvQuery, KvRows, KvWrite, Reply};

pub(super) async fn get(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let options = request.read_options(&api.agent.identity)?;
    let key = request.rest.clone();
    let query = if request.query.has("keys") {
        let names = ["separator", "seperator"];
        let separator = names.into_iter().find_map(|name| request.query.first(name)).unwrap_or("").to_owned();
        KvQuery::Keys { prefix: key, separator }
    } else if request.query.has("recurse") {
        KvQuery::List { prefix: key }
    } else {
        KvQuery::Get { key: request.name("Missing key name")?.to_owned() }
    };
    let blocking = (options.index > 0).then_some(KvBlocking { index: options.index, wait: options.wait });
    let root_keys = matches!(&query, KvQuery::Keys { prefix, .. } if prefix.is_empty());
    let read = KvRead { query, mode: options.mode, blocking };
    let (answer, freshness) = api.agent.consensus.kv_read(read).await?;
    let meta = ReadMeta { index: answer.index, freshness, consistency: None };
    if answer.rows.is_empty() && !root_keys {
        return Ok(Answer::empty_with(StatusCode::NOT_FOUND).meta(meta));
    }
    if request.query.has("raw")
        && let KvRows::Entries(entries) = &answer.rows
        && let Some(entry) = entries.first()
    {
        return Ok(Answer::raw(entry.value.clone()).meta(meta));
    }
    let mut out = Vec::with_capacity(256);
    rows::rows(&mut out, &answer.rows);
    Ok(Answer::json(out).meta(meta))
}

pub(super) async fn put(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let key = request.name("Missing key name")?.to_owned();
    refuse_conflict(request, &["cas", "acquire", "release"])?;
    let flags = request.query.first("flags").map_or(Ok(0), parse_number)?;
    for name in ["acquire", "release"] {
        if request.query.has(name) {
            let text = format!("Cannot {name} the key: this agent has no sessions, so it has no locks");
            return Err(HttpError::Invalid(text));
        }
    }
    let condition = match request.query.first("cas") {
        None => Condition::None,
        Some(text) => Condition::ModifyIndex(parse_number(text)?),
    };
    let write = KvWrite { key, value: request.body.clone(), flags, condition };
    propose(api, Command::KvWrite(write)).await
}

pub(super) async fn delete(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    refuse_conflict(request, &["recurse", "cas"])?;
    let recurse = request.query.has("recurse");
    if !recurse {
        request.name("Missing key name")?;
    }
    let modify_index = request.query.first("cas").map(parse_number).transpose()?;
    let delete = KvDelete { key: request.rest.clone(), recurse, modify_index };
    propose(api, Command::KvDelete(delete)).await
}

async fn propose(api: &Api, command: Command) -> Result<Answer, HttpError> {
    Ok(match api.agent.consensus.propose(command).await? {
        Reply::Bool(done) => Answer::boolean(done),
        Reply::Done => Answer::boolean(true),
    })
}

fn refuse_conflict(request: &Request, names: &[&str]) -> Result<(), HttpError> {
    if names.iter().filter(|name| request.query.has(name)).count() > 1 {
        let text = format!("Conflicting flags: {}", request.query.encoded());
        return Err(HttpError::Invalid(text));
    }
    Ok(())
}
