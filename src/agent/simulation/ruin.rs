//! A quorum is lost for good, and an operator lets one survivor found a successor.

use std::time::Duration;

use super::World;
use super::machine::{End, Machine};
use crate::agent::handle::{Consensus as _, OrderError};
use crate::host::disk::simulated::Faults;
use crate::model::names::ClusterId;
use crate::simulation::network::Weather;
use crate::simulation::running;

/// How long an operator waits for the answer to an order.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The answer of an agent that ends: whether it did anything is not known.
const ENDS: &str = "the agent stops";

/// What was lost.
pub(super) struct Ruin {
    cluster: ClusterId,
    /// The machine that was told to found the successor, and whose answer was lost: only it may be told again.
    founder: Option<usize>,
}

impl World {
    /// A majority of the servers loses power, and some of them their disks.
    pub(super) fn give_up_a_majority(&mut self, first: usize, wiped: u8) -> Option<String> {
        self.machines.iter_mut().for_each(Machine::note_raft_id);
        let (true, Some(cluster), Some(leader)) =
            (self.is_whole(), self.truth.cluster().cloned(), self.leader())
        else {
            return Some("not now".to_owned());
        };
        let count = self.machines.len();
        let numbers = (first..first + count).map(|number| number % count);
        let voters = numbers
            .filter(|number| self.machines[*number].raft_id.is_some_and(|id| leader.voters.contains(&id)));
        let victims: Vec<usize> = voters.take(self.servers / 2 + 1).collect();
        for (bit, number) in victims.into_iter().enumerate() {
            self.end(number, End::PowerLost);
            if wiped & (1 << bit) != 0 {
                self.lost.extend(self.machines[number].wipe());
            }
        }
        self.ruin = Some(Ruin { cluster, founder: None });
        None
    }

    /// An operator makes the survivors reach each other, and orders one after the other to recover until one does.
    pub(super) async fn recover(&mut self, first: usize) -> Option<String> {
        let Some(Ruin { cluster, founder }) = &self.ruin else { return Some("not now".to_owned()) };
        let (cluster, founder) = (cluster.clone(), *founder);
        self.net.heal();
        self.net.weather(Weather::default());
        let count = self.machines.len();
        let candidates = match founder {
            Some(founder) => vec![founder],
            None => (first..first + count).map(|number| number % count).collect(),
        };
        let mut told = Vec::new();
        for number in candidates {
            self.truth.absorb();
            let logs = self.logs_of(&cluster).await;
            let machine = &self.machines[number];
            let Some(process) = &machine.process else { continue };
            let survives =
                process.server().is_some_and(|server| server.view().cluster.as_ref() == Some(&cluster));
            if founder.is_none() && (!survives || running::is_paused(process.number)) {
                continue;
            }
            running::resume(process.number);
            machine.disk.set(|faults| *faults = Faults::default());
            self.truth.will_keep(&cluster, logs);
            let ordered = running::within(process.number, process.consensus.recover(cluster.clone()));
            match tokio::time::timeout(ANSWER_MAX, ordered).await {
                Ok(Ok(successor)) => {
                    self.ruin = None;
                    return Some(format!("{} founded {successor}", machine.name));
                }
                Ok(Err(OrderError::Refused(why))) if why != ENDS => {
                    told.push(format!("{}: {why}", machine.name));
                }
                _ => {
                    let name = machine.name.clone();
                    self.ruin = Some(Ruin { cluster, founder: Some(number) });
                    return Some(format!("{name} gave no answer"));
                }
            }
        }
        Some(told.join("; "))
    }

    /// Term and index at which the logs end of those servers of a cluster that can be asked.
    async fn logs_of(&self, cluster: &ClusterId) -> Vec<(u64, u64)> {
        let mut logs = Vec::new();
        for process in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            let Some(server) = process.server() else { continue };
            if server.view().cluster.as_ref() != Some(cluster) || running::is_paused(process.number) {
                continue;
            }
            let status = running::within(process.number, server.status()).await;
            logs.push((status.last_log_term.unwrap_or(0), status.last_log_index));
        }
        logs
    }
}
