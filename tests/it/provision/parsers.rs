//! Every form of output, in every variant, is taken by the program that reads it on a real machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use corediscover::host::files::{MODE_PUBLIC, write_atomic};
use corediscover::model::provision::Spec;
use corediscover::model::provision::binary::Binary;
use corediscover::model::provision::butane::{Variant, butane};
use corediscover::model::provision::cloud_init::cloud_init;
use corediscover::model::provision::compose::compose;
use corediscover::model::provision::explain::explain;
use corediscover::model::provision::ignition::{Version, ignition};
use corediscover::model::provision::sysext::{Host, sysext};
use corediscover::model::provision::units::{Manager, unit_files};
use corediscover::model::provision::vagrant::{Machines, vagrant};
use corediscover::model::resolved::KEEP_SERVERS;
use serde_json::{Value, json};

use super::{SHELLS, shell_commands, specs, succeeded};
use crate::support::binary;
use crate::support::ignition::apply;

/// Debian's own Python has the modules of Debian's cloud-init.
pub(super) const PYTHON: &str = "/usr/bin/python3";
/// What `cloud-init schema` does, for many files in one process. Warnings are failures.
const CLOUD_INIT_SCHEMA: &str = "import sys
from cloudinit.config.schema import get_schema, validate_cloudconfig_file
schema = get_schema()
for path in sys.argv[1:]:
    validate_cloudconfig_file(path, schema)
";

/// Runs a program of a Debian package; `package` is what to install when it is not there.
#[track_caller]
pub(super) fn run(command: &mut Command, package: &str) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| panic!("{name}, of Debian's package {package}: {error}"))
}

/// The program ended well and said nothing on stderr.
#[track_caller]
fn quiet(output: Output, about: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{about}: {:?}\n{stderr}", output.status);
}

pub(super) fn put(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_atomic(&path, text.as_bytes(), MODE_PUBLIC).unwrap();
    path
}

#[test]
fn cloud_inits_schema_accepts_every_variant() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (number, spec) in specs().iter().enumerate() {
        let text = cloud_init(spec).unwrap();
        paths.push(put(folder.path(), &format!("{number}.yaml"), &text));
        paths.push(put(folder.path(), &format!("{number}-explained.yaml"), &explain(&text)));
    }
    quiet(run(Command::new(PYTHON).args(["-c", CLOUD_INIT_SCHEMA]).args(&paths), "cloud-init"), "schema");

    let check = |path: &Path| {
        run(Command::new("cloud-init").args(["schema", "--config-file"]).arg(path), "cloud-init")
    };
    quiet(check(&paths[0]), "the command itself");
    let wrong =
        put(folder.path(), "wrong", "#cloud-config\nwrite_files:\n  - path: 7\n    permissions: 0744\n");
    assert!(!check(&wrong).status.success(), "the schema refuses what is wrong");
}

#[test]
fn packages_that_apt_does_not_get_at_once_are_asked_for_until_they_are_there() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let read: Value = serde_saphyr::from_str(&cloud_init(&Spec::default()).unwrap()).unwrap();
    let files = read["write_files"].as_array().unwrap();
    let name = "/etc/systemd/system/corediscover-packages.service";
    let unit = files.iter().find(|file| file["path"] == name).unwrap()["content"].as_str().unwrap();
    let commands = read["runcmd"].to_string();
    assert_eq!(
        commands.matches("corediscover-packages.service").count(),
        2,
        "enabled and started: {commands}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path(), "corediscover-packages.service", unit);
    quiet(run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path), "systemd"), unit);

    // An apt whose first call fails: no network yet, or somebody else holds its lock.
    for program in ["sleep", "mkdir", "sed", "grep"] {
        symlink(format!("/usr/bin/{program}"), folder.path().join(program)).unwrap();
    }
    // Servers of the machine, which Debian's resolver takes the file away from.
    let servers =
        "# by DHCP\nsearch corp.example\nnameserver 127.0.0.1\nnameserver 10.0.2.3\nnameserver\t10.0.2.4\n";
    let resolv = put(folder.path(), "resolv.conf", servers);
    let kept = folder.path().join("kept");
    let apt = "#!/bin/sh\necho \"$*\" >>\"${0%/*}/log\"\nif test $1 = install; then \
               for program in dockerd resolvectl; do : >\"${0%/*}/$program\"; /usr/bin/chmod 755 \"${0%/*}/$program\"; done; elif ! test -e \"$0.ready\"; then : >\"$0.ready\"; exit 100; fi\n";
    let program = put(folder.path(), "apt-get", apt);
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    // One that is not answered: what is installed is installed all the same.
    let systemctl = "#!/bin/sh\necho \"systemctl $*\" >>\"${0%/*}/log\"\nexit 1\n";
    let program = put(folder.path(), "systemctl", systemctl);
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..2 {
        for script in shell_commands(unit, "ExecStart") {
            let script = script
                .replace("/etc/resolv.conf", resolv.to_str().unwrap())
                .replace("/etc/systemd/resolved.conf.d", kept.to_str().unwrap());
            let script = format!("umask 077; {script}");
            let mut shell = Command::new("/bin/sh");
            let output = shell.args(["-c", &script]).env_clear().env("PATH", folder.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        let installed = "install -y docker.io systemd-resolved libnss-resolve";
        let told = "systemctl --no-block restart corediscover-resolved.service";
        assert_kept(&kept, "[Resolve]\nDomains=corp.example\nDNS=10.0.2.3\nDNS=10.0.2.4\n");
        assert_eq!(log, format!("update\nupdate\n{installed}\n{told}\n"), "and only until then");
    }
}

/// The resolver, which is not root, reads this of the servers that were kept.
#[track_caller]
fn assert_kept(folder: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let file = folder.join("50-kept.conf");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    for (path, wanted) in [(folder, 0o755), (file.as_path(), 0o644)] {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
    }
}

#[test]
fn the_servers_of_a_machine_are_kept_by_every_shell_and_only_where_there_are_any() {
    for forbidden in ['$', '%', '\\', '\'', '!', '\n'] {
        assert!(!KEEP_SERVERS.contains(forbidden), "{forbidden:?}: {KEEP_SERVERS}");
    }
    for shell in SHELLS {
        let folder = tempfile::tempdir().unwrap();
        let (resolv, kept) = (folder.path().join("resolv.conf"), folder.path().join("kept"));
        let line = KEEP_SERVERS
            .replace("/etc/resolv.conf", resolv.to_str().unwrap())
            .replace("/etc/systemd/resolved.conf.d", kept.to_str().unwrap());
        // The umask of the shell in which somebody types it stays.
        let script = format!("set -e; umask 077; {line} && test \"$(umask)\" = 0077");
        let keep = |servers: &str| {
            put(folder.path(), "resolv.conf", servers);
            let output = Command::new(shell).args(["-c", &script]).output().unwrap();
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        };
        keep("nameserver 127.0.0.53\noptions edns0\n");
        assert!(!kept.exists(), "{shell}");
        keep("nameserver 127.0.0.1\nnameserver 10.0.2.3\nsearch corp.example\n");
        let text = "[Resolve]\nDNS=10.0.2.3\nDomains=corp.example\n";
        assert_kept(&kept, text);
        // The second time /etc/resolv.conf is the resolver's.
        keep("nameserver 127.0.0.53\nsearch .\n");
        assert_kept(&kept, text);
    }
}

#[track_caller]
fn ignition_accepts(folder: &Path, text: &str) {
    // Debian's Ignition knows 3.4 by the name that it had before it was finished.
    let text = text.replace("\"version\": \"3.4.0\"", "\"version\": \"3.4.0-experimental\"");
    let output = run(Command::new("ignition-validate").arg(put(folder, "a.ign", &text)), "ignition");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{text}");
    quiet(output, &text);
}

#[test]
fn ignition_validate_accepts_every_variant_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    for spec in specs() {
        for version in [Version::V3_3, Version::V3_4] {
            ignition_accepts(folder.path(), &ignition(&spec, version).unwrap());
        }
    }
    let wrong = put(
        folder.path(),
        "wrong",
        r#"{"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "a"}]}}"#,
    );
    assert!(!run(Command::new("ignition-validate").arg(wrong), "ignition").status.success());
}

/// Serves `content` to everybody who asks, until the test's process ends.
fn serve(content: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap_or(0);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content)));
        }
    });
    address
}

#[test]
fn ignitions_files_stage_puts_binary_units_and_presets_onto_a_root() {
    let content: &[u8] = b"the binary";
    let sums =
        succeeded(Command::new("sh").args(["-c", "printf 'the binary' | sha512sum"]).output().unwrap());
    let digest = sums.split(' ').next().unwrap();
    let url = format!("http://{}/corediscover", serve(content));
    let spec = Spec { binary: format!("url={url},sha512={digest}").parse().unwrap(), ..Spec::default() };
    let work = tempfile::tempdir().unwrap();
    let root = apply(work.path(), &ignition(&spec, Version::default()).unwrap());
    assert_eq!(fs::read(root.join("opt/bin/corediscover")).unwrap(), content);
    let mode = fs::metadata(root.join("opt/bin/corediscover")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777, 0o755);
    let presets = fs::read_to_string(root.join("etc/systemd/system-preset/20-ignition.preset")).unwrap();
    let there = Spec { binary: Binary::default(), ..spec };
    for file in unit_files(&there, Manager::Systemd).unwrap() {
        let path = root.join("etc/systemd/system").join(file.name);
        assert_eq!(fs::read_to_string(path).unwrap(), file.text);
        assert!(presets.contains(&format!("enable {}\n", file.name)), "{presets}");
    }
}

/// What Butane makes of our configs: each key that its specification has under these names, and no other.
fn translate(config: &Value) -> Value {
    let keys = |value: &Value, known: &[&str]| {
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{keys:?} of {known:?}");
    };
    keys(config, &["variant", "version", "storage", "systemd"]);
    let version = match (config["variant"].as_str().unwrap(), config["version"].as_str().unwrap()) {
        ("flatcar", "1.0.0") => "3.3.0",
        ("flatcar", "1.1.0") | ("fcos", "1.5.0") => "3.4.0",
        other => panic!("{other:?}"),
    };
    let mut result = json!({"ignition": {"version": version}, "systemd": config["systemd"]});
    keys(&config["systemd"], &["units"]);
    for unit in config["systemd"]["units"].as_array().unwrap() {
        keys(unit, &["name", "enabled", "contents"]);
    }
    if let Some(storage) = config.get("storage") {
        keys(storage, &["files"]);
        for file in storage["files"].as_array().unwrap() {
            keys(file, &["path", "overwrite", "mode", "contents"]);
            keys(&file["contents"], &["source", "verification"]);
            keys(&file["contents"]["verification"], &["hash"]);
        }
        result["storage"] = storage.clone();
    }
    result
}

#[test]
fn every_variant_of_butane_becomes_exactly_our_ignition_config() {
    let folder = tempfile::tempdir().unwrap();
    for spec in specs() {
        for variant in Variant::ALL {
            let text = butane(&spec, variant).unwrap();
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            let made = translate(&read);
            let version: Version = made["ignition"]["version"].as_str().unwrap().parse().unwrap();
            let ours: Value = serde_json::from_str(&ignition(&spec, version).unwrap()).unwrap();
            assert_eq!(made, ours, "{text}");
            let explained: Value = serde_saphyr::from_str(&explain(&text)).unwrap();
            assert_eq!(explained["variant"], read["variant"]);
        }
        ignition_accepts(folder.path(), &ignition(&spec, Version::V3_4).unwrap());
    }
}

#[test]
fn systemd_counts_little_that_the_services_could_do() {
    // In tenths, as `systemd-analyze security` takes it.
    let limits = [("corediscover-agent.service", 20), ("corediscover-registrator.service", 30)];
    let folder = tempfile::tempdir().unwrap();
    for spec in specs() {
        for (name, limit) in limits {
            let text = unit_files(&spec, Manager::Systemd)
                .unwrap()
                .into_iter()
                .find(|file| file.name == name)
                .unwrap()
                .text;
            let path = put(folder.path(), name, &text);
            let mut command = Command::new("systemd-analyze");
            command
                .args(["security", "--no-pager", "--offline=true", &format!("--threshold={limit}")])
                .arg(path);
            let output = run(&mut command, "systemd");
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{name}: {}", told.lines().last().unwrap_or_default());
        }
    }
}

#[test]
fn compose_accepts_every_variant() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("compose.yaml");
    let mut seen = Vec::new();
    for spec in specs() {
        let text = explain(&compose(&spec).unwrap());
        // Most ways to get the binary are the same image here.
        if seen.contains(&text) {
            continue;
        }
        put(folder.path(), "compose.yaml", &text);
        let command = |known: bool| {
            let mut command = Command::new("docker-compose");
            command.arg("--file").arg(&file).args(["config", "--quiet"]).current_dir(folder.path());
            command
                .env_remove("MACHINE_ID")
                .env_remove("COREOS_PRIVATE_IPV4")
                .env_remove("COREOS_PUBLIC_IPV4");
            if known {
                command.envs([("MACHINE_ID", "0123"), ("COREOS_PRIVATE_IPV4", "10.0.0.1")]);
                command.env("COREOS_PUBLIC_IPV4", "192.0.2.1");
            }
            run(&mut command, "docker-compose")
        };
        quiet(command(true), &text);
        if text.contains("${") && seen.len() < 4 {
            assert!(
                !command(false).status.success(),
                "a machine that does not know its address starts nothing"
            );
        }
        seen.push(text);
    }
    assert!(seen.len() > 8, "{}", seen.len());
}

/// A machine's root with the extension in its place, and what systemd-sysext finds merged into `/usr` of it.
fn merged(spec: &Spec, host: &Host, os_release: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    put(root, "etc/os-release", os_release);
    put(root, "usr/lib/os-release", os_release);
    for file in sysext(spec, host).unwrap() {
        put(&root.join("var/lib/extensions/corediscover"), &file.path, &file.text);
    }
    // In a mount namespace, so that nothing of this machine changes; the tool needs a /run of its own, and propagation.
    let script =
        "mount -t tmpfs none /run && mount --make-rshared / && systemd-sysext --root=\"$0\" merge >&2
        find \"$0/usr\" -type f -printf '%P\\n' | sort";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(root);
    let output = run(&mut command, "util-linux");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn systemd_merges_the_extension_into_the_system_that_it_is_for_and_no_other() {
    let flatcar = "ID=flatcar\nVERSION_ID=4593.2.5\nSYSEXT_LEVEL=1.0\n";
    let debian = "ID=debian\nVERSION_ID=12\n";
    let spec = Spec::default();
    let there = merged(&spec, &Host::default(), flatcar);
    for file in sysext(&spec, &Host::default()).unwrap() {
        let path = file.path.strip_prefix("usr/").unwrap();
        assert!(there.lines().any(|line| line == path), "{path} is not in: {there}");
    }
    assert_eq!(merged(&spec, &Host::default(), debian), "lib/os-release\n");
    assert!(merged(&spec, &"_any".parse().unwrap(), debian).contains("corediscover-agent.service"));
}

#[test]
fn systemd_accepts_the_units_of_the_extension_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    for spec in specs() {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).env("SYSTEMD_LOG_LEVEL", "info");
        for file in sysext(&spec, &Host::default()).unwrap() {
            let text = file.text.replace("/usr/bin/corediscover ", &format!("{} ", binary().display()));
            let path =
                put(folder.path(), Path::new(&file.path).file_name().unwrap().to_str().unwrap(), &text);
            if path.extension().is_some_and(|extension| extension == "service") {
                verify.arg(path);
            }
        }
        quiet(run(&mut verify, "systemd"), &format!("{spec:?}"));
    }
}

#[test]
fn ruby_and_vagrant_accept_every_variant() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for spec in specs() {
        for machines in ["1", "9"] {
            let machines: Machines = machines.parse().unwrap();
            let files = vagrant(&spec, machines).unwrap();
            let text = &files[0].text;
            // Most settings are in the units alone.
            if seen.contains(text) {
                continue;
            }
            let path = put(folder.path(), "Vagrantfile", text);
            put(folder.path(), "corediscover", "");
            for file in &files[1..] {
                put(folder.path(), &file.path, &file.text);
            }
            let explained = put(folder.path(), "explained", &explain(text));
            for path in [path, explained] {
                let output = run(Command::new("ruby").args(["-w", "-c"]).arg(path), "ruby");
                assert_eq!(String::from_utf8_lossy(&output.stdout), "Syntax OK\n");
                quiet(output, text);
            }
            seen.push(text.clone());
        }
    }
    assert!(seen.len() >= 4, "{}", seen.len());
    for (provider, more) in [("docker", &[][..]), ("virtualbox", &["--ignore-provider"])] {
        let mut command = Command::new("vagrant");
        command.arg("validate").args(more).current_dir(folder.path());
        command.env("VAGRANT_HOME", folder.path().join("home")).env("VAGRANT_DEFAULT_PROVIDER", provider);
        command.env("VAGRANT_CHECKPOINT_DISABLE", "1");
        let output = run(&mut command, "vagrant");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("validated successfully"), "{told}");
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    }
}
