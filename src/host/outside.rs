//! What comes from outside of the program and is not the same when a history is played again, unless a simulation
//! (tests only) decides it: chance, the time of day, and the order of work on other threads.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

/// 128 bits that nobody can foresee.
pub fn random_bits() -> u128 {
    #[cfg(test)]
    if let Some(bits) = crate::simulation::running::bits() {
        return bits;
    }
    uuid::Uuid::new_v4().as_u128() ^ (uuid::Uuid::new_v4().as_u128() << 64)
}

/// A number from 0 up to, but not, 1.
pub fn random_share() -> f64 {
    // As many bits as an f64 holds exactly.
    let bits = u32::try_from(random_bits() >> 96).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// The time of day in seconds since 1970, as this machine's clock has it: it may be wrong, and it may jump.
pub fn wall_seconds() -> u64 {
    #[cfg(test)]
    if let Some(seconds) = crate::simulation::running::wall_seconds() {
        return seconds;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Does work that blocks, where it holds nobody up.
///
/// # Errors
/// When the work panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    #[cfg(test)]
    if crate::simulation::running::is_on() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.context("work on another thread has failed")
}

/// As [`blocking`], for work with steps that wait.
///
/// # Errors
/// When the work panicked.
pub async fn blocking_steps<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> anyhow::Result<T> {
    #[cfg(test)]
    if crate::simulation::running::is_on() {
        return Ok(work.await);
    }
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work));
    done.await.context("work on another thread has failed")
}
