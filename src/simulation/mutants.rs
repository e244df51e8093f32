//! Faults planted in the code of test builds, one at a time, to see that the simulations find each: the check of the
//! checker. In any other build there is nothing to switch on.

use std::cell::Cell;

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A server answers for its vote without having written it.
    VoteNotPersisted,
    /// A server forgets the last entry of its log when it starts.
    AcknowledgedEntryDropped,
    /// The log says that it has written what it has not synced.
    SyncSkipped,
    /// A machine serves a birth list that it read, without the promise in the store.
    StaleBirthList,
    /// A client shows its own write before it is committed.
    UncommittedShown,
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutLease,
    /// A leader shows what it had when it last answered a writer, and some it never answers: what others were shown
    /// already, it may not show.
    ReadsForgetTheUntold,
    /// Those who wait for keys under a prefix are not woken.
    WatcherNotWoken,
    /// Raft looks for the other servers only where its configuration has them.
    AddressesNotFollowed,
    /// A server begins a cluster without having asked whether there is one.
    BornUnseeing,
    /// A server that was retired is taken in again.
    RetiredTakenIn,
    /// A server is added where it should take the place of another, which goes on being dead.
    AddedInsteadOfReplaced,
    /// A dead server is removed first, and then another is added: two changes instead of one.
    RemovedBeforeReplaced,
    /// A server goes though those that are left cannot go on without it.
    AnybodySpared,
    /// A survivor founds a successor though another may have done so.
    RecoveredTwice,
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Plants a fault in what runs on this thread, or takes it away.
pub(crate) fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this fault is planted.
pub(crate) fn is(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
