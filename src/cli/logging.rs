//! Where log lines go: stderr, one line each, the level chosen by the operator.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

type Set = Box<dyn Fn(&str) -> anyhow::Result<()> + Send + Sync>;

/// Changes the level of the log that was started.
pub(crate) struct Level(Set);

impl Level {
    /// Logs at `level` from now on.
    pub(crate) fn set(&self, level: &str) {
        if let Err(error) = self.0(level) {
            tracing::warn!("the log keeps its level: {error:#}");
        }
    }
}

/// Starts logging at `level` (`trace` to `error`). Libraries log warnings only, unless the level is `trace`.
///
/// # Errors
/// When logging was started before.
pub(crate) fn start(level: &str) -> anyhow::Result<Level> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    builder.try_init().map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    Ok(Level(Box::new(move |level| Ok(handle.reload(filter(level)?)?))))
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let filter = if level == "trace" {
        "trace".to_owned()
    } else {
        format!("warn,openraft=error,corediscover={level}")
    };
    EnvFilter::try_new(&filter).with_context(|| format!("`{filter}` is not a log filter"))
}
