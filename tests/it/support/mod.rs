//! What the tests share: processes that end with the test, addresses of their own, waiting with a deadline.

pub(crate) mod chance;
pub(crate) mod client;
pub(crate) mod docker;
pub(crate) mod etcd;
pub(crate) mod etcd_proxy;
pub(crate) mod ignition;
pub(crate) mod machine;
pub(crate) mod netns;
pub(crate) mod resolver;
mod wait;
mod wire;

pub(crate) use wait::{PATIENCE, eventually, tell_failures_at_once};
pub(crate) use wire::Link;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    tell_failures_at_once();
    PathBuf::from(env!("CARGO_BIN_EXE_corediscover"))
}

/// A command of the binary under test, with a clean environment but for PATH.
pub(crate) fn corediscover() -> Command {
    bare_command(&binary().display().to_string())
}

/// A command with a clean environment but for PATH, and no input.
pub(crate) fn bare_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}

/// A loopback address that no other test of this run uses: every machine of a test has Consul's ports to itself.
pub(crate) fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = number.to_be_bytes();
    // 127.0.x.y is left to users; the process id keeps two runs apart.
    let run = 16 + (std::process::id() % 200) as u8;
    Ipv4Addr::new(127, run, high, low.wrapping_add(1).max(1))
}

/// A process that is killed (and reaped) when the test ends, however it ends.
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command`; `name` is for messages.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self::of(name, child)
    }

    /// A process that was started already.
    pub(crate) fn of(name: &str, child: Child) -> Self {
        Self { child, name: name.to_owned() }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by number, as kill(1) does.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Kills the process at once (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end of the process and gives its exit code; fails after `deadline`.
    pub(crate) fn exit_code(&mut self, deadline: Duration) -> Option<i32> {
        let name = self.name.clone();
        eventually(deadline, &format!("{name} ends"), || {
            self.child.try_wait().unwrap().map(|status| status.code())
        })
    }

    /// Whether the process is still there.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
