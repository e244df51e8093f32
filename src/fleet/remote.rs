//! Running programs on a machine, and putting files there.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use ring::digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};

use super::{Connection, Machine};
use crate::hint::{WithHint as _, fault};
use crate::model::fleet::shell::command_line;

/// Most bytes of a program's answer: units and journals are smaller by far.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes that are moved at once; a packet of SSH holds 32 KiB.
const CHUNK_BYTES: usize = 32 << 10;
/// How long a wait for the socket lasts before it is looked at again.
const POLL_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// What a shell gives for a program that a signal ended, with the signal's number added.
const ENDED_BY_SIGNAL: i32 = 128;

/// Puts standard input into the file $1 with mode $2, if its SHA-512 is $3. Whoever looks sees the old file or the new
/// one; a copy that a broken connection cut short is thrown away. Folders may be read by all, as those of the system.
const PUT_SCRIPT: &str = r#"set -e
folder=$(dirname -- "$1")
umask 022
mkdir -p -- "$folder"
new="$folder/.${1##*/}.$$.new"
trap 'rm -f -- "$new"' EXIT
umask 077
cat >"$new"
set -- "$1" "$2" "$3" "$(sha512sum <"$new")"
[ "${4%% *}" = "$3" ] || { echo 'the copy was cut short' >&2; exit 1; }
chmod -- "$2" "$new"
sync -- "$new"
mv -f -- "$new" "$1"
sync -- "$folder"
"#;

/// What a program said.
pub struct Answer {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub code: i32,
}

impl Answer {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The text, if the program succeeded; `what` it was, in the error.
    ///
    /// # Errors
    /// With what the program said.
    pub fn expect_success(&self, what: &str) -> anyhow::Result<String> {
        if self.code == 0 {
            return Ok(self.text());
        }
        let said = self.errors();
        let said = if said.trim().is_empty() { self.text() } else { said };
        bail!("{what} failed with code {}: {}", self.code, said.trim());
    }
}

/// The connection ended before the program that ran there, as far as we know: it may have done all, a part or nothing.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection ended before the machine said how the command ended")]
pub struct Lost;

/// What can be done about that.
const LOST_ADVICE: &str = "after a reboot or a power-off this is as it should be; else look on the machine whether the \
                           command is done, or give it again";

/// Which of a program's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Connection {
    /// Runs a program with these arguments, which reach it as they are; `input` is its standard input.
    ///
    /// # Errors
    /// When the connection ends, or the answer is too long.
    pub fn run(&self, words: &[&str], input: &[u8]) -> anyhow::Result<Answer> {
        self.run_within(words, input, None)
    }

    /// As [`Connection::run`], for a program that only looks: it may take [`Connection::patience`].
    ///
    /// # Errors
    /// When the program takes longer, too.
    pub fn look(&self, words: &[&str]) -> anyhow::Result<Answer> {
        self.run_within(words, &[], Some(self.patience))
    }

    /// As [`Connection::run`]; the program may take `limit`.
    ///
    /// # Errors
    /// When the program takes longer, too.
    pub fn run_within(
        &self,
        words: &[&str],
        input: &[u8],
        limit: Option<Duration>,
    ) -> anyhow::Result<Answer> {
        let mut answer = Answer { stdout: Vec::new(), stderr: Vec::new(), code: 0 };
        let mut channel = self.start(&command_line(words))?;
        answer.code = self.pump(&mut channel, input, limit, &mut |from, bytes| {
            let kept = if from == Stream::Stdout { &mut answer.stdout } else { &mut answer.stderr };
            if kept.len() + bytes.len() > ANSWER_BYTES_MAX {
                bail!("the answer has more than {ANSWER_BYTES_MAX} bytes");
            }
            kept.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(answer)
    }

    /// Runs a program and hands on what it prints as it comes.
    ///
    /// # Errors
    /// When the connection ends, or `sink` fails.
    pub fn follow(
        &self,
        words: &[&str],
        sink: &mut dyn FnMut(Stream, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<i32> {
        let mut channel = self.start(&command_line(words))?;
        self.pump(&mut channel, &[], None, sink)
    }

    fn start(&self, command: &str) -> anyhow::Result<Channel> {
        let mut channel = self.session.channel_session().context("the machine opens no channel")?;
        channel.exec(command).context("the machine runs no command")?;
        Ok(channel)
    }

    /// Moves bytes both ways until the program has ended, for `limit` at most; gives its exit code.
    fn pump(
        &self,
        channel: &mut Channel,
        mut input: &[u8],
        limit: Option<Duration>,
        sink: &mut dyn FnMut(Stream, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<i32> {
        let begun = Instant::now();
        let unblocked = Unblocked::new(&self.session);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut input_open = true;
        loop {
            let mut moved = false;
            for from in [Stream::Stdout, Stream::Stderr] {
                let mut stream = if from == Stream::Stdout { channel.stream(0) } else { channel.stderr() };
                if let Some(count) = ready(stream.read(&mut buffer))?
                    && count > 0
                {
                    moved = true;
                    sink(from, &buffer[..count])?;
                }
            }
            if let Some((first, _)) = input.split_at_checked(input.len().min(CHUNK_BYTES))
                && !first.is_empty()
            {
                if let Some(count) = ready(channel.write(first))? {
                    moved |= count > 0;
                    input = &input[count..];
                }
            } else if input_open {
                input_open = ready(channel.send_eof().map_err(Into::into))?.is_none();
                moved |= !input_open;
            }
            if channel.eof() && !moved {
                break;
            }
            if let Some(limit) = limit.filter(|limit| begun.elapsed() >= *limit) {
                return Err(fault(
                    format!("the machine lets us in, and does not answer within {limit:?}"),
                    "is it busy, or a disk of it gone? --timeout 1m waits longer",
                ));
            }
            if !moved {
                wait(&self.session, &self.socket)?;
            }
        }
        drop(unblocked);
        exit_code(channel)
    }
}

/// Ends the channel; gives the exit code of what ran there.
pub(super) fn exit_code(channel: &mut Channel) -> anyhow::Result<i32> {
    let closed = channel.close().and_then(|()| channel.wait_close());
    let signal = channel.exit_signal().context("the machine does not say how the program ended")?;
    if let Some(name) = signal.exit_signal {
        // One that this system does not know has no number here.
        let number = Signal::from_str(&format!("SIG{name}")).map_or(0, |signal| signal as i32);
        return Ok(ENDED_BY_SIGNAL + number);
    }
    let code = channel.exit_status().context("the machine does not say how the program ended")?;
    if code == 0 {
        // Without an answer it is 0 as well.
        closed.context(Lost).hint(LOST_ADVICE)?;
    }
    Ok(code)
}

/// While it lives, calls of the session return at once.
pub(super) struct Unblocked<'a>(&'a Session);

impl<'a> Unblocked<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        session.set_blocking(false);
        Self(session)
    }
}

impl Drop for Unblocked<'_> {
    fn drop(&mut self) {
        self.0.set_blocking(true);
    }
}

/// `None`: not now.
pub(super) fn ready<T>(result: std::io::Result<T>) -> anyhow::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context(Lost).hint(LOST_ADVICE),
    }
}

fn wait(session: &Session, socket: &TcpStream) -> anyhow::Result<()> {
    let flags = directions(session);
    match poll(&mut [PollFd::new(socket, flags)], Some(&POLL_WAIT)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait for the machine"),
    }
}

/// What the session waits for.
pub(super) fn directions(session: &Session) -> PollFlags {
    match session.block_directions() {
        BlockDirections::Outbound => PollFlags::OUT,
        BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
        BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
    }
}

/// SHA-512 in hexadecimal digits, as sha512sum(1) prints it.
fn sha512(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA512, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Machine {
    /// Puts a file onto the machine as root: whole or not at all. `mode` as chmod(1) takes it.
    ///
    /// # Errors
    /// Names the file.
    pub fn put_file(&self, path: &str, bytes: &[u8], mode: &str) -> anyhow::Result<()> {
        let words = ["sh", "-c", PUT_SCRIPT, "sh", path, mode, &sha512(bytes)];
        self.run_as_root(&words, bytes)?
            .expect_success("the copy")
            .with_context(|| format!("cannot write {path}"))
            .hint("is there room, and is that file system writable?")?;
        Ok(())
    }

    /// Puts a file there unless an equal one is there. Says whether it was put.
    ///
    /// # Errors
    /// As [`Machine::put_file`].
    pub fn put_file_if_other(&self, path: &str, bytes: &[u8], mode: &str) -> anyhow::Result<bool> {
        if self.has_file(path, bytes)? {
            return Ok(false);
        }
        self.put_file(path, bytes, mode)?;
        Ok(true)
    }

    /// Whether the file with these bytes is there.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn has_file(&self, path: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        let there = self.run_as_root(&["sha512sum", "--", path], &[])?;
        let mut words = there.stdout.split(u8::is_ascii_whitespace);
        // A name with a backslash makes sha512sum put one before the digest as well.
        let is_equal = words
            .next()
            .is_some_and(|digest| digest.strip_prefix(b"\\").unwrap_or(digest) == sha512(bytes).as_bytes());
        Ok(is_equal && there.code == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::{PUT_SCRIPT, sha512};

    /// Runs the script here, as a machine would; says whether it succeeded.
    fn put(path: &Path, sent: &[u8], meant: &[u8]) -> bool {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask 077\n{PUT_SCRIPT}"), "sh"])
            .arg(path)
            .args(["0640", &sha512(meant)]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sent).unwrap();
        child.wait().unwrap().success()
    }

    #[test]
    fn a_copy_that_was_cut_short_changes_nothing_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a folder/it's a file");
        assert!(put(&path, b"old", b"old"));
        assert!(!put(&path, b"ne", b"new"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert!(put(&path, b"new", b"new"));
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!((mode & 0o7777, std::fs::read_dir(path.parent().unwrap()).unwrap().count()), (0o640, 1));
        // Others must find what is in it, whatever the mask of the user.
        let folder = std::fs::metadata(path.parent().unwrap()).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&folder) & 0o7777, 0o755);
    }
}
