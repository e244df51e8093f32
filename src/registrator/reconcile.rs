//! One round: list, compare, carry out, and tell people what has changed.
//!
//! It holds what was sent and what was said, so that nothing is repeated without need. Losing both is harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::{Engine, Identity, Listing};
use super::registry::Registry;
use super::{Deregister, READ_AFRESH_INTERVAL, Settings};
use crate::model::registration::diff::taken;
use crate::model::registration::naming::{self, Remark};
use crate::model::registration::{Command, Ownership, Registered, Rules, Service, diff};

/// How often the agent is told the state of every HEALTHCHECK again; it believes it for five minutes.
const HEALTH_REPEAT_INTERVAL: Duration = Duration::from_mins(1);

pub(super) struct Reconciler {
    engine: Arc<dyn Engine>,
    registry: Arc<dyn Registry>,
    rules: Rules,
    deregister: Deregister,
    cleanup: bool,
    afresh_interval: Duration,
    sent: BTreeMap<String, Service>,
    said: Said,
    last_afresh: Option<Instant>,
    last_repeat: Option<Instant>,
}

/// What is said once and not again until it has changed.
#[derive(Default)]
struct Said {
    remarks: BTreeSet<(String, Remark)>,
    failure: Option<String>,
    failures: BTreeMap<String, String>,
    taken: BTreeSet<String>,
}

impl Reconciler {
    pub(super) fn new(
        settings: Settings,
        identity: &Identity,
        engine: Arc<dyn Engine>,
        registry: Arc<dyn Registry>,
    ) -> Self {
        let owner = match &settings.hostname {
            // Two registrators at one engine and one agent are told apart by the name they were given.
            Some(hostname) => format!("{}/{hostname}", identity.id),
            None if identity.id.is_empty() => identity.hostname.clone(),
            None => identity.id.clone(),
        };
        let rules = Rules {
            hostname: settings.hostname.unwrap_or_else(|| identity.hostname.clone()),
            owner,
            forced_address: settings.address,
            machine_address: None,
            internal: settings.internal,
            explicit: settings.explicit,
            address_label: settings.address_label,
            tags: settings.tags,
            compat: settings.compat,
        };
        Self {
            engine,
            registry,
            rules,
            deregister: settings.deregister,
            cleanup: settings.cleanup,
            afresh_interval: settings.resync.unwrap_or(READ_AFRESH_INTERVAL).min(READ_AFRESH_INTERVAL),
            sent: BTreeMap::new(),
            said: Said::default(),
            last_afresh: None,
            last_repeat: None,
        }
    }

    /// One round. Gives whether everything is as it should be; what is not is in the log, and for the next round.
    pub(super) async fn look(&mut self) -> bool {
        match self.try_look().await {
            Ok(is_equal) => {
                if self.said.failure.take().is_some() {
                    tracing::info!("Docker and the registry answer again");
                }
                is_equal
            }
            Err(error) => {
                let text = format!("{error:#}");
                if self.said.failure.as_ref() != Some(&text) {
                    tracing::warn!("{text}; trying again");
                }
                self.said.failure = Some(text);
                false
            }
        }
    }

    async fn try_look(&mut self) -> anyhow::Result<bool> {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, interval| last.is_none_or(|last| now - last >= interval);
        let afresh = is_due(self.last_afresh, self.afresh_interval);
        let refresh = is_due(self.last_repeat, HEALTH_REPEAT_INTERVAL);

        let listing = self.engine.list(self.deregister == Deregister::OnSuccess, afresh).await?;
        if afresh {
            tracing::debug!("Syncing services on {} containers", listing.containers.len());
            self.last_afresh = Some(now);
        }
        // The registry is asked after the engine: a registration can then only be older than the list.
        let registered = self.registry.registered().await?;
        if self.rules.forced_address.is_none() && (afresh || self.rules.machine_address.is_none()) {
            self.rules.machine_address = self.find_machine_address().await?;
        }
        let (wanted, remarks) = naming::wanted(&listing.containers, &self.rules);
        self.say_remarks(remarks);
        let ownership = self.ownership(&listing);
        self.say_taken(&registered, &ownership);
        let commands = diff(&wanted, &registered, &self.sent, &ownership, refresh);
        let mut is_equal = listing.unreadable.is_empty();
        let mut failed: BTreeMap<String, String> =
            listing.unreadable.iter().map(|(id, why)| (format!("inspection of {id}"), why.clone())).collect();
        for command in commands {
            if let Err(error) = self.registry.carry_out(&command).await {
                failed.insert(describe(&command), format!("{error:#}"));
                is_equal = false;
            } else {
                self.remember(command);
            }
        }
        self.say_failures(failed);
        if refresh && is_equal {
            self.last_repeat = Some(now);
        }
        Ok(is_equal)
    }

    fn ownership(&self, listing: &Listing) -> Ownership {
        let failed = listing
            .containers
            .iter()
            .filter(|facts| self.deregister == Deregister::OnSuccess && facts.state.is_failure());
        let running = listing.containers.iter().filter(|facts| facts.state.offers_services());
        Ownership {
            owner: self.rules.owner.clone(),
            hostname: self.rules.hostname.clone(),
            // While a container cannot be read, its name is not known, and nothing without our mark is safe to remove.
            cleanup: self.cleanup && listing.unreadable.is_empty(),
            kept_containers: failed
                .map(|facts| facts.short_id().to_owned())
                .chain(listing.unreadable.keys().cloned())
                .collect(),
            running_names: running.map(|facts| facts.name.clone()).collect(),
        }
    }

    /// The agent's own address, by which the cluster knows this machine; if that is a loopback address, what the
    /// machine's name resolves to.
    async fn find_machine_address(&self) -> anyhow::Result<Option<String>> {
        let is_useful = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
        let of_agent = self.registry.machine_address().await?;
        if let Some(address) = of_agent.and_then(|text| text.parse().ok()).filter(is_useful) {
            return Ok(Some(address.to_string()));
        }
        match tokio::net::lookup_host((self.rules.hostname.as_str(), 0)).await {
            Ok(mut found) => {
                Ok(found.find(|found| is_useful(&found.ip())).map(|found| found.ip().to_string()))
            }
            Err(error) => {
                tracing::debug!("{} does not resolve: {error}", self.rules.hostname);
                Ok(None)
            }
        }
    }

    fn remember(&mut self, command: Command) {
        match command {
            Command::Register(wanted) => {
                let id = &wanted.service.id;
                let word = if self.sent.contains_key(id) { "refreshed" } else { "added" };
                tracing::info!("{word}: {} {id}", wanted.container);
                self.sent.insert(id.clone(), wanted.service);
            }
            Command::Deregister { id, container } => {
                if let Some(container) = container {
                    tracing::info!("removed: {container} {id}");
                } else {
                    tracing::info!("dangling: {id}");
                    tracing::info!("{id} removed");
                }
                self.sent.remove(&id);
            }
            Command::UpdateCheck { id, status, .. } => tracing::debug!("{}: {id}", status.as_str()),
            Command::RemoveCheck { id } => tracing::debug!("removed check: {id}"),
            Command::Pause { id } => tracing::info!("paused: {id}"),
            Command::Resume { id } => tracing::info!("resumed: {id}"),
        }
    }

    fn say_remarks(&mut self, remarks: BTreeSet<(String, Remark)>) {
        for (container, remark) in remarks.difference(&self.said.remarks) {
            if remark.is_ignored() {
                tracing::info!("ignored: {container} {remark}");
            } else {
                tracing::warn!("{container} {remark}");
            }
        }
        self.said.remarks = remarks;
    }

    fn say_failures(&mut self, failed: BTreeMap<String, String>) {
        for (what, why) in &failed {
            if self.said.failures.get(what) != Some(why) {
                tracing::warn!("{what} failed: {why}; trying again");
            }
        }
        self.said.failures = failed;
    }

    fn say_taken(&mut self, registered: &Registered, ownership: &Ownership) {
        let taken: BTreeSet<String> = taken(registered, &self.sent, ownership).map(str::to_owned).collect();
        for id in taken.difference(&self.said.taken) {
            tracing::warn!(
                "{id} was taken over by another registrator and is left to it; give one of them -hostname"
            );
        }
        self.said.taken = taken;
    }
}

/// The command in the original's words.
fn describe(command: &Command) -> String {
    match command {
        Command::Register(wanted) => format!("register {}", wanted.service.id),
        Command::Deregister { id, .. } => format!("deregister {id}"),
        Command::UpdateCheck { id, .. } => format!("update of check {id}"),
        Command::RemoveCheck { id } => format!("removal of check {id}"),
        Command::Pause { id } => format!("hiding of paused {id}"),
        Command::Resume { id } => format!("showing of resumed {id}"),
    }
}
