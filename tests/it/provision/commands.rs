//! The commands as people call them: flags and spec file say the same, and what is printed is what is committed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

use super::{expect_file, repository, succeeded};
use crate::support::corediscover;

/// Commands that print one text, and the committed file of each.
const PRINTED: [(&[&str], &str); 7] = [
    (&["cloud-config"], "cloud-config/coreos.yaml"),
    (&["cloud-init"], "cloud-config/cloud-init.yaml"),
    (&["ignition"], "cloud-config/ignition.json"),
    (&["butane"], "cloud-config/butane-flatcar.yaml"),
    (&["butane", "--variant", "fcos-1.5"], "cloud-config/butane-fcos.yaml"),
    (&["cloud-init", "--print-spec"], "cloud-config/corediscover.yaml"),
    (&["compose"], "units/compose/compose.yaml"),
];
/// Commands that write files, and the committed folder of each.
const WRITTEN: [(&[&str], &str); 4] = [
    (&["units", "--systemd"], "units/systemd"),
    (&["units", "--fleet"], "units/fleet"),
    (&["sysext", "--no-binary"], "units/sysext"),
    (&["vagrant"], "vagrant"),
];
/// Files of the committed folders that people wrote.
const BY_HAND: [&str; 1] = ["README.md"];
/// All commands that take a spec, as they print or write.
const COMMANDS: [&str; 8] =
    ["cloud-config", "cloud-init", "ignition", "butane", "units", "compose", "sysext", "vagrant"];

/// The files below `folder`, by their paths in it.
fn below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn the_committed_files_are_what_the_commands_print() {
    for (command, file) in PRINTED {
        let text = succeeded(corediscover().args(command).output().unwrap());
        expect_file(&repository().join(file), &text);
    }
    for (command, committed) in WRITTEN {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new/folder");
        let printed = succeeded(corediscover().args(command).arg("--out").arg(&out).output().unwrap());
        let mut written = BTreeSet::new();
        for path in printed.lines().map(Path::new) {
            let name = path.strip_prefix(&out).unwrap();
            expect_file(&repository().join(committed).join(name), &fs::read_to_string(path).unwrap());
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o644, "{}", name.display());
            written.insert(name.to_owned());
        }
        assert_eq!(below(&out), written, "nothing else is left in the folder");
        let mut there = below(&repository().join(committed));
        there.retain(|path| !BY_HAND.iter().any(|name| path == Path::new(name)));
        assert_eq!(written, there, "{committed}");
    }
}

#[test]
fn one_unit_is_written_alone_and_the_others_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, registrator) = ("corediscover-agent.service", "corediscover-registrator.service");
    write_atomic(&folder.path().join(agent), b"mine\n", MODE_PUBLIC).unwrap();
    let units = |only: &[&str]| {
        let mut call = corediscover();
        call.args(["units", "--binary", "path=/usr/bin/corediscover"])
            .args(only)
            .arg("--out")
            .arg(folder.path());
        call.output().unwrap()
    };
    let output = units(&["--only", registrator, "--only", "registrator"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("there is no unit `registrator`, and nothing was written"), "{errors}");
    assert!(errors.contains(&format!("hint: the units are {agent}, {registrator}, ")), "{errors}");
    assert_eq!(below(folder.path()).len(), 1);
    let printed = succeeded(units(&["--only", registrator]));
    assert_eq!(printed, format!("{}\n", folder.path().join(registrator).display()));
    assert_eq!(below(folder.path()).len(), 2);
    assert_eq!(fs::read_to_string(folder.path().join(agent)).unwrap(), "mine\n");
    let unit = fs::read_to_string(folder.path().join(registrator)).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/corediscover registrator "), "{unit}");
}

/// What a command makes, as one text: what it prints, or the files that it writes.
fn output_of(command: &str, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut call = corediscover();
    call.arg(command).args(arguments);
    match command {
        "units" | "vagrant" => call.arg("--out").arg(folder.path()),
        "sysext" => call.arg("--no-binary").arg("--out").arg(folder.path()),
        _ => {
            return succeeded(call.output().unwrap());
        }
    };
    succeeded(call.output().unwrap());
    let files = below(folder.path());
    assert!(files.len() >= 3);
    files
        .iter()
        .map(|path| format!("{}:\n{}", path.display(), fs::read_to_string(folder.path().join(path)).unwrap()))
        .collect()
}

/// Flags that change every setting that has one.
const FLAGS: [&str; 16] = [
    "--servers",
    "1",
    "--etcd",
    "http://10.0.0.9:2379,http://10.0.0.8:2379",
    "--binary",
    "image=registry.example/c:1",
    "--datacenter",
    "ams",
    "--domain",
    "corp.example",
    "--node",
    "machine-id",
    "--dns-port",
    "53",
    "--client",
    "127.0.0.1,172.17.0.1",
];

#[test]
fn a_spec_file_says_what_the_flags_say() {
    for command in COMMANDS {
        let flags: Vec<&str> = match command {
            // The binary is in it.
            "sysext" => [&FLAGS[..4], &FLAGS[6..]].concat(),
            _ => FLAGS.to_vec(),
        };
        let by_flags = output_of(command, &flags);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("corediscover.yaml");
        let spec = succeeded(corediscover().arg(command).args(&flags).arg("--print-spec").output().unwrap());
        write_atomic(&file, spec.as_bytes(), MODE_PUBLIC).unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(output_of(command, &["--spec-file", file]), by_flags, "{command}");
        let other = output_of(command, &["--spec-file", file, "--datacenter", "dc7"]);
        assert_eq!(
            other,
            by_flags.replace("-datacenter ams", "-datacenter dc7").replace("\"ams\"", "\"dc7\""),
            "{command}"
        );
    }
}

#[test]
fn bootstrap_takes_the_command_of_every_unit_that_is_written_for_an_etcd() {
    let files =
        ["--etcd-ca", "/etc/etcd/ca.pem", "--etcd-cert", "/etc/etcd/c.pem", "--etcd-key", "/etc/etcd/k.pem"];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_atomic(&folder.path().join("id"), b"0123456789abcdef0123456789abcdef\n", MODE_PUBLIC).unwrap();
    for count in [2, 6] {
        let mut call = corediscover();
        call.args(["units", "--advertise", "auto", "--etcd", "https://10.0.0.9,https://[fd00::9]:4001"]);
        succeeded(call.args(&files[..count]).arg("--out").arg(folder.path()).output().unwrap());
        let unit = fs::read_to_string(folder.path().join("corediscover-agent.service"))
            .unwrap()
            .replace("\\\n", " ");
        let command =
            unit.lines().find_map(|line| line.strip_prefix("ExecStart=/opt/bin/corediscover ")).unwrap();
        let command =
            command.replace("/etc/machine-id", &path("id")).replace("/var/lib/corediscover", &path("data"));
        let command = command.replace("/run/corediscover-etcd", &path("etcd"));
        let output = corediscover().args(command.split_whitespace()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        // All that it misses are the files of this machine.
        assert!(errors.contains(&format!("cannot read {}", path("etcd/ca.pem"))), "{command}: {errors}");
        assert_eq!(output.status.code(), Some(1), "{errors}");
    }
    let output = corediscover().args(["cloud-init", "--etcd", "https://10.0.0.9:2379"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("needs the authority") && errors.contains("hint: give its PEM file with --etcd-ca"),
        "{errors}"
    );
}

#[test]
fn explanations_are_comments_and_change_nothing_else() {
    for command in COMMANDS {
        if command == "ignition" {
            let output = corediscover().args([command, "--explain"]).output().unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{errors}");
            assert!(
                output.stdout.is_empty() && errors.contains("hint: `corediscover butane --explain`"),
                "{errors}"
            );
            continue;
        }
        let plain = output_of(command, &[]);
        let explained = output_of(command, &["--explain"]);
        let mut lines = plain.lines().peekable();
        let mut comments = 0;
        for line in explained.lines() {
            if lines.peek() == Some(&line) {
                lines.next();
            } else {
                assert!(line.trim_start().starts_with("# "), "{command}: {line}");
                comments += 1;
            }
        }
        assert_eq!(lines.next(), None, "{command}");
        assert!(comments > 5, "{command}: {comments}");
    }
}

#[test]
fn two_spec_files_are_compared_by_their_settings_or_by_an_output() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (file("old.yaml", "servers: 3\n"), file("new.yaml", "servers: 5\ndomain: consul\n"));
    let settings = succeeded(corediscover().args(["diff", &old, &new]).output().unwrap());
    assert!(settings.contains("\n-servers: 3\n+servers: 5\n"), "{settings}");
    assert_eq!(settings.matches("\n-").count(), 1, "{settings}");
    let units = succeeded(corediscover().args(["diff", "--format", "units", &old, &new]).output().unwrap());
    assert!(units.contains("\n-  --expect 3 \\\n+  --expect 5 \\\n"), "{units}");
    let code = |files: [&str; 2]| {
        corediscover().args(["diff", "--exit-code"]).args(files).output().unwrap().status.code()
    };
    assert_eq!((code([&old, &new]), code([&old, &old])), (Some(1), Some(0)));
}

#[test]
fn mistakes_in_a_spec_file_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corediscover.yaml");
    for (text, code, part) in [
        ("servers: 3\nserver: 5\n", 1, "line 2, column 1: unknown setting `server`"),
        ("servers: 2\n", 1, "line 1, column 10: 2 servers are not possible"),
        ("join: 10.0.0.1\netcd: http://10.0.0.1:2379\n", 2, "give one of the two"),
    ] {
        write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
        let output = corediscover().args(["cloud-init", "--spec-file"]).arg(&path).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(output.stdout.is_empty() && errors.contains(part) && errors.contains("\nhint: "), "{errors}");
    }
    let output = corediscover().args(["cloud-init", "--spec-file", "/no/such/file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_extension_holds_the_binary_that_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tree");
    let printed = succeeded(corediscover().args(["sysext", "--out"]).arg(&out).output().unwrap());
    assert!(printed.contains("usr/bin/corediscover\n"), "{printed}");
    let program = out.join("usr/bin/corediscover");
    let version = succeeded(std::process::Command::new(program).arg("version").output().unwrap());
    assert!(version.starts_with("corediscover "), "{version}");
}
