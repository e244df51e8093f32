//! Programs whose end is not as usual: a signal ends them, or the connection is gone before they are.

use std::process::Stdio;

use super::machine::{Machine, PATIENCE, User};
use crate::support::{Running, eventually};

/// What is said when nobody knows how a program ended.
const LOST: &str = "the connection ended before the machine said how the command ended\n";

fn met() -> (User, Machine, String) {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key());
    machine.configure("LogLevel DEBUG2");
    let machine = machine.start();
    let name = machine.address.to_string();
    (user, machine, name)
}

#[test]
fn a_command_that_ends_its_connection_as_a_reboot_does_has_no_exit_code_of_its_own() {
    let (user, machine, name) = met();
    // The parent is the part of sshd that serves this connection.
    let (code, stdout, stderr) =
        user.on(&[&machine], &["ssh", &name, "sh", "-c", "echo begun; kill -9 $PPID; sleep 1000"]);
    assert_eq!(code, 255, "{stdout}{stderr}");
    assert!(stderr.contains(&format!("error: {name}: {LOST}")), "{stderr}");
    assert!(stderr.contains("hint: after a reboot or a power-off this is as it should be"), "{stderr}");
    let (code, help, _) = user.fleet(&["ssh", "--help"]);
    assert!(code == 0 && help.contains("255") && help.contains("`reboot`"), "{help}");
}

#[test]
fn a_connection_that_ends_between_the_last_output_and_the_exit_code_is_no_success() {
    let (user, machine, name) = met();
    let script = "exec >&- 2>&-; until [ -e /opt/end ]; do sleep 0.1; done; kill -9 $PPID";
    let output = user.home.path().join("output");
    let mut command =
        user.command(&["--accept-new", "--machines", &machine.spoken(), "ssh", &name, "sh", "-c", script]);
    command.stderr(std::fs::File::create(&output).unwrap()).stdout(Stdio::null());
    let mut process = Running::start("fleet ssh", &mut command);
    // The first one is that of the look at the machine.
    eventually(PATIENCE, "sshd says that there is no more output", || {
        (machine.sshd_log().matches("send eof").count() > 1).then_some(())
    });
    machine.put("opt/end", "", 0o644);
    assert_eq!(process.exit_code(PATIENCE), Some(255));
    let told = std::fs::read_to_string(output).unwrap();
    assert!(told.contains(LOST), "{told}");
}

#[test]
fn a_command_that_a_signal_ends_has_the_exit_code_that_a_shell_gives_it() {
    let (user, machine, name) = met();
    for (signal, want) in [("KILL", 137), ("TERM", 143)] {
        let script = format!("kill -{signal} $$");
        let (code, _, stderr) = user.on(&[&machine], &["ssh", &name, "sh", "-c", &script]);
        assert_eq!(code, want, "{stderr}");
    }
}

#[test]
fn a_unit_whose_start_has_no_known_end_is_not_told_as_started() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key());
    machine.put("systemctl", "#!/bin/sh\nkill -9 $PPID\n", 0o755);
    let machine = machine.start();
    let file = user.home.path().join("hello.service");
    let text = b"[Service]\nExecStart=/bin/sleep 1000\n";
    corediscover::host::files::write_atomic(&file, text, 0o644).unwrap();
    let (code, stdout, stderr) = user.on(&[&machine], &["start", &file.display().to_string()]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains(LOST), "{stderr}");
}
