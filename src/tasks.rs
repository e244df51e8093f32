//! The long-running tasks of one process: named, supervised, stopped together.
//!
//! The first task that fails, panics or returns before a stop was asked for stops all others; all are joined,
//! and none may take longer than [`STOP_DEADLINE`] to do so.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After a stop request, how long a task may take before it is dropped. Longer than a leadership transfer
/// and a gossip leave (together under 4 s), shorter than systemd's default of 90 s.
pub const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// How a process was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// Ctrl-C.
    Interrupt,
    /// systemd, Docker, kill.
    Terminate,
}

pub(crate) type Ended = (&'static str, anyhow::Result<()>);

/// How a simulation runs the tasks of one of its processes.
#[cfg(test)]
pub(crate) type Run = dyn Fn(Task) -> Task + Send + Sync;
/// A task of a simulated process.
#[cfg(test)]
pub(crate) type Task = std::pin::Pin<Box<dyn Future<Output = Ended> + Send>>;

/// A cheap, cloneable starter of tasks; what parts hold when they need to start helpers of their own.
#[derive(Clone, Default)]
pub struct Spawner {
    set: Arc<Mutex<JoinSet<Ended>>>,
    changed: Arc<Notify>,
    stop: CancellationToken,
    /// Counts the tasks that this spawner and its clones have started.
    running: TaskTracker,
    #[cfg(test)]
    run: Option<Arc<Run>>,
}

impl Spawner {
    /// The token that tells every task to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// A starter of tasks that can be ended before the others ([`Spawner::end`]); they fail and stop with them all
    /// the same.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            set: Arc::clone(&self.set),
            changed: Arc::clone(&self.changed),
            stop: self.stop.child_token(),
            running: TaskTracker::new(),
            #[cfg(test)]
            run: self.run.clone(),
        }
    }

    /// Ends the tasks of this spawner and its clones, and waits until they have ended.
    pub async fn end(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }

    /// Starts a task that must run until the stop token is cancelled; its early end ends the process.
    pub fn start(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let stop = self.stop.clone();
        self.put(async move {
            let ended = task.await.with_context(|| format!("task {name} failed"));
            match ended {
                Ok(()) if !stop.is_cancelled() => {
                    (name, Err(anyhow::anyhow!("task {name} ended unexpectedly")))
                }
                ended => (name, ended),
            }
        });
    }

    /// Starts a short helper (one connection, one request) whose end means nothing to the others.
    /// It is dropped at the latest when the process stops.
    pub fn start_short(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.put(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
            (name, Ok(()))
        });
    }

    /// Drops all tasks as the end of a process would, for a simulated one.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        self.set.lock().abort_all();
    }

    fn put(&self, task: impl Future<Output = Ended> + Send + 'static) {
        let task = self.running.track_future(task);
        #[cfg(test)]
        let task: Task = match &self.run {
            Some(run) => run(Box::pin(task)),
            None => Box::pin(task),
        };
        self.set.lock().spawn(task);
        self.changed.notify_one();
    }
}

/// The owner of all tasks of one process.
#[derive(Default)]
pub struct Tasks {
    spawner: Spawner,
}

impl Tasks {
    /// Tasks of a simulated process.
    #[cfg(test)]
    pub(crate) fn run_by(run: Arc<Run>) -> Self {
        Self { spawner: Spawner { run: Some(run), ..Spawner::default() } }
    }

    /// A starter to hand to parts.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// The token that tells every task to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.spawner.stop_token()
    }

    /// See [`Spawner::start`].
    pub fn start(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.spawner.start(name, task);
    }

    /// Waits until `stop_request` completes, with whatever it says, or a task fails; then stops and joins all tasks.
    ///
    /// # Errors
    /// The failure of the first task that failed, or the names of those that did not stop in time.
    pub async fn run_until<T>(self, stop_request: impl Future<Output = T>) -> anyhow::Result<()> {
        tokio::pin!(stop_request);
        let outcome = loop {
            tokio::select! {
                biased;
                _ = &mut stop_request => break Ok(()),
                () = self.spawner.stop.cancelled() => break Ok(()),
                ended = self.next_ended() => if let Err(error) = ended { break Err(error) },
            }
        };
        self.spawner.stop.cancel();
        let joined = tokio::time::timeout(STOP_DEADLINE, self.join_all()).await;
        outcome?;
        match joined {
            Ok(result) => result,
            Err(_) => bail!("tasks did not stop within {STOP_DEADLINE:?}"),
        }
    }

    async fn next_ended(&self) -> anyhow::Result<()> {
        loop {
            let changed = self.spawner.changed.notified();
            let ended =
                std::future::poll_fn(|context| match self.spawner.set.lock().poll_join_next(context) {
                    std::task::Poll::Ready(None) => std::task::Poll::Ready(None),
                    other => other,
                });
            tokio::select! {
                biased;
                ended = ended => match ended {
                    Some(ended) => return settle(ended),
                    None => changed.await,
                },
                // A task was added: poll the set again so that the new one wakes us too.
                () = self.spawner.changed.notified() => {}
            }
        }
    }

    async fn join_all(&self) -> anyhow::Result<()> {
        let mut first = Ok(());
        loop {
            let ended = std::future::poll_fn(|context| self.spawner.set.lock().poll_join_next(context)).await;
            let Some(ended) = ended else { return first };
            let ended = settle(ended);
            if first.is_ok() {
                first = ended;
            }
        }
    }
}

fn settle(ended: Result<Ended, tokio::task::JoinError>) -> anyhow::Result<()> {
    match ended {
        Ok((_, result)) => result,
        Err(error) if error.is_cancelled() => Ok(()),
        Err(error) => Err(anyhow::anyhow!("a task panicked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::Tasks;

    #[tokio::test]
    async fn the_first_failure_stops_all_tasks_and_is_reported() {
        let tasks = Tasks::default();
        let stop = tasks.stop_token();
        tasks.start("waits", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.start("fails", async { anyhow::bail!("disk full") });
        let error = tasks.run_until(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task fails failed: disk full");
    }

    #[tokio::test]
    async fn an_early_end_is_a_failure_and_a_short_task_is_not() {
        let tasks = Tasks::default();
        tasks.spawner().start_short("short", async {});
        tasks.start("leaves", async { Ok(()) });
        let error = tasks.run_until(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(error.to_string(), "task leaves ended unexpectedly");
    }

    #[tokio::test]
    async fn a_group_ends_alone_and_the_others_go_on() {
        let tasks = Tasks::default();
        let group = tasks.spawner().child();
        let stop = group.stop_token();
        group.start("of the group", async move {
            stop.cancelled().await;
            Ok(())
        });
        let all = tasks.stop_token();
        tasks.start("other", async move {
            all.cancelled().await;
            Ok(())
        });
        group.end().await;
        assert!(!tasks.stop_token().is_cancelled());
        tasks.run_until(async {}).await.expect("the end of the group was no failure");
    }

    #[tokio::test]
    async fn a_stop_request_ends_everything_without_an_error() {
        let tasks = Tasks::default();
        let stop = tasks.stop_token();
        tasks.start("waits", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.run_until(async {}).await.expect("stops cleanly");
    }
}
