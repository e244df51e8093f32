//! What a machine makes of a download or an image: the script of the real unit, under `sh`, in a folder of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

use super::{DEADLINE, Server, bytes, sha512};
use crate::provision::shell_commands;
use crate::support::{Running, bare_command, corediscover, eventually};

/// A machine's /opt/bin, on which a unit's commands are run.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn program(&self) -> PathBuf {
        self.0.path().join("corediscover")
    }

    fn scripts(&self, unit: &str) -> Vec<Command> {
        let commands = shell_commands(unit, "ExecStart");
        assert_eq!(commands.len(), 1, "{unit}");
        let folder = self.0.path().to_str().unwrap();
        let make = |script: &String| {
            let mut command = bare_command("sh");
            command.arg("-c").arg(script.replace("/opt/bin", folder));
            command
        };
        commands.iter().map(make).collect()
    }

    /// Starts the unit as systemd does: command after command, until one fails. Gives what was said.
    fn install(&self, unit: &str) -> Result<String, String> {
        let mut said = String::new();
        for mut script in self.scripts(unit) {
            let output = script.output().unwrap();
            said.push_str(&String::from_utf8_lossy(&output.stderr));
            if !output.status.success() {
                return Err(said);
            }
        }
        Ok(said)
    }

    fn has(&self, content: &[u8]) {
        use std::os::unix::fs::PermissionsExt as _;
        assert!(fs::read(self.program()).unwrap() == content, "another binary is there");
        let mode = fs::metadata(self.program()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}

#[test]
fn a_blank_machine_gets_the_binary_and_a_new_digest_is_an_update() {
    let (first, second) = (bytes(4, 200_000), bytes(5, 200_000));
    let server = Server::start(&first, &[]);
    let machine = Machine::new();
    let unit = server.install_unit();
    assert_eq!(machine.install(&unit).unwrap(), "");
    machine.has(&first);
    let downloads = || server.log().lines().filter(|line| line.contains("path=\"/corediscover/")).count();
    assert_eq!(downloads(), 1);
    assert_eq!(machine.install(&unit).unwrap(), "");
    assert_eq!(downloads(), 1, "what is there is not fetched again");

    server.replace(&second);
    let said = machine.install(&unit).unwrap();
    assert_eq!(said, "", "the old user-data wants the old binary, which is there");
    machine.has(&first);
    machine.install(&server.install_unit()).unwrap();
    machine.has(&second);
    assert_eq!(downloads(), 2);

    // The machine lost its power while the file was written: the digest is not right, and it is fetched again.
    write_atomic(&machine.program(), &second[..1000], MODE_PUBLIC).unwrap();
    write_atomic(&machine.0.path().join(".corediscover.new"), b"half", MODE_PUBLIC).unwrap();
    machine.install(&server.install_unit()).unwrap();
    machine.has(&second);
}

#[test]
fn the_right_binary_that_may_not_be_run_is_made_executable() {
    use std::os::unix::fs::PermissionsExt as _;
    let content = bytes(8, 10_000);
    let machine = Machine::new();
    // Nobody is there to fetch it from.
    let unit = unit_for("http://127.0.0.1:9/corediscover", &content);
    write_atomic(&machine.program(), &content, MODE_PUBLIC).unwrap();
    fs::set_permissions(machine.program(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(machine.install(&unit).unwrap(), "");
    machine.has(&content);
}

#[test]
fn a_wrong_binary_never_replaces_a_good_one() {
    let (good, other) = (bytes(6, 50_000), bytes(7, 50_000));
    let server = Server::start(&good, &[]);
    let machine = Machine::new();
    let unit = server.install_unit();
    machine.install(&unit).unwrap();
    // A unit whose digest nothing has: a mistake of whoever wrote it, or somebody on the way.
    let wrong = unit.replace(&format!("{}  ", sha512(&good)), &format!("{}  ", sha512(b"something else")));
    let said = machine.install(&wrong).expect("the machine goes on with what it has");
    assert!(
        said.contains("does not have the expected sha512") && said.contains("that is there stays"),
        "{said}"
    );
    machine.has(&good);

    // A blank machine has nothing to go on with: it asks until the right one comes.
    let blank = Machine::new();
    let url = front(&[b"<html>please log in</html>", &other, &good]);
    let said = blank.install(&unit_for(&url, &good)).unwrap();
    assert_eq!(said.matches("does not have the expected sha512: it is removed").count(), 2, "{said}");
    blank.has(&good);
}

/// A server that gives one after the other, and the last for ever.
fn front(contents: &[&[u8]]) -> String {
    let contents: Vec<Vec<u8>> = contents.iter().map(|content| content.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/corediscover", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let read = stream.read(&mut [0; 4096]).unwrap_or(0);
            let content = &contents[number.min(contents.len() - 1)];
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content)));
            assert!(read > 0);
        }
    });
    url
}

#[test]
fn a_blank_machine_with_old_user_data_gets_the_old_binary_that_it_wants() {
    let (first, second, third) = (bytes(13, 40_000), bytes(14, 40_000), bytes(15, 40_000));
    let server = Server::start(&first, &[]);
    let unit = server.install_unit();
    server.replace(&second);
    assert!(server.get("/corediscover.sha512").starts_with(&sha512(&second)));
    let machine = Machine::new();
    assert_eq!(machine.install(&unit).unwrap(), "");
    machine.has(&first);
    server.replace(&third);
    assert!(server.get("/corediscover.sha512").starts_with(&sha512(&third)));
    let gone = server.curl(&format!("/corediscover/{}", sha512(&first)), &[]);
    let said = String::from_utf8_lossy(&gone.stdout).into_owned();
    assert!(said.contains("two binaries ago or never"), "{said}");
}

/// A server that knows ranges, and gives a third of the whole at a time before it hangs up.
fn slow_line(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/corediscover[1-9]", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let range = asked.split_once("range: bytes=").and_then(|(_, rest)| rest.split_once('-'));
            let start: usize = range.map_or(0, |(start, _)| start.parse().unwrap());
            let (length, status) = (content.len(), if start > 0 { "206 Partial" } else { "200 OK" });
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{length}\r\n\r\n",
                length - start,
                length - 1
            );
            let end = (start + length / 3 + 1).min(length);
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[start..end])));
        }
    });
    url
}

#[test]
fn a_line_on_which_no_try_gets_the_whole_binary_gets_it_part_by_part() {
    let content = bytes(16, 90_000);
    let machine = Machine::new();
    // The URL has what curl reads as several, unless it is told not to.
    let url = slow_line(content.clone());
    let said = machine.install(&unit_for(&url, &content)).unwrap();
    assert!(said.contains("no new binary (try 2): again in 2 s") && !said.contains("(try 3)"), "{said}");
    machine.has(&content);
}

/// A server that cuts its first answer off in the middle; then it gives all.
fn faulty(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/corediscover", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let read = stream.read(&mut [0; 4096]).unwrap_or(0);
            let sent = if number == 0 { content.len() / 2 } else { content.len() };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
            // The client may go away.
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[..sent])));
            assert!(read > 0);
        }
    });
    url
}

fn unit_for(url: &str, content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let how = format!("url={url},sha512={}", sha512(content));
    let output = corediscover()
        .args(["units", "--systemd", "--etcd", "http://10.0.0.9:2379", "--binary", &how, "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(folder.path().join("corediscover-install.service")).unwrap()
}

#[test]
fn a_download_that_is_cut_off_is_tried_again() {
    let content = bytes(8, 80_000);
    let machine = Machine::new();
    let said = machine.install(&unit_for(&faulty(content.clone()), &content)).unwrap();
    assert!(said.contains("no new binary (try 1): again in 1 s"), "{said}");
    machine.has(&content);
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for_and_every_try_is_told() {
    let content = bytes(9, 10_000);
    // A port that is free: nobody listens there until the server starts.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let machine = Machine::new();
    let mut script =
        machine.scripts(&unit_for(&format!("http://{address}/corediscover"), &content)).remove(0);
    let log = machine.0.path().join("said");
    let mut waiting = Running::start("the unit", script.stderr(fs::File::create(&log).unwrap()));
    eventually(DEADLINE, "the third try is told", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("no new binary (try 3): again in 4 s").then_some(())
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program");
    write_atomic(&file, &content, MODE_PUBLIC).unwrap();
    let _server = Server::start_with(folder, &address, &["--program", file.to_str().unwrap()]);
    assert_eq!(waiting.exit_code(DEADLINE), Some(0));
    fs::remove_file(log).unwrap();
    machine.has(&content);

    // A machine that has a binary, though another one, goes on with it after a few tries.
    let old = Machine::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    install_by_hand(&old, b"#!/bin/sh\n");
    let said = old.install(&unit_for(&format!("http://{free}/corediscover"), &content)).unwrap();
    assert!(said.contains("no new binary after 5 tries: the binary that is there stays"), "{said}");
    old.has(b"#!/bin/sh\n");
}

/// An image with this content as its binary, under a name of its own; gone when the test ends.
struct Image(String);

impl Image {
    fn new() -> Self {
        Self(format!("cdtest-serve-{}:latest", std::process::id()))
    }

    fn put(&self, content: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        write_atomic(&folder.path().join("bin/corediscover"), content, MODE_PUBLIC).unwrap();
        let made = bare_command("sh")
            .args([
                "-c",
                "tar -C \"$0\" -c bin | docker import --change 'ENTRYPOINT [\"/bin/corediscover\"]' - \"$1\"",
            ])
            .arg(folder.path())
            .arg(&self.0)
            .output()
            .unwrap();
        assert!(made.status.success(), "docker import: {}", String::from_utf8_lossy(&made.stderr));
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(bare_command("docker").args(["rmi", "--force", &self.0]).output());
    }
}

/// The unit that copies the binary out of `image`, run as systemd does, with a container's name of its own.
fn install_image(machine: &Machine, image: &str) -> Result<String, String> {
    install_image_with(machine, image, None)
}

/// The same with a program that stands in for docker in `programs`.
fn install_image_with(machine: &Machine, image: &str, programs: Option<&Path>) -> Result<String, String> {
    let mut path = std::env::var("PATH").unwrap();
    if let Some(programs) = programs {
        path = format!("{}:{path}", programs.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let output = corediscover()
        .args(["units", "--etcd", "http://10.0.0.9:2379", "--binary", &format!("image={image}"), "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let unit = fs::read_to_string(folder.path().join("corediscover-install.service")).unwrap();
    let container = format!("cdtest-serve-{}", std::process::id());
    let bin = machine.0.path().to_str().unwrap();
    let mut said = String::new();
    let mut result = Ok(());
    let steps = [("ExecStartPre", false), ("ExecStart", true), ("ExecStopPost", false)];
    for (key, counts) in steps {
        for script in shell_commands(&unit, key) {
            let script = script.replace("corediscover-install", &container).replace("/opt/bin", bin);
            let output = bare_command("sh").args(["-c", &script]).env("PATH", &path).output().unwrap();
            said.push_str(&String::from_utf8_lossy(&output.stderr));
            if counts && !output.status.success() {
                result = Err(());
                break;
            }
        }
    }
    result.map(|()| said.clone()).map_err(|()| said)
}

#[test]
fn a_binary_out_of_an_image_is_updated_with_it_and_outlives_it() {
    let machine = Machine::new();
    let image = Image::new();
    let (first, second) = (bytes(11, 30_000), bytes(12, 30_000));
    for content in [&first, &second] {
        image.put(content);
        install_image(&machine, &image.0).unwrap();
        machine.has(content);
    }
    // No registry is there, and no image.
    let said = install_image(&machine, "127.0.0.1:1/none:1").unwrap();
    assert!(said.contains("no new binary (try 1): again in 1 s"), "{said}");
    assert!(said.contains("no new binary after 5 tries: the binary that is there stays"), "{said}");
    machine.has(&second);
}

/// A docker that has the image, and copies half of what it should before it fails, as often as `fails` says.
fn docker_that_fails(fails: u32) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("docker");
    let script = format!(
        "#!/bin/sh\ntest \"$1\" = cp || exit 0\ncount=$(cat \"$0.count\" 2>/dev/null || echo 0)\n\
         echo $((count + 1)) >\"$0.count\"\nprintf half >\"$3\"\ntest $count -ge {fails} || exit 1\n\
         printf whole >\"$3\"\n"
    );
    write_atomic(&program, script.as_bytes(), MODE_PUBLIC).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn half_a_copy_never_replaces_a_good_binary_and_no_copy_does_not_stop_one() {
    let machine = Machine::new();
    install_by_hand(&machine, b"good");
    // The machine lost its power in the middle of the last copy.
    write_atomic(&machine.0.path().join(".corediscover.new"), b"half", MODE_PUBLIC).unwrap();
    let none = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/false", none.path().join("docker")).unwrap();
    let said = install_image_with(&machine, "corediscover:1", Some(none.path())).unwrap();
    assert!(said.contains("no new binary after 5 tries: the binary that is there stays"), "{said}");
    machine.has(b"good");

    let always = docker_that_fails(u32::MAX);
    let said = install_image_with(&machine, "corediscover:1", Some(always.path())).unwrap();
    assert!(said.contains("the binary that is there stays"), "{said}");
    machine.has(b"good");

    let blank = Machine::new();
    let twice = docker_that_fails(2);
    let said = install_image_with(&blank, "corediscover:1", Some(twice.path())).unwrap();
    assert!(said.contains("no new binary (try 2): again in 2 s"), "{said}");
    blank.has(b"whole");
}

fn install_by_hand(machine: &Machine, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    write_atomic(&machine.program(), content, MODE_PUBLIC).unwrap();
    fs::set_permissions(machine.program(), fs::Permissions::from_mode(0o755)).unwrap();
}
