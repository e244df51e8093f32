//! What happens at a terminal: a real one, of script(1).

use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, Stdio};

use super::machine::{Machine, User, key};
use crate::support::bare_command;

/// How the question for a passphrase begins.
const ASKED: &str = "Passphrase of ";

/// Runs a line of a shell in a terminal of its own, and `act` when `prompt` is shown, with what was shown until then and
/// the keyboard. Gives the exit code, and all that was shown.
pub(super) fn at_prompt(
    user: &User,
    line: &str,
    prompt: &str,
    act: impl FnOnce(&str, &mut ChildStdin),
) -> (Option<i32>, String) {
    // What started the tests may ignore signals, as nohup does; a shell at a terminal does not.
    let mut script = bare_command("env");
    script.args([
        "--default-signal=HUP,INT,QUIT,TERM",
        "script",
        "--quiet",
        "--return",
        "--command",
        line,
        "/dev/null",
    ]);
    script.env("HOME", user.home.path()).env("SHELL", "/bin/sh");
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut shown = String::new();
    let mut bytes = [0; 4096];
    loop {
        let count = output.read(&mut bytes).unwrap();
        shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        if count == 0 || shown.contains(prompt) {
            break;
        }
    }
    act(&shown, &mut input);
    output.read_to_string(&mut shown).unwrap();
    (script.wait().unwrap().code(), shown)
}

/// A line that shows the terminal's modes after the command, which Ctrl-C ends alone.
fn then_modes(run: &str) -> String {
    format!("trap : INT; {run}; echo code=$?; stty -a")
}

/// Whether the terminal is at the end as it was at the beginning.
fn is_as_before(shown: &str) -> bool {
    let modes = shown.rsplit("code=").next().unwrap();
    let has = |mode: &str| modes.split_whitespace().any(|word| word == mode);
    has("echo") && has("icanon") && has("isig") && modes.contains("susp = ^Z")
}

#[test]
fn who_ends_the_program_at_the_question_for_a_passphrase_finds_the_terminal_as_it_was() {
    let user = User::without_key();
    key(&user.key(), "ed25519", "a long secret");
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    let program = crate::support::binary().display().to_string();
    let words = format!("{program} fleet --accept-new --machines {} list-machines", machine.spoken());
    let (code, shown) =
        at_prompt(&user, &then_modes(&words), ASKED, |_, keyboard| keyboard.write_all(b"\x03").unwrap());
    assert!(code == Some(0) && shown.contains("code=130") && is_as_before(&shown), "{shown}");
    // Without a shell that minds.
    let (code, shown) = at_prompt(&user, &words, ASKED, |_, keyboard| keyboard.write_all(b"\x03").unwrap());
    assert_eq!(code, Some(130), "{shown}");
    let killed = format!("sh -c 'echo pid=$$; exec {words}'");
    let (code, shown) = at_prompt(&user, &then_modes(&killed), ASKED, |shown, _| {
        let pid = shown.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    });
    assert!(code == Some(0) && shown.contains("code=143") && is_as_before(&shown), "{shown}");
    // An end of input is no passphrase.
    let (code, shown) = at_prompt(&user, &words, ASKED, |_, keyboard| keyboard.write_all(b"\x04").unwrap());
    assert!(code == Some(1) && shown.contains("no passphrase was typed for "), "{shown}");
}

#[test]
fn a_shell_on_a_machine_has_the_terminal_and_gives_it_back_however_it_ends() {
    let user = User::new();
    let machine = Machine::new("host-1").let_in(&user.key()).start();
    let name = machine.address.to_string();
    let program = crate::support::binary().display().to_string();
    let words = format!("{program} fleet --user root --accept-new --machines {name} ssh {name}");
    // What is echoed is not what is printed.
    let typed = "echo it-is-$(hostname); exit 7\r";
    let (code, shown) = at_prompt(&user, &then_modes(&words), "# ", |_, keyboard| {
        keyboard.write_all(typed.as_bytes()).unwrap();
    });
    assert!(code == Some(0) && shown.contains("it-is-host-1"), "{shown}");
    assert!(shown.contains("code=7") && is_as_before(&shown), "{shown}");
    // The shell's parent is the part of sshd that serves this connection.
    let (_, shown) = at_prompt(&user, &then_modes(&words), "# ", |_, keyboard| {
        keyboard.write_all(b"kill -9 $PPID\r").unwrap();
    });
    assert!(shown.contains("code=255") && is_as_before(&shown), "{shown}");
    assert!(shown.contains("the connection ended before the machine said how the command ended"), "{shown}");
}
