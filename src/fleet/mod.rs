//! Units and the binary onto machines over SSH: connects to all machines at once, carries out what `model::fleet` decides.
//!
//! Keeps nothing: the machines are the memory. The only place that knows the SSH library. Blocking, one thread a machine.

mod host_key;
mod login;
mod modes;
mod parallel;
mod passphrase;
mod remote;
mod session;
mod terminal;
pub mod units;
pub mod up;

use anyhow::Context as _;

pub use login::Keys;
pub use modes::restore_at_signals;
pub use parallel::on_all;
pub use remote::{Answer, Lost, Stream};
pub use session::{Connection, Settings};

use crate::hint::{WithHint as _, fault};
use crate::model::fleet::machines::Target;
use crate::model::fleet::survey::{self, Survey};
use crate::model::fleet::tables::Place;

/// A machine that answered.
pub struct Machine {
    /// How it was named.
    pub target: Target,
    /// The connection to it.
    pub connection: Connection,
    /// What it says about itself.
    pub survey: Survey,
}

impl Machine {
    /// Connects to a machine and asks it what it is.
    ///
    /// # Errors
    /// Says why it cannot be reached, is not trusted, or does not let us in.
    pub fn reach(target: &Target, settings: &Settings) -> anyhow::Result<Self> {
        let connection = Connection::open(target, settings)?;
        let answer = connection.look(&["sh", "-c", survey::SCRIPT])?;
        let advice = if answer.code == survey::CLOSED {
            "what fleet keeps is to be read by all: `chmod -R a+rX /var/lib/corediscover-fleet` as root there"
        } else {
            "does the shell of this user run commands? Log in by hand and look"
        };
        answer.expect_success("the look at the machine").hint(advice)?;
        let survey = survey::parse(&answer.stdout)
            .context("this is no machine with a POSIX shell and systemd")
            .hint("log in by hand and look: a login script that prints something disturbs too")?;
        Ok(Self { target: target.clone(), connection, survey })
    }

    /// How tables name it.
    pub fn place(&self) -> Place {
        Place {
            name: self.target.name.clone(),
            id: self.survey.machine_id.clone(),
            ip: self.connection.address.to_string(),
        }
    }

    /// Runs a program as root: by itself, or with sudo that must not ask.
    ///
    /// # Errors
    /// When the connection ends; what the program says is in the answer.
    pub fn run_as_root(&self, words: &[&str], input: &[u8]) -> anyhow::Result<Answer> {
        self.connection.run(&self.words_as_root(words), input)
    }

    /// `words`, with sudo before them where we are not root.
    fn words_as_root<'a>(&self, words: &[&'a str]) -> Vec<&'a str> {
        let sudo: &[&str] = if self.survey.user == 0 { &[] } else { &["sudo", "-n", "--"] };
        sudo.iter().chain(words).copied().collect()
    }

    /// Makes sure that [`Machine::run_as_root`] can work, before anything is changed.
    ///
    /// # Errors
    /// When this user is not root and sudo is missing or wants a password.
    pub fn check_root(&self) -> anyhow::Result<()> {
        if self.survey.user == 0 {
            return Ok(());
        }
        let answer = self.connection.look(&["sudo", "-n", "--", "true"])?;
        let user = &self.connection.user;
        match answer.code {
            0 => Ok(()),
            127 => Err(fault(
                format!("{user} is not root, and there is no sudo"),
                "log in as root (--user root), or install sudo there",
            )),
            _ => Err(fault(
                format!(
                    "{user} is not root, and sudo {}: {}",
                    if answer.errors().contains("password") { "wants a password" } else { "refuses" },
                    answer.errors().trim()
                ),
                format!(
                    "allow it on that machine: `echo '{user} ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/{user}` as root, \
                     or log in as root with --user root"
                ),
            )),
        }
    }
}
