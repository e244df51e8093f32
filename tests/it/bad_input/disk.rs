//! Disks that lie, and disks that are full.
#![allow(clippy::disallowed_methods, reason = "what a crash would leave of a test's files does not matter")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{nothing_is_lost, server};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::machine::{Machine, PATIENCE, formed, request};

/// Bytes of the disk that is filled: room for the first segments of the log and little more.
const SMALL_DISK_BYTES: u32 = 40 << 20;

/// The only segment of the machine's log.
fn segment(machine: &Machine) -> PathBuf {
    let folder = machine.data().join("raft/log");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}

/// Where the last byte that is not zero stands.
fn end_of(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap()
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_with_file_and_offset_and_a_torn_end_is_cut() {
    let mut machine = server();
    for number in 0..50 {
        assert!(machine.put(&format!("/v1/kv/k{number}"), "some value that is stored"));
    }
    machine.kill();
    let path = segment(&machine);
    let whole = fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let end = end_of(&whole);

    // One bit in the middle; also in the head of the file.
    for position in [end / 2, 9] {
        file.write_all_at(&[whole[position] ^ 1], position as u64).unwrap();
        let said = machine.log().len();
        machine.start();
        assert_eq!(machine.ended(), Some(1), "{}", machine.log());
        let log = machine.log().split_off(said);
        assert!(log.contains(&path.display().to_string()) && log.contains("hint: "), "{log}");
        if position > 64 {
            let offset: usize =
                log.split("damaged at offset ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
            assert!(offset <= position && position - offset < 1000, "{offset}, {position}: {log}");
        }
        file.write_all_at(&whole[position..=position], position as u64).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), whole, "what is damaged is not touched");

    // Another machine's log: a data directory cannot be put together from two.
    let incarnation = machine.data().join("incarnation");
    let own = fs::read(&incarnation).unwrap();
    fs::write(&incarnation, "0b6c1f0e-5df3-4a55-9a0b-1f6f1e0a7c11\n").unwrap();
    machine.start();
    assert_eq!(machine.ended(), Some(1));
    assert!(machine.log().contains("is that of node"), "{}", machine.log());
    fs::write(&incarnation, own).unwrap();

    // Half a frame at the end is what a loss of power leaves: it was never acknowledged.
    let end = end_of(&fs::read(&path).unwrap());
    file.write_all_at(&[40, 0, 0, 0, 1, 2, 3, 4, 5], (end as u64 + 8) & !7).unwrap();
    // Files of the local state that cannot be read are set aside and named.
    let service = machine.data().join("services/broken.json");
    fs::write(&service, "{").unwrap();
    machine.start();
    formed(&[&machine], 1);
    nothing_is_lost(&machine);
    assert!(machine.get("/v1/kv/k49").is_some());
    let log = machine.log();
    assert!(log.contains(&service.display().to_string()) && log.contains("set aside"), "{log}");
    assert!(!service.exists());
}

/// A small file system of its own; gone at the end.
pub(super) struct Disk(pub(super) PathBuf);

impl Disk {
    pub(super) fn mount(folder: &Path, bytes: u32, options: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let options = format!("size={bytes},{options}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder)
            .status()
            .unwrap();
        assert!(status.success(), "the tests of a full disk need root: they mount a tmpfs");
        Self(folder.to_owned())
    }

    /// Writes until nothing fits any more.
    fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.0.join("filler")).unwrap();
        for size in [1 << 16, 1] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left may still have files open there.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_refuses_what_cannot_be_kept_and_loses_nothing_that_was_acknowledged() {
    let mut machine = Machine::agent("m1", &["-server", "-bootstrap"]);
    let disk = Disk::mount(&machine.data(), SMALL_DISK_BYTES, "mode=700");
    machine.start();
    formed(&[&machine], 1);
    assert!(machine.put("/v1/agent/service/register", r#"{"Name": "before", "Port": 80}"#));
    assert!(machine.put("/v1/kv/before", "value"));
    nothing_is_lost(&machine);
    disk.fill();

    // A registration must be on this machine's disk: refused, and the agent lives.
    let body = br#"{"Name": "during", "Port": 81}"#;
    let ask = |body: &[u8]| {
        let answer = machine.request("PUT", "/v1/agent/service/register", body);
        let (status, _, text) = answer.unwrap_or_else(|| panic!("no answer: {}", machine.log()));
        (status, String::from_utf8(text).unwrap())
    };
    let (status, text) = ask(body);
    assert_eq!(status, 500, "{text}");
    assert!(text.contains("during") && text.contains("No space left on device"), "{text}");
    assert_eq!(ask(br#"{"Name": "before", "Port": 99}"#).0, 500);
    assert!(machine.is_alive());
    nothing_is_lost(&machine);
    let services = machine.get("/v1/agent/services").unwrap();
    assert!(services["during"].is_null() && services["before"]["Port"] == 80, "{services}");

    // Room again: it works again, with no restart.
    disk.make_room();
    assert!(machine.put("/v1/agent/service/register", r#"{"Name": "during", "Port": 81}"#));
    disk.fill();

    // The log has room prepared; when that gets scarce, keys are refused with the reason, and the server lives.
    let value = vec![b'x'; 400_000];
    let mut kept = Vec::new();
    let mut refused = String::new();
    for number in 0..200 {
        let path = format!("/v1/kv/load/{number}");
        match request(machine.socket(8500), "PUT", &path, &value) {
            Some((200, _, answer)) if answer == b"true" => kept.push(path),
            Some((500, _, answer)) => {
                refused = String::from_utf8(answer).unwrap();
                break;
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    assert!(!kept.is_empty(), "what is prepared is used");
    for word in ["the disk of server m1 is full", "nothing acknowledged is lost", "make room in "] {
        assert!(refused.contains(word), "`{word}` is not in: {refused}");
    }

    // It still leads and reads; it says so in the catalog and in `status`.
    nothing_is_lost(&machine);
    for mode in ["", "&stale", "&consistent"] {
        let (status, body) = machine.read(&format!("{}?raw{mode}", kept[0]));
        assert!(status == 200 && body == value, "mode `{mode}`");
    }
    until("the catalog says that the disk is full", || {
        let checks = machine.get("/v1/health/state/warning")?;
        let check = checks.as_array()?.iter().find(|check| check["CheckID"] == "serverStorage")?;
        let said = check["Output"].as_str()?.contains("the disk of server m1 is full");
        (said && check["ServiceID"] == "consul" && check["Node"] == "m1").then_some(())
    });
    let screen = status_of(&machine);
    assert!(screen.contains("warning: the disk of server m1 is full"), "{screen}");
    assert!(machine.is_alive());

    // Killed and started on the full disk: it is what it was.
    machine.kill();
    machine.start();
    formed(&[&machine], 1);
    nothing_is_lost(&machine);
    until("it knows that its disk is full", || {
        status_of(&machine).contains("the disk of server m1 is full").then_some(())
    });

    // Room again, and no restart: everything works, and nobody warns.
    disk.make_room();
    until("keys are written again", || machine.put_once("/v1/kv/after", "works").then_some(()));
    until("nobody warns any more", || {
        let checks = machine.get("/v1/health/state/warning")?;
        (checks.as_array()?.is_empty() && !status_of(&machine).contains("warning: the disk")).then_some(())
    });
    for path in &kept {
        let (status, body) = machine.read(&format!("{path}?raw"));
        assert!(status == 200 && body == value, "{path} was acknowledged");
    }
    nothing_is_lost(&machine);
    assert_eq!(machine.get("/v1/agent/services").unwrap()["during"]["Port"], 81);
}

#[test]
fn a_leader_with_a_full_disk_hands_the_lead_over_and_is_whole_again_when_there_is_room() {
    let etcd = Etcd::start();
    let mut machines: Vec<Machine> =
        (1..=3).map(|number| Machine::bootstrap(&format!("m{number}"), &etcd.url(), 3)).collect();
    let disks: Vec<Disk> =
        machines.iter().map(|machine| Disk::mount(&machine.data(), SMALL_DISK_BYTES, "mode=700")).collect();
    machines.iter_mut().for_each(Machine::start);
    let all: Vec<&Machine> = machines.iter().collect();
    let leader = formed(&all, 3);
    let full = all.iter().position(|machine| leader.starts_with(&format!("{}:", machine.address))).unwrap();
    let (full, disk, other) = (all[full], &disks[full], all[(full + 1) % 3]);
    disk.fill();

    // Writers at another machine notice nothing: while the lead changes hands they wait.
    let value = vec![b'x'; 400_000];
    let mut kept = Vec::new();
    let mut write = || {
        let path = format!("/v1/kv/load/{}", kept.len());
        let answer = request(other.socket(8500), "PUT", &path, &value);
        assert!(answer.as_ref().is_some_and(|answer| answer.0 == 200), "{path}: {answer:?}");
        kept.push(path);
        kept.len()
    };
    while other.leader().is_none_or(|now| now == leader) {
        assert!(write() < 60, "the leader does not step down");
    }
    until("the others agree on another leader", || {
        let now = other.leader().filter(|now| *now != leader)?;
        all.iter().all(|machine| machine.leader().as_ref() == Some(&now)).then_some(())
    });
    // More than fits on the full disk.
    for _ in 0..15 {
        write();
    }
    let stale = full.request("GET", &format!("{}?raw&stale", kept[0]), b"").unwrap();
    assert!(stale.0 == 200 && stale.2 == value, "it still reads");
    let fresh = full.read(&format!("{}?raw", kept[kept.len() - 1]));
    assert!(fresh.0 == 200 && fresh.1 == value, "through the leader too");
    until("everybody hears of the full disk", || {
        let text = format!("warning: the disk of server {} is full", full.name);
        all.iter().all(|machine| status_of(machine).contains(&text)).then_some(())
    });
    assert!(!full.dig(&["consul.service.consul"]).is_empty());

    disk.make_room();
    until("it has caught up by itself", || {
        let (status, _, body) = full.request("GET", &format!("{}?raw&stale", kept[kept.len() - 1]), b"")?;
        (status == 200 && body == value).then_some(())
    });
    until("nobody warns any more", || {
        all.iter().all(|machine| !status_of(machine).contains("warning: the disk")).then_some(())
    });
    for machine in &all {
        for path in &kept {
            let (status, body) = machine.read(&format!("{path}?raw"));
            assert!(status == 200 && body == value, "{path} was acknowledged");
        }
    }
    assert!(machines.iter_mut().all(Machine::is_alive));
}

/// What `status` prints.
fn status_of(machine: &Machine) -> String {
    machine.command(&["status"]).1
}

#[track_caller]
fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually(PATIENCE, what, probe)
}
