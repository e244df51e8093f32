//! Where an agent's settings came from, so that they can be read again while it runs.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Settings;

type Read = Box<dyn Fn() -> anyhow::Result<Settings> + Send + Sync>;
type Taken = Box<dyn Fn(&Settings) + Send + Sync>;

/// Flags and files, and what of them is in force. It outlives the agents that one process runs one after the other.
pub struct Source {
    read: Read,
    taken: Taken,
    in_force: Mutex<Settings>,
    asked: Notify,
}

impl Source {
    /// `settings` were read at the start and `read` reads them again; `taken` is told what came into force later, for
    /// what is not the agent's own (the log).
    pub fn new(
        settings: Settings,
        read: impl Fn() -> anyhow::Result<Settings> + Send + Sync + 'static,
        taken: impl Fn(&Settings) + Send + Sync + 'static,
    ) -> Self {
        Self {
            read: Box::new(read),
            taken: Box::new(taken),
            in_force: Mutex::new(settings),
            asked: Notify::new(),
        }
    }

    /// The settings that are in force.
    pub fn settings(&self) -> Settings {
        self.in_force.lock().clone()
    }

    /// Asks the agent to read them again, at once or as soon as one runs (SIGHUP).
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Completes when somebody has asked.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// What flags and files say now. Nothing comes into force by this. It reads files.
    ///
    /// # Errors
    /// As at a start.
    pub fn read(&self) -> anyhow::Result<Settings> {
        (self.read)()
    }

    /// Puts into force what can change while an agent runs; gives the names of the others that differ.
    pub fn take(&self, read: Settings) -> Vec<&'static str> {
        let mut in_force = self.in_force.lock();
        let others = in_force.take_reloadable(read);
        (self.taken)(&in_force);
        others
    }
}
