//! What is done to units on one machine. Every step may be done again: it changes nothing then.

use anyhow::Context as _;

use super::Machine;
use crate::hint::{WithHint as _, fault};
use crate::model::fleet::survey::{Desired, LOADED, SYSTEM, TARGET, UNITS};

/// Mode of unit files: anybody may read them, as systemd's own.
const UNIT_MODE: &str = "0644";
/// Lines of the journal that follow when a unit does not start.
const JOURNAL_LINES: &str = "5";

/// Whether the unit that systemd has in file $1 may be written: it is fleet's by the mark $2, or there is none.
const OWNER_SCRIPT: &str = r#"[ -e "$2" ] && exit 0
if [ -e "$1" ] || [ -L "$1" ]; then exit 3; fi
exit 0"#;
/// The answer when it is not fleet's.
const NOT_OURS: i32 = 3;

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
            Step::Start { text, no_block } => {
                self.submit(name, text)?;
                // The mark is first: what is interrupted after it is still fleet's.
                self.put_file_if_other(&format!("{LOADED}/{name}"), &[], UNIT_MODE)?;
                let path = format!("{SYSTEM}/{name}");
                let is_other = self.put_file_if_other(&path, text.as_bytes(), UNIT_MODE)?;
                self.systemctl(&["daemon-reload"], &[])?;
                self.systemctl(&["add-wants", TARGET], &[name])?;
                // What runs may be of the text of before.
                let verb = if is_other { "restart" } else { "start" };
                self.change(verb, *no_block, name)
            }
            // systemd does not have it, or has one of that name that is somebody else's.
            Step::Stop { .. } if !self.is_loaded(name) => Ok(()),
            Step::Restart { .. } if !self.is_loaded(name) => Err(fault(
                format!("{name}: it is only submitted"),
                format!("start it: `corediscover fleet start {name}`"),
            )),
            Step::Stop { no_block } => {
                self.remove(&format!("{SYSTEM}/{TARGET}.wants/{name}"))?;
                self.systemctl(&["daemon-reload"], &[])?;
                self.change("stop", *no_block, name)
            }
            Step::Restart { no_block } => self.change("restart", *no_block, name),
            Step::Destroy => {
                if self.is_loaded(name) {
                    self.carry_out(name, &Step::Stop { no_block: false })?;
                    self.remove(&format!("{SYSTEM}/{name}"))?;
                    self.systemctl(&["daemon-reload"], &[])?;
                    // Fails for a unit that never failed.
                    self.run_as_root(&["systemctl", "reset-failed", "--", name], &[])?;
                }
                self.remove(&format!("{LOADED}/{name}"))?;
                self.remove(&format!("{UNITS}/{name}"))
            }
        }
    }

    /// Whether fleet gave it to systemd.
    fn is_loaded(&self, name: &str) -> bool {
        self.survey.units.iter().any(|unit| unit.name == name && unit.desired > Desired::Inactive)
    }

    fn submit(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let (path, mark) = (format!("{SYSTEM}/{name}"), format!("{LOADED}/{name}"));
        let answer = self.run_as_root(&["sh", "-c", OWNER_SCRIPT, "sh", &path, &mark], &[])?;
        if answer.code == NOT_OURS {
            return Err(fault(
                format!("{path} is there already, and fleet did not put it there"),
                "give the unit another name, or remove that file if nobody needs it",
            ));
        }
        answer.expect_success("the look at the unit")?;
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
