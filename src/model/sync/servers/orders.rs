//! What operators and servers ask of the steward: replacements, departures, and what a server is.

use std::time::Duration;

use super::candidate::Proof;
use super::change::has_place;
use super::steward::{Action, Steward, View, nominate};
use super::{ConfiguredServer, Mode, ServerMember, can_spare};
use crate::model::catalog::{Departure, Nomination, Purpose, ServersCommand};

/// What a server is for the living cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Standing {
    /// In raft's configuration.
    Configured,
    /// Not yet; a leader will take it in.
    Expected,
    /// It is a server no more.
    Retired,
    /// Nobody asked it to be one.
    Unknown,
}

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{0}")]
pub struct NotNow(pub String);

impl Steward {
    /// An operator's order to replace `old` (the dead one, if not named) by `new` (the best, if not named). Pacing
    /// and the setting do not matter; safety does.
    ///
    /// # Errors
    /// Why it cannot be done now.
    pub fn order_replacement(
        &self,
        now: Duration,
        view: &View<'_>,
        old: Option<&str>,
        new: Option<&str>,
    ) -> Result<Action, NotNow> {
        check_free(view)?;
        let down = || {
            let down = view.voters().filter(|server| self.dead_for(now, server.id).is_some());
            down.max_by_key(|server| self.dead_for(now, server.id))
        };
        let server = match old {
            Some(name) => {
                let named = |server: &&ConfiguredServer| server.name == name || server.address == name;
                view.voters().find(named).ok_or_else(|| NotNow(format!("{name} is no voting server")))?
            }
            None => match down() {
                Some(server) => server,
                None if view.voters().count() < view.wanted() => {
                    let candidate = self.candidate(now, view, new, Proof::Alive).map_err(NotNow)?;
                    return Ok(nominate(candidate, Purpose::Grow));
                }
                None => return Err(NotNow("no server is dead; name the one to replace".to_owned())),
            },
        };
        if server.leader {
            return Err(NotNow(format!("{} leads: transfer the leadership first", server.name)));
        }
        let why = if view.is_up(server) { Departure::Ordered } else { Departure::Dead };
        let candidate = self.candidate(now, view, new, Proof::Alive).map_err(NotNow)?;
        Ok(nominate(candidate, Purpose::Replace { id: server.id, node: server.name.clone(), why }))
    }

    /// A server says that it is about to leave: who takes its place? `None` when nobody can, so it may go at once.
    ///
    /// # Errors
    /// When it has to wait.
    pub fn order_departure(&self, now: Duration, view: &View<'_>, id: u64) -> Result<Option<Action>, NotNow> {
        let Some(server) = view.voters().find(|server| server.id == id) else { return Ok(None) };
        let wanted = view.catalog.servers().wanted.unwrap_or(0) as usize;
        if view.policy.mode == Mode::Off || (wanted > 0 && view.voters().count() > wanted) {
            return Ok(None);
        }
        if let Some(Nomination { purpose: Purpose::Replace { id: going, .. }, .. }) =
            &view.catalog.servers().nomination
            && *going == id
        {
            return Err(NotNow("its place is being taken".to_owned()));
        }
        check_free(view)?;
        let purpose = Purpose::Replace { id, node: server.name.clone(), why: Departure::Leaving };
        match self.candidate(now, view, None, Proof::Alive) {
            Ok(candidate) => Ok(Some(nominate(candidate, purpose))),
            Err(_) => check_spare(view, server).map(|()| None),
        }
    }

    /// An operator's order that a server is one no more.
    ///
    /// # Errors
    /// It leads, or the others cannot go on without it.
    pub fn order_retirement(&self, view: &View<'_>, server: &ConfiguredServer) -> Result<Action, NotNow> {
        if server.leader {
            return Err(NotNow(format!("{} leads: transfer the leadership first", server.name)));
        }
        check_spare(view, server)?;
        Ok(Action::Write(ServersCommand::Retire { id: server.id }))
    }

    /// What the server with this raft id is for the cluster.
    pub fn standing(&self, view: &View<'_>, id: u64, nomination: Option<u64>) -> Standing {
        let table = view.catalog.servers();
        if view.configured.iter().any(|server| server.id == id) {
            return Standing::Configured;
        }
        #[cfg(test)]
        if crate::simulation::mutants::is(crate::simulation::mutants::Mutant::RetiredTakenIn) {
            return Standing::Expected;
        }
        if table.retired.contains(&id) {
            return Standing::Retired;
        }
        match nomination {
            None => {
                let newcomer =
                    view.members.iter().filter_map(ServerMember::of).find(|server| server.id == id);
                let unwanted =
                    newcomer.is_some_and(|server| !has_place(&server, view.configured, view.members, table));
                if unwanted { Standing::Unknown } else { Standing::Expected }
            }
            Some(serial) if table.nomination.as_ref().is_some_and(|known| known.serial == serial) => {
                Standing::Expected
            }
            Some(_) => Standing::Unknown,
        }
    }
}

fn check_spare(view: &View<'_>, server: &ConfiguredServer) -> Result<(), NotNow> {
    if can_spare(server.id, view.configured, view.members) {
        return Ok(());
    }
    Err(NotNow(format!(
        "without {} a majority of the servers would be down: bring the others back or replace them first",
        server.name
    )))
}

fn check_free(view: &View<'_>) -> Result<(), NotNow> {
    if let Some(nomination) = &view.catalog.servers().nomination {
        return Err(NotNow(format!(
            "{} is becoming a server just now ({}); one change at a time",
            nomination.node, nomination.purpose
        )));
    }
    if view.has_quorum() {
        Ok(())
    } else {
        Err(NotNow(
            "a majority of the servers is down; if they are lost for good, see `operator recover`".into(),
        ))
    }
}
