//! The answer to one question from the catalog as it is now. No waiting, no cache.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::agent::handle::Replica;
use crate::model::catalog::Catalog;
use crate::model::dns::wire::Head;
use crate::model::dns::{
    Name, Outside, Policy, Question, Rcode, RecordType, Target, Transport, View, Zones, answer, fit,
};

/// What answers are made of.
pub(super) struct Responder {
    pub(super) replica: Arc<Replica>,
    pub(super) dead_nodes: Arc<ArcSwap<BTreeSet<Arc<str>>>>,
    pub(super) zones: Zones,
    pub(super) policy: Policy,
    /// There are recursors.
    pub(super) recursion: bool,
}

/// What an answer depends on, so that it can be kept.
#[derive(Debug, Clone)]
pub(super) enum Basis {
    /// On everything.
    Catalog,
    /// On one service's index.
    Service {
        /// Name as asked.
        name: Arc<str>,
        /// Its index.
        index: u64,
    },
}

/// An answer in bytes.
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
    /// What a recursor has to add; [`Outside::Nothing`] when there is no recursor.
    pub(super) outside: Outside,
    pub(super) basis: Basis,
}

impl Responder {
    pub(super) fn question(&self, name: &Name, kind: RecordType) -> Question {
        Question::parse(name, kind, &self.zones)
    }

    /// Answers a question in `seed`'s order.
    pub(super) fn respond(
        &self,
        question: &Question,
        mut head: Head,
        transport: Transport,
        seed: u64,
    ) -> Response {
        let catalog = self.replica.snapshot();
        let hidden = self.dead_nodes.load();
        let view = View {
            catalog: &catalog,
            zones: &self.zones,
            policy: &self.policy,
            hidden: &hidden,
            seed,
            time: unix_time(),
        };
        let mut found = answer(&view, question);
        let basis = match &question.target {
            Target::Service { name, .. } if has_addresses_only(&catalog, name) => {
                Basis::Service { name: Arc::from(name.as_str()), index: catalog.service_index(name) }
            }
            _ => Basis::Catalog,
        };
        let outside = std::mem::replace(&mut found.outside, Outside::Nothing);
        let outside = if self.recursion { outside } else { Outside::Nothing };
        if found.rcode == Rcode::Refused {
            head.edns = None;
        }
        let bytes = fit(&mut found, &head, transport, &self.policy);
        Response { bytes, outside, basis }
    }
}

/// Behind a host name may be other nodes and services, whose changes do not move this one's index.
fn has_addresses_only(catalog: &Catalog, service: &str) -> bool {
    catalog.instances(service).all(|instance| instance.address().parse::<IpAddr>().is_ok())
}

fn unix_time() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The zone's serial number wraps around (RFC 1982).
    u32::try_from(since.as_secs() & u64::from(u32::MAX)).expect("the mask leaves 32 bits")
}
