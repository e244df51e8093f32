//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as this process may, and gives it. Service managers start processes with a low limit that
/// they may raise themselves, for programs that use `select`.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the number of open files to what is allowed");
    }
    // None: no limit.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
