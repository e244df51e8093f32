//! Asks for passphrases at the terminal: never on a command line, never from the environment.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::hint::WithHint as _;

/// The terminal of this process, whatever its standard input is.
const TERMINAL: &str = "/dev/tty";

/// Echoes again when dropped.
struct Silenced<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Silenced<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _gone = tcsetattr(self.terminal, OptionalActions::Now, &self.before).is_err();
    }
}

/// Asks for the passphrase of `what`; what is typed is not shown.
pub(super) fn ask(what: &str) -> anyhow::Result<String> {
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TERMINAL)
        .with_context(|| format!("{what} is encrypted, and there is no terminal to ask for its passphrase"))
        .hint(format!("give the key to an agent: `ssh-add {what}`"))?;
    let before = tcgetattr(&terminal).context("the terminal does not answer")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    let silenced = Silenced { terminal: &terminal, before };
    tcsetattr(&terminal, OptionalActions::Flush, &silent)
        .context("the terminal goes on showing what is typed")?;
    let mut line = String::new();
    let mut ask = || -> std::io::Result<usize> {
        (&terminal).write_all(format!("Passphrase of {what}: ").as_bytes())?;
        BufReader::new(&terminal).read_line(&mut line)
    };
    ask().context("cannot read the passphrase")?;
    drop(silenced);
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
