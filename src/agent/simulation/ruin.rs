//! A quorum is lost for good, and an operator lets one survivor found a successor.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::World;
use super::machine::{End, Machine, Process};
use crate::agent::handle::{Consensus as _, OrderError};
use crate::agent::role::BROKE_OFF;
use crate::host::disk::simulated::Faults;
use crate::model::names::ClusterId;
use crate::simulation::network::Weather;
use crate::simulation::running;

/// How long an operator waits for the answer to an order.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long an operator waits until the survivors see each other, and how long for those that say "try again".
const PATIENCE_MAX: Duration = Duration::from_secs(15);
/// How often an operator looks, or tries again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The answer of an agent that ends: whether it did anything is not known.
const ENDS: &str = "the agent stops";
/// What an agent says that cannot be sure yet.
const AGAIN: &str = "try again";

/// What was lost.
pub(super) struct Ruin {
    cluster: ClusterId,
    /// The machines that were told to found the successor, if one of them gave no answer: only they may be told again,
    /// each of them, until each has said no. Who could not be asked by them knows of nothing.
    told: Option<Vec<usize>>,
}

/// What goes wrong while an operator recovers, by the bits of a number.
#[derive(Clone, Copy)]
struct Trouble(u8);

impl Trouble {
    /// All survivors are told at the same time; else one after the other, whatever they answer.
    fn together(self) -> bool {
        self.0 & 1 != 0
    }

    /// How many bytes the disk of the first still takes.
    fn room(self) -> Option<u64> {
        (self.0 & 2 != 0).then_some(u64::from(self.0 >> 3) * 64)
    }

    /// When the first loses power.
    fn end(self) -> Option<Duration> {
        (self.0 & 4 != 0).then_some(Duration::from_millis(8) * u32::from(self.0 >> 3))
    }
}

/// What a machine that was told to recover answers: the successor, or why not; `None`: nothing.
type Told = Option<Result<ClusterId, String>>;

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
        let victims: Vec<usize> = voters.take(leader.voters.len() / 2 + 1).collect();
        // Who has nothing of the cluster but its birth can found no successor: there is nothing to recover then.
        let knows = |(number, machine): (usize, &Machine)| {
            let server = machine.process.as_ref().and_then(Process::server);
            !victims.contains(&number)
                && server.is_some_and(|server| server.view().cluster.as_ref() == Some(&cluster))
        };
        if !self.machines.iter().enumerate().any(knows) {
            return Some("nobody would be left".to_owned());
        }
        for (bit, number) in victims.into_iter().enumerate() {
            self.end(number, End::PowerLost);
            if wiped & (1 << bit) != 0 {
                self.wipe(number);
            }
        }
        self.ruin = Some(Ruin { cluster, told: None });
        None
    }

    /// An operator makes the survivors reach each other, and orders one after the other to recover until one does; or all
    /// of them, `how` says with what trouble.
    pub(super) async fn recover(&mut self, first: usize, how: Option<u8>) -> Option<String> {
        let (cluster, told) = match self.survivors(first).await {
            Ok(survivors) => survivors,
            Err(why) => return Some(why),
        };
        let trouble = Trouble(how.unwrap_or_default());
        let groups: Vec<&[usize]> =
            if trouble.together() { vec![&told[..]] } else { told.chunks(1).collect() };
        let begin = Instant::now();
        loop {
            let (mut answers, mut refused) = (Vec::new(), true);
            for group in &groups {
                if how.is_some() || refused {
                    answers.extend(self.order_recovery(&cluster, group, trouble).await);
                }
                refused = answers.iter().all(|(_, answer)| matches!(answer, Some(Err(_))));
            }
            let text = self.conclude(&cluster, &told, &answers);
            if !refused || !text.contains(AGAIN) || begin.elapsed() > PATIENCE_MAX {
                return Some(text);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// The cluster that is to be recovered, and who may be told so: all who are left, as soon as they see each other.
    async fn survivors(&mut self, first: usize) -> Result<(ClusterId, Vec<usize>), String> {
        let Some(Ruin { cluster, told }) = &self.ruin else { return Err("not now".to_owned()) };
        let (cluster, told) = (cluster.clone(), told.clone());
        self.net.heal();
        self.net.weather(Weather::default());
        if let Some(told) = told {
            return Ok((cluster, told));
        }
        let count = self.machines.len();
        let begin = Instant::now();
        loop {
            let survives = |number: &usize| {
                self.machines[*number].process.as_ref().is_some_and(|process| {
                    let server = process.server();
                    let ours = server.is_some_and(|server| server.view().cluster.as_ref() == Some(&cluster));
                    ours && !running::is_paused(process.number)
                })
            };
            let all = (first..first + count).map(|number| number % count);
            let survivors: Vec<usize> = all.filter(survives).collect();
            let seen = |from: &usize, to: &usize| {
                from == to || self.machines[*from].sees(self.machines[*to].gossip_address())
            };
            if survivors.iter().all(|from| survivors.iter().all(|to| seen(from, to))) {
                return Ok((cluster, survivors));
            }
            if begin.elapsed() > PATIENCE_MAX {
                return Err("the survivors do not see each other".to_owned());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Orders these at the same time to recover; what goes wrong meanwhile happens to the first.
    async fn order_recovery(
        &mut self,
        cluster: &ClusterId,
        numbers: &[usize],
        trouble: Trouble,
    ) -> Vec<(usize, Told)> {
        self.truth.absorb();
        let logs = self.logs_of(cluster).await;
        self.truth.will_keep(cluster, logs);
        let mut orders = Vec::new();
        for number in numbers {
            let machine = &self.machines[*number];
            let Some(process) = &machine.process else { continue };
            running::resume(process.number);
            machine.disk.set(|faults| *faults = Faults::default());
            let (consensus, gone, cluster) =
                (process.consensus.clone(), process.gone.clone(), cluster.clone());
            let ordered =
                running::within(process.number, async move { consensus.recover(cluster, false).await });
            let number = *number;
            orders.push(async move {
                let told = tokio::select! {
                    biased;
                    () = gone.cancelled() => None,
                    answer = tokio::time::timeout(ANSWER_MAX, ordered) => match answer {
                        Ok(Ok(successor)) => Some(Ok(successor)),
                        Ok(Err(OrderError::Refused(why))) if why != ENDS && !why.starts_with(BROKE_OFF) => {
                            Some(Err(why))
                        }
                        _ => None,
                    },
                };
                (number, told)
            });
        }
        let first = numbers.first().filter(|number| self.machines[**number].process.is_some());
        if let (Some(first), Some(room)) = (first, trouble.room()) {
            self.had_bad_disk = true;
            let disk = &self.machines[*first].disk;
            let capacity = disk.used() + room;
            disk.set(|faults| faults.capacity = Some(capacity));
        }
        let orders = futures_util::future::join_all(orders);
        let (Some(first), Some(end)) = (first, trouble.end()) else { return orders.await };
        tokio::pin!(orders);
        let early = tokio::select! {
            biased;
            told = &mut orders => Some(told),
            () = tokio::time::sleep(end) => None,
        };
        if let Some(told) = early {
            return told;
        }
        self.end(*first, End::PowerLost);
        orders.await
    }

    /// What came of the orders: at most one successor. Nobody but those who were told may be told again while one of them
    /// may have founded it; when each has said no, all may be told again who are left, perhaps better ones that are back.
    fn conclude(&mut self, cluster: &ClusterId, told: &[usize], answers: &[(usize, Told)]) -> String {
        let successors: BTreeSet<&ClusterId> =
            answers.iter().filter_map(|(_, answer)| answer.as_ref()?.as_ref().ok()).collect();
        assert!(successors.len() <= 1, "survivors founded {successors:?}");
        let texts = answers.iter().map(|(number, answer)| {
            let name = &self.machines[*number].name;
            match answer {
                None => format!("{name} gave no answer"),
                Some(Ok(successor)) => format!("{name} founded {successor}"),
                Some(Err(why)) => format!("{name}: {why}"),
            }
        });
        let text = texts.collect::<Vec<_>>().join("; ");
        if !successors.is_empty() {
            self.ruin = None;
        } else if answers.iter().any(|(_, answer)| answer.is_none()) {
            self.ruin = Some(Ruin { cluster: cluster.clone(), told: Some(told.to_vec()) });
        } else if told.iter().all(|number| answers.iter().any(|(answered, _)| answered == number)) {
            self.ruin = Some(Ruin { cluster: cluster.clone(), told: None });
        }
        text
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
