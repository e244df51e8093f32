//! Reads of the catalog: freshness first, then waiting, then one snapshot for index and body alike.

use std::sync::Arc;

use super::Api;
use super::error::HttpError;
use super::request::{ReadOptions, Request};
use super::response::{Answer, ReadMeta};
use crate::agent::handle::{Freshness, ReadMode, Topic, blocking};
use crate::model::api::filter::{Filter, Shape};
use crate::model::api::json;
use crate::model::catalog::Catalog;

/// A catalog that is as fresh as asked, and what the header fields say about it.
pub(super) struct Read {
    pub(super) catalog: Arc<Catalog>,
    pub(super) meta: ReadMeta,
}

impl Read {
    /// The answer with a body made of this catalog.
    pub(super) fn json(&self, encode: impl FnOnce(&mut Vec<u8>, &Catalog)) -> Answer {
        let mut out = Vec::with_capacity(1024);
        encode(&mut out, &self.catalog);
        Answer::json(out).meta(self.meta)
    }
}

impl Api {
    /// Waits as the request's options say, for the resource that `topic` wakes and `index` numbers.
    pub(super) async fn read(
        &self,
        request: &Request,
        topic: Topic,
        index: impl Fn(&Catalog) -> u64,
    ) -> Result<Read, HttpError> {
        let options = request.read_options(&self.agent.identity)?;
        let replica = &self.agent.replica;
        let mut freshness = self.fresh(&options).await?;
        if options.index > 0 {
            blocking(replica, topic, options.index, options.wait, |catalog| (index(catalog), ())).await;
            freshness = self.agent.consensus.freshness();
            // The leader may have gone while we waited: what was fresh then is not now.
            if options.mode == ReadMode::Consistent
                || (options.mode == ReadMode::Default && !freshness.known_leader)
            {
                freshness = self.agent.consensus.barrier(options.mode).await?;
            }
        }
        let catalog = replica.snapshot();
        let index = index(&catalog);
        Ok(Read { catalog, meta: ReadMeta { index, freshness, consistency: Some(options.mode) } })
    }

    async fn fresh(&self, options: &ReadOptions) -> Result<Freshness, HttpError> {
        let consensus = &self.agent.consensus;
        if options.mode != ReadMode::Stale {
            return Ok(consensus.barrier(options.mode).await?);
        }
        let freshness = consensus.freshness();
        match options.max_stale {
            Some(max) if freshness.last_contact > max => Ok(consensus.barrier(ReadMode::Default).await?),
            _ => Ok(freshness),
        }
    }
}

impl Request {
    /// `?filter=` for rows with these fields.
    pub(super) fn filter(
        &self,
        fields: &'static [(&'static str, Shape)],
    ) -> Result<Option<Filter>, HttpError> {
        match self.query.first("filter").filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => Ok(Some(Filter::parse(text, fields)?)),
        }
    }
}

/// Whether a row fits; it is written to be looked at.
pub(super) fn fits(filter: Option<&Filter>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
    let Some(filter) = filter else { return true };
    let mut row = Vec::new();
    write(&mut row);
    filter.matches(&row)
}

/// Writes a list of the rows that fit.
pub(super) fn list<T: Copy>(
    out: &mut Vec<u8>,
    filter: Option<&Filter>,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    let items = items.into_iter().filter(|item| fits(filter, |row| write(row, *item)));
    json::list(out, items, &write);
}
