//! Who listens on this machine, as the kernel tells it in `/proc`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::unit_files;
use crate::model::doctor::ports::{Holder, Listener, Protocol};

/// The state of a TCP socket that listens, and of a UDP socket that is connected to nobody.
const TCP_LISTENS: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// All sockets that wait for others. Holders of other users' sockets are known to root alone.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn listeners() -> anyhow::Result<Vec<Listener>> {
    let tables = [
        (Protocol::Tcp, "/proc/net/tcp", TCP_LISTENS),
        (Protocol::Tcp, "/proc/net/tcp6", TCP_LISTENS),
        (Protocol::Udp, "/proc/net/udp", UDP_UNCONNECTED),
        (Protocol::Udp, "/proc/net/udp6", UDP_UNCONNECTED),
    ];
    let mut found = Vec::new();
    for (protocol, path, state) in tables {
        match std::fs::read_to_string(path) {
            Ok(table) => found.extend(table.lines().skip(1).filter_map(|line| row(line, protocol, state))),
            // A kernel without IPv6 has no such table.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    let holders = holders()?;
    let listeners = found.into_iter().map(|(mut listener, inode)| {
        listener.holder = holders.get(&inode).map(|pid| holder(*pid));
        listener
    });
    Ok(listeners.collect())
}

/// A row of a table: `0: 0100007F:2134 00000000:0000 0A … uid timeout inode …`.
fn row(line: &str, protocol: Protocol, wanted: &str) -> Option<(Listener, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != wanted {
        return None;
    }
    let listener = Listener {
        protocol,
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        holder: None,
    };
    Some((listener, fields.get(9)?.parse().ok()?))
}

/// The kernel prints addresses as native-endian words of 32 bits.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (number, part) in bytes.chunks_mut(4).enumerate() {
        part.copy_from_slice(&word(number * 8)?);
    }
    let address = Ipv6Addr::from(bytes);
    Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
}

/// The process of each socket. One that was passed on belongs to two: the program that it was passed to works with it. Of
/// several processes of one program, the oldest is told: its workers come and go, and what it has just forked is still
/// its own.
fn holders() -> anyhow::Result<BTreeMap<u64, u32>> {
    let mut found: BTreeMap<u64, (u32, Option<PathBuf>)> = BTreeMap::new();
    for pid in processes_by_age()? {
        // A process may end while it is looked at, and those of others are not shown to everybody.
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let program = program(pid);
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok())
                && found.get(&inode).is_none_or(|(_, older)| *older != program)
            {
                found.insert(inode, (pid, program.clone()));
            }
        }
    }
    Ok(found.into_iter().map(|(inode, (pid, _))| (inode, pid)).collect())
}

/// The ids of all processes.
fn processes() -> anyhow::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Oldest first. Ids alone do not tell: they begin again after the highest.
fn processes_by_age() -> anyhow::Result<Vec<u32>> {
    let mut aged: Vec<(u64, u32)> =
        processes()?.into_iter().filter_map(|pid| Some((started(pid)?, pid))).collect();
    aged.sort_unstable();
    Ok(aged.into_iter().map(|(_, pid)| pid).collect())
}

/// When a process started, in ticks of the kernel since the machine did: the 22nd field of `stat` (`proc_pid_stat(5)`). The
/// name, which is the 2nd, may have anything in it.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()
}

/// Whether a process of this name runs.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn runs(name: &str) -> anyhow::Result<bool> {
    Ok(processes()?.into_iter().any(|pid| process_name(pid) == name))
}

fn process_name(pid: u32) -> String {
    // It may have ended.
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn program(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn holder(pid: u32) -> Holder {
    let program = program(pid).map(|path| {
        let path = path.to_string_lossy().into_owned();
        path.strip_suffix(" (deleted)").map_or(path.clone(), str::to_owned)
    });
    // Without the right to look, the unit is not known.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    Holder { pid, name: process_name(pid), program, unit: unit_of(&groups).filter(|unit| has_file(unit)) }
}

/// The innermost service or socket of a process: `0::/system.slice/nginx.service`. A container is none.
fn unit_of(groups: &str) -> Option<String> {
    let paths = groups.lines().filter_map(|line| line.rsplit(':').next());
    let mut parts = paths.flat_map(|path| path.rsplit('/'));
    parts.find(|part| Path::new(part).extension().is_some_and(|end| end == "service")).map(str::to_owned)
}

fn has_file(unit: &str) -> bool {
    unit_files::FOLDERS.iter().any(|folder| Path::new(folder).join(unit).exists())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command};

    use super::{listeners, parse_address, row, runs, unit_of};
    use crate::model::doctor::ports::Protocol;

    #[test]
    fn a_listener_of_this_process_is_found_with_its_process() {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        let found = listeners().unwrap();
        for (protocol, address) in
            [(Protocol::Tcp, tcp.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())]
        {
            let ours = found.iter().find(|listener| {
                listener.protocol == protocol
                    && (listener.address, listener.port) == (address.ip(), address.port())
            });
            let holder = ours.unwrap().holder.as_ref().unwrap();
            assert_eq!(holder.pid, std::process::id());
            assert!(runs(&holder.name).unwrap(), "{holder:?}");
        }
    }

    #[test]
    fn the_oldest_process_of_the_program_that_a_listener_was_passed_to_holds_it() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = socket.local_addr().unwrap();
        let pass = || {
            let stdin = OwnedFd::from(socket.try_clone().unwrap());
            Command::new("tail").args(["-f", "/dev/null"]).stdin(stdin).spawn().unwrap()
        };
        let mut passed = [pass(), pass()];
        let found = listeners().unwrap();
        let ids = passed.each_ref().map(Child::id);
        for child in &mut passed {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let ours =
            found.iter().find(|listener| (listener.address, listener.port) == (here.ip(), here.port()));
        assert_eq!(ours.unwrap().holder.as_ref().unwrap().pid, ids[0], "{ids:?}");
    }

    #[test]
    fn the_kernels_rows_are_read() {
        let line = "   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   102        0 1234 1";
        let (listener, inode) = row(line, Protocol::Tcp, "0A").unwrap();
        assert_eq!((listener.address.to_string(), listener.port, inode), ("127.0.0.53".to_owned(), 53, 1234));
        assert_eq!(row(line, Protocol::Tcp, "01"), None);
        assert_eq!(parse_address("00000000000000000000000001000000").unwrap().to_string(), "::1");
        assert_eq!(parse_address("0000000000000000FFFF00000100007F").unwrap().to_string(), "127.0.0.1");
    }

    #[test]
    fn the_unit_of_a_process_is_read_from_its_control_group() {
        assert_eq!(unit_of("0::/system.slice/nginx.service\n").unwrap(), "nginx.service");
        assert_eq!(unit_of("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }
}
