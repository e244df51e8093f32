//! The modes of the terminal come back however the program ends: also by Ctrl-C, by `kill`, and with the window.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Once;
use std::thread;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal, raise};
use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// What ends a program that does not mind them.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// A terminal with other modes than before. One at a time: passphrases are asked for one after the other, and a shell
/// begins when all of them are known.
static CHANGED: Mutex<Option<Before>> = Mutex::new(None);

/// A terminal as it was.
struct Before {
    terminal: OwnedFd,
    modes: Termios,
}

/// Other modes of a terminal, as long as this lives.
pub(super) struct Changed(());

impl Changed {
    /// Gives the terminal the modes that `change` makes of its own; what was typed ahead is dropped or kept.
    pub(super) fn new(
        terminal: impl AsFd,
        when: OptionalActions,
        change: impl FnOnce(&mut Termios),
    ) -> anyhow::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned().context("cannot share the terminal")?;
        let modes = tcgetattr(&terminal).context("the terminal does not answer")?;
        let mut changed = modes.clone();
        change(&mut changed);
        let mut before = CHANGED.lock();
        tcsetattr(&terminal, when, &changed).context("the terminal does not take other modes")?;
        *before = Some(Before { terminal, modes });
        Ok(Self(()))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        drop(restore());
    }
}

/// Gives a changed terminal its modes back; gives the terminal, if there was one.
fn restore() -> Option<OwnedFd> {
    let Before { terminal, modes } = CHANGED.lock().take()?;
    // A terminal that is gone needs no care.
    let _gone = tcsetattr(&terminal, OptionalActions::Now, &modes).is_err();
    Some(terminal)
}

/// From now on signals that end this program give the terminal its modes back first. To be called before other threads
/// are started: they must not get those signals.
///
/// # Errors
/// When a thread cannot be started.
pub fn restore_at_signals() -> anyhow::Result<()> {
    static BEGUN: Once = Once::new();
    let mut result = Ok(());
    BEGUN.call_once(|| result = watch());
    result
}

fn watch() -> anyhow::Result<()> {
    let signals: SigSet = ENDING.into_iter().collect();
    signals.thread_block().context("cannot hold signals back")?;
    let wait = move || loop {
        // It fails for signals that there are not.
        let signal = signals.wait().unwrap_or(Signal::SIGTERM);
        if let Some(terminal) = restore() {
            // What a shell says next is not to stand behind our question.
            let _gone = rustix::io::write(&terminal, b"\r\n").is_err();
        }
        // What the signal does by itself, so that a shell sees what ended us.
        let only: SigSet = [signal].into_iter().collect();
        let _ends_us = only.thread_unblock().and_then(|()| raise(signal)).is_err();
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
