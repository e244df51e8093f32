//! `/v1/health`: checks of a node, of a service, in a state; instances with their checks.

use super::Api;
use super::cache::Listing;
use super::error::HttpError;
use super::read::list;
use super::request::Request;
use super::response::Answer;
use crate::agent::handle::Topic;
use crate::model::api::{filter, health};
use crate::model::catalog::{Catalog, Check, Status, key_of};

pub(super) async fn service(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing service name")?;
    let only_passing = request.truth("passing")?;
    let filter = request.filter(filter::HEALTH)?;
    let read = api.read(request, Topic::Service(key_of(name)), |catalog| catalog.service_index(name)).await?;
    Ok(read.json(|out, catalog| {
        let instances = catalog.instances(name).filter(|instance| {
            request.wants_instance(instance) && (!only_passing || instance.status() == Status::Passing)
        });
        list(out, filter.as_ref(), instances, health::service_row);
    }))
}

pub(super) async fn node(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing node name")?;
    let filter = request.filter(filter::CHECK)?;
    let read = api.read(request, Topic::Checks, Catalog::checks_index).await?;
    Ok(read.json(|out, catalog| {
        let checks = catalog.node(name).into_iter().flat_map(|row| row.checks.iter());
        list(out, filter.as_ref(), checks, |out, check| health::check(out, check));
    }))
}

pub(super) async fn checks(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing service name")?;
    let filter = request.filter(filter::CHECK)?;
    let read = api.read(request, Topic::Service(key_of(name)), |catalog| catalog.service_index(name)).await?;
    Ok(read.json(|out, catalog| {
        let wanted = catalog.instances(name).filter(|instance| request.wants_node(instance.node()));
        let checks = wanted.flat_map(|instance| instance.row.checks.of_service(&instance.service.id));
        list(out, filter.as_ref(), checks, |out, check| health::check(out, check));
    }))
}

pub(super) async fn state(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let state = request.name("Missing check state")?;
    let filter = request.filter(filter::CHECK)?;
    let read = api.read(request, Topic::Checks, Catalog::checks_index).await?;
    let whole = state == "any" && filter.is_none() && !request.query.has("node-meta");
    if whole {
        let catalog = &read.catalog;
        let body = api.cache.get(Listing::Checks, read.meta.index, |out| {
            list(out, None, catalog.checks(), |out, check| health::check(out, check));
        });
        return Ok(Answer::json(body).meta(read.meta));
    }
    Ok(read.json(|out, catalog| {
        let nodes = catalog.nodes().filter(|row| request.wants_node(&row.node));
        let in_state = |check: &&std::sync::Arc<Check>| state == "any" || check.status.as_str() == state;
        let checks = nodes.flat_map(|row| row.checks.iter()).filter(in_state);
        list(out, filter.as_ref(), checks, |out, check| health::check(out, check));
    }))
}
