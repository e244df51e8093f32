//! A shell on a machine, in this terminal.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Winsize, isatty, tcgetwinsize};

use super::Connection;
use super::modes::Changed;
use super::remote::{Unblocked, directions, exit_code, ready};
use crate::hint::fault;

/// Terminal when the environment names none.
const TERMINAL_DEFAULT: &str = "xterm";
/// How often the size of the window is looked at, at the least.
const LOOK_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Bytes that are moved at once.
const CHUNK_BYTES: usize = 16 << 10;

impl Connection {
    /// Runs a login shell there until it ends; gives its exit code. `terminal` is the kind of terminal (`TERM`).
    ///
    /// # Errors
    /// Without a terminal here, or when the connection ends.
    pub fn shell(
        &self,
        terminal: Option<&str>,
        sink: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<i32> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Err(fault(
                "a shell needs a terminal, and standard input is none",
                "give the command to run there: `corediscover fleet ssh MACHINE COMMAND`",
            ));
        }
        let mut size = window();
        let mut channel = self.session.channel_session().context("the machine opens no channel")?;
        let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
        channel
            .request_pty(terminal.unwrap_or(TERMINAL_DEFAULT), None, Some((columns, rows, 0, 0)))
            .context("the machine gives no terminal")?;
        channel.shell().context("the machine starts no shell")?;
        // Every key is handed on, those that would end this program too.
        let raw = Changed::new(&stdin, OptionalActions::Now, rustix::termios::Termios::make_raw)?;
        let unblocked = Unblocked::new(&self.session);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut typed: Vec<u8> = Vec::new();
        loop {
            let mut moved = false;
            if let Some(count) = ready(channel.read(&mut buffer))?
                && count > 0
            {
                moved = true;
                sink(&buffer[..count])?;
            }
            if !typed.is_empty()
                && let Some(count) = ready(channel.write(&typed))?
            {
                moved |= count > 0;
                typed.drain(..count);
            }
            if channel.eof() && !moved {
                break;
            }
            if moved {
                continue;
            }
            let keys = if typed.is_empty() { PollFlags::IN } else { PollFlags::empty() };
            let mut ready_to = [
                PollFd::new(&self.socket, directions(&self.session)),
                PollFd::from_borrowed_fd(stdin.as_fd(), keys),
            ];
            match poll(&mut ready_to, Some(&LOOK_WAIT)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for the machine"),
            }
            if !ready_to[1].revents().is_empty() {
                // Not through the buffer of the standard library: what it holds back, poll would not see.
                let count = rustix::io::read(&stdin, &mut buffer).context("cannot read what is typed")?;
                if count == 0 {
                    ready(channel.send_eof().map_err(Into::into))?;
                }
                typed.extend_from_slice(&buffer[..count]);
            }
            let now = window();
            if (now.ws_col, now.ws_row) != (size.ws_col, size.ws_row) {
                let resized = channel.request_pty_size(now.ws_col.into(), now.ws_row.into(), None, None);
                if ready(resized.map_err(Into::into))?.is_some() {
                    size = now;
                }
            }
        }
        drop(unblocked);
        drop(raw);
        exit_code(&mut channel)
    }
}

fn window() -> Winsize {
    let usual = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcgetwinsize(std::io::stdin()).ok().filter(|size| size.ws_col > 0).unwrap_or(usual)
}
