//! What a store of claims must offer: few verbs, one compare-and-swap. Every implementation passes one suite.

use anyhow::Result;
use async_trait::async_trait;
use std::time::Duration;

use crate::model::election::{Certificate, ClaimDetails, Revision, View};
use crate::model::names::MachineId;

/// One machine's connection to the store. Every call ends within a deadline of its own.
#[async_trait]
pub trait ClaimStore: Send + Sync {
    /// The store's name for messages: `etcd at http://10.0.0.1:2379`.
    fn describe(&self) -> String;

    /// How long a claim lives without [`ClaimStore::renew`].
    fn ttl(&self) -> Duration;

    /// All that is there, read from the store's majority.
    async fn snapshot(&self) -> Result<View>;

    /// Changes from now on.
    async fn watch(&self) -> Result<Box<dyn Changes>>;

    /// Writes the claim with a lease: creates it, or replaces the one of that revision. `false`: the race was lost.
    async fn put_claim(
        &self,
        machine_id: &MachineId,
        address: &str,
        details: &ClaimDetails,
        replaces: Option<Revision>,
    ) -> Result<bool>;

    /// Keeps the lease of the claim alive. `false`: there is none (any more).
    async fn renew(&self) -> Result<bool>;

    /// Writes the certificate if there is none. `false`: there was one.
    async fn create_certificate(&self, certificate: &Certificate) -> Result<bool>;

    /// Writes the certificate if the stored one still has the revision `old`. `false`: it has not.
    async fn compare_and_swap_certificate(&self, old: Revision, certificate: &Certificate) -> Result<bool>;

    /// Gives the claim back at once; fine if there is none.
    async fn release(&self) -> Result<()>;
}

/// A stream of "look again".
#[async_trait]
pub trait Changes: Send {
    /// Waits for the next change.
    ///
    /// # Errors
    /// When changes may have been missed; a new watch and a look are needed.
    async fn next(&mut self) -> Result<()>;
}
