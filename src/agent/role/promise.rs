//! Promises not to found a successor while another server does, so that survivors that reach each other never found two.
//!
//! Whoever is to found one asks all others first. A promise is kept on disk. It binds until the one to whom it was made
//! gives way itself, by promising the same to another; until a majority of the cluster has written something again; or until
//! an operator insists.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::agent::consensus::{LogEnd, LogState, Server};
use crate::agent::rpc::messages::{PromiseAnswer, PromiseQuestion};
use crate::agent::rpc::{Answer, Handler, Hello, RemoteError, Request, decode, encode};
use crate::host::disk::Disk;
use crate::host::files::{MODE_PRIVATE, read_if_there_on, write_atomic_on};
use crate::host::outside::blocking;
use crate::host::versioned;
use crate::model::names::ClusterId;

/// File with the last promise.
const FILE: &str = "succession.json";

/// What was promised last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The cluster whose quorum was lost.
    cluster: ClusterId,
    /// The node name of the one that may found its successor.
    founder: String,
    /// Where our log ended. What was committed behind that came of a leader with a majority; what was only written may
    /// come of one that has lost it.
    term: Option<u64>,
    index: u64,
}

/// The promises of this machine.
pub(in crate::agent) struct Promises {
    /// Our node name.
    name: String,
    disk: Arc<dyn Disk>,
    data: Option<PathBuf>,
    attempt: Mutex<Option<Attempt>>,
    /// Held while a question is answered, for as long as the disk takes.
    answering: Mutex<()>,
}

/// This machine itself is about to found a successor.
#[derive(Debug, Default)]
struct Attempt {
    /// The one that goes first.
    yielded: Option<String>,
    /// It is too late to yield.
    settled: bool,
}

/// Our own attempt, as long as it lives.
pub(super) struct OwnAttempt<'a>(&'a Promises);

impl Drop for OwnAttempt<'_> {
    fn drop(&mut self) {
        *self.0.attempt.lock() = None;
    }
}

impl OwnAttempt<'_> {
    /// From now on nobody else may found one. Fails with the name of the one that was given way to meanwhile.
    pub(super) fn settle(&self) -> Result<(), String> {
        let mut attempt = self.0.attempt.lock();
        let attempt = attempt.get_or_insert_default();
        if let Some(first) = attempt.yielded.clone() {
            return Err(first);
        }
        attempt.settled = true;
        Ok(())
    }
}

impl Promises {
    pub(in crate::agent) fn new(name: String, disk: Arc<dyn Disk>, data: Option<PathBuf>) -> Self {
        Self { name, disk, data, attempt: Mutex::default(), answering: Mutex::default() }
    }

    /// Begins an attempt of our own. There is one at a time.
    pub(super) fn begin(&self) -> OwnAttempt<'_> {
        *self.attempt.lock() = Some(Attempt::default());
        OwnAttempt(self)
    }

    /// Whom we promised to let found the successor of `cluster`, if that still binds. `committed`: what our log is known to
    /// share with a majority.
    pub(super) fn made(&self, cluster: &ClusterId, committed: LogEnd) -> anyhow::Result<Option<String>> {
        let record = self.load()?.filter(|record| record.cluster == *cluster && record.founder != self.name);
        Ok(record.filter(|record| committed <= (record.term, record.index)).map(|record| record.founder))
    }

    /// Answers another server. Waits for the disk.
    fn answer(
        &self,
        asker: &str,
        question: &PromiseQuestion,
        log: LogState,
    ) -> anyhow::Result<PromiseAnswer> {
        let _one_at_a_time = self.answering.lock();
        if self.goes_before(asker) {
            return Ok(PromiseAnswer::Recovering);
        }
        let made = self.made(&question.cluster, log.committed)?;
        if let Some(founder) = made.filter(|founder| founder != asker && !question.released) {
            return Ok(PromiseAnswer::Taken { founder });
        }
        // Before it is on disk: from now on an attempt of ours comes to nothing.
        if !self.give_way(asker) {
            return Ok(PromiseAnswer::Recovering);
        }
        let (term, index) = log.end;
        self.save(&Record { cluster: question.cluster.clone(), founder: asker.to_owned(), term, index })?;
        Ok(PromiseAnswer::Promised)
    }

    /// Whether an attempt of ours goes on. Of two that try at once it is the one whose name comes first; otherwise both
    /// would give way, again and again.
    fn goes_before(&self, asker: &str) -> bool {
        self.attempt.lock().as_ref().is_some_and(|own| own.settled || self.name.as_str() <= asker)
    }

    /// Ends an attempt of ours, if there is one; false: it is too late for that.
    fn give_way(&self, asker: &str) -> bool {
        let mut attempt = self.attempt.lock();
        let Some(own) = &mut *attempt else { return true };
        if own.settled || self.name.as_str() <= asker {
            return false;
        }
        own.yielded = Some(asker.to_owned());
        true
    }

    fn load(&self) -> anyhow::Result<Option<Record>> {
        let Some(path) = self.data.as_ref().map(|data| data.join(FILE)) else { return Ok(None) };
        let Some(bytes) = read_if_there_on(&*self.disk, &path)? else { return Ok(None) };
        let advice = "remove it if you know that no other server has recovered the cluster, or is to";
        versioned::decode(&bytes).map(Some).map_err(|error| error.about(&path, advice))
    }

    fn save(&self, record: &Record) -> anyhow::Result<()> {
        // Who keeps nothing on disk never founds a successor.
        let Some(path) = self.data.as_ref().map(|data| data.join(FILE)) else { return Ok(()) };
        // A full disk must not keep one who asks again from the answer.
        if self.load()?.as_ref() == Some(record) {
            return Ok(());
        }
        write_atomic_on(&*self.disk, &path, &versioned::encode(record)?, MODE_PRIVATE)
    }
}

/// Answers for a server.
pub(super) struct PromiseDesk {
    pub(super) promises: Arc<Promises>,
    pub(super) server: Server,
}

impl PromiseDesk {
    async fn answer(&self, peer: &Hello, request: &Request) -> Result<bytes::Bytes, RemoteError> {
        let question: PromiseQuestion = decode(&request.body)?;
        let leader = self.server.leader_changes().borrow().as_ref().map(|leader| leader.id);
        // A leader that has lost its quorum goes on sending signs of life; it may be the one that asks.
        if self.server.is_in_touch() && leader != Some(peer.node) {
            return encode(&PromiseAnswer::InTouch);
        }
        let log = self.server.log_state();
        let (promises, asker) = (self.promises.clone(), peer.name.clone());
        let answer = blocking(move || promises.answer(&asker, &question, log)).await;
        encode(&answer.flatten().map_err(|error| RemoteError::Failed(crate::hint::causes(&error)))?)
    }
}

#[async_trait]
impl Handler for PromiseDesk {
    async fn call(&self, peer: &Hello, request: Request) -> Answer {
        Answer::One(self.answer(peer, &request).await)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::Promises;
    use crate::agent::consensus::{LogEnd, LogState};
    use crate::agent::rpc::messages::{PromiseAnswer, PromiseQuestion};
    use crate::host::disk::Disk as _;
    use crate::host::disk::simulated::SimulatedDisk;
    use crate::model::names::ClusterId;

    const END: LogEnd = (Some(3), 40);
    const LOG: LogState = LogState { end: END, committed: END };

    fn machine(name: &str, disk: &SimulatedDisk) -> Promises {
        disk.create_folder(Path::new("/data")).unwrap();
        Promises::new(name.to_owned(), Arc::new(disk.clone()), Some(Path::new("/data").to_owned()))
    }

    fn question(released: bool) -> PromiseQuestion {
        PromiseQuestion { cluster: ClusterId::from_random(1), released }
    }

    fn taken(founder: &str) -> PromiseAnswer {
        PromiseAnswer::Taken { founder: founder.to_owned() }
    }

    #[test]
    fn a_promise_binds_after_a_loss_of_power_until_its_founder_gives_way_or_a_majority_goes_on() {
        let disk = SimulatedDisk::new(1);
        let ask =
            |asker: &str, released, log| machine("m", &disk).answer(asker, &question(released), log).unwrap();
        assert_eq!(ask("b", false, LOG), PromiseAnswer::Promised);
        disk.lose_power(|_| false);
        assert_eq!(ask("a", false, LOG), taken("b"));
        assert_eq!(ask("b", false, LOG), PromiseAnswer::Promised, "its order is repeated");
        assert_eq!(ask("a", true, LOG), PromiseAnswer::Promised);
        assert_eq!(ask("b", false, LOG), taken("a"));
        let longer = |committed| LogState { end: (Some(4), 41), committed };
        assert_eq!(ask("b", false, longer(END)), taken("a"), "a leader without a majority writes on");
        assert_eq!(
            ask("b", false, longer((Some(4), 41))),
            PromiseAnswer::Promised,
            "the cluster has gone on"
        );
        let own = machine("m", &disk).made(&ClusterId::from_random(1), (Some(4), 41)).unwrap();
        assert_eq!(own.as_deref(), Some("b"), "it binds who made it");
        assert_eq!(
            machine("m", &disk).made(&ClusterId::from_random(2), END).unwrap(),
            None,
            "this cluster only"
        );
    }

    #[test]
    fn of_two_that_try_at_once_the_one_whose_name_comes_first_goes_on() {
        let (first, second) = (SimulatedDisk::new(1), SimulatedDisk::new(2));
        let (first, second) = (machine("a", &first), machine("b", &second));
        let (one, other) = (first.begin(), second.begin());
        assert_eq!(first.answer("b", &question(false), LOG).unwrap(), PromiseAnswer::Recovering);
        assert_eq!(second.answer("a", &question(false), LOG).unwrap(), PromiseAnswer::Promised);
        assert_eq!(other.settle(), Err("a".to_owned()));
        assert_eq!(one.settle(), Ok(()));
    }

    #[test]
    fn who_is_about_to_found_a_successor_promises_nothing_until_that_came_to_nothing() {
        let disk = SimulatedDisk::new(1);
        let machine = machine("b", &disk);
        let own = machine.begin();
        own.settle().unwrap();
        assert_eq!(machine.answer("a", &question(true), LOG).unwrap(), PromiseAnswer::Recovering);
        drop(own);
        assert_eq!(machine.answer("a", &question(false), LOG).unwrap(), PromiseAnswer::Promised);
    }

    #[test]
    fn a_promise_that_cannot_be_kept_is_not_made() {
        let disk = SimulatedDisk::new(1);
        disk.set(|faults| faults.capacity = Some(0));
        let machine = machine("b", &disk);
        machine.answer("a", &question(false), LOG).unwrap_err();
        assert_eq!(machine.made(&ClusterId::from_random(1), END).unwrap(), None);
    }
}
