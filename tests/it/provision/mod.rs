//! Provisioning: what the commands print is committed, linted, and taken by the real systemd and real shells.

mod commands;
mod linting;
mod parsers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use corediscover::host::docker_bridge;
use corediscover::host::files::{MODE_PUBLIC, write_atomic};
use corediscover::model::provision::butane::{Variant, butane};
use corediscover::model::provision::cloud_config::cloud_config;
use corediscover::model::provision::cloud_init::cloud_init;
use corediscover::model::provision::docker_run::{DockerRun, DockerRunError};
use corediscover::model::provision::etcd::{Etcd, TlsFiles};
use corediscover::model::provision::explain::explain;
use corediscover::model::provision::format::Format;
use corediscover::model::provision::ignition::{Version, ignition};
use corediscover::model::provision::lint::{Finding, Language, Rule};
use corediscover::model::provision::spec::{AddressSource, NodeSource};
use corediscover::model::provision::units::{Manager, unit_files};
use corediscover::model::provision::{Spec, lint};
use proptest::prelude::*;

use crate::support::{binary, corediscover};

/// The shells in which people evaluate our lines.
const SHELLS: [&str; 2] = ["dash", "bash"];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn scenarios() -> PathBuf {
    repository().join("tests/scenarios/provision")
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Specs that together use every option.
fn specs() -> Vec<Spec> {
    let digest = "0123456789abcdef".repeat(8);
    let long_url = format!("https://a.example/{}", "%20".repeat(200));
    let binaries = [
        "path=/opt/bin/corediscover".to_owned(),
        format!("url={long_url},sha512={digest}"),
        "image=registry.example:5000/corediscover:1.0".to_owned(),
    ];
    let discovery = "https://discovery.example/1".parse().unwrap();
    let endpoints = (1..=16).map(|n| format!("https://etcd-{n}.example.org:2379").parse().unwrap()).collect();
    let file = |name: &str| Some(format!("/etc/etcd/{name}.pem").parse().unwrap());
    let files = TlsFiles { ca: file("ca"), cert: file("cert"), key: file("key") };
    let join = ["10.0.0.1", "host-2.example.org"].map(|peer| peer.parse().unwrap()).to_vec();
    let etcds = [
        Etcd::Local { discovery: None },
        Etcd::Local { discovery: Some(discovery) },
        Etcd::new(endpoints, None, vec![], files).unwrap(),
        Etcd::new(vec![], None, join, TlsFiles::default()).unwrap(),
    ];
    let mut specs = Vec::new();
    for binary in binaries {
        for etcd in &etcds {
            for address in [AddressSource::Private, AddressSource::Public, AddressSource::Auto] {
                specs.push(Spec {
                    binary: binary.parse().unwrap(),
                    etcd: etcd.clone(),
                    fleet: address != AddressSource::Auto && etcd.join().is_empty(),
                    address,
                    ..Spec::default()
                });
            }
        }
    }
    for source in ["interface:eth1", r#"{{ GetAllInterfaces | include "name" "^eth\\d$" | attr "address" }}"#]
    {
        let etcd = etcds[specs.len() % etcds.len()].clone();
        specs.push(Spec { address: source.parse().unwrap(), etcd, fleet: false, ..Spec::default() });
    }
    specs.push(Spec {
        servers: "5".parse().unwrap(),
        datacenter: "ams".parse().unwrap(),
        domain: "corp.example".parse().unwrap(),
        node: NodeSource::MachineId,
        dns_port: "53".parse().unwrap(),
        client: vec!["127.0.0.1".parse().unwrap(), "172.17.0.1".parse().unwrap()],
        ..Spec::default()
    });
    specs
}

/// Compares `text` with a committed file; with `UPDATE_EXPECT=1` the file is written instead.
#[track_caller]
fn expect_file(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_atomic(path, text.as_bytes(), MODE_PUBLIC).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed, text, "{} is old: make regenerate", path.display());
}

/// What our own output may do against: nothing but speak of what old CoreOS has and new systems have not.
fn serious(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| finding.rule != Rule::Deprecated).collect()
}

#[test]
fn every_output_passes_our_own_rules_and_is_the_same_twice() {
    for spec in specs() {
        let languages = [
            (Language::CloudConfig, cloud_config(&spec).unwrap()),
            (Language::CloudInit, cloud_init(&spec).unwrap()),
            (Language::Ignition, ignition(&spec, Version::V3_4).unwrap()),
            (Language::Butane, butane(&spec, Variant::Fcos1_5).unwrap()),
        ];
        for (language, text) in languages {
            assert_eq!(Language::guess("user-data", &text), language);
            assert_eq!(serious(lint::lint(language, &text)), [], "{spec:?}\n{text}");
            if language != Language::Ignition {
                assert_eq!(serious(lint::lint(language, &explain(&text))), [], "{spec:?}\n{text}");
            }
        }
        for format in Format::ALL {
            assert_eq!(format.files(&spec).unwrap(), format.files(&spec).unwrap());
        }
        for manager in [Manager::Systemd, Manager::Fleet] {
            for file in unit_files(&spec, manager).unwrap() {
                assert_eq!(lint::unit(&file.text), [], "{spec:?}\n{}", file.text);
                assert_eq!(lint::unit(&explain(&file.text)), [], "{spec:?}\n{}", file.text);
            }
        }
    }
}

#[test]
fn a_machine_reads_from_the_cloud_config_exactly_the_units_that_units_writes() {
    for spec in specs() {
        // What coreos-cloudinit does before it reads YAML.
        let text = cloud_config(&spec).unwrap();
        let text = text.replace("$private_ipv4", "10.0.0.1").replace("$public_ipv4", "192.0.2.1");
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let units = read["coreos"]["units"].as_array().unwrap();
        for file in unit_files(&spec, Manager::Systemd).unwrap() {
            let unit = units.iter().find(|unit| unit["name"] == file.name).unwrap();
            assert_eq!(unit["content"], file.text);
        }
        if let Some(etcd2) = read["coreos"].get("etcd2") {
            let address = if spec.address == AddressSource::Public { "192.0.2.1" } else { "10.0.0.1" };
            assert_eq!(etcd2["advertise_client_urls"], format!("http://{address}:2379"));
            let checks = units.iter().find(|unit| unit["name"] == "etcd2.service").unwrap();
            let checks = checks["drop_ins"][0]["content"].as_str().unwrap();
            assert_eq!(lint::unit(checks), [], "{checks}");
        }
    }
}

#[test]
fn systemd_accepts_every_unit_without_a_word() {
    for (number, spec) in specs().iter().enumerate() {
        let manager = if number % 4 == 3 { Manager::Fleet } else { Manager::Systemd };
        let folder = tempfile::tempdir().unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).env("SYSTEMD_LOG_LEVEL", "info");
        for file in unit_files(spec, manager).unwrap() {
            // The machine that runs this test has no /opt/bin/corediscover.
            let text = if number % 2 == 0 { file.text } else { explain(&file.text) };
            let text = text.replace("/opt/bin/corediscover ", &format!("{} ", binary().display()));
            let path = folder.path().join(file.name);
            write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
            verify.arg(path);
        }
        let output = verify.output().expect("systemd-analyze, of Debian's package systemd, is there");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{spec:?}");
        assert!(output.status.success(), "{spec:?}");
    }
}

/// The commands of `key` in a unit, as systemd would hand them to `/bin/sh -c`.
pub(crate) fn shell_commands(unit: &str, key: &str) -> Vec<String> {
    unit.replace("\\\n", " ")
        .lines()
        .filter_map(|line| {
            line.strip_prefix(key)?.strip_prefix('=')?.trim_start_matches('-').strip_prefix("/bin/sh -c '")
        })
        .map(|command| command.strip_suffix('\'').unwrap().replace("$$", "$").replace("%%", "%"))
        .collect()
}

/// Runs a unit's shell commands in order with stand-ins for systemctl, curl and docker; stops at the first that fails.
fn run_commands(commands: &[String], folder: &Path, replaced: &str, settings: &[(&str, &str)]) -> bool {
    let path = format!("{}:/usr/bin:/bin", scenarios().join("fake-bin").display());
    commands.iter().all(|command| {
        Command::new("/bin/sh")
            .arg("-c")
            .arg(command.replace(replaced, folder.to_str().unwrap()))
            .env_clear()
            .env("PATH", &path)
            .env("FAKE_LOG", folder.join("log"))
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    })
}

fn take_log(folder: &Path) -> Vec<String> {
    let path = folder.join("log");
    let text = fs::read_to_string(&path).unwrap_or_default();
    if path.exists() {
        fs::remove_file(&path).unwrap();
    }
    text.lines().map(str::to_owned).collect()
}

fn unit_text(spec: &Spec, name: &str) -> String {
    let files = unit_files(spec, Manager::Systemd).unwrap();
    files.into_iter().find(|file| file.name == name).unwrap().text
}

#[test]
fn an_etcd_that_does_not_know_its_address_fails() {
    let read: serde_json::Value = serde_saphyr::from_str(&cloud_config(&Spec::default()).unwrap()).unwrap();
    let units = read["coreos"]["units"].as_array().unwrap();
    let etcd2 = units.iter().find(|unit| unit["name"] == "etcd2.service").unwrap();
    let checks = etcd2["drop_ins"][0]["content"].as_str().unwrap();
    let commands = &shell_commands(checks, "ExecStartPre")[..1];
    let folder = tempfile::tempdir().unwrap();
    assert!(run_commands(commands, folder.path(), "/none", &[("COREOS_PRIVATE_IPV4", "10.0.0.1")]));
    assert!(!run_commands(commands, folder.path(), "/none", &[("COREOS_PRIVATE_IPV4", "")]));
    assert!(!run_commands(commands, folder.path(), "/none", &[]));
}

#[test]
fn a_download_is_installed_only_with_the_right_digest_and_only_once() {
    let sums = succeeded(Command::new("sh").args(["-c", "printf binary | sha512sum"]).output().unwrap());
    let digest = sums.split(' ').next().unwrap();
    let url = "https://a.example/corediscover%20v1";
    let spec = Spec { binary: format!("url={url},sha512={digest}").parse().unwrap(), ..Spec::default() };
    let commands = shell_commands(&unit_text(&spec, "corediscover-install.service"), "ExecStart");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let binary = folder.join("corediscover");

    let settings = [("FAKE_DOWNLOAD", "a page of somebody on the way"), ("FAKE_LATER", "binary")];
    assert!(run_commands(&commands, folder, "/opt/bin", &settings));
    assert_eq!(take_log(folder), [url, url], "what is wrong is asked for again");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "the wrong file is gone");
    assert_eq!(fs::read_to_string(&binary).unwrap(), "binary");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&binary).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);

    assert!(run_commands(&commands, folder, "/opt/bin", &[("FAKE_DOWNLOAD", "evil")]));
    assert_eq!(take_log(folder), [""; 0], "it is there already");
}

#[test]
fn cmd_run_prints_what_the_scenarios_say() {
    let scenarios = fs::read_to_string(scenarios().join("cmd_run.txt")).unwrap();
    let mut count = 0;
    for scenario in scenarios.split("\n\n").filter(|block| block.contains("----")) {
        let (question, answer) = scenario.split_once("\n----\n").unwrap();
        let words = question.lines().last().unwrap().strip_prefix("cmd:run ").unwrap();
        let mut command = corediscover();
        command.args(["cmd:run", "--bridge-ip", "172.17.0.1"]);
        for word in words.split(' ') {
            match word.strip_prefix("EXPECT=") {
                Some(value) => command.env("EXPECT", value),
                None => command.arg(word),
            };
        }
        let printed = succeeded(command.output().unwrap());
        assert_eq!(printed, format!("{}\n", answer.trim_end().replace('⇥', "\t")), "{question}");
        count += 1;
    }
    assert_eq!(count, 12);
}

#[test]
fn cmd_run_refuses_what_it_cannot_print_with_a_reason() {
    for (words, reason) in [
        (&[][..], "Usage: corediscover cmd:run"),
        (&["fd00::1"], "write IPv6 in brackets, as in [fd00::1]::[fd00::2]"),
        (&["10.0.0"], "`10.0.0` is not an address"),
        (&["10.0.0.1", "-e", "A=b\n"], "it ends in a line break"),
        (&["--expect", "none", "10.0.0.1"], "`none` is not a number of servers"),
        (&["--image", "a b", "10.0.0.1"], "`a b` is not an image name"),
    ] {
        let output =
            corediscover().args(["cmd:run", "--bridge-ip", "172.17.0.1"]).args(words).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains(reason), "{words:?}: {stderr}");
    }
}

#[test]
fn cmd_run_publishes_dns_where_the_engine_has_its_bridge() {
    let bridge = docker_bridge::address().unwrap().unwrap();
    let printed = succeeded(corediscover().args(["cmd:run", "10.0.0.1"]).output().unwrap());
    assert!(printed.contains(&format!(" \t-p {bridge}:53:53 \t-p {bridge}:53:53/udp ")), "{printed}");

    let mut elsewhere = corediscover();
    elsewhere.args(["cmd:run", "10.0.0.1"]).env("DOCKER_HOST", "unix:///no/such/socket");
    let output = elsewhere.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty() && stderr.contains("--bridge-ip"), "{stderr}");
}

#[test]
fn options_that_do_not_fit_together_are_usage_errors() {
    for words in [
        &["cloud-config", "--servers", "2"][..],
        &["cloud-config", "--etcd", "10.0.0.1"],
        &["cloud-config", "--etcd", "http://a:2379", "--discovery", "https://b/1"],
        &["cloud-config", "--etcd", "http://a:0"],
        &["cloud-init", "--etcd", "http://a:65536"],
        &["cloud-init", "--etcd", "https://a:2379"],
        &["ignition", "--etcd", "https://a,http://b", "--etcd-ca", "/etc/ca.pem"],
        &["units", "--etcd", "http://a", "--etcd-ca", "/etc/ca.pem", "--out", "x"],
        &["units", "--etcd", "https://a", "--etcd-ca", "ca.pem", "--out", "x"],
        &["cloud-config", "--binary", "url=https://a/b"],
        &["units"],
        &["units", "--fleet", "--systemd", "--out", "x"],
        &["units", "--fleet", "--join", "10.0.0.1", "--out", "x"],
        &["cloud-init", "--join", "10.0.0.1", "--etcd", "http://a:2379"],
        &["ignition", "--spec", "3.5.0"],
        &["butane", "--variant", "rhcos"],
        &["compose", "--binary", "path=/opt/bin/corediscover"],
        &["sysext", "--binary", "image=a", "--out", "x"],
        &["vagrant", "--servers", "5", "--out", "x"],
        &["diff", "a"],
    ] {
        let output = corediscover().args(words).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.starts_with("error: "), "{words:?}: {stderr}");
    }
}

#[test]
fn the_line_works_as_an_unquoted_command_substitution() {
    for shell in SHELLS {
        let output = Command::new(shell)
            .arg("-c")
            .arg(r#"$("$0" cmd:run --bridge-ip 172.17.0.1 '10.0.0.2::10.0.0.1' -d -e 'A=b  *  $(reboot)' -e "B='\"%s")"#)
            .arg(binary())
            .current_dir(repository())
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", scenarios().join("fake-bin").display()))
            .env("HOSTNAME", "web1")
            .output()
            .unwrap();
        let printed = succeeded(output);
        let words: Vec<&str> = printed.split_terminator('\0').collect();
        assert_eq!(words[..6], ["run", "--name", "consul", "-h", "web1", "-p"], "{shell}");
        let arguments = ["-d", "-e", "A=b  *  $(reboot)", "-e", "B='\"%s", "corediscover", "-server"];
        assert_eq!(words[23..30], arguments, "{shell}");
        assert_eq!(words[30..], ["-advertise", "10.0.0.2", "-join", "10.0.0.1"], "{shell}");
    }
}

/// What `shell` gives docker when it evaluates `line` as `$(…)`.
fn evaluate(shell: &str, line: &str, folder: &Path) -> Vec<String> {
    write_atomic(&folder.join("line"), line.as_bytes(), MODE_PUBLIC).unwrap();
    let output = Command::new(shell)
        .args(["-c", "$(cat line)"])
        .current_dir(folder)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", scenarios().join("fake-bin").display()))
        .env("HOSTNAME", "web1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{shell}: {line}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.split_terminator('\0').map(str::to_owned).collect()
}

fn argument() -> impl Strategy<Value = String> {
    let nasty: Vec<char> = " \t\n*?[]{}()'\"\\$`!&;|<>#~%-=:^@+,é0aA\u{7f}".chars().collect();
    let character = prop_oneof![9 => prop::sample::select(nasty), 1 => any::<char>()];
    prop::collection::vec(character, 0..12).prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_linter_lives_through_any_damage(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), argument()), 1..6)
    ) {
        let text = match cuts.len() % 3 {
            0 => cloud_init(&Spec::default()).unwrap(),
            1 => ignition(&Spec::default(), Version::V3_3).unwrap(),
            _ => cloud_config(&Spec::default()).unwrap(),
        };
        let mut text: Vec<char> = text.chars().collect();
        for (at, inserted) in cuts {
            let at = at.index(text.len());
            let end = (at + inserted.len()).min(text.len());
            text.splice(at..end, inserted.chars());
        }
        let text: String = text.into_iter().collect();
        let lines = text.lines().count().max(1);
        for language in Language::ALL {
            for finding in lint::lint(language, &text) {
                prop_assert!((1..=lines).contains(&finding.line) && finding.column > 0, "{} of {}", finding, lines);
            }
        }
    }

    #[test]
    fn any_argument_survives_the_shell_or_is_refused(arguments in prop::collection::vec(argument(), 0..6)) {
        let run = DockerRun {
            spec: "[fd00::1]::[fd00::2]".parse().unwrap(),
            bridge: "172.17.0.1".parse().unwrap(),
            expect: 3,
            image: "corediscover".to_owned(),
            name: "consul".to_owned(),
            hostname: None,
            arguments: arguments.clone(),
        };
        let line = match run.line() {
            Ok(line) => line,
            Err(error) => {
                let refusable = |argument: &String| argument.ends_with('\n') || argument.contains('\0');
                let is_about_a_word = matches!(error, DockerRunError::Word { .. });
                prop_assert!(is_about_a_word && arguments.iter().any(refusable));
                return Ok(());
            }
        };
        prop_assert_eq!(line.matches('\n').count(), 1);
        let folder = tempfile::tempdir().unwrap();
        // Names that patterns would find.
        for name in ["a", "'a'", "0", "f:8300:8300", "aA"] {
            write_atomic(&folder.path().join(name), b"", MODE_PUBLIC).unwrap();
        }
        for shell in SHELLS {
            let words = evaluate(shell, &line, folder.path());
            prop_assert_eq!(&words[..7], ["run", "--name", "consul", "-h", "web1", "-p", "[fd00::1]:8300:8300"]);
            prop_assert_eq!(&words[23..23 + arguments.len()], &arguments[..], "{} {}", shell, line);
            let rest = ["corediscover", "-server", "-advertise", "fd00::1", "-join", "fd00::2"];
            prop_assert_eq!(&words[23 + arguments.len()..], rest);
        }
    }
}
