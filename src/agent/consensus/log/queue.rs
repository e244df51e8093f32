//! What waits for the disk, and what the disk says about itself: where raft and the writer meet.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot, watch};

use super::room::Space;
use crate::agent::consensus::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes after which a group commit takes no further jobs: 1 MiB is written in about a millisecond, and no
/// waiting writer should wait much longer than one such write.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// One thing to write, with whom to tell.
pub(super) enum Job {
    Append(Vec<Entry>, IOFlushed<TypeConfig>, OwnedSemaphorePermit),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
    Truncate(Option<LogId>),
    Purge(LogId),
}

impl Job {
    fn weight(&self) -> usize {
        let Self::Append(entries, ..) = self else { return 0 };
        entries.iter().map(super::weight).sum()
    }

    /// Tells whoever waits for it.
    pub(super) fn answer(self, result: io::Result<()>) {
        match self {
            Self::Append(_, callback, _permit) => callback.io_completed(result),
            Self::Vote(_, done) => {
                // The asker is gone only when the process stops.
                drop(done.send(result));
            }
            Self::Truncate(_) | Self::Purge(_) => {}
        }
    }
}

/// The error that stopped the log; cloneable, unlike [`io::Error`].
#[derive(Clone)]
pub(super) struct Failure(pub(super) io::ErrorKind, pub(super) Arc<str>);

impl Failure {
    pub(super) fn error(&self) -> io::Error {
        io::Error::new(self.0, &*self.1)
    }
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// The newest mark not yet written; shares the next write.
    committed: Option<LogId>,
    stop: bool,
    failed: Option<Failure>,
}

/// Why the writer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// There is something to do.
    Work,
    /// There was nothing for as long as it wanted to wait.
    Pause,
}

/// What [`Queue::take`] found beside the jobs.
pub(super) struct Taken {
    pub(super) committed: Option<LogId>,
    /// Nothing more will come.
    pub(super) stop: bool,
}

/// Jobs in order, from raft to the writer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Wakes a writer that is a thread.
    changed: Condvar,
    /// Wakes a writer that is a task.
    woken: Notify,
    space: watch::Sender<Space>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            woken: Notify::new(),
            space: watch::channel(Space::default()).0,
        }
    }
}

impl Queue {
    /// Queues a job, in order.
    ///
    /// # Errors
    /// The failure that stopped the log, if any.
    pub(super) fn put(&self, job: Job) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if let Some(failure) = &waiting.failed {
            return Err(failure.error());
        }
        if waiting.stop {
            return Err(io::Error::other("the log is closed"));
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.ring();
        Ok(())
    }

    /// Notes what is committed; written with the next job, or soon.
    pub(super) fn put_committed(&self, committed: LogId) {
        self.waiting.lock().committed = Some(committed);
        self.ring();
    }

    /// Nothing more will come.
    pub(super) fn stop(&self) {
        self.waiting.lock().stop = true;
        self.ring();
    }

    fn ring(&self) {
        self.changed.notify_one();
        self.woken.notify_one();
    }

    /// Room on the disk, as it changes.
    pub(super) fn space(&self) -> watch::Receiver<Space> {
        self.space.subscribe()
    }

    /// Says how much room there is; tells whether that is news.
    pub(super) fn set_space(&self, space: Space) -> bool {
        self.space.send_if_modified(|present| {
            let changed = *present != space;
            if changed {
                *present = space;
            }
            changed
        })
    }

    /// Takes a group of jobs.
    pub(super) fn take(&self, group: &mut Vec<Job>) -> Taken {
        let mut waiting = self.waiting.lock();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(job) = waiting.jobs.pop_front()
        {
            bytes += job.weight();
            group.push(job);
        }
        Taken { committed: waiting.committed.take(), stop: waiting.stop && waiting.jobs.is_empty() }
    }

    /// Whether the writer should end; jobs may still wait.
    pub(super) fn stopping(&self) -> bool {
        self.waiting.lock().stop
    }

    /// Takes no jobs any more, and gives those that wait.
    pub(super) fn fail(&self, failure: &Failure) -> VecDeque<Job> {
        let mut waiting = self.waiting.lock();
        waiting.failed = Some(failure.clone());
        std::mem::take(&mut waiting.jobs)
    }

    fn wakes(waiting: &Waiting, patience: Option<Duration>) -> bool {
        // Who has patience knows of the mark already.
        !waiting.jobs.is_empty() || waiting.stop || (patience.is_none() && waiting.committed.is_some())
    }

    /// Waits for work, as a thread.
    pub(super) fn wait(&self, patience: Option<Duration>) -> Wake {
        let deadline = patience.map(|patience| std::time::Instant::now() + patience);
        let mut waiting = self.waiting.lock();
        while !Self::wakes(&waiting, patience) {
            match deadline {
                Some(deadline) if self.changed.wait_until(&mut waiting, deadline).timed_out() => {
                    return Wake::Pause;
                }
                Some(_) => {}
                None => self.changed.wait(&mut waiting),
            }
        }
        Wake::Work
    }

    /// Waits until it is time to try again, or to stop, as a thread.
    pub(super) fn hold(&self, patience: Duration) {
        let deadline = std::time::Instant::now() + patience;
        let mut waiting = self.waiting.lock();
        while !waiting.stop && !self.changed.wait_until(&mut waiting, deadline).timed_out() {}
    }

    /// As [`Queue::hold`], as a task.
    #[cfg(test)]
    pub(super) async fn hold_as_task(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        while !self.stopping() && tokio::time::timeout_at(deadline, self.woken.notified()).await.is_ok() {}
    }

    /// As [`Queue::wait`], as a task.
    #[cfg(test)]
    pub(super) async fn wait_as_task(&self, patience: Option<Duration>) -> Wake {
        let deadline = patience.map(|patience| tokio::time::Instant::now() + patience);
        while !Self::wakes(&self.waiting.lock(), patience) {
            match deadline {
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, self.woken.notified()).await.is_err() {
                        return Wake::Pause;
                    }
                }
                None => self.woken.notified().await,
            }
        }
        Wake::Work
    }
}
