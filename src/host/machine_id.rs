//! `/etc/machine-id`: who this machine is, as systemd knows it (machine-id(5)).

use std::path::Path;

use anyhow::Context as _;

use crate::hint::{WithHint as _, fault};
use crate::model::names::MachineId;

/// Where systemd keeps the machine's id.
pub const MACHINE_ID_FILE: &str = "/etc/machine-id";
/// Where the kernel says which boot this is.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Reads the machine-id from `path`.
///
/// # Errors
/// Names the file, and what is wrong with its content.
pub fn read(path: &Path) -> anyhow::Result<MachineId> {
    let advice = "give the id with --machine-id, or create the file with `systemd-machine-id-setup`";
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the machine-id from {}", path.display()))
        .hint(advice)?;
    let text = text.trim();
    if text.is_empty() || text == "uninitialized" {
        return Err(fault(format!("{} holds no machine-id", path.display()), advice));
    }
    text.parse().with_context(|| format!("{} holds no machine-id", path.display())).hint(advice)
}

/// The id of the running boot.
///
/// # Errors
/// When the kernel does not tell.
pub fn boot_id() -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(BOOT_ID_FILE).with_context(|| format!("cannot read {BOOT_ID_FILE}"))?;
    Ok(text.trim().to_owned())
}
