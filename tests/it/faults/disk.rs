//! A disk that becomes read-only under a running server, as Linux makes one that has errors.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{leader_of, three_servers};
use crate::support::eventually;
use crate::support::machine::PATIENCE;

/// Size of the disk: the log's first segments and a snapshot fit.
const DISK_BYTES: u64 = 256 << 20;

/// An ext4 file system in a file, mounted somewhere; unmounted when dropped.
struct Disk {
    mounted: PathBuf,
    image: tempfile::NamedTempFile,
}

impl Disk {
    fn mount_at(folder: &Path) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(DISK_BYTES).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &image.path().display().to_string()]);
        let disk = Self { mounted: folder.to_owned(), image };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let (image, folder) = (self.image.path().display().to_string(), self.mounted.display().to_string());
        run("mount", &["-o", "loop,errors=remount-ro", &image, &folder]);
    }

    /// What the kernel does when it finds an error in the file system: no more writing, whoever has files open.
    fn fail(&self) {
        let source = run("findmnt", &["-n", "-o", "SOURCE", &self.mounted.display().to_string()]);
        let device = source.trim().trim_start_matches("/dev/");
        let trigger = PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error"));
        let file = std::fs::OpenOptions::new().write(true).open(&trigger);
        std::io::Write::write_all(&mut file.unwrap(), b"1").unwrap();
    }

    /// A copy of the disk is repaired and mounted in its place. The kernel may still hold the disk itself, with its error:
    /// whatever made a mount namespace meanwhile (a container, a machine of another test) took the mount along.
    fn repair(&mut self) {
        self.unmount();
        let copy = tempfile::NamedTempFile::new().unwrap();
        let [from, to] = [&self.image, &copy].map(|image| image.path().display().to_string());
        run("cp", &["--sparse=always", &from, &to]);
        // 1: errors were corrected.
        drop(Command::new("fsck.ext4").args(["-f", "-y", &to]).output());
        self.image = copy;
        self.mount();
    }

    fn unmount(&self) {
        eventually(PATIENCE, "the disk can be unmounted", || {
            let done = Command::new("umount").arg(&self.mounted).output().unwrap();
            done.status.success().then_some(())
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what a failed test left running may still use it.
        drop(Command::new("umount").args(["-l"]).arg(&self.mounted).output());
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {errors}; this test needs root and loop devices",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_disk_that_becomes_read_only_costs_one_server_and_no_acknowledged_write() {
    let mut machines = three_servers();
    let leader = leader_of(&machines);
    // The leader itself moves to the disk that will fail, with its data.
    let mut victim = machines.remove(leader);
    victim.stop();
    let aside = victim.data().with_file_name("aside");
    std::fs::rename(victim.data(), &aside).unwrap();
    std::fs::create_dir(victim.data()).unwrap();
    let mut disk = Disk::mount_at(&victim.data());
    run("cp", &["-a", &format!("{}/.", aside.display()), &victim.data().display().to_string()]);
    // What a program does not sync is lost when the disk fails; what this test copies must not be.
    run("sync", &["-f", &victim.data().display().to_string()]);
    victim.start();
    machines.push(victim);
    leader_of(&machines);
    let mut acknowledged = Vec::new();
    let mut write = |machines: &[crate::support::machine::Machine], through: usize, key: &str| {
        let path = format!("/v1/kv/disk/{key}");
        let done = machines[through].put_once(&path, key);
        if done {
            acknowledged.push(path);
        }
        done
    };
    for number in 0..20 {
        assert!(write(&machines, number % 3, &format!("before{number}")));
    }
    disk.fail();
    for number in 0..20 {
        eventually(PATIENCE, "the others go on", || {
            write(&machines, number % 2, &format!("after{number}")).then_some(())
        });
        write(&machines, 2, &format!("there{number}"));
    }
    let victim = machines.last_mut().unwrap();
    let told = |log: &str| log.contains("Read-only file system");
    eventually(PATIENCE, "it says what is wrong", || told(&victim.log()).then_some(()));
    victim.kill();
    disk.repair();
    victim.start();
    leader_of(&machines);
    for path in acknowledged {
        let (status, body) = machines[2].read(&format!("{path}?raw&consistent"));
        assert_eq!(status, 200, "{path} was acknowledged");
        assert!(path.ends_with(&*String::from_utf8(body).unwrap()));
    }
    machines.last_mut().unwrap().kill();
    drop(machines);
    disk.unmount();
}
