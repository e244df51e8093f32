//! What the data directory says about this machine's part: the raft log is the only truth (I3).
//!
//! A machine with a raft folder is a server, whatever its flags say. A server that is one no more moves the folder
//! away, never deletes it, and begins its next life in raft under another id: log and vote of the old one are gone.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::agent::consensus;
use crate::hint::WithHint as _;
use crate::host::disk::{Disk, is_full};
use crate::host::files::{MODE_PRIVATE, read_if_there_on, write_atomic_on};
use crate::host::versioned;
use crate::model::election::Incarnation;

/// Counts the lives of the raft folder; absent in the first.
const LIFE_FILE: &str = "raft-life.json";

/// Which life of the raft folder this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    life: u32,
}

/// What a machine is when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) struct Start {
    /// Which life of the raft folder this is; 0 for a machine that never ceased to be a server.
    pub(in crate::agent) life: u32,
    /// Whether it starts as a server.
    pub(in crate::agent) server: bool,
    /// Whether it does because its flags say so.
    pub(in crate::agent) by_flags: bool,
}

/// Looks what the machine is. `flags`: they say that it is a server, which counts in the first life only.
pub(in crate::agent) fn look(
    disk: &dyn Disk,
    data: Option<&Path>,
    flags: bool,
    incarnation: &Incarnation,
) -> anyhow::Result<Start> {
    let Some(data) = data else { return Ok(Start { life: 0, server: flags, by_flags: flags }) };
    let life = load(disk, data)?;
    let folder = data.join(consensus::FOLDER);
    if let Some(owner) = consensus::owner_of(disk, &folder)?
        && life > 0
        && owner == incarnation.node_id_in_life(life - 1)
    {
        // The process ended between the two steps of `retire`.
        archive(disk, data, life - 1)?;
    }
    let successor = consensus::owner_of(disk, &data.join(consensus::NEXT_FOLDER))?;
    if life > 0 && successor == Some(incarnation.node_id_in_life(life)) && !is_there(disk, &folder)? {
        // It ended in the middle of `succeed`: no other end of a life leaves that.
        enthrone(disk, data)?;
    } else if let Err(error) = forget_successor(disk, data) {
        // An attempt that came to nothing. Later lives must not find it: they would take it for one of their own. A life
        // that goes on is not harmed by it, and does not end while it is there.
        if !(is_there(disk, &folder)? && lacks_room(&error)) {
            return Err(error);
        }
        tracing::warn!(
            error = format!("{error:#}"),
            "a successor that was never founded stays: the disk is full"
        );
    }
    let there = is_there(disk, &folder)?;
    let by_flags = flags && life == 0;
    Ok(Start { life, server: there || by_flags, by_flags })
}

/// Whether the machine has ceased to be a server at least once, so that flags count no more.
pub(in crate::agent) fn is_past_first_life(disk: &dyn Disk, data: &Path) -> anyhow::Result<bool> {
    Ok(load(disk, data)? > 0)
}

fn load(disk: &dyn Disk, data: &Path) -> anyhow::Result<u32> {
    let path = data.join(LIFE_FILE);
    let Some(bytes) = read_if_there_on(disk, &path)? else { return Ok(0) };
    let advice = "without it a lost vote could be cast again: start with an empty data directory";
    let record: Record = versioned::decode(&bytes).map_err(|error| error.about(&path, advice))?;
    Ok(record.life)
}

/// Ends a life: the raft folder moves away. Gives the next life. The agent must have closed the folder.
pub(in crate::agent) fn retire(disk: &dyn Disk, data: Option<&Path>, life: u32) -> anyhow::Result<u32> {
    let Some(data) = data else { return following(life) };
    // Before the number: with it, a successor that was made ready and never founded would be taken for the next life's.
    forget_successor(disk, data)?;
    end(disk, data, life)
}

/// Ends a life with a successor at hand: its folder takes the place of the archived one. It has taken effect as soon as
/// the number of the next life is written: [`look`] does what is left.
pub(super) fn succeed(disk: &dyn Disk, data: &Path, life: u32) -> anyhow::Result<u32> {
    let next = end(disk, data, life)?;
    enthrone(disk, data)?;
    Ok(next)
}

fn following(life: u32) -> anyhow::Result<u32> {
    life.checked_add(1).context("this machine has been a server too often")
}

fn end(disk: &dyn Disk, data: &Path, life: u32) -> anyhow::Result<u32> {
    let next = following(life)?;
    // The number first: an id whose log may be gone must never be used again.
    let bytes = versioned::encode(&Record { life: next })?;
    write_atomic_on(disk, &data.join(LIFE_FILE), &bytes, MODE_PRIVATE)?;
    archive(disk, data, life)?;
    Ok(next)
}

/// Whether a step failed for lack of room.
fn lacks_room(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is_full)
}

fn is_there(disk: &dyn Disk, path: &Path) -> anyhow::Result<bool> {
    disk.exists(path).with_context(|| format!("cannot look into {}", path.display()))
}

/// Removes a successor that was made ready and never founded.
fn forget_successor(disk: &dyn Disk, data: &Path) -> anyhow::Result<()> {
    let next = data.join(consensus::NEXT_FOLDER);
    if !is_there(disk, &next)? {
        return Ok(());
    }
    tracing::warn!(folder = %next.display(), "a recovery that came to nothing left a successor: it is removed");
    disk.remove_folder(&next)
        .with_context(|| format!("cannot remove {}", next.display()))
        .hint("repair the disk, and start the agent again: nothing is lost")?;
    disk.sync_folder(data).with_context(|| format!("cannot sync {}", data.display()))
}

fn enthrone(disk: &dyn Disk, data: &Path) -> anyhow::Result<()> {
    let (next, folder) = (data.join(consensus::NEXT_FOLDER), data.join(consensus::FOLDER));
    disk.rename(&next, &folder)
        .with_context(|| format!("cannot move {} to {}", next.display(), folder.display()))?;
    disk.sync_folder(data).with_context(|| format!("cannot sync {}", data.display()))
}

fn archive(disk: &dyn Disk, data: &Path, life: u32) -> anyhow::Result<()> {
    let folder = data.join(consensus::FOLDER);
    let away = data.join(format!("{}.retired-{life}", consensus::FOLDER));
    match disk.rename(&folder, &away) {
        Ok(()) => {
            tracing::info!(from = %folder.display(), to = %away.display(), "the raft folder is archived");
            disk.sync_folder(data).with_context(|| format!("cannot sync {}", data.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error)
            .with_context(|| format!("cannot move {} to {}", folder.display(), away.display()))
            .hint("make room or repair the disk, and start the agent again: nothing is lost"),
    }
}

#[cfg(test)]
mod tests;
