//! Programs of the machine: systemctl, resolvectl, ip, docker. No shell.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};

use crate::hint::{WithHint as _, fault};
use crate::model::resolved::{self, RESOLVER};

/// What a program printed, when it succeeded.
///
/// # Errors
/// Names the program, its arguments and what it said.
pub(super) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = output(program, arguments)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program says yes.
///
/// # Errors
/// When it cannot be started.
pub(super) fn succeeds(program: &str, arguments: &[&str]) -> anyhow::Result<bool> {
    Ok(output(program, arguments)?.status.success())
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started.
pub(super) fn output(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new(program)
        .args(arguments)
        // Words in English, in one line each.
        .env("LC_ALL", "C")
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))
        .hint(advice(program))
}

fn advice(program: &str) -> &'static str {
    match program {
        "ip" => "install iproute2",
        "resolvectl" => "it comes with systemd-resolved: install that, or do without this command",
        "docker" => "without Docker leave --docker out",
        _ => "this command is for machines with systemd",
    }
}

/// Refuses users who may not.
pub(super) fn must_be_root(command: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(fault(
        "only root may change this machine's resolver",
        format!("use `sudo corediscover {command} …`; `corediscover resolved status` works for everybody"),
    ))
}

/// systemd's version.
pub(super) fn version() -> anyhow::Result<u32> {
    let text = run("systemctl", &["--version"])?;
    resolved::version(&text).with_context(|| format!("cannot read systemd's version from `{}`", text.trim()))
}

/// Whether the resolver runs.
pub(super) fn resolves() -> anyhow::Result<bool> {
    succeeds("systemctl", &["--quiet", "is-active", RESOLVER])
}

/// Refuses machines without a resolver that runs.
pub(super) fn must_resolve() -> anyhow::Result<()> {
    if resolves()? {
        return Ok(());
    }
    Err(fault(
        "systemd-resolved does not run on this machine",
        "`corediscover doctor` prints the command that installs or starts it and keeps the servers of /etc/resolv.conf; or point \
         the resolver that you have at the agent's DNS port",
    ))
}

/// Whether systemd-networkd runs.
pub(super) fn has_networkd() -> anyhow::Result<bool> {
    succeeds("systemctl", &["--quiet", "is-active", "systemd-networkd.service"])
}

/// Whether the machine goes down: nothing is restarted then.
fn goes_down() -> anyhow::Result<bool> {
    let output = output("systemctl", &["is-system-running"])?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "stopping")
}

/// How the resolver reads its files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Again {
    /// A reload is enough where it can do that.
    Reload,
    /// Only a restart does it.
    Restart,
}

impl Again {
    /// As it is written down until it is done.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Reload => "reload\n",
            Self::Restart => "restart\n",
        }
    }
}

/// Makes the resolver read its files, if it runs. More than five restarts in ten seconds would stop it for good, so
/// when that happened its count is set back and it is started.
///
/// # Errors
/// When it does not run afterwards.
pub(super) fn read_again(how: Again, wait: bool) -> anyhow::Result<()> {
    if !resolves()? || goes_down()? {
        return Ok(());
    }
    let verb = match how {
        Again::Reload => "try-reload-or-restart",
        Again::Restart => "try-restart",
    };
    if !wait {
        // Nobody will see whether it worked.
        run("systemctl", &["reset-failed", RESOLVER])?;
        return run("systemctl", &["--no-block", verb, RESOLVER]).map(drop);
    }
    if succeeds("systemctl", &[verb, RESOLVER])? && resolves()? {
        return Ok(());
    }
    run("systemctl", &["reset-failed", RESOLVER])?;
    run("systemctl", &["start", RESOLVER])
        .context("the resolver does not start again")
        .hint("see `journalctl -u systemd-resolved`; `corediscover resolved remove` takes our settings away")
        .map(drop)
}

/// Whether a program of this name runs somewhere, and with an argument that begins so.
pub(super) fn runs_with_flag(name: &str, flag: &str) -> anyhow::Result<bool> {
    Ok(value_of_flag(name, flag)?.is_some())
}

/// The value of a flag of a program of this name that runs somewhere: behind `=`, or the next argument.
pub(super) fn value_of_flag(name: &str, flag: &str) -> anyhow::Result<Option<String>> {
    let folder = std::fs::read_dir("/proc").context("cannot read /proc")?;
    for entry in folder {
        let path = entry.context("cannot read /proc")?.path();
        // A process may end while it is looked at.
        let Ok(line) = std::fs::read(path.join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        let program = words.next().map(Path::new).and_then(Path::file_name);
        if program.is_none_or(|program| program != name) {
            continue;
        }
        while let Some(word) = words.next() {
            match word.strip_prefix(flag) {
                Some("") => return Ok(Some(words.next().unwrap_or_default().to_owned())),
                Some(rest) if rest.starts_with('=') => return Ok(Some(rest[1..].to_owned())),
                _ => {}
            }
        }
    }
    Ok(None)
}
