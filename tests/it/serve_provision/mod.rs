//! Booting machines get the binary and their user-data from `serve-provision`, and install what they got: with the real curl,
//! the real parsers, and the script of the real unit, under `sh`, in a folder of their own.

mod installing;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

use crate::support::{Running, bare_command, binary, corediscover, eventually};

/// Programs start and downloads end in seconds; the machine does much else.
const DEADLINE: Duration = Duration::from_mins(2);
/// What cloud-init itself does with `ds=nocloud;s=URL`, and what its schema says about the result.
const NOCLOUD: &str = "import sys
from cloudinit import util
read = util.read_seeded(sys.argv[1], timeout=30, retries=0)
meta, user = read[0], read[1]
assert meta['instance-id'] == 'corediscover', meta
open(sys.argv[2], 'wb').write(user if isinstance(user, bytes) else user.encode())
from cloudinit.config.schema import get_schema, validate_cloudconfig_file
validate_cloudconfig_file(sys.argv[2], get_schema())
";

/// A running server, and what it has logged.
struct Server {
    process: Running,
    /// With a final slash, as it printed it.
    url: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// Serves the content `program` on an address of its own.
    fn start(program: &[u8], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        write_atomic(&file, program, MODE_PUBLIC).unwrap();
        Self::start_with(folder, "127.0.0.1:0", &[&["--program", file.to_str().unwrap()], more].concat())
    }

    fn start_with(folder: tempfile::TempDir, listen: &str, more: &[&str]) -> Self {
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = corediscover();
        command.args(["serve-provision", "--listen", listen, "--etcd", "http://10.0.0.9:2379"]).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let process = Running::of("serve-provision", child);
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(url.starts_with("http://"), "{url} {log}");
        Self { process, url: url.trim_end().to_owned(), folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn replace(&self, program: &[u8]) {
        write_atomic(&self.folder.path().join("program"), program, MODE_PUBLIC).unwrap();
    }

    /// Calls curl with the URL of `path`; stdout is the body.
    fn curl(&self, path: &str, more: &[&str]) -> Output {
        let url = format!("{}{}", self.url, path.trim_start_matches('/'));
        let mut curl = bare_command("curl");
        let output = curl.args(["-sS", "--max-time", "60"]).args(more).arg(url).output();
        output.expect("curl, of Debian's package curl, is there")
    }

    #[track_caller]
    fn get(&self, path: &str) -> String {
        let output = self.curl(path, &["-f"]);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The status and the head of an answer, with lower-case names.
    fn head(&self, path: &str, more: &[&str]) -> String {
        let output = self.curl(path, &[&["-D", "-", "-o", "/dev/null"], more].concat());
        String::from_utf8(output.stdout).unwrap().to_lowercase()
    }

    /// The unit that a machine with cloud-init gets for the binary.
    fn install_unit(&self) -> String {
        self.get("/units/corediscover-install.service")
    }
}

fn sha512(content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("content");
    write_atomic(&path, content, MODE_PUBLIC).unwrap();
    let output = bare_command("sha512sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// A program's worth of bytes that do not repeat.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn every_path_of_the_index_answers_with_what_real_parsers_take() {
    let program = bytes(1, 300_000);
    let server = Server::start(&program, &[]);
    let index = server.get("/");
    let listed: Vec<&str> =
        index.lines().skip_while(|line| *line != "All paths:").skip(1).map(str::trim).collect();
    assert!(listed.len() >= 12, "{index}");
    for path in &listed {
        assert!(server.curl(path, &["-f", "-o", "/dev/null"]).status.success(), "{path}");
    }
    let digest = sha512(&program);
    assert_eq!(server.get("/corediscover.sha512"), format!("{digest}  corediscover\n"));

    // The line for the binary works as it stands on the page.
    let machine = tempfile::tempdir().unwrap();
    let line = index.lines().find(|line| line.contains("sha512sum -c")).unwrap();
    let output = bare_command("sh").args(["-c", line]).current_dir(machine.path()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(machine.path().join("corediscover")).unwrap(), program);

    // cloud-init's own code fetches the seed, and its schema takes it.
    let seed = format!("{}cloud-init/", server.url);
    assert!(index.contains(&format!("ds=nocloud;s={seed}\n")), "{index}");
    let user_data = machine.path().join("user-data");
    let output =
        bare_command("/usr/bin/python3").args(["-c", NOCLOUD, &seed]).arg(&user_data).output().unwrap();
    assert!(output.status.success(), "cloud-init: {}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&user_data).unwrap();
    assert!(text.contains(&format!("\"{}corediscover/{digest}\"", server.url)), "{text}");

    let config = machine.path().join("config.ign");
    write_atomic(&config, server.get("/ignition").as_bytes(), MODE_PUBLIC).unwrap();
    let output = bare_command("ignition-validate").arg(&config).output();
    let output = output.expect("ignition-validate, of Debian's package ignition, is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(server.get("/cloud-config").starts_with("#cloud-config\n"));
    assert!(server.get("/butane").contains(&format!("sha512-{digest}")));
}

#[test]
fn the_binary_comes_whole_in_parts_or_not_at_all() {
    let program = bytes(2, 100_000);
    let server = Server::start(&program, &[]);
    let head = server.head("/corediscover", &["-I"]);
    let tag = format!("\"{}\"", sha512(&program));
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 100000\r"), "{head}");
    assert!(head.contains("accept-ranges: bytes\r") && head.contains(&format!("etag: {tag}\r")), "{head}");
    assert_eq!(
        server.curl("/corediscover", &["-I", "-o", "/dev/null", "-w", "%{size_download}"]).stdout,
        b"0"
    );

    assert_eq!(server.curl("/corediscover", &["-r", "10-19"]).stdout, &program[10..20]);
    assert_eq!(server.curl("/corediscover", &["-r", "-7"]).stdout, &program[99_993..]);
    assert!(server.head("/corediscover", &["-r", "10-19"]).contains("content-range: bytes 10-19/100000\r"));
    let outside = server.head("/corediscover", &["-r", "100000-"]);
    assert!(outside.starts_with("http/1.1 416") && outside.contains("bytes */100000"), "{outside}");

    let same = format!("If-None-Match: {tag}");
    assert!(server.head("/corediscover", &["-H", &same]).starts_with("http/1.1 304"));
    assert!(server.head("/corediscover", &["-H", "If-None-Match: \"x\""]).starts_with("http/1.1 200"));

    // A download that was cut off goes on where it stopped, and begins again when the file is another one.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part");
    write_atomic(&file, &program[..40_000], MODE_PUBLIC).unwrap();
    let resumed = server.curl("/corediscover", &["-f", "-C", "-", "-o", file.to_str().unwrap()]);
    assert!(resumed.status.success());
    assert_eq!(fs::read(&file).unwrap(), program);
    let newer = bytes(3, 100_000);
    server.replace(&newer);
    let if_range = format!("If-Range: {tag}");
    let whole = server.curl("/corediscover", &["-r", "40000-", "-H", &if_range]).stdout;
    assert_eq!(whole, newer, "a part of one and a part of the other is never sent");
    assert!(server.get("/corediscover.sha512").starts_with(&sha512(&newer)));
}

#[test]
fn it_is_only_read_and_believes_no_host_header() {
    let server = Server::start(b"program", &[]);
    for method in ["POST", "PUT", "DELETE"] {
        let head = server.head("/corediscover", &["-X", method]);
        assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head\r"), "{head}");
    }
    assert!(server.head("/../../etc/passwd", &["--path-as-is"]).starts_with("http/1.1 404"));
    let text = server.curl("/cloud-init/user-data", &["-H", "Host: evil.example"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains("evil.example") && text.contains(&server.url), "{text}");
    let large = format!("X-Large: {}", "a".repeat(64 << 10));
    assert!(!server.head("/", &["-H", &large]).starts_with("http/1.1 200"));

    let log = server.log();
    let line =
        log.lines().find(|line| line.contains("evil") || line.contains("/cloud-init/user-data")).unwrap();
    for part in ["peer=127.0.0.1:", "method=GET", "path=\"/cloud-init/user-data\"", "status=200"] {
        assert!(line.contains(part), "{line}");
    }

    let behind = Server::start(b"program", &["--url", "http://boot.example:8080/"]);
    assert_eq!(behind.url, "http://boot.example:8080/");
}

#[test]
fn on_all_addresses_each_machine_is_told_the_one_that_it_reached() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder, "0.0.0.0:0", &[]);
    let port = server.url.trim_end_matches('/').rsplit_once(':').unwrap().1;
    for address in ["127.0.0.1", "127.0.0.2"] {
        let url = format!("http://{address}:{port}/units/corediscover-install.service");
        let output = bare_command("curl").args(["-fsS", &url]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("\"http://{address}:{port}/corediscover/")), "{text}");
    }
    // Without --program it is the program itself.
    let served =
        bare_command("curl").args(["-fsS", &format!("http://127.0.0.1:{port}/corediscover.sha512")]).output();
    let expected = sha512(&fs::read(binary()).unwrap());
    assert!(String::from_utf8(served.unwrap().stdout).unwrap().starts_with(&expected));
}

#[test]
fn who_says_nothing_is_hung_up_on_and_a_stop_lets_downloads_end() {
    let program = bytes(10, 30 << 20);
    let mut server = Server::start(&program, &[]);
    let address = server.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost").unwrap();
    slow.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut rest = Vec::new();
    // A reset is an end as well.
    drop(slow.read_to_end(&mut rest));
    assert!(!rest.starts_with(b"HTTP/1.1 200"));

    let mut download = TcpStream::connect(&address).unwrap();
    download.write_all(b"GET /corediscover HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut first = [0; 1024];
    download.read_exact(&mut first).unwrap();
    server.process.signal(nix::sys::signal::Signal::SIGTERM);
    eventually(DEADLINE, "nobody new is let in", || TcpStream::connect(&address).err().map(drop));
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&program[program.len() - 1000..]), "the download was cut off");
    assert_eq!(server.process.exit_code(DEADLINE), Some(0));
}

#[test]
fn what_cannot_be_served_is_told_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let none = Path::new("/no/such/program").to_str().unwrap();
    for (words, code, part) in [
        (&["serve-provision"][..], 2, "--listen"),
        (&["serve-provision", "--listen", "here"], 2, "--listen"),
        (&["serve-provision", "--listen", &taken], 1, "choose another address or port with --listen"),
        (&["serve-provision", "--listen", "127.0.0.1:0", "--program", none], 1, "--program"),
        (&["serve-provision", "--listen", "127.0.0.1:0", "--print-spec"], 2, "--print-spec"),
        (&["serve-provision", "--listen", "127.0.0.1:0", "--servers", "2"], 2, "2 servers are not possible"),
    ] {
        let output = corediscover().args(words).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains(part), "{words:?}: {stderr}");
    }
}
