//! What the tests of several parts share.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Looks until `probe` holds; panics with `what` after `patience`, by tokio's clock.
pub(super) async fn poll(patience: Duration, what: impl Display, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !probe() {
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
