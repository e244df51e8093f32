//! `/v1/catalog`: nodes and services as the cluster knows them, and registrations without an agent.

use super::Api;
use super::cache::Listing;
use super::error::HttpError;
use super::read::{fits, list};
use super::request::{Request, same_datacenter};
use super::response::Answer;
use crate::agent::handle::Topic;
use crate::model::api::{catalog as rows, filter, json};
use crate::model::catalog::{Catalog, Command, NodeRow, key_of};

/// Shortest part of a node's id that finds it: with less, names that look like hexadecimal would be mistaken.
const NODE_ID_PREFIX_MIN: usize = 8;

pub(super) async fn nodes(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let filter = request.filter(filter::NODE)?;
    let read = api.read(request, Topic::Nodes, Catalog::nodes_index).await?;
    if filter.is_none() && !request.query.has("node-meta") {
        let body = api.cache.get(Listing::Nodes, read.meta.index, |out| {
            json::list(out, read.catalog.nodes(), |out, row| rows::node(out, &row.node));
        });
        return Ok(Answer::json(body).meta(read.meta));
    }
    Ok(read.json(|out, catalog| {
        let wanted = catalog.nodes().filter(|row| request.wants_node(&row.node));
        list(out, filter.as_ref(), wanted, |out, row| rows::node(out, &row.node));
    }))
}

pub(super) async fn services(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let filter = request.filter(filter::SERVICE_NODE)?;
    let read = api.read(request, Topic::Services, Catalog::services_index).await?;
    if filter.is_none() && !request.query.has("node-meta") {
        let body = api.cache.get(Listing::Services, read.meta.index, |out| {
            rows::service_names(out, &read.catalog, |_| true);
        });
        return Ok(Answer::json(body).meta(read.meta));
    }
    Ok(read.json(|out, catalog| {
        rows::service_names(out, catalog, |instance| {
            request.wants_node(instance.node())
                && fits(filter.as_ref(), |row| rows::service_node(row, *instance))
        });
    }))
}

pub(super) async fn service(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing service name")?;
    let filter = request.filter(filter::SERVICE_NODE)?;
    let read = api.read(request, Topic::Service(key_of(name)), |catalog| catalog.service_index(name)).await?;
    Ok(read.json(|out, catalog| {
        let wanted = catalog.instances(name).filter(|instance| request.wants_instance(instance));
        list(out, filter.as_ref(), wanted, rows::service_node);
    }))
}

pub(super) async fn node(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing node name")?;
    let filter = request.filter(filter::SERVICE)?;
    let read = api.read(request, node_topic(api, name), |catalog| node_index(catalog, name)).await?;
    Ok(read.json(|out, catalog| {
        rows::node_with_services(out, find_node(catalog, name), |service| {
            fits(filter.as_ref(), |row| rows::node_service(row, service))
        });
    }))
}

pub(super) async fn node_services(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let name = request.name("Missing node name")?;
    let filter = request.filter(filter::SERVICE)?;
    let read = api.read(request, node_topic(api, name), |catalog| node_index(catalog, name)).await?;
    Ok(read.json(|out, catalog| {
        rows::node_with_service_list(out, find_node(catalog, name), |service| {
            fits(filter.as_ref(), |row| rows::node_service(row, service))
        });
    }))
}

/// The node of this name, or whose id begins so, if there is one only.
fn find_node<'a>(catalog: &'a Catalog, name: &str) -> Option<&'a NodeRow> {
    if let Some(row) = catalog.node(name) {
        return Some(row);
    }
    let is_id = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if name.len() < NODE_ID_PREFIX_MIN || !name.bytes().all(is_id) {
        return None;
    }
    let prefix = name.to_ascii_lowercase();
    let mut found = catalog.nodes().filter(|row| row.node.id.starts_with(&prefix));
    let first = found.next();
    if found.next().is_some() { None } else { first }
}

fn node_topic(api: &Api, name: &str) -> Topic {
    let catalog = api.agent.replica.load();
    Topic::Node(find_node(&catalog, name).map_or_else(|| key_of(name), |row| key_of(&row.node.node)))
}

fn node_index(catalog: &Catalog, name: &str) -> u64 {
    catalog.node_index(find_node(catalog, name).map_or(name, |row| &row.node.node))
}

pub(super) async fn mesh(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.name("Missing service name")?;
    let read = api.read(request, Topic::Services, Catalog::services_index).await?;
    Ok(read.json(|out, _| json::raw(out, "[]")))
}

pub(super) fn datacenters(api: &Api) -> Answer {
    let mut out = Vec::new();
    json::texts(&mut out, [&api.agent.identity.datacenter]);
    Answer::json(out)
}

pub(super) async fn register(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let identity = &api.agent.identity;
    request.write_options(identity)?;
    let (mut registration, datacenter) = rows::decode_register(&request.json()?)?;
    same_datacenter(&datacenter, identity)?;
    registration.node.datacenter.clone_from(&identity.datacenter);
    api.agent.consensus.propose(Command::Register(Box::new(registration))).await?;
    Ok(Answer::boolean(true))
}

pub(super) async fn deregister(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let (deregistration, datacenter) = rows::decode_deregister(&request.json()?)?;
    same_datacenter(&datacenter, &api.agent.identity)?;
    api.agent.consensus.propose(Command::Deregister(deregistration)).await?;
    Ok(Answer::boolean(true))
}
