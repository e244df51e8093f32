//! A clock that is wrong, and one that nobody sets. A container has the clock of its host and may not change it: what a
//! program, or systemd, is told about it is changed instead.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{INSTALLED, is_found, is_healthy, lay, sh, told};
use crate::machines::Machine;

/// Debian's package faketime; the tests of the fleet use it too.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
/// systemd asks the kernel with this call whether the clock is kept right; the answer is what a file says.
const KERNEL: &str = r#"
#include <sys/timex.h>
#include <unistd.h>
int adjtimex(struct timex *state) {
  state->maxerror = access("/run/clock-is-kept", F_OK) == 0 ? 1000 : 16000000;
  state->status = 0;
  return TIME_OK;
}
int ntp_adjtime(struct timex *state) { return adjtimex(state); }
"#;

/// The program runs with a clock that is a minute and a half ahead. The released program has no libraries that another one
/// could stand in for, so a build of the tests is brought.
pub(super) fn is_ahead(machine: &Machine) {
    let root = tempfile::tempdir().unwrap();
    let program = fs::read(env!("CARGO_BIN_EXE_corediscover")).unwrap();
    lay(root.path(), "root/corediscover", &program, 0o755);
    let library = fs::read(FAKETIME).expect("Debian's package faketime is installed");
    lay(root.path(), "root/faketime.so", &library, 0o644);
    machine.bring(root.path());
    let at = |offset: &str| {
        let offset = format!("FAKETIME={offset}");
        let line =
            ["env", "LD_PRELOAD=/root/faketime.so", &offset, "DONT_FAKE_MONOTONIC=1", "/root/corediscover"];
        let (code, found) = told(machine, &[&line[..], &["doctor", "--json"]].concat());
        (code, found.into_iter().filter(|(check, _)| check == "clock").collect::<Vec<_>>())
    };
    for (offset, way) in [("+90s", "ahead of"), ("-90s", "behind")] {
        let (code, found) = at(offset);
        // The two other machines are right.
        assert!(code == 1 && found.len() == 2, "{offset}: {code}: {found:#?}");
        for (_, finding) in found {
            let symptom = finding["symptom"].as_str().unwrap();
            assert!(symptom.starts_with("the clock is ") && symptom.contains(way), "{symptom}");
            assert!(
                symptom.contains(" 90 s ") || symptom.contains(" 89 s ") || symptom.contains(" 91 s "),
                "{symptom}"
            );
            assert_eq!(finding["fix"], "timedatectl set-ntp true");
        }
    }
    assert_eq!(at("+0s").1, [], "the right time is fine");
    sh(machine, "rm /root/corediscover /root/faketime.so");
}

/// The machine looks like no container any more, and its kernel says that nobody keeps the clock right; then, that somebody
/// does.
pub(super) fn is_set_by_nobody(machine: &Machine) {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("kernel.c");
    corediscover::host::files::write_atomic(&source, KERNEL.as_bytes(), 0o644).unwrap();
    let library = root.path().join("kernel.so");
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(made.success());
    let tree = tempfile::tempdir().unwrap();
    lay(tree.path(), "usr/local/lib/kernel.so", &fs::read(&library).unwrap(), 0o755);
    let drop_in = "[Service]\nEnvironment=LD_PRELOAD=/usr/local/lib/kernel.so\n";
    let path = "etc/systemd/system/systemd-timedated.service.d/kernel.conf";
    lay(tree.path(), path, drop_in.as_bytes(), 0o644);
    machine.bring(tree.path());
    let marks = ["/run/systemd/container", "/.dockerenv"];
    for mark in marks {
        let kept = format!("/root/{}", Path::new(mark).file_name().unwrap().to_str().unwrap());
        sh(machine, &format!("test ! -e {mark} || mv {mark} {kept}"));
    }
    sh(machine, "systemctl daemon-reload; systemctl stop systemd-timedated.service");
    let fix = is_found(machine, "clock", "warning", "the clock is not synchronised");
    assert_eq!(fix, "timedatectl set-ntp true");
    // There is nobody in a container who could do that: a warning is no error, and what it would bring is brought.
    assert!(machine.try_run(&[INSTALLED, "doctor"]).status.success());
    sh(machine, ": >/run/clock-is-kept");
    is_healthy(machine);
    for mark in marks {
        let kept = format!("/root/{}", Path::new(mark).file_name().unwrap().to_str().unwrap());
        sh(machine, &format!("test ! -e {kept} || mv {kept} {mark}"));
    }
    sh(
        machine,
        &format!(
            "rm /{path} /run/clock-is-kept; systemctl daemon-reload; systemctl stop systemd-timedated.service"
        ),
    );
}
