//! Where log lines go: stderr, one line each, the level chosen by the operator.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Starts logging at `level` (`trace` to `error`). Libraries log warnings only, unless the level is `trace`.
///
/// # Errors
/// When logging was started before.
pub(crate) fn start(level: &str) -> anyhow::Result<()> {
    let filter = if level == "trace" {
        "trace".to_owned()
    } else {
        format!("warn,openraft=error,corediscover={level}")
    };
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("`{filter}` is not a log filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
