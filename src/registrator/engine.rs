//! What the registrator asks of a container engine, and a twin in memory that answers the same for tests.
//!
//! Nothing here decides; an engine reports facts and says when to look again.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::registration::Facts;

/// Who an engine is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its own id, kept over restarts; empty if the engine has none.
    pub id: String,
    /// Name of the machine it runs on.
    pub hostname: String,
}

/// The containers at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Containers with everything known about them.
    pub containers: Vec<Facts>,
    /// Containers that exist but could not be read this time, by short id, and why; nothing is concluded about them.
    pub unreadable: BTreeMap<String, String>,
}

/// The source of facts about containers.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Who it is.
    async fn identity(&self) -> anyhow::Result<Identity>;

    /// All containers that run or are paused; with `with_exited` those that have ended as well.
    ///
    /// An engine may remember what it has read, as long as its events tell what has changed; with `afresh` it
    /// reads everything again.
    async fn list(&self, with_exited: bool, afresh: bool) -> anyhow::Result<Listing>;

    /// Notifies `look_again` at every change until the stream of changes ends, which is what it returns.
    /// Called again, it goes on where it was.
    async fn follow(&self, look_again: &Notify) -> anyhow::Result<()>;
}

/// An engine without containers of its own: tests say what it reports.
#[derive(Default)]
pub struct Twin {
    containers: Mutex<BTreeMap<String, Facts>>,
    changed: Arc<Notify>,
    is_down: Mutex<bool>,
}

impl Twin {
    /// Adds a container, or replaces the one with the same id.
    pub fn put(&self, facts: Facts) {
        self.containers.lock().insert(facts.id.clone(), facts);
        self.changed.notify_one();
    }

    /// Changes a container.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Facts)) {
        if let Some(facts) = self.containers.lock().get_mut(id) {
            change(facts);
        }
        self.changed.notify_one();
    }

    /// Removes a container.
    pub fn remove(&self, id: &str) {
        self.containers.lock().remove(id);
        self.changed.notify_one();
    }

    /// Makes every request fail, as while the engine restarts, or work again.
    pub fn set_down(&self, is_down: bool) {
        *self.is_down.lock() = is_down;
        self.changed.notify_one();
    }

    fn answer(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!*self.is_down.lock(), "the engine is down");
        Ok(())
    }
}

#[async_trait]
impl Engine for Twin {
    async fn identity(&self) -> anyhow::Result<Identity> {
        self.answer()?;
        Ok(Identity { id: "twin".to_owned(), hostname: "vm".to_owned() })
    }

    async fn list(&self, with_exited: bool, _afresh: bool) -> anyhow::Result<Listing> {
        self.answer()?;
        let containers = self.containers.lock();
        let shown = containers.values().filter(|facts| with_exited || facts.state.offers_services());
        Ok(Listing { containers: shown.cloned().collect(), unreadable: BTreeMap::new() })
    }

    async fn follow(&self, look_again: &Notify) -> anyhow::Result<()> {
        loop {
            self.answer()?;
            self.changed.notified().await;
            look_again.notify_one();
        }
    }
}
