//! Rows and the table they make. The only place that prints.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::Result;

use super::place::Place;
use super::process::version;

/// Which direction is good.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Better {
    More,
    Less,
}

/// One figure.
#[derive(Clone)]
pub(crate) struct Figure {
    /// Who: a peer's name, empty for us.
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Shown after it in brackets, if anything.
    pub(crate) note: String,
}

impl Figure {
    pub(crate) fn new(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value, note: String::new() }
    }

    pub(crate) fn noted(name: &str, value: f64, note: String) -> Self {
        Self { note, ..Self::new(name, value) }
    }
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) ours: Figure,
    pub(crate) peers: Vec<Figure>,
    /// In `unit`, from DESIGN §10.
    pub(crate) goal: Option<f64>,
}

/// How many times better `a` is than `b`.
fn times(better: Better, a: f64, b: f64) -> f64 {
    // A figure below the resolution of its measurement would divide by nothing.
    let (a, b) = (a.max(f64::MIN_POSITIVE), b.max(f64::MIN_POSITIVE));
    if better == Better::More { a / b } else { b / a }
}

fn number(value: f64) -> String {
    match value {
        value if value >= 1000.0 => {
            let digits = format!("{value:.0}");
            let split = digits.len() - 3;
            format!("{},{}", &digits[..split], &digits[split..])
        }
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

impl Row {
    fn line(&self) -> String {
        let show = |figure: &Figure| {
            let mut text = format!("{} {}", figure.name, number(figure.value)).trim_start().to_owned();
            if !figure.note.is_empty() {
                write!(text, " ({})", figure.note).ok();
            }
            text
        };
        let ratio = |peer: &Figure| format!("{:.2}", times(self.better, self.ours.value, peer.value));
        let sign = if self.better == Better::More { "≥" } else { "≤" };
        let goal = self.goal.map_or(String::new(), |goal| format!("{sign} {}", number(goal)));
        let stands = self
            .goal
            .map_or(String::new(), |goal| format!("{:.2}", times(self.better, self.ours.value, goal)));
        format!(
            "| {} | {} | {} | {} | **{}** | {goal} | {stands} |",
            self.what,
            self.unit,
            show(&self.ours),
            self.peers.iter().map(show).collect::<Vec<_>>().join(" · "),
            self.peers.iter().map(ratio).collect::<Vec<_>>().join(" · "),
        )
    }
}

/// Prints the table that docs/benchmarks.md holds.
pub(crate) fn print(rows: &[Row], place: &Place) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    let sync = place.sync_time()?.as_secs_f64() * 1e3;
    let mut text = format!(
        "{cores} cores, load average {} before the start; 512 bytes are durable after {sync:.2} ms; {}, {}, \
         Unbound {}.\n\n",
        place.busy,
        version("etcd", "--version")?,
        version("knotd", "--version")?,
        version("unbound", "-V")?,
    );
    text.push_str("| what | unit | corediscover | peer | ratio | goal | of the goal |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for row in rows {
        text.push_str(&row.line());
        text.push('\n');
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// A line for whoever waits.
pub(crate) fn say(text: &str) {
    // Nobody is left to tell when stderr is closed.
    writeln!(io::stderr(), "{text}").ok();
}
