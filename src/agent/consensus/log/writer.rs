//! What writes the log: many jobs, one write, one fdatasync, then the answers.
//!
//! After the first failure nothing is written any more and every job is answered with that failure: what is on disk is
//! then unknown, and nothing may be acknowledged. A full disk is no failure: nothing is acknowledged, nothing is
//! refused, everything waits in its order until there is room. The order matters: raft takes the vote that is answered
//! for proof that all entries before it are on disk.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::files::Files;
use super::queue::{Failure, Job, Queue, Wake};
use super::room::{Room, Space};
use crate::agent::consensus::types::LogId;
use crate::host::disk::is_full;

/// How long a mark of what is committed may wait for a write that it can share, and how long the last frame may be
/// without a seal.
const COMMITTED_WAIT: Duration = Duration::from_millis(100);
/// Time between looks at a disk that was full: how soon the server is whole again after somebody made room.
const ROOM_PAUSE: Duration = Duration::from_secs(1);
/// The same where the disk says that there is room, and there is not (a quota): each look writes a segment of zeros.
const VAIN_PAUSE: Duration = Duration::from_secs(10);

/// Raft's end of the writer. Dropping it writes what waits and ends the writer.
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Said when the task that writes, if it is one, has ended.
    #[cfg(test)]
    pumped: Option<tokio_util::sync::CancellationToken>,
}

impl Writer {
    /// Starts a thread that writes.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(files: Files) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut core = Core::new(Arc::clone(&queue), files);
        let run = move || {
            let mut wake = Wake::Work;
            loop {
                wake = match core.round(wake) {
                    Then::End => return,
                    Then::Again => Wake::Work,
                    Then::Wait(patience) => core.queue.wait(patience),
                    Then::Hold => {
                        core.queue.hold(ROOM_PAUSE);
                        Wake::Pause
                    }
                };
            }
        };
        let thread = std::thread::Builder::new().name("log writer".to_owned()).spawn(run)?;
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
            #[cfg(test)]
            pumped: None,
        })
    }

    /// A writer that somebody else runs.
    #[cfg(test)]
    pub(super) fn pumped(files: Files) -> (Self, Pump) {
        let queue = Arc::new(Queue::default());
        let ended = tokio_util::sync::CancellationToken::new();
        let pump = Pump(Core::new(Arc::clone(&queue), files), ended.clone());
        (Self { queue, thread: Mutex::default(), pumped: Some(ended) }, pump)
    }

    /// Waits for the end of the task that writes.
    #[cfg(test)]
    pub(super) async fn ended(&self) {
        if let Some(ended) = &self.pumped {
            ended.cancelled().await;
        }
    }

    /// Queues a job, in order.
    ///
    /// # Errors
    /// The failure that stopped the log, if any.
    pub(super) fn put(&self, job: Job) -> io::Result<()> {
        self.queue.put(job)
    }

    /// Notes what is committed; written with the next job, or soon.
    pub(super) fn put_committed(&self, committed: LogId) {
        self.queue.put_committed(committed);
    }

    /// How much room there is.
    pub(super) fn space(&self) -> watch::Receiver<Space> {
        self.queue.space()
    }

    /// Takes no further jobs; what waits for room fails, the rest is written.
    pub(super) fn stop(&self) {
        self.queue.stop();
    }

    /// Writes what waits and ends the writer.
    pub(super) fn close(&self) {
        self.queue.stop();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writer as a task of a simulation.
#[cfg(test)]
pub(in crate::agent::consensus) struct Pump(Core, tokio_util::sync::CancellationToken);

#[cfg(test)]
impl Pump {
    /// One round: whether anything more is to be expected now. `idle`: nothing came for a while.
    pub(in crate::agent::consensus) fn step(&mut self, idle: bool) -> bool {
        self.0.round(if idle { Wake::Pause } else { Wake::Work }) == Then::Again
    }

    /// Writes until the log is closed; each write takes as long as `delay` says.
    pub(in crate::agent::consensus) async fn run(mut self, mut delay: impl FnMut() -> Duration) {
        let mut wake = Wake::Work;
        loop {
            wake = match self.0.round(wake) {
                Then::End => return self.1.cancel(),
                Then::Again => Wake::Work,
                Then::Wait(patience) => {
                    let wake = self.0.queue.wait_as_task(patience).await;
                    tokio::time::sleep(delay()).await;
                    wake
                }
                Then::Hold => {
                    self.0.queue.hold_as_task(ROOM_PAUSE).await;
                    Wake::Pause
                }
            };
        }
    }
}

/// What the writer does after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    /// There may be more to do.
    Again,
    /// Nothing to do, at least so long.
    Wait(Option<Duration>),
    /// The disk is full, and something waits for it.
    Hold,
}

/// The files with the group that is being written.
struct Core {
    queue: Arc<Queue>,
    files: Files,
    group: Vec<Job>,
    committed: Option<LogId>,
    /// When the disk, being full, was last looked at.
    looked: Option<Instant>,
}

impl Core {
    fn new(queue: Arc<Queue>, files: Files) -> Self {
        Self { queue, files, group: Vec::new(), committed: None, looked: None }
    }

    /// Takes what waits, makes it durable, and answers.
    fn round(&mut self, wake: Wake) -> Then {
        // A group that waits for room is tried again as it is.
        let mut stop = false;
        if self.group.is_empty() {
            if let Err(error) = self.tend() {
                return self.fail(&error);
            }
            let taken = self.queue.take(&mut self.group);
            self.committed = taken.committed.or(self.committed);
            stop = taken.stop;
        }
        let idle = wake == Wake::Pause || stop;
        let marks = self.committed.is_some() || self.files.unsealed();
        if self.group.is_empty() && !(idle && marks) {
            return match (stop, marks, self.files.wants_care()) {
                (true, ..) => Then::End,
                (_, true, _) => Then::Wait(Some(COMMITTED_WAIT)),
                (_, _, true) => Then::Wait(Some(ROOM_PAUSE)),
                _ => Then::Wait(None),
            };
        }
        match self.files.commit(&self.group, self.committed) {
            Ok(()) => {
                self.committed = None;
                self.group.drain(..).for_each(|job| job.answer(Ok(())));
                Then::Again
            }
            Err(error) if is_full(&error) => self.wait_for_room(&error),
            Err(error) => self.fail(&error),
        }
    }

    /// Looks after the segments, and says how much room there is.
    fn tend(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let pause = if self.files.made_in_vain() { VAIN_PAUSE } else { ROOM_PAUSE };
        let retry = self.looked.is_none_or(|looked| now - looked >= pause);
        if retry {
            self.looked = Some(now);
            self.files.remove_left()?;
        }
        self.files.prepare_next(retry)?;
        self.say(self.files.space());
        Ok(())
    }

    fn say(&self, space: Space) {
        if !self.queue.set_space(space.clone()) {
            return;
        }
        let folder = self.files.settings.folder.display();
        if let Some(why) = space.why {
            tracing::warn!(room = ?space.room, %why, "there is no room for the log in {folder}");
        } else {
            tracing::info!("there is room again for the log in {folder}");
        }
    }

    fn wait_for_room(&mut self, error: &io::Error) -> Then {
        if self.queue.stopping() {
            return self.fail(error);
        }
        if self.group.is_empty() {
            // Marks alone are worth no waiting: nobody was promised anything.
            self.committed = None;
            self.files.skip_seal();
            self.say(self.files.space());
            return Then::Again;
        }
        let space = Space { room: Room::Stuck, why: Some(error.to_string().into()) };
        self.say(space);
        Then::Hold
    }

    fn fail(&mut self, error: &io::Error) -> Then {
        let folder = self.files.settings.folder.display();
        let failure = Failure(error.kind(), format!("cannot write the log in {folder}: {error}").into());
        tracing::error!("{}", failure.1);
        self.group.extend(self.queue.fail(&failure));
        self.group.drain(..).for_each(|job| job.answer(Err(failure.error())));
        Then::End
    }
}
