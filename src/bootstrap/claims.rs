//! What a store of claims must offer: few verbs, one compare-and-swap. Every implementation passes one suite.

use anyhow::Result;
use async_trait::async_trait;
use std::time::Duration;

use crate::model::election::{Certificate, ClaimDetails, Revision, View};
use crate::model::names::MachineId;

/// A claim as its machine wants it to be.
#[derive(Debug, Clone, Copy)]
pub struct NewClaim<'a> {
    /// Whose claim.
    pub machine_id: &'a MachineId,
    /// Where it is reached.
    pub address: &'a str,
    /// Its other half.
    pub details: &'a ClaimDetails,
    /// The revision of the claim that it takes the place of; `None`: it is to be a new one.
    pub replaces: Option<Revision>,
}

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

    /// Writes the claim with a lease. `false`: the race was lost.
    async fn write_claim(&self, claim: NewClaim<'_>) -> Result<bool>;

    /// Keeps the lease of the claim alive. `false`: there is none (any more).
    async fn renew(&self) -> Result<bool>;

    /// Writes the certificate if the stored one still has the revision `replaces`; `None`: if there is none. `false`:
    /// that is not so.
    async fn write_certificate(&self, certificate: &Certificate, replaces: Option<Revision>) -> Result<bool>;

    /// Gives the claim back at once; fine if there is none.
    async fn release(&self) -> Result<()>;

    /// [`ClaimStore::write_claim`] with its parts.
    async fn put_claim(
        &self,
        machine_id: &MachineId,
        address: &str,
        details: &ClaimDetails,
        replaces: Option<Revision>,
    ) -> Result<bool> {
        self.write_claim(NewClaim { machine_id, address, details, replaces }).await
    }

    /// Writes the certificate if there is none. `false`: there was one.
    async fn create_certificate(&self, certificate: &Certificate) -> Result<bool> {
        self.write_certificate(certificate, None).await
    }

    /// Writes the certificate if the stored one still has the revision `old`. `false`: it has not.
    async fn compare_and_swap_certificate(&self, old: Revision, certificate: &Certificate) -> Result<bool> {
        self.write_certificate(certificate, Some(old)).await
    }
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
