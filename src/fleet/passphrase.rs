//! Asks for passphrases at the terminal: never on a command line, never from the environment.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex};

use super::modes::Changed;
use crate::hint::{WithHint as _, fault};

/// The terminal of this process, whatever its standard input is.
const TERMINAL: &str = "/dev/tty";
/// The character that is none (termios(3), `_POSIX_VDISABLE`).
const NO_CHARACTER: u8 = 0;

/// Asks for the passphrase of `what`; what is typed is not shown.
pub(super) fn ask(what: &str) -> anyhow::Result<String> {
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(TERMINAL)
        .with_context(|| format!("{what} is encrypted, and there is no terminal to ask for its passphrase"))
        .hint(format!("give the key to an agent: `ssh-add {what}`"))?;
    let silenced = Changed::new(&terminal, OptionalActions::Flush, |modes| {
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ECHONL);
        // Who was sent to the background would leave a silent terminal to the shell.
        modes.special_codes[SpecialCodeIndex::VSUSP] = NO_CHARACTER;
    })?;
    let mut line = String::new();
    let mut ask = || -> std::io::Result<usize> {
        (&terminal).write_all(format!("Passphrase of {what}: ").as_bytes())?;
        BufReader::new(&terminal).read_line(&mut line)
    };
    let count = ask().context("cannot read the passphrase")?;
    drop(silenced);
    if count == 0 {
        return Err(fault(
            format!("no passphrase was typed for {what}"),
            format!("type it, or give the key to an agent: `ssh-add {what}`"),
        ));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
