//! What the agents of a history log, with the time and the process of the simulation.

use std::fmt;
use std::sync::Once;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::running;

static START: Once = Once::new();

/// Time in a history.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let seconds = running::elapsed().unwrap_or_default().as_secs_f64();
        match running::process() {
            Some(process) => write!(writer, "{seconds:>8.3} s process {process}"),
            None => write!(writer, "{seconds:>8.3} s"),
        }
    }
}

/// Tells it on the screen from now on, if `CDSIM_LOG` says which of it.
pub(super) fn start() {
    START.call_once(|| {
        let Ok(wanted) = std::env::var("CDSIM_LOG") else { return };
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(wanted))
            .with_timer(Clock)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    });
}
