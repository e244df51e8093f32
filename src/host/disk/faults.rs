//! What can go wrong on a simulated disk.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// What goes wrong from now on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Bytes that fit on the disk.
    pub(crate) capacity: Option<u64>,
    /// Bytes that are overwritten need room too, as on btrfs and zfs.
    pub(crate) copy_on_write: bool,
    /// The next sync of a file fails.
    pub(crate) fail_sync: bool,
    /// Every write fails.
    pub(crate) fail_writes: bool,
    /// No file can be removed, because that takes room (btrfs, a quota).
    pub(crate) full_for_removing: bool,
    /// No folder can be synced, because that takes room.
    pub(crate) full_for_names: bool,
    /// It does not tell how much room there is.
    pub(crate) free_unknown: bool,
    /// Files that cannot be read.
    pub(crate) unreadable: BTreeSet<PathBuf>,
    /// The machine stops in the middle of this many changes from now; see `SimulatedDisk::has_stopped`.
    pub(crate) stop_in: Option<u64>,
    /// How long a write with its sync takes; the user waits, see `SimulatedDisk::delay`.
    pub(crate) delay: Option<Range<Duration>>,
}
