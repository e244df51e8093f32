//! This machine's clock: whether systemd says that it is kept right.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::program;

/// systemd writes here which kind of container this is; none on a machine of its own (systemd(1)).
const CONTAINER_FILES: [&str; 3] = ["/run/systemd/container", "/.dockerenv", "/run/.containerenv"];
/// How long systemd may take to tell; it starts a small service for that.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Whether this is a container, which has the clock of its host.
pub fn is_container() -> bool {
    CONTAINER_FILES.iter().any(|path| Path::new(path).exists())
}

/// Whether the kernel's clock is synchronised, whoever does it.
///
/// # Errors
/// Without systemd, or when it does not answer.
pub async fn is_synchronised() -> anyhow::Result<bool> {
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    let text = program::run("timedatectl", &arguments, ANSWER_WAIT).await?;
    match text.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(anyhow::anyhow!("`{other}`")).context("timedatectl's answer is not understood"),
    }
}
