//! Signals that ask a process to stop, or to read its configuration again.

use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::tasks::StopRequest;

/// Completes at the first SIGINT or SIGTERM; until then each SIGHUP calls `on_hangup`. Must be called inside the runtime.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn stop_request(on_hangup: impl Fn() + Send) -> anyhow::Result<impl Future<Output = StopRequest>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return StopRequest::Interrupt,
                _ = terminate.recv() => return StopRequest::Terminate,
                _ = hangup.recv() => on_hangup(),
            }
        }
    })
}

/// What SIGHUP does to a process that has no configuration files: it must not kill it.
pub(crate) fn ignore_hangup() {
    tracing::warn!("SIGHUP: this command has no configuration files to read again");
}
