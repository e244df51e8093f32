//! The simulation that runs on this thread, if one does: its chance, and what was seen of it.
//!
//! Production code asks it through `host::outside` and the runtime of raft; nothing is handed around for it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::chance::Chance;
use crate::model::catalog::Catalog;
use crate::model::names::ClusterId;

/// An entry of the log as a machine has applied it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Which process did.
    pub(crate) process: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// The cluster that the state machine is of; none before its birth.
    pub(crate) cluster: Option<ClusterId>,
    /// Which state machine of that process: one that becomes a server again has another.
    pub(crate) machine: u64,
    /// The command; none for an entry of raft's own.
    pub(crate) command: Option<Bytes>,
    /// The voters of each half of a changed configuration of raft.
    pub(crate) voters: Option<Vec<BTreeSet<u64>>>,
}

/// The first state of a successor, made ready after a quorum was lost for good.
#[derive(Debug, Clone)]
pub(crate) struct Founded {
    /// The raft id of its first server.
    pub(crate) founder: u64,
    pub(crate) catalog: Catalog,
    /// The last entry of the founder's log.
    pub(crate) last: u64,
    /// Up to where the founder had a snapshot of what was committed.
    pub(crate) from: u64,
    /// Its entries after that, committed or not: index, term, command.
    pub(crate) tail: Vec<(u64, u64, Option<Bytes>)>,
}

/// What happened to what machines agree on.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Applied(Applied),
    Founded(Box<Founded>),
}

/// 2023-11-14, when all histories begin, in seconds since 1970.
const WALL_BEGIN: u64 = 1_700_000_000;

struct Running {
    chance: Chance,
    /// Of all that happened.
    hash: DefaultHasher,
    /// What was applied and founded since somebody looked.
    seen: Vec<Seen>,
    /// Tasks that raft started, by the process that it runs in.
    tasks: BTreeMap<u64, Vec<AbortHandle>>,
    begun: Instant,
    /// How many seconds the clock of a process is ahead, or behind.
    wall_errors: BTreeMap<u64, i64>,
    machines: u64,
    /// Processes that are stopped as by SIGSTOP, with the tasks that would have run.
    paused: BTreeMap<u64, Vec<Waker>>,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    /// The simulated process whose task is polled on this thread.
    static PROCESS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Ends the simulation when it goes out of scope.
pub(crate) struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.set(None);
    }
}

/// Begins a simulation on this thread.
pub(crate) fn begin(seed: u64) -> Guard {
    let running = Running {
        chance: Chance::new(seed),
        hash: DefaultHasher::new(),
        seen: Vec::new(),
        tasks: BTreeMap::new(),
        begun: Instant::now(),
        wall_errors: BTreeMap::new(),
        machines: 0,
        paused: BTreeMap::new(),
    };
    assert!(RUNNING.replace(Some(running)).is_none(), "one simulation on a thread");
    Guard
}

fn with<T>(work: impl FnOnce(&mut Running) -> T) -> Option<T> {
    RUNNING.with_borrow_mut(|running| running.as_mut().map(work))
}

pub(crate) fn is_on() -> bool {
    with(|_| ()).is_some()
}

/// Random bits of the simulation.
pub(crate) fn bits() -> Option<u128> {
    with(|running| running.chance.bits())
}

/// Notes that something happened.
pub(crate) fn note(what: impl Hash) {
    with(|running| what.hash(&mut running.hash));
}

/// Notes an applied entry.
pub(crate) fn applied(
    machine: u64,
    cluster: Option<ClusterId>,
    (index, term): (u64, u64),
    command: Option<Bytes>,
    voters: Option<Vec<BTreeSet<u64>>>,
) {
    let Some(process) = process() else { return };
    with(|running| {
        (process, index, term).hash(&mut running.hash);
        let applied = Applied { process, index, term, cluster, machine, command, voters };
        running.seen.push(Seen::Applied(applied));
    });
}

/// Notes that a successor was made ready.
pub(crate) fn founded(founded: Founded) {
    with(|running| running.seen.push(Seen::Founded(Box::new(founded))));
}

/// A number that no other state machine has.
pub(crate) fn new_machine() -> u64 {
    with(|running| {
        running.machines += 1;
        running.machines
    })
    .unwrap_or_default()
}

/// The time of day where this is asked, if that is in a simulation.
pub(crate) fn wall_seconds() -> Option<u64> {
    let process = process()?;
    with(|running| {
        let error = running.wall_errors.get(&process).copied().unwrap_or_default();
        (WALL_BEGIN + running.begun.elapsed().as_secs()).saturating_add_signed(error)
    })
}

/// How long the history goes on, if there is one.
pub(super) fn elapsed() -> Option<Duration> {
    with(|running| running.begun.elapsed())
}

/// What was applied and founded since the last call, in order.
pub(crate) fn take_seen() -> Vec<Seen> {
    with(|running| std::mem::take(&mut running.seen)).unwrap_or_default()
}

/// A number that is the same if and only if the same has happened.
pub(crate) fn hash() -> u64 {
    with(|running| running.hash.finish()).unwrap_or_default()
}

/// The process that runs now.
pub(crate) fn process() -> Option<u64> {
    PROCESS.get()
}

/// A future that runs as a part of a process, and whatever raft starts in it.
pub(crate) fn within<F: Future>(process: u64, future: F) -> Within<F> {
    Within { process, future: Box::pin(future) }
}

/// See [`within`].
pub(crate) struct Within<F> {
    process: u64,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if waits(self.process, cx.waker()) {
            return Poll::Pending;
        }
        let before = PROCESS.replace(Some(self.process));
        let polled = self.future.as_mut().poll(cx);
        PROCESS.set(before);
        polled
    }
}

/// Whether a task of this process has to wait, because the process is paused.
fn waits(process: u64, waker: &Waker) -> bool {
    let held = with(|running| {
        let held = running.paused.get_mut(&process)?;
        held.push(waker.clone());
        Some(())
    });
    held.flatten().is_some()
}

/// Stops a process where it is, as SIGSTOP does: the clock goes on, and what comes for it waits.
pub(crate) fn pause(process: u64) {
    with(|running| {
        running.paused.entry(process).or_default();
    });
}

/// Lets a paused process go on.
pub(crate) fn resume(process: u64) {
    let waiting = with(|running| running.paused.remove(&process)).flatten().unwrap_or_default();
    waiting.into_iter().for_each(Waker::wake);
}

/// Whether a process is paused.
pub(crate) fn is_paused(process: u64) -> bool {
    with(|running| running.paused.contains_key(&process)).unwrap_or_default()
}

/// Sets the clock of a process wrong by so many seconds.
pub(crate) fn set_wall_error(process: u64, seconds: i64) {
    with(|running| running.wall_errors.insert(process, seconds));
}

/// Starts a task of the process that runs now, which ends with it.
pub(crate) fn spawn_within(task: impl Future<Output = ()> + Send + 'static) {
    let process = process().expect("a process");
    own(process, spawn(within(process, task)).abort_handle());
}

/// The task ends with the process.
pub(crate) fn own(process: u64, task: AbortHandle) {
    with(|running| running.tasks.entry(process).or_default().push(task));
}

/// Ends what raft started in a process.
pub(crate) fn kill(process: u64) {
    let tasks = with(|running| running.tasks.remove(&process)).flatten().unwrap_or_default();
    tasks.iter().for_each(AbortHandle::abort);
    resume(process);
}

/// Starts a task of the world around the machines.
#[allow(clippy::disallowed_methods, reason = "it ends with the runtime of its history")]
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(task)
}
