//! Programs and other calls that may hang, with a bound in time.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;

/// What a program printed, when it ended well within `deadline`; it is killed otherwise.
///
/// # Errors
/// Names the program, its arguments and what it said.
pub async fn run(program: &str, arguments: &[&str], deadline: Duration) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(program);
    // Words in English, no colours.
    command.args(arguments).env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").stdin(Stdio::null());
    let running = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(deadline, running)
        .await
        .with_context(|| format!("`{program} {}` takes longer than {deadline:?}", arguments.join(" ")))?
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a call gives that may block for ever. It runs on a thread of its own, which is left behind when the time is up:
/// such a thread does not keep the process from ending.
///
/// # Errors
/// When there is no answer within `deadline`, or the call fails.
pub async fn within<T: Send + 'static>(
    what: &str,
    deadline: Duration,
    call: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name(what.to_owned())
        .spawn(move || {
            // Fails only when nobody waits any more.
            drop(sender.send(call()));
        })
        .with_context(|| format!("cannot start a thread for: {what}"))?;
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(given)) => given,
        Ok(Err(_)) => bail!("{what}: it ended without an answer"),
        Err(_) => bail!("{what}: no answer within {deadline:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{run, within};

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_program_gives_what_it_prints_or_says_why_not() {
        assert_eq!(run("echo", &["a", "b"], LONG).await.unwrap(), "a b\n");
        let failed = run("sh", &["-c", "echo no >&2; exit 3"], LONG).await.unwrap_err();
        assert!(failed.to_string().ends_with("failed: no"), "{failed}");
        assert!(run("/no/such/program", &[], LONG).await.is_err());
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_in_time() {
        let hung = run("sleep", &["1000"], SHORT).await.unwrap_err();
        assert!(hung.to_string().contains("longer than"), "{hung}");
        let hung = within("a sleep", SHORT, || {
            std::thread::park_timeout(LONG);
            Ok(())
        });
        assert!(hung.await.unwrap_err().to_string().contains("no answer within"));
        assert_eq!(within("a sum", LONG, || Ok(1 + 1)).await.unwrap(), 2);
    }
}
