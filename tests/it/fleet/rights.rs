//! Machines that do not give what is needed: rights, room, something to read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::machine::{Machine, User};

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep 1000\n";

/// Writes a unit file and gives its path.
fn unit(user: &User, name: &str) -> String {
    let path = user.home.path().join(name);
    corediscover::host::files::write_atomic(&path, SLEEPS.as_bytes(), 0o644).unwrap();
    path.display().to_string()
}

#[test]
fn a_user_without_sudo_is_told_how_to_get_it_and_reads_what_may_be_read() {
    let user = User::new();
    let machine = Machine::new("host-1").with_user(&user.key()).start();
    user.fine(&[&machine], &["submit", &unit(&user, "hello.service")]);
    let core = machine.spoken().replace("root@", "core@");
    let (code, _, stderr) = user.fleet(&["--machines", &core, "start", "hello.service"]);
    let said = "core is not root, and sudo wants a password: sudo: a password is required\n";
    assert!(code == 1 && stderr.contains(said) && stderr.contains("NOPASSWD"), "{stderr}");
    let (code, stdout, stderr) = user.fleet(&["--machines", &core, "list-unit-files", "--no-legend"]);
    assert_eq!((code, stdout.as_str()), (0, "hello.service\t2d432f4\tinactive\tinactive\t-\n"), "{stderr}");
}

#[test]
fn units_that_the_user_may_not_read_are_an_error_and_not_an_empty_list() {
    let user = User::new();
    let machine = Machine::new("host-1").with_user(&user.key()).start();
    user.fine(&[&machine], &["submit", &unit(&user, "hello.service")]);
    let core = machine.spoken().replace("root@", "core@");
    for (name, mode) in [
        ("lib/corediscover-fleet", 0o700),
        ("lib/corediscover-fleet/units", 0o700),
        ("lib/corediscover-fleet/units/hello.service", 0o600),
    ] {
        let path = machine.path(name);
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let (code, stdout, stderr) = user.fleet(&["--machines", &core, "list-unit-files", "--no-legend"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{name}: {stderr}");
        let said = "this user may not read /var/lib/corediscover-fleet and what is in it\n";
        assert!(
            stderr.contains(said) && stderr.contains("hint: what fleet keeps is to be read by all"),
            "{stderr}"
        );
        fs::set_permissions(&path, before).unwrap();
    }
}

#[test]
fn what_lies_among_the_units_and_is_none_disturbs_nobody() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    user.fine(&[&machine], &["submit", &unit(&user, "hello.service")]);
    let units = machine.path("lib/corediscover-fleet/units");
    fs::create_dir(units.join("folder.service")).unwrap();
    for (name, text) in
        [("a note.txt", &b"unit x\n"[..]), ("new\nline", b""), ("latin.service", b"# \xe9\n[Service]\n")]
    {
        corediscover::host::files::write_atomic(&units.join(name), text, 0o644).unwrap();
    }
    let list = user.fine(&[&machine], &["list-unit-files", "--no-legend", "--fields", "unit"]);
    assert_eq!(list, "hello.service\nlatin.service\n");
}

#[test]
fn a_machine_without_room_keeps_what_it_has_and_is_told_why() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key());
    machine.put(
        "more",
        "mount -t tmpfs -o size=1m none /opt\nmount -t tmpfs -o size=4k none /var/lib\n\
         head -c 4096 /dev/zero >/var/lib/full\n",
        0o644,
    );
    let machine = machine.start();
    let file = user.home.path().join("machines");
    let line = format!("{} advertise=10.77.0.1\n", machine.spoken());
    corediscover::host::files::write_atomic(&file, line.as_bytes(), 0o600).unwrap();
    let file = file.display().to_string();
    let (code, stdout, stderr) = user.fleet(&["--accept-new", "--machines", &file, "up"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("cannot write /opt/bin/.corediscover.new\n"), "{stderr}");
    assert!(stderr.contains("No space left on device") && stderr.contains("hint: is there room"), "{stderr}");
    let name = machine.address.to_string();
    assert_eq!(user.fine(&[&machine], &["ssh", &name, "ls", "-A", "/opt/bin"]), "");
    assert_eq!(machine.read("system/corediscover-agent.service"), "");
    let (code, stdout, stderr) = user.on(&[&machine], &["start", &unit(&user, "hello.service")]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let said = "cannot write /var/lib/corediscover-fleet/units/hello.service\n";
    assert!(stderr.contains(said) && stderr.contains("No space left on device"), "{stderr}");
    assert_eq!(machine.read("system/hello.service"), "");
}

#[test]
fn a_user_whose_shell_runs_nothing_is_told_so() {
    let user = User::new();
    let machine = Machine::new("host-1").with_user(&user.key());
    let users = machine.read("passwd").replace(":/:/bin/sh\n", ":/:/usr/sbin/nologin\n");
    machine.put("passwd", &users, 0o644);
    let machine = machine.start();
    let core = machine.spoken().replace("root@", "core@");
    let (code, _, stderr) = user.fleet(&["--accept-new", "--machines", &core, "list-units"]);
    assert!(code == 1 && stderr.contains("This account is currently not available."), "{stderr}");
    assert!(stderr.contains("hint: does the shell of this user run commands?"), "{stderr}");
}
