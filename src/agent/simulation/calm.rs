//! The end of a history: everything works again, and all must become as it should be.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::time::Duration;

use tokio::time::Instant;

use super::World;
use crate::agent::testing::poll;
use crate::host::disk::simulated::Faults;
use crate::model::sync::servers::REPLACEMENTS_PER_HOUR_MAX;
use crate::simulation::network::Weather;
use crate::simulation::running;

/// How long a cluster may take, once everything works again, until all is as it should be.
const CALM_MAX: Duration = Duration::from_secs(90);
/// How long an operator waits before recovering a cluster that was given up, and before trying again.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(10);
/// How long replacements may be held back: the hour of their limit.
const HELD_BACK_MAX: Duration = Duration::from_mins(61);
/// How long people may then wait: those who asked a machine that went silent hear of it after the hold time of 7 s, and
/// those who asked at an old address as soon as gossip knows the new one.
const SERVED_MAX: Duration = Duration::from_secs(10);

impl World {
    /// Everything works again: then there is a leader, exactly the servers vote, everybody shows the same, and people
    /// are served.
    pub(super) async fn calm(&mut self) {
        self.net.heal();
        self.net.weather(Weather::default());
        let (mut begin, mut waited) = (Instant::now(), false);
        let mut recovering = Duration::ZERO;
        loop {
            for number in 0..self.machines.len() {
                if let Some(process) = &self.machines[number].process {
                    running::resume(process.number);
                }
                self.machines[number].disk.set(|faults| *faults = Faults::default());
                if self.machines[number].process.is_none()
                    && let Some(error) = self.start(number).await
                {
                    panic!("{} does not start on a disk that works: {error}", self.machines[number].name);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.look().await;
            let wrong = self.what_is_wrong();
            if wrong.is_some() && self.ruin.is_some() && begin.elapsed() >= recovering + RECOVERY_INTERVAL {
                recovering = begin.elapsed();
                self.recover(0, None).await;
            }
            match wrong {
                None => break,
                Some(_) if begin.elapsed() < CALM_MAX => {}
                Some(_) if !waited && self.is_held_back() => {
                    tokio::time::advance(HELD_BACK_MAX).await;
                    (waited, begin) = (true, Instant::now());
                }
                Some(wrong) => panic!("after {CALM_MAX:?} of calm: {wrong}"),
            }
        }
        let before = self.users.acknowledged();
        let served = || self.users.acknowledged() != before;
        poll(SERVED_MAX, self.but_pending("nobody is served"), served).await;
        self.users.stop();
        let answered = || !self.users.are_at_work();
        poll(SERVED_MAX, self.but_pending("somebody is not answered"), answered).await;
        self.look().await;
        self.users.check(&self.truth);
    }

    /// What is wrong though everything works, with the requests that wait when it is written.
    fn but_pending(&self, what: &str) -> impl Display {
        fmt::from_fn(move |text| write!(text, "{what} though everything works: {}", self.users.pending()))
    }

    /// Whether the pace of replacements may be what everybody waits for.
    fn is_held_back(&self) -> bool {
        self.truth.catalog().is_some_and(|catalog| {
            let table = catalog.servers();
            let failed = if self.last_order.is_some() {
                // More servers may have been wanted than one: who came since is no sign that nobody failed.
                self.truth.had_failures()
            } else {
                table.failure.is_some()
            };
            failed || table.history.len() >= REPLACEMENTS_PER_HOUR_MAX
        })
    }

    /// What is not as it shall be when everything works: as many servers vote as there shall be, all of them alive, all
    /// others are clients, one leads, and everybody has the same.
    fn what_is_wrong(&self) -> Option<String> {
        let mut leaders = 0;
        let mut servers = BTreeSet::new();
        for machine in &self.machines {
            let Some(process) = &machine.process else {
                return Some(format!("{} does not run", machine.name));
            };
            if process.leave.is_cancelled() {
                return Some(format!("{} is leaving", machine.name));
            }
            if let Some(server) = process.server() {
                let view = server.view();
                leaders += usize::from(view.leads);
                servers.insert(view.id);
            }
            let (index, cluster) = {
                let catalog = process.replica.load();
                (catalog.index(), catalog.cluster().cloned())
            };
            if cluster.as_ref() != self.truth.cluster() {
                return Some(format!(
                    "{} is in {cluster:?}, not in {:?}",
                    machine.name,
                    self.truth.cluster()
                ));
            }
            if index + 20 < self.truth.last() {
                return Some(format!("{} is at index {index} of {}", machine.name, self.truth.last()));
            }
        }
        if leaders != 1 {
            return Some(format!("there are {leaders} leaders"));
        }
        for (machine, server) in
            self.machines.iter().filter_map(|machine| Some((machine, machine.process.as_ref()?.server()?)))
        {
            let voters: BTreeSet<u64> = server.view().voters.into_iter().collect();
            if voters != servers {
                let name = &machine.name;
                return Some(format!("{name} has voters {voters:x?}, and servers are {servers:x?}"));
            }
        }
        let wanted = self.wanted();
        if servers.len() != wanted {
            return Some(format!("{} servers vote, not {wanted}", servers.len()));
        }
        let nomination = self.truth.catalog().and_then(|catalog| catalog.servers().nomination.clone());
        nomination.map(|nomination| format!("{} is still nominated", nomination.node))
    }
}
