//! Machines that cannot be reached: each is named, the others go on.

use std::net::TcpListener;

use super::machine::{Machine, PATIENCE, User, nobody, said};
use crate::support::{Running, eventually};

#[test]
fn machines_that_do_not_answer_are_named_with_the_reason_and_the_others_go_on() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    // It accepts connections and says nothing.
    let mute = TcpListener::bind((nobody(), 0)).unwrap();
    let mute_name = mute.local_addr().unwrap().to_string();
    let off = format!("{}:2222", nobody());
    let list = format!("{},{off},{mute_name},no-such-host.invalid", machine.spoken());
    let words = ["--accept-new", "--timeout", "2s", "--machines", &list, "list-machines", "--no-legend"];
    let (code, stdout, stderr) = user.fleet(&words);
    assert_eq!(code, 1, "{stderr}");
    let ip = machine.address.ip();
    assert_eq!(stdout, format!("686f7374...\t{ip}\t-\n"), "{stderr}");
    for said in [
        format!("{}: connected\n", machine.address),
        format!("error: {off}: cannot connect to {off}\n -> Connection refused"),
        format!("error: {mute_name}: {mute_name} does not speak SSH with us\n"),
        "error: no-such-host.invalid: `no-such-host.invalid` has no address\n".to_owned(),
    ] {
        assert!(stderr.contains(&said), "{said}\n{stderr}");
    }
    assert_eq!(stderr.matches("hint: ").count(), 3, "{stderr}");
}

#[test]
fn machines_come_from_a_file_with_metadata() {
    let user = User::new();
    let machines = [1, 2].map(|number| Machine::new(&format!("{number}-host")).let_in(&user.key()).start());
    let file = user.home.path().join("machines");
    let text = format!("# ours\n{} role=web,disk=ssd\n{}\n", machines[0].spoken(), machines[1].spoken());
    corediscover::host::files::write_atomic(&file, text.as_bytes(), 0o600).unwrap();
    let file = file.display().to_string();
    let words = ["--accept-new", "--machines", &file, "list-machines"];
    let (code, stdout, stderr) = user.fleet(&words);
    assert_eq!(code, 0, "{stderr}");
    let ips = machines.each_ref().map(|machine| machine.address.ip());
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[1..].len(), 2, "{stdout}");
    assert!(lines[1].starts_with("312d686f...\t") && lines[1].ends_with("disk=ssd,role=web"), "{stdout}");
    assert!(lines[2].contains(&ips[1].to_string()) && lines[2].ends_with("\t-"), "{stdout}");
    let (_, json, _) = user.fleet(&[&words[..], &["--json"]].concat());
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[0]["metadata"]["role"], "web");
    assert_eq!(rows[1]["hostname"], "2-host");
}

#[test]
fn machines_that_are_not_understood_are_a_usage_error_that_says_what_to_write() {
    let user = User::new();
    for (words, said) in [
        (&["list-units"][..], "no machine is named"),
        (&["--machines", "a,,b", "list-units"], "is no machine: write [user@]host[:port]"),
        (&["--machines", "a,a", "list-units"], "a is there twice"),
        (&["--machines", "a", "--vagrant", "list-units"], "both name machines"),
        (&["--machines", "a", "--timeout", "soon", "list-units"], "--timeout"),
        (&["--machines", "a", "--timeout", "0", "list-units"], "it must be more than nothing"),
        (&["up", "a", "--wait", "0s"], "it must be more than nothing"),
        (&["--machines", "a", "ssh"], "no machine is named"),
        (&["--machines", "a", "start", "/etc/"], "/etc/ is a folder"),
        (&["up", "a", "--machines", "b"], "machines are named twice"),
        (&["--machines", "a", "start", "web"], "unit name must contain"),
        (&["--machines", "a", "start", "web@.service"], "web@.service is a template"),
    ] {
        let (code, stdout, stderr) = user.fleet(words);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(said), "{words:?}: {code} {stderr}");
    }
    let (code, _, stderr) = user.fleet(&["--machines", "./none", "list-units"]);
    assert!(code == 1 && stderr.contains("cannot read the machines in ./none"), "{stderr}");
}

#[test]
fn a_command_on_a_machine_gets_its_words_as_they_are_and_gives_its_exit_code() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    let name = machine.address.to_string();
    let script = "printf '%s|' \"$@\"; echo to-stderr >&2; exit 7";
    let (code, stdout, stderr) =
        user.on(&[&machine], &["ssh", &name, "sh", "-c", script, "sh", "a b", "$HOME", "it's", "*", ""]);
    assert_eq!((code, stdout.as_str()), (7, "a b|$HOME|it's|*||"), "{stderr}");
    assert!(stderr.contains("to-stderr"), "{stderr}");
    // By the beginning of its id, and by its host name.
    for name in ["686f7374", "host-1"] {
        let (code, stdout, _) = user.on(&[&machine], &["ssh", name, "hostname"]);
        assert_eq!((code, stdout.as_str()), (0, "host-1\n"));
    }
    let (code, _, stderr) = user.on(&[&machine], &["ssh", "other", "true"]);
    assert!(code == 1 && stderr.contains("no machine that answered is `other`"), "{stderr}");
    let (code, _, stderr) = user.on(&[&machine], &["ssh", &name]);
    assert!(code == 1 && stderr.contains("a shell needs a terminal"), "{stderr}");
}

#[test]
fn a_machine_whose_power_is_cut_while_it_works_is_a_lost_connection() {
    let user = User::new();
    let mut machine = Machine::new("host-1").let_in(&user.key()).start();
    let (spoken, name) = (machine.spoken(), machine.address.to_string());
    let words = ["--accept-new", "--machines", &spoken, "ssh", &name, "sh", "-c", "echo begun; sleep 1000"];
    let output = user.home.path().join("output");
    let mut command = user.command(&words);
    command.stderr(std::fs::File::create(&output).unwrap()).stdout(std::process::Stdio::null());
    let mut process = Running::start("fleet ssh", &mut command);
    eventually(PATIENCE, "the command runs there", || {
        // The first one asks the machine what it is.
        (machine.sshd_log().matches("Starting session: command").count() > 1).then_some(())
    });
    machine.power_off();
    assert_eq!(process.exit_code(PATIENCE), Some(255));
    let told = std::fs::read_to_string(output).unwrap();
    let lost = format!("error: {name}: the connection ended before the machine said how the command ended\n");
    assert!(told.contains(&lost), "{told}");
    // One that is off has no exit code of the command either.
    let (code, _, stderr) = user.fleet(&words);
    assert!(code == 255 && stderr.contains(&format!("error: {name}: cannot connect to ")), "{stderr}");
}

#[test]
fn a_machine_that_lets_us_in_and_hangs_is_named_and_the_others_go_on() {
    let user = User::new();
    let machines = [1, 2].map(|number| Machine::new(&format!("{number}-host")).let_in(&user.key()));
    // Its systemd does not answer any more.
    let units = machines[0].path("lib/corediscover-fleet/units");
    std::fs::create_dir_all(&units).unwrap();
    corediscover::host::files::write_atomic(&units.join("a.service"), b"[Service]\n", 0o644).unwrap();
    machines[0].put("systemctl", "#!/bin/sh\nexec sleep 1000\n", 0o755);
    let machines = machines.map(Machine::start);
    let list = format!("{},{}", machines[0].spoken(), machines[1].spoken());
    let words = ["--accept-new", "--timeout", "2s", "--machines", &list, "list-machines", "--no-legend"];
    let (code, stdout, stderr) = user.fleet(&words);
    assert_eq!((code, stdout.lines().count()), (1, 1), "{stderr}");
    let said =
        format!("error: {}: the machine lets us in, and does not answer within 12s\n", machines[0].address);
    assert!(stderr.contains(&said) && stderr.contains("hint: "), "{stderr}");
}

#[test]
fn a_vagrant_machine_that_is_off_is_named_and_the_others_go_on() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    let (ip, port) = (machine.address.ip(), machine.address.port());
    let vagrant = format!(
        "#!/bin/sh\ncase \"$1 $2\" in\n'status --machine-readable')\n\
         printf '1,off,metadata,provider,x\\n1,off,state,poweroff\\n1,on,state,running\\n1,,ui,info,all\\n' ;;\n\
         'ssh-config on')\nprintf 'Host on\\n  HostName {ip}\\n  User root\\n  Port {port}\\n  StrictHostKeyChecking no\\n' ;;\n\
         *) echo 'the machine is not ready' >&2; exit 1 ;;\nesac\n"
    );
    let folder = user.home.path().join("bin");
    std::fs::create_dir(&folder).unwrap();
    corediscover::host::files::write_atomic(&folder.join("vagrant"), vagrant.as_bytes(), 0o755).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let mut command = user.command(&["--vagrant", "list-machines", "--no-legend"]);
    let (code, stdout, stderr) = said(&command.env("PATH", path).output().unwrap());
    assert_eq!((code, stdout.lines().count()), (1, 1), "{stderr}");
    assert!(
        stderr.contains("error: off: `vagrant ssh-config off` failed: the machine is not ready\n"),
        "{stderr}"
    );
    assert!(stderr.contains("on: connected\n"), "{stderr}");
}
