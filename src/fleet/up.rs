//! What `fleet up` does to one machine: binary, units, start. What is there already is left alone.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;

use super::Machine;
use crate::hint::{WithHint as _, fault};
use crate::model::fleet::formation::{Facts, SCRIPT};
use crate::model::fleet::survey::SYSTEM;
use crate::model::provision::binary::BINARY_PATH;
use crate::model::provision::units::{AGENT, REGISTRATOR, UnitFile};

/// Where a new binary is tried, next to the one that it replaces then.
const NEW_BINARY_PATH: &str = "/opt/bin/.corediscover.new";
/// Mode of the binary.
const BINARY_MODE: &str = "0755";
/// Mode of unit files.
const UNIT_MODE: &str = "0644";
/// Lines of the agent's journal that are shown when it does not get anywhere.
pub const JOURNAL_LINES: &str = "15";
/// How often the machines are asked whether they are a cluster yet.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The units that a machine gets.
#[derive(Debug)]
pub enum Units {
    /// All that it has: it is set up.
    All(Vec<UnitFile>),
    /// Those that it lacks: it is in the cluster, and stays what it is.
    Lacking(Vec<UnitFile>),
}

/// What was done to a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// The binary was brought.
    pub binary: bool,
    /// Units were written.
    pub units: usize,
    /// It was in the cluster before.
    pub is_member: bool,
    /// Its agent was down, and is started again.
    pub started: bool,
    /// Its agent is of a cluster, and still runs the binary of before.
    pub to_restart: bool,
}

impl Machine {
    /// What is on the machine, for `fleet up`. Nothing is changed.
    ///
    /// # Errors
    /// When the machine cannot be one of a cluster: no systemd, no root, another processor than `architecture`.
    pub fn facts(&self, architecture: &str) -> anyhow::Result<Facts> {
        if !self.survey.systemd {
            return Err(fault(
                "systemd does not run there",
                "`fleet up` is for machines with systemd; `corediscover cmd:run` starts an agent with Docker alone",
            ));
        }
        if self.survey.architecture != architecture {
            return Err(fault(
                format!("the machine is {}, and the binary is for {architecture}", self.survey.architecture),
                "give a binary for it with --binary",
            ));
        }
        self.check_root()?;
        let advertise = self.target.metadata.get("advertise").map(|text| text.parse::<IpAddr>());
        let mut facts = Facts {
            name: self.target.name.clone(),
            hostname: self.survey.hostname.clone(),
            machine_id: self.survey.machine_id.clone(),
            advertise: advertise
                .transpose()
                .context("advertise= in the list of machines is no IP address")?,
            connected_to: Some(self.connection.address),
            reached_at: self.survey.reached_at,
            ..Facts::default()
        };
        let answer = self
            .connection
            .look(&self.words_as_root(&["sh", "-c", SCRIPT]))?
            .expect_success("the look at the machine")?;
        facts.read(&answer);
        Ok(facts)
    }

    /// Brings the binary and the units; enables and starts them. One that stays what it is keeps the units and the data
    /// that it has, and its agent is started where it is down.
    ///
    /// # Errors
    /// Names the step.
    pub fn set_up(&self, binary: &[u8], units: &Units, facts: &Facts) -> anyhow::Result<Done> {
        let mut done = Done { binary: self.bring(binary)?, ..Done::default() };
        match units {
            Units::All(units) => {
                done.units = self.put_units(units)?;
                // Also where nothing was written now: whoever wrote it may have been interrupted before this.
                let verb = if done.units > 0 || done.binary || facts.stale { "restart" } else { "start" };
                self.enable(units, verb)?;
                done.started = !facts.runs;
            }
            Units::Lacking(units) => {
                done.is_member = true;
                done.units = self.put_units(units)?;
                if !units.is_empty() {
                    self.enable(units, "start")?;
                }
                done.to_restart = facts.runs && (done.binary || facts.stale);
                if !facts.runs {
                    let others = facts.enabled.iter().copied().filter(|unit| *unit != AGENT);
                    let names: Vec<&str> = std::iter::once(AGENT).chain(others).collect();
                    self.systemctl(&["--no-block", "start"], &names)?;
                    done.started = true;
                }
            }
        }
        Ok(done)
    }

    /// Writes the units that are not there as they should be; says how many.
    fn put_units(&self, units: &[UnitFile]) -> anyhow::Result<usize> {
        let mut written = 0;
        for unit in units {
            let path = format!("{SYSTEM}/{}", unit.name);
            written += usize::from(self.put_file_if_other(&path, unit.text.as_bytes(), UNIT_MODE)?);
        }
        Ok(written)
    }

    /// Has units that were written started at boot, and `verb` done to them now.
    fn enable(&self, units: &[UnitFile], verb: &str) -> anyhow::Result<()> {
        let names: Vec<&str> = units.iter().map(|unit| unit.name).collect();
        self.systemctl(&["daemon-reload"], &[])?;
        self.systemctl(&["enable", "--quiet"], &names)?;
        self.systemctl(&["--no-block", verb], &names).map(|_| ())
    }

    /// Brings the binary unless it is there; it takes the place of another one only when it runs there. Says whether it
    /// was brought.
    fn bring(&self, binary: &[u8]) -> anyhow::Result<bool> {
        if self.has_file(BINARY_PATH, binary)? {
            return Ok(false);
        }
        self.put_file(NEW_BINARY_PATH, binary, BINARY_MODE)?;
        let tried = self
            .run_as_root(&[NEW_BINARY_PATH, "version"], &[])?
            .expect_success("the binary")
            .context("the binary does not run there, and the one of before stays")
            .hint("bring the one of a release, which needs no libraries, with --binary");
        if let Err(error) = tried {
            self.run_as_root(&["rm", "-f", "--", NEW_BINARY_PATH], &[])?
                .expect_success("the removal of it")?;
            return Err(error);
        }
        self.run_as_root(&["mv", "-f", "--", NEW_BINARY_PATH, BINARY_PATH], &[])?
            .expect_success("the binary")
            .context("the binary cannot take the place of the one of before")
            .hint("is that file system writable?")?;
        Ok(true)
    }

    /// Restarts what runs the binary, once it is new; waits until the agent is ready, for `limit` at most.
    ///
    /// # Errors
    /// With what systemd says.
    pub fn restart(&self, limit: Duration) -> anyhow::Result<()> {
        let words = self.words_as_root(&["systemctl", "try-restart", "--", AGENT, REGISTRATOR]);
        let answer = self.connection.run_within(&words, &[], Some(limit))?;
        answer
            .expect_success("the restart")
            .map(|_| ())
            .hint(format!("`journalctl -u {AGENT}` on that machine shows what the agent wrote"))
    }

    /// What an agent's command prints, if it succeeds.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn ask_agent(&self, words: &[&str]) -> anyhow::Result<Option<String>> {
        let words: Vec<&str> = [BINARY_PATH].into_iter().chain(words.iter().copied()).collect();
        let answer = self.connection.look(&words)?;
        Ok((answer.code == 0).then(|| answer.text()))
    }
}
