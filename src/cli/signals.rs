//! Signals that ask a process to stop.

use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::tasks::StopRequest;

/// Completes at the first SIGINT or SIGTERM. Must be called inside the runtime.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn stop_request() -> anyhow::Result<impl Future<Output = StopRequest>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    // SIGHUP re-reads configuration in Consul; it must never kill the agent.
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return StopRequest::Interrupt,
                _ = terminate.recv() => return StopRequest::Terminate,
                _ = hangup.recv() => tracing::warn!("SIGHUP: this version reads its configuration at start only"),
            }
        }
    })
}
