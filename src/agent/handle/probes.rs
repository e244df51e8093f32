//! What the runner of checks and the local state say to each other.

use std::sync::Arc;

use imbl::OrdMap;
use tokio::sync::watch;

use crate::model::catalog::Status;
use crate::model::health::CheckDefinition;

/// One check that is to be run again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Differs from that of every earlier order: a result of an older one is not for this check.
    pub generation: u64,
    /// What to ask.
    pub definition: CheckDefinition,
    /// The first run need not be put off: the check was there before the agent started.
    pub soon: bool,
}

/// All checks that are to be run, by check id.
pub type ProbeOrders = Arc<OrdMap<String, Arc<ProbeOrder>>>;

/// Where the runner of checks finds its orders and leaves its results.
pub trait ProbeBoard: Send + Sync {
    /// The orders, as they come and go with registrations.
    fn orders(&self) -> watch::Receiver<ProbeOrders>;

    /// Bytes of output kept unless the check says otherwise.
    fn output_max(&self) -> usize;

    /// Sets the state of a check; a result of an order that is no longer there is dropped.
    fn report(&self, check_id: &str, generation: u64, status: Status, output: &str);
}
