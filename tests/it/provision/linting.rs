//! `corediscover lint` as people call it: what it says about the files of others, and how it ends.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use corediscover::host::files::{MODE_PUBLIC, write_atomic};
use serde_json::Value;

use super::parsers::{PYTHON, put, run};
use super::{repository, scenarios};
use crate::support::corediscover;

/// Exit code, stdout and stderr of `lint` for a file of this name.
fn lint(name: &str, text: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    write_atomic(&folder.path().join(name), text.as_bytes(), MODE_PUBLIC).unwrap();
    let output =
        corediscover().arg("lint").args(arguments).arg(name).current_dir(folder.path()).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn lint_says_what_the_scenarios_say() {
    let path = scenarios().join("lint.txt");
    let scenarios = fs::read_to_string(&path).unwrap();
    let mut written = String::new();
    for block in scenarios.split_inclusive("\n====\n") {
        let block = block.strip_suffix("\n====\n").unwrap_or(block.trim_end());
        let (head, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n----").unwrap();
        let words: Vec<&str> = head.split(' ').collect();
        let (name, arguments) = words.split_last().unwrap();
        let (code, told, errors) = lint(name, &format!("{text}\n"), &arguments[1..]);
        let code = code.unwrap();
        let code = code.to_string();
        written.extend([head, "\n", text, "\n----\n", &told, &errors, "exit ", &code, "\n====\n"]);
    }
    super::expect_file(&path, &written);
}

#[test]
fn lint_finds_nothing_in_our_own_files_but_what_is_no_longer_shipped() {
    let mut files = vec![repository().join("cloud-config/coreos.yaml")];
    for name in ["cloud-init.yaml", "ignition.json", "butane-flatcar.yaml", "butane-fcos.yaml"] {
        files.push(repository().join("cloud-config").join(name));
    }
    for folder in ["units/systemd", "units/fleet", "vagrant/units"] {
        files.extend(fs::read_dir(repository().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    for file in files {
        let output = corediscover().arg("lint").arg(&file).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let unavoidable = told.lines().filter(|line| line.contains(": warning: deprecated key ")).count();
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert_eq!(told.lines().count(), 2 * unavoidable, "{told}");
        assert_eq!(unavoidable, if file.ends_with(Path::new("coreos.yaml")) { 2 } else { 0 }, "{told}");
    }
}

#[test]
fn lint_prints_json_and_reads_standard_input() {
    let mut child = corediscover()
        .args(["lint", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"#cloud-config\nruncmd:\n  - echo a: b\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read[0]["rule"], "wrong-type");
    assert_eq!((read[0]["line"].as_u64(), read[0]["column"].as_u64()), (Some(3), Some(5)));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn lint_refuses_what_it_cannot_read_with_a_hint() {
    for (name, bytes) in [("packed", &b"\x1f\x8b\x08\xff"[..]), ("large", &vec![b'#'; (256 << 10) + 1])] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        write_atomic(&path, bytes, MODE_PUBLIC).unwrap();
        let output = corediscover().arg("lint").arg(&path).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(output.stdout.is_empty() && errors.contains("\nhint: "), "{errors}");
    }
    let (code, _, errors) = lint("a", "", &["--compat", "--json"]);
    assert_eq!(code, Some(2), "{errors}");
}

/// Parts of an Ignition config, right and wrong.
const IGNITION_PARTS: [&str; 19] = [
    r#""storage": {"files": [{"path": "/a", "mode": 420}]}"#,
    r#""storage": {"files": [{"path": "a"}]}"#,
    r#""storage": {"files": [{"path": "/a", "mode": "0644"}]}"#,
    r#""storage": {"files": [{"path": "/a", "mode": 99999}]}"#,
    r#""storage": {"files": [{"path": "/a"}, {"path": "/a"}]}"#,
    r#""storage": {"files": [{"path": "/a"}], "links": [{"path": "/a", "target": "/b"}]}"#,
    r#""storage": {"file": []}"#,
    r#""storage": {"files": [{"path": "/a", "contents": {"source": "ftp://x/a"}}]}"#,
    r#""storage": {"files": [{"path": "/a", "contents": {"source": "http://x/a"}}]}"#,
    r#""storage": {"files": [{"path": "/a", "contents": {"source": "data:,", "verification": {"hash": "md5-1"}}}]}"#,
    r#""storage": {"files": [{"path": "/a", "contents": {"source": "data:,", "compression": "xz"}}]}"#,
    r#""systemd": {"units": [{"name": "a"}]}"#,
    r#""systemd": {"units": [{"name": "a.service", "contents": "[Unit"}]}"#,
    r#""systemd": {"units": [{"name": "a.service"}, {"name": "a.service"}]}"#,
    r#""systemd": {"units": [{"name": "a.service", "enabled": "true"}]}"#,
    r#""systemd": {"units": [{"name": "a.service", "enabled": true, "contents": "[Unit]\n"}]}"#,
    r#""systemd": {"units": [{"name": "a.service", "dropins": [{"name": "a.con", "contents": ""}]}]}"#,
    r#""systemd": {"units": {}}"#,
    r#""passwd": {"users": ["#,
];

#[test]
fn lint_calls_an_error_what_ignition_validate_refuses_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let versions = ["3.0.0", "3.3.0", "2.2.0", "9.9.0"]
        .map(|version| format!("{{\"ignition\": {{\"version\": \"{version}\"}}}}"));
    let parts = IGNITION_PARTS.map(|part| format!("{{\"ignition\": {{\"version\": \"3.3.0\"}},\n{part}}}\n"));
    let mut refused = 0;
    for text in versions.iter().chain(&parts) {
        let path = put(folder.path(), "a.ign", text);
        let fine = run(Command::new("ignition-validate").arg(path), "ignition").status.success();
        let (code, told, _) = lint("a.ign", text, &[]);
        assert_eq!(code, Some(i32::from(!fine)), "{text}{told}");
        refused += i32::from(!fine);
    }
    assert!(refused > 12, "{refused}");
}

/// Bodies of files for cloud-init, right and wrong.
const CLOUD_INIT_BODIES: [&str; 16] = [
    "hostname: a",
    "hostname: [a]",
    "package_update: true",
    "package_update: \"true\"",
    "runcmd: ls",
    "runcmd:\n  - echo a: b",
    "runcmd:\n  - [ls, -l]\n  - ls",
    "runcmd:\n  - [ls, [a]]",
    "write_files:\n  - path: /etc/a\n    permissions: 0644",
    "write_files:\n  - path: /etc/a\n    permissions: \"0644\"",
    "write_files:\n  - content: a",
    "write_files:\n  - path: /etc/a\n    encoding: rot13",
    "write_files:\n  - path: /etc/a\n    mode: \"0644\"",
    "write_files:\n  path: /etc/a",
    "ssh_authorized_keys: a",
    "a: [",
];

/// Says for each file whether cloud-init's schema takes it.
const CLOUD_INIT_VERDICTS: &str = "import sys
from cloudinit.config.schema import SchemaValidationError, get_schema, validate_cloudconfig_file
schema = get_schema()
for path in sys.argv[1:]:
    try:
        validate_cloudconfig_file(path, schema)
        print('fine')
    except SchemaValidationError:
        print('refused')
";

#[test]
fn lint_calls_an_error_what_cloud_inits_schema_refuses_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let texts = CLOUD_INIT_BODIES.map(|body| format!("#cloud-config\n{body}\n"));
    let paths: Vec<_> =
        (0..).zip(&texts).map(|(number, text)| put(folder.path(), &format!("{number}.yaml"), text)).collect();
    let output = run(Command::new(PYTHON).args(["-c", CLOUD_INIT_VERDICTS]).args(&paths), "cloud-init");
    let verdicts = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<&str> = verdicts.lines().filter(|line| ["fine", "refused"].contains(line)).collect();
    assert_eq!(verdicts.len(), texts.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (text, verdict) in texts.iter().zip(verdicts) {
        let (code, told, _) = lint("user-data", text, &["--as", "cloud-init"]);
        assert_eq!(code, Some(i32::from(verdict == "refused")), "{text}{told}");
    }
}
