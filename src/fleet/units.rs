//! What is done to units on one machine. Every step may be done again: it changes nothing then.

use anyhow::Context as _;

use super::Machine;
use crate::hint::WithHint as _;
use crate::model::fleet::survey::{Desired, SYSTEM, TARGET, UNITS};

/// Mode of unit files: anybody may read them, as systemd's own.
const UNIT_MODE: &str = "0644";
/// Lines of the journal that follow when a unit does not start.
const JOURNAL_LINES: &str = "5";

/// What is to be done with a unit on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Keep its text.
    Submit {
        /// The text.
        text: String,
    },
    /// Keep its text, give it to systemd, start it now and at boot.
    Start {
        /// The text.
        text: String,
        /// Start it anew if it runs: its text has changed.
        again: bool,
        /// Do not wait until it runs.
        no_block: bool,
    },
    /// Stop it, also at boot.
    Stop {
        /// Do not wait until it has stopped.
        no_block: bool,
    },
    /// Stop and start it.
    Restart {
        /// Do not wait until it runs.
        no_block: bool,
    },
    /// Stop it and forget it.
    Destroy,
}

impl Machine {
    /// Does `step` with the unit `name`.
    ///
    /// # Errors
    /// Says which part of it failed, with what systemd says.
    pub fn carry_out(&self, name: &str, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Submit { text } => self.submit(name, text),
            Step::Start { text, again, no_block } => {
                self.submit(name, text)?;
                self.put_file_if_other(&format!("{SYSTEM}/{name}"), text.as_bytes(), UNIT_MODE)?;
                self.systemctl(&["daemon-reload"], &[])?;
                self.systemctl(&["add-wants", TARGET], &[name])?;
                let verb = if *again { "restart" } else { "start" };
                self.change(verb, *no_block, name)
            }
            Step::Stop { no_block } => {
                self.remove(&format!("{SYSTEM}/{TARGET}.wants/{name}"))?;
                self.systemctl(&["daemon-reload"], &[])?;
                self.change("stop", *no_block, name)
            }
            Step::Restart { no_block } => self.change("restart", *no_block, name),
            Step::Destroy => {
                let is_there = self
                    .survey
                    .units
                    .iter()
                    .any(|unit| unit.name == name && unit.desired > Desired::Inactive);
                if is_there {
                    self.carry_out(name, &Step::Stop { no_block: false })?;
                    self.remove(&format!("{SYSTEM}/{name}"))?;
                    self.systemctl(&["daemon-reload"], &[])?;
                    // Fails for a unit that never failed.
                    self.run_as_root(&["systemctl", "reset-failed", "--", name], &[])?;
                }
                self.remove(&format!("{UNITS}/{name}"))
            }
        }
    }

    fn submit(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.put_file_if_other(&format!("{UNITS}/{name}"), text.as_bytes(), UNIT_MODE).map(|_| ())
    }

    fn remove(&self, path: &str) -> anyhow::Result<()> {
        self.run_as_root(&["rm", "-f", "--", path], &[])?.expect_success(&format!("rm {path}")).map(|_| ())
    }

    /// Runs systemctl as root.
    pub(super) fn systemctl(&self, words: &[&str], units: &[&str]) -> anyhow::Result<String> {
        let mut line = vec!["systemctl"];
        line.extend(words);
        if !units.is_empty() {
            line.push("--");
            line.extend(units);
        }
        self.run_as_root(&line, &[])?.expect_success(&format!("`{}`", line.join(" ")))
    }

    fn change(&self, verb: &str, no_block: bool, name: &str) -> anyhow::Result<()> {
        let words: &[&str] = if no_block { &["--no-block", verb] } else { &[verb] };
        let Err(error) = self.systemctl(words, &[name]) else { return Ok(()) };
        let journal = self.journal(name, JOURNAL_LINES)?;
        Err(error).context(format!("{name}: {}", journal.trim().replace('\n', "\n    "))).hint(format!(
            "`corediscover fleet journal {name}` and `corediscover fleet status {name}` show more"
        ))
    }

    /// The last lines that a unit wrote.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn journal(&self, name: &str, lines: &str) -> anyhow::Result<String> {
        let words = ["journalctl", "--no-pager", "--output=cat", "--lines", lines, "--unit", name];
        Ok(self.run_as_root(&words, &[])?.text())
    }
}
