//! `vagrant up` with what `corediscover vagrant` wrote, by the provider that needs no virtual machine.

use std::process::{Command, Output};

use tempfile::TempDir;

use crate::machines::nobody_goes;
use crate::released::binary;
use crate::wait::{PATIENCE, eventually, tell_failures_at_once};
use crate::walkthrough::way;

/// Where the README puts the Vagrantfile.
const FOLDER: &str = "desk";

/// A folder for the Vagrantfile; its machines are destroyed when the test ends, however it ends.
struct Desk {
    folder: TempDir,
    home: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), home: tempfile::tempdir().unwrap() }
    }

    /// A program with Vagrant's settings, among them the provider that README leaves to Vagrant.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("VAGRANT_HOME", self.home.path())
            .env("VAGRANT_CHECKPOINT_DISABLE", "1")
            .env("VAGRANT_DEFAULT_PROVIDER", "docker")
            .env("COREDISCOVER_IMAGE", "corediscover-node");
        command
    }

    /// Types the README's lines here.
    #[track_caller]
    fn types(&self, lines: &str) {
        let released = binary();
        let programs = released.parent().unwrap().display();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        let mut bash = self.command("bash");
        let _there = nobody_goes();
        let output = bash.args(["-ec", lines]).current_dir(self.folder.path()).env("PATH", path).output();
        let output = output.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{lines}{told}{}", String::from_utf8_lossy(&output.stdout));
    }

    fn vagrant(&self, arguments: &[&str]) -> Output {
        self.command("vagrant")
            .args(arguments)
            .current_dir(self.folder.path().join(FOLDER))
            .output()
            .expect("vagrant is installed (Debian's package vagrant)")
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let _there = nobody_goes();
        let output = self.vagrant(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "vagrant {}: {errors}\n{text}", arguments.join(" "));
        text
    }

    /// Runs a command on a machine until it ends well and prints what `wanted` accepts.
    #[track_caller]
    fn until(&self, machine: &str, command: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(PATIENCE, &format!("{machine}: {command}"), || {
            let output = self.vagrant(&["ssh", machine, "-c", command]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success() && wanted(&text)).then_some(text)
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if self.folder.path().join(FOLDER).exists() {
            // Says what it could not do, and there is nothing more to do about that.
            drop(self.vagrant(&["destroy", "--force"]));
        }
    }
}

/// Rows of `corediscover members` whose machine is alive.
fn alive(text: &str) -> usize {
    text.lines().filter(|line| line.split_whitespace().any(|word| word == "alive")).count()
}

#[test]
fn vagrant_up_makes_a_cluster_that_is_there_again_after_halt_and_up_and_gone_after_destroy() {
    tell_failures_at_once();
    let desk = Desk::new();
    desk.types(&way("Vagrant"));
    let members = "/opt/bin/corediscover members";
    for machine in ["host-1", "host-2", "host-3"] {
        desk.until(machine, members, |text| alive(text) == 3);
    }
    desk.until("host-3", "getent ahostsv4 consul.service.consul", |text| {
        ["172.28.128.3", "172.28.128.4", "172.28.128.5"].iter().all(|address| text.contains(address))
    });
    desk.until("host-1", "/opt/bin/corediscover kv put greeting hello", |_| true);

    desk.run(&["halt"]);
    desk.run(&["up"]);
    desk.until("host-2", members, |text| alive(text) == 3);
    let kept = desk.until("host-2", "/opt/bin/corediscover kv get greeting", |_| true);
    assert_eq!(kept.trim(), "hello");

    desk.run(&["destroy", "--force"]);
    let status = desk.run(&["status", "--machine-readable"]);
    assert_eq!(status.matches(",state,not_created").count(), 3, "{status}");
}
