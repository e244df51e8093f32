//! Logging in: key files, the agent, passphrases at a terminal; never a password.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::machine::{Machine, PATIENCE, User, key, said};
use super::terminal::at_prompt;
use crate::support::{Running, bare_command, eventually};

/// An ssh-agent with these keys.
struct Agent {
    _process: Running,
    folder: tempfile::TempDir,
}

impl Agent {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = bare_command("ssh-agent");
        command.arg("-D").arg("-a").arg(folder.path().join("socket")).stdout(Stdio::null());
        let agent = Self { _process: Running::start("ssh-agent", &mut command), folder };
        eventually(PATIENCE, "the agent listens", || agent.socket().exists().then_some(()));
        agent
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Adds a key that has no passphrase.
    fn add(&self, key: &std::path::Path) {
        let output =
            bare_command("ssh-add").env("SSH_AUTH_SOCK", self.socket()).arg("-q").arg(key).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_key_of_the_agent_lets_in_without_a_file() {
    let (user, other) = (User::without_key(), User::new());
    let machine = Machine::new("host-1").let_in(&other.key()).start();
    let agent = Agent::new();
    agent.add(&other.key());
    let spoken = machine.spoken();
    let words = ["--accept-new", "--machines", &spoken, "list-machines"];
    let (code, _, stderr) = user.fleet(&words);
    assert_eq!(code, 1);
    assert!(stderr.contains("there is no key to log in with") && stderr.contains("ssh-copy-id"), "{stderr}");
    let (code, _, stderr) =
        said(&user.command(&words).env("SSH_AUTH_SOCK", agent.socket()).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    // An agent that has ended leaves its address behind.
    let (code, _, stderr) = said(&other.command(&words).env("SSH_AUTH_SOCK", "/nowhere").output().unwrap());
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn every_usual_kind_of_key_lets_in_and_a_key_that_is_not_wanted_is_named() {
    for kind in ["ecdsa", "rsa"] {
        let user = User::without_key();
        let path = user.home.path().join(format!(".ssh/id_{kind}"));
        key(&path, kind, "");
        let machine = Machine::new("host-1").let_in(&path).start();
        user.fine(&[&machine], &["list-machines"]);
    }
    let (user, other) = (User::new(), User::new());
    let machine = Machine::new("host-1").let_in(&other.key()).start();
    let (code, _, stderr) = user.on(&[&machine], &["list-machines"]);
    assert_eq!(code, 1);
    let tried = format!("root is not let in with any of these keys: {}\n", user.key().display());
    assert!(stderr.contains(&tried) && stderr.contains("hint: is the user right"), "{stderr}");
    let named = other.key().display().to_string();
    user.fine(&[&machine], &["--identity", &named, "list-machines"]);
    let public = format!("{named}.pub");
    let (code, _, stderr) = user.on(&[&machine], &["--identity", &public, "list-machines"]);
    assert!(code == 1 && stderr.contains("is no private key"), "{stderr}");
    let (code, _, stderr) = user.on(&[&machine], &["--identity", "/no/key", "list-machines"]);
    assert!(code == 1 && stderr.contains("cannot read the key /no/key"), "{stderr}");
}

#[test]
fn the_passphrase_of_an_encrypted_key_is_asked_for_at_the_terminal_once_for_all_machines() {
    let user = User::without_key();
    key(&user.key(), "ed25519", "a long secret");
    let machines = [1, 2].map(|number| Machine::new(&format!("host-{number}")).let_in(&user.key()).start());
    let list = format!("{},{}", machines[0].spoken(), machines[1].spoken());
    let words = ["--accept-new", "--machines", &list, "list-machines", "--no-legend"];
    // Without a terminal there is nobody to ask.
    let mut alone = Command::new("setsid");
    alone.arg("--wait").arg(crate::support::binary()).env_clear().arg("fleet").args(words);
    let alone = alone.env("HOME", user.home.path()).stdin(Stdio::null()).output().unwrap();
    let (code, _, stderr) = said(&alone);
    assert!(code == 1 && stderr.contains("no terminal") && stderr.contains("ssh-add"), "{stderr}");
    let line = format!("{} fleet {}", crate::support::binary().display(), words.join(" "));
    let at_terminal = |secret: &str| {
        at_prompt(&user, &line, "Passphrase of ", |_, keyboard| {
            keyboard.write_all(format!("{secret}\n").as_bytes()).unwrap();
        })
    };
    let (code, shown) = at_terminal("a long secret");
    assert_eq!((code, shown.matches("Passphrase of ").count()), (Some(0), 1), "{shown}");
    assert!(!shown.contains("a long secret") && shown.contains("127."), "{shown}");
    let (code, shown) = at_terminal("wrong");
    assert!(code == Some(1) && shown.contains("the passphrase does not open"), "{shown}");
}

#[test]
fn a_machine_that_takes_fewer_keys_than_it_is_offered_is_told_from_one_that_wants_none() {
    let (user, owner) = (User::without_key(), User::new());
    let machine = Machine::new("host-1").let_in(&owner.key());
    machine.configure("MaxAuthTries 2");
    let machine = machine.start();
    let agent = Agent::new();
    let others: Vec<PathBuf> =
        (0..3).map(|number| user.home.path().join(format!("other-{number}"))).collect();
    for path in &others {
        key(path, "ed25519", "");
        agent.add(path);
    }
    agent.add(&owner.key());
    let spoken = machine.spoken();
    let ask = |more: &[&str]| {
        let words = [&["--accept-new", "--machines", &spoken], more, &["list-machines"]].concat();
        said(&user.command(&words).env("SSH_AUTH_SOCK", agent.socket()).output().unwrap())
    };
    let (code, _, stderr) = ask(&[]);
    let cut = "the machine cut the connection after 2 keys: a test (agent), a test (agent)\n";
    assert!(code == 1 && stderr.contains(cut), "{stderr}");
    assert!(
        stderr.contains("--identity names the one key to use") && stderr.contains("MaxAuthTries"),
        "{stderr}"
    );
    // What is advised works: the agent has the key.
    let (code, _, stderr) = ask(&["--identity", &owner.key().display().to_string()]);
    assert_eq!(code, 0, "{stderr}");
    // Keys in files.
    let other = User::new();
    key(&other.home.path().join(".ssh/id_ecdsa"), "ecdsa", "");
    let (code, _, stderr) = other.on(&[&machine], &["list-machines"]);
    assert!(code == 1 && stderr.contains("the machine cut the connection after 2 keys: "), "{stderr}");
}

#[test]
fn keys_beyond_those_that_every_sshd_takes_are_not_tried_and_that_is_told() {
    let (user, owner) = (User::without_key(), User::new());
    let machine = Machine::new("host-1").let_in(&owner.key()).start();
    let agent = Agent::new();
    for number in 0..7 {
        let path = user.home.path().join(format!("other-{number}"));
        key(&path, "ed25519", "");
        agent.add(&path);
    }
    let spoken = machine.spoken();
    let words = ["--accept-new", "--machines", &spoken, "list-machines"];
    let (code, _, stderr) =
        said(&user.command(&words).env("SSH_AUTH_SOCK", agent.socket()).output().unwrap());
    assert_eq!((code, stderr.matches("a test (agent)").count()), (1, 5), "{stderr}");
    assert!(stderr.contains("; 2 more were not tried\n") && stderr.contains("--identity names"), "{stderr}");
}

#[test]
fn a_machine_that_takes_only_passwords_is_told_from_one_that_does_not_want_our_key() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key());
    machine.configure("PubkeyAuthentication no\nPasswordAuthentication yes");
    let machine = machine.start();
    let (code, _, stderr) = user.on(&[&machine], &["list-machines"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("root cannot log in with a key there, only by"), "{stderr}");
}

#[test]
fn an_encrypted_key_that_nobody_can_open_does_not_hide_the_next_one() {
    let user = User::without_key();
    key(&user.key(), "ed25519", "a long secret");
    let second = user.home.path().join(".ssh/id_rsa");
    key(&second, "rsa", "");
    let machine = Machine::new("host-1").let_in(&second).start();
    let spoken = machine.spoken();
    let mut alone = Command::new("setsid");
    alone.arg("--wait").arg(crate::support::binary()).env_clear();
    alone.args(["fleet", "--user", "root", "--accept-new", "--machines", &spoken, "list-machines"]);
    let alone = alone.env("HOME", user.home.path()).stdin(Stdio::null()).output().unwrap();
    let (code, _, stderr) = said(&alone);
    assert_eq!(code, 0, "{stderr}");
}
