//! What `make image` builds: one static binary that is a whole image, started as people start it.

use std::process::Command;

use serde_json::Value;

use crate::support::docker::{Container, docker, unique_name};
use crate::support::eventually;
use crate::support::machine::{PATIENCE, request};

/// The image under test.
const IMAGE: &str = "corediscover:latest";
/// Largest binary that may be released, in bytes; the Makefile has the same number.
const BINARY_BYTES_MAX: usize = 20_000_000;

/// The name of the image; fails with advice when it is not on the engine.
#[track_caller]
pub(crate) fn image() -> &'static str {
    let found =
        Command::new("docker").args(["image", "inspect", IMAGE]).output().expect("docker is installed");
    assert!(found.status.success(), "the image {IMAGE} is missing: `make image` builds it");
    IMAGE
}

/// Starts a container of the image; gone when the test ends.
#[track_caller]
pub(crate) fn start(word: &str, options: &[&str], arguments: &[&str]) -> Container {
    let name = unique_name(word);
    let mut line = vec!["run", "-d", "--name", &name, "-h", &name];
    line.extend(options);
    line.push(image());
    line.extend(arguments);
    let id = docker(&line);
    Container { name, id }
}

/// Runs a command of the image to its end: exit code, stdout, stderr.
fn run(options: &[&str], arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new("docker")
        .args(["run", "--rm"])
        .args(options)
        .arg(image())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The container's address in the network.
#[track_caller]
fn address(container: &Container, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    docker(&["inspect", "-f", &format, &container.name])
}

/// GET of a path of the agent in the container.
fn get(address: &str, path: &str) -> Option<Value> {
    let (status, _, body) = request(format!("{address}:8500").parse().unwrap(), "GET", path, b"")?;
    (status == 200).then(|| serde_json::from_slice(&body).unwrap())
}

/// Lines of `dig +short`, sorted.
pub(crate) fn dig(server: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new("dig")
        .args([&format!("@{server}"), "+short", "+tries=1", "+time=2"])
        .args(arguments)
        .output()
        .expect("dig is installed (dnsutils)");
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Rows of `consul members` inside the container: name, address, status, kind.
pub(crate) fn members(container: &str) -> Vec<[String; 4]> {
    let output =
        Command::new("docker").args(["exec", "-t", container, "consul", "members"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows =
        text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    rows.filter_map(|row| row.get(..4)?.to_vec().try_into().ok()).collect()
}

/// Number of `size` bytes, little endian, at `offset`.
fn number(bytes: &[u8], offset: usize, size: usize) -> usize {
    bytes[offset..offset + size].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Types of the program headers and of the sections, and tags of the dynamic section, of a 64-bit ELF file.
fn elf_types(bytes: &[u8]) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    const DYNAMIC: usize = 2;
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "64 bits, little endian");
    let table = |offset: usize, size: usize, count: usize| {
        let (start, size, count) =
            (number(bytes, offset, 8), number(bytes, size, 2), number(bytes, count, 2));
        (0..count).map(move |entry| start + entry * size).collect::<Vec<_>>()
    };
    let (programs, sections) = (table(32, 54, 56), table(40, 58, 60));
    let mut tags = Vec::new();
    for program in programs.iter().filter(|program| number(bytes, **program, 4) == DYNAMIC) {
        let (start, length) = (number(bytes, program + 8, 8), number(bytes, program + 32, 8));
        tags.extend((start..start + length).step_by(16).map(|entry| number(bytes, entry, 8)));
    }
    let programs = programs.iter().map(|program| number(bytes, *program, 4)).collect();
    (programs, sections.iter().map(|section| number(bytes, section + 4, 4)).collect(), tags)
}

#[test]
fn who_asks_for_backtraces_still_gets_the_error_and_its_exit_code() {
    for asked in ["RUST_BACKTRACE=1", "RUST_BACKTRACE=full", "RUST_LIB_BACKTRACE=1"] {
        let (code, _, errors) = run(&["-e", asked], &["members"]);
        assert_eq!(code, Some(1), "{asked}: {errors}");
        assert!(errors.contains("127.0.0.1:8500"), "{asked}: {errors}");
    }
}

#[test]
fn the_binary_is_one_small_stripped_file_that_needs_no_library() {
    const INTERPRETER: usize = 3;
    const SYMBOLS: usize = 2;
    const NEEDED: usize = 1;
    let name = unique_name("file");
    let id = docker(&["create", "--name", &name, image()]);
    let container = Container { name, id };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("corediscover");
    docker(&["cp", &format!("{}:/bin/corediscover", container.name), file.to_str().unwrap()]);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.len() <= BINARY_BYTES_MAX, "{} bytes", bytes.len());
    let (programs, sections, tags) = elf_types(&bytes);
    assert!(!programs.contains(&INTERPRETER), "no dynamic linker is asked for");
    assert!(!tags.contains(&NEEDED), "no library is asked for");
    assert!(!sections.contains(&SYMBOLS), "it is stripped");
    let shell = format!("docker export {} | tar -t", container.name);
    let listed = Command::new("sh").args(["-c", &shell]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    // What the engine itself puts into every container.
    let of_engine = ["dev/", "etc/", "proc/", "sys/", ".dockerenv"];
    let mut own: Vec<&str> =
        listed.lines().filter(|path| !of_engine.iter().any(|prefix| path.starts_with(prefix))).collect();
    own.sort_unstable();
    let wanted = [
        "bin/",
        "bin/consul",
        "bin/corediscover",
        "bin/registrator",
        "config/",
        "config/agent.json",
        "data/",
    ];
    assert_eq!(own, [&wanted[..], &["tmp/"]].concat(), "nothing else is in the image");
}

#[test]
fn every_name_and_command_of_the_image_works() {
    let version = env!("CARGO_PKG_VERSION");
    let (code, text, _) = run(&[], &["--version"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with(&format!("corediscover {version} ")), "{text}");
    let (code, text, _) = run(&["--entrypoint", "consul"], &["version"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("Consul v"), "{text}");
    let (code, _, errors) = run(&["--entrypoint", "registrator"], &[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("Missing required argument for registry URI."), "{errors}");
    let (code, _, errors) = run(&[], &["-server", "-bootstrap", "-bootstrap-expect", "3"]);
    assert_eq!(code, Some(2), "{errors}");
}

#[test]
fn the_image_prints_the_line_that_starts_it() {
    let bridge = corediscover::host::docker_bridge::address().unwrap().unwrap();
    let (code, line, errors) = run(&[], &["cmd:run", "10.0.0.1", "-d"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let published =
        ["8300:8300", "8301:8301", "8301:8301/udp", "8302:8302", "8302:8302/udp", "8400:8400", "8500:8500"]
            .map(|ports| format!(" \t-p 10.0.0.1:{ports}"))
            .concat();
    assert_eq!(
        line,
        format!(
            "eval docker run --name consul -h $HOSTNAME{published} \t-p {bridge}:53:53 \t-p {bridge}:53:53/udp \t-d \
             \tcorediscover -server -advertise 10.0.0.1 -bootstrap-expect 3\n"
        )
    );
    let (_, line, _) = run(&["-e", "EXPECT=5"], &["cmd:run", "--bridge-ip", "10.9.9.9", "10.0.0.1", "-d"]);
    assert!(line.contains(" \t-p 10.9.9.9:53:53 "), "{line}");
    assert!(line.ends_with("-bootstrap-expect 5\n"), "{line}");
}

#[test]
fn a_container_of_the_image_is_an_agent_that_stops_when_told_and_keeps_its_data() {
    let agent = start("agent", &[], &["-server", "-bootstrap"]);
    let own = address(&agent, "bridge");
    let row =
        |status: &str| [agent.name.clone(), format!("{own}:8301"), status.to_owned(), "server".to_owned()];
    eventually(PATIENCE, "it is a member", || (members(&agent.name) == [row("alive")]).then_some(()));
    eventually(PATIENCE, "DNS answers on port 53, UDP and TCP", || {
        let asked = [&["consul.service.consul"][..], &["+tcp", "consul.service.consul"]];
        asked.iter().all(|arguments| dig(&own, arguments) == [own.as_str()]).then_some(())
    });
    let put = |key: &str| {
        let path = format!("/v1/kv/{key}");
        request(format!("{own}:8500").parse().unwrap(), "PUT", &path, b"kept")
            .filter(|answer| answer.0 == 200)
    };
    eventually(PATIENCE, "a key is written", || put("kept"));
    docker(&["stop", "-t", "60", &agent.name]);
    let ended = docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &agent.name]);
    assert_eq!(ended, "exited 0", "{}", docker(&["logs", &agent.name]));
    docker(&["start", &agent.name]);
    let again = address(&agent, "bridge");
    eventually(PATIENCE, "the key is still there", || {
        let pairs = get(&again, "/v1/kv/kept?consistent")?;
        (pairs[0]["Value"] == "a2VwdA==").then_some(())
    });
}

/// A network of Docker that is removed when the test ends; declare it before its containers.
struct Network(String);

impl Network {
    fn create(word: &str) -> Self {
        let name = unique_name(word);
        docker(&["network", "create", &name]);
        Self(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["network", "rm", &self.0]).output());
    }
}

#[test]
fn with_addresses_in_several_networks_the_agent_advertises_the_one_of_its_default_route() {
    let networks = ["one", "two"].map(Network::create);
    let name = unique_name("several");
    let id =
        docker(&["create", "--name", &name, "--network", &networks[0].0, image(), "-server", "-bootstrap"]);
    let agent = Container { name, id };
    docker(&["network", "connect", &networks[1].0, &agent.name]);
    docker(&["start", &agent.name]);
    let process = docker(&["inspect", "-f", "{{.State.Pid}}", &agent.name]);
    let own = networks.each_ref().map(|network| address(&agent, &network.0));
    let advertised = eventually(PATIENCE, "it runs", || {
        let state = docker(&["inspect", "-f", "{{.State.Running}}", &agent.name]);
        assert_eq!(state, "true", "{:?}", Command::new("docker").args(["logs", &agent.name]).output());
        let leader = own.iter().find_map(|address| get(address, "/v1/status/leader"))?;
        leader.as_str().filter(|leader| !leader.is_empty()).map(str::to_owned)
    });
    let gateway = default_gateway(&process);
    let routed = networks.iter().position(|network| {
        docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network.0]) == gateway
    });
    assert_eq!(advertised, format!("{}:8300", own[routed.unwrap()]));
}

/// The default gateway of a process, which lives in a network namespace of its own.
fn default_gateway(process: &str) -> String {
    let table = std::fs::read_to_string(format!("/proc/{process}/net/route")).unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = rows.into_iter().find(|row| row[1] == "00000000").unwrap();
    std::net::Ipv4Addr::from(u32::from_str_radix(default[2], 16).unwrap().to_ne_bytes()).to_string()
}
