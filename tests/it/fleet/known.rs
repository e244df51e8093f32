//! Host keys: known, unknown, hashed, changed, of several kinds.

use std::fs;
use std::process::Command;

use super::machine::{Machine, User};
use crate::support::bare_command;

fn met() -> (User, Machine) {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    user.fine(&[&machine], &["list-machines"]);
    (user, machine)
}

#[test]
fn an_unknown_host_is_refused_with_its_fingerprint_and_the_command_that_adds_it_works() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    let spoken = machine.spoken();
    let ask = || user.fleet(&["--machines", &spoken, "list-machines"]);
    let (code, stdout, stderr) = ask();
    assert_eq!((code, stdout.as_str()), (1, "MACHINE\tIP\tMETADATA\n"), "{stderr}");
    let print = Command::new("ssh-keygen").arg("-lf").arg(machine.path("host_ed25519.pub")).output().unwrap();
    let print = String::from_utf8(print.stdout).unwrap().split(' ').nth(1).unwrap().to_owned();
    assert!(stderr.contains(&format!("is not known: ssh-ed25519 {print}\n")), "{stderr}");
    assert!(!user.known_hosts().exists());
    let advised = stderr.split('`').find(|part| part.starts_with("echo ")).expect("a command is advised");
    assert!(bare_command("sh").args(["-c", advised]).status().unwrap().success(), "{advised}");
    let (code, _, stderr) = ask();
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_new_host_is_added_once_when_that_is_wanted_and_its_changed_key_is_refused_all_the_same() {
    let (user, mut machine) = met();
    user.fine(&[&machine], &["list-machines"]);
    let known = fs::read_to_string(user.known_hosts()).unwrap();
    let name = format!("[{}]:2222 ssh-ed25519 ", machine.address.ip());
    assert!(known.starts_with(&name) && known.lines().count() == 1, "{known}");
    machine.power_off();
    machine.new_host_key("ed25519");
    machine.power_on();
    let (code, _, stderr) = user.on(&[&machine], &["list-machines"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("HAS CHANGED") && stderr.contains("line 1 of "), "{stderr}");
    assert_eq!(fs::read_to_string(user.known_hosts()).unwrap(), known);
    // What is advised forgets the old key.
    let advised =
        stderr.split('`').find(|part| part.starts_with("ssh-keygen -R")).expect("a command is advised");
    assert!(bare_command("sh").args(["-c", advised]).output().unwrap().status.success(), "{advised}");
    user.fine(&[&machine], &["list-machines"]);
}

#[test]
fn hashed_names_of_known_hosts_are_found() {
    let (user, machine) = met();
    let hashed = Command::new("ssh-keygen").arg("-H").arg("-f").arg(user.known_hosts()).output().unwrap();
    assert!(hashed.status.success());
    assert!(fs::read_to_string(user.known_hosts()).unwrap().starts_with("|1|"));
    let (code, _, stderr) = user.fleet(&["--machines", &machine.spoken(), "list-machines"]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_host_with_several_keys_is_asked_for_the_one_that_is_known() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key());
    machine.new_host_key("rsa");
    machine.configure("");
    let machine = machine.start();
    let public = fs::read_to_string(machine.path("host_rsa.pub")).unwrap();
    let line = format!("[{}]:2222 {public}", machine.address.ip());
    let file = user.home.path().join("elsewhere");
    corediscover::host::files::write_atomic(&file, line.as_bytes(), 0o600).unwrap();
    let file = file.display().to_string();
    let (code, _, stderr) =
        user.fleet(&["--known-hosts", &file, "--machines", &machine.spoken(), "list-machines"]);
    assert_eq!(code, 0, "{stderr}");
}
