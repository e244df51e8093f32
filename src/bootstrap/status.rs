//! Tells people and systemd what the machine waits for: when it changes, and again while it lasts.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::model::election::Waiting;

/// How often a machine without an agent repeats what it waits for.
const REMIND_INTERVAL: Duration = Duration::from_secs(30);
/// The same when the agent runs: then the store is only missed by machines to come.
const REMIND_INTERVAL_RUNNING: Duration = Duration::from_mins(10);

/// What is being waited for, and since when.
pub(super) struct Status {
    store: String,
    waiting: Option<(Waiting, Instant, Instant)>,
    running: bool,
}

impl Status {
    /// `store` is its name for messages.
    pub(super) fn new(store: String) -> Self {
        Self { store, waiting: None, running: false }
    }

    /// Something else is being waited for.
    pub(super) fn wait(&mut self, waiting: Waiting, running: bool) {
        let now = Instant::now();
        let same_kind = |(before, ..): &(Waiting, Instant, Instant)| {
            std::mem::discriminant(before) == std::mem::discriminant(&waiting)
        };
        let since =
            self.waiting.as_ref().filter(|before| same_kind(before)).map_or(now, |(_, since, _)| *since);
        // A store that is down fails in many ways, one after the other: they are one message.
        let said = self.waiting.as_ref().filter(|_| matches!(waiting, Waiting::Store { .. }) && since != now);
        let said = said.map(|(_, _, said)| *said);
        self.running = running;
        self.waiting = Some((waiting, since, said.unwrap_or(now)));
        if said.is_none() {
            self.speak();
        }
    }

    /// Nothing is being waited for.
    pub(super) fn settled(&mut self) {
        self.waiting = None;
    }

    /// Repeats the message when it is time to.
    pub(super) fn remind(&mut self) {
        let interval = if self.running { REMIND_INTERVAL_RUNNING } else { REMIND_INTERVAL };
        if let Some((_, _, said)) = &mut self.waiting
            && said.elapsed() >= interval
        {
            *said = Instant::now();
            self.speak();
        }
    }

    /// One line for systemd's status.
    #[allow(clippy::unused_self, reason = "all that is told to systemd goes through this value")]
    pub(super) fn say(&self, text: &str) {
        if let Err(error) = sd_notify::notify(&[NotifyState::Status(text)]) {
            debug!("systemd was not told the status: {error}");
        }
    }

    fn speak(&self) {
        let Some((waiting, since, _)) = &self.waiting else { return };
        let seconds = since.elapsed().as_secs();
        let text = match waiting {
            Waiting::Store { reason } => format!("{} cannot be used: {reason}", self.store),
            waiting => waiting.to_string(),
        };
        match waiting {
            _ if self.running && matches!(waiting, Waiting::Store { .. }) => {
                warn!(waiting_seconds = seconds, "{text}; the agent does not need it");
            }
            Waiting::Store { .. } | Waiting::Stuck { .. } | Waiting::Conflict { .. } => {
                warn!(waiting_seconds = seconds, "waiting: {text}");
            }
            _ => info!(waiting_seconds = seconds, "waiting: {text}"),
        }
        if !self.running {
            self.say(&text);
        }
    }
}
