//! What gossip offers to the other parts.

use std::sync::Arc;

use async_trait::async_trait;

use crate::model::membership::Member;

/// What became of a request to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinReport {
    /// How many of the addresses were reached.
    pub joined: usize,
    /// Address and reason of the others.
    pub failures: Vec<(String, String)>,
}

/// Nobody has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("agent: No node found with name '{0}'")]
pub struct NoSuchMember(pub String);

/// Gossip as the other parts see it.
#[async_trait]
pub trait Members: Send + Sync {
    /// All members that are known, this agent included, by name.
    fn members(&self) -> Arc<Vec<Member>>;

    /// Changes of [`Members::members`].
    fn changes(&self) -> tokio::sync::watch::Receiver<Arc<Vec<Member>>>;

    /// Joins through `addresses` (host, host:port, bracketed IPv6).
    async fn join(&self, addresses: &[String]) -> JoinReport;

    /// Tells the others that we leave for good, and waits until they were told.
    async fn leave(&self);

    /// Turns a failed member into one that has left; `prune` forgets it at once.
    async fn force_leave(&self, name: &str, prune: bool) -> Result<(), NoSuchMember>;
}
