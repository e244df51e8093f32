//! A machine to log in to: a real sshd with keys of its own, in namespaces of its own: mounts, processes, host name.
//!
//! Where systemd would be are small stand-ins that remember what they were asked for; the cluster tests have the real one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{Running, bare_command, corediscover, eventually, loopback};

/// How long anything may take on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// sshd wants its whole path.
const SSHD: &str = "/usr/sbin/sshd";
/// Where the folders are: sshd reads no keys below a folder that others may write to, as /tmp is.
const ROOT: &str = "/srv";

/// Makes the machine of the folder $1 with the host name $2, with what its file `more` says, then becomes sshd.
const INIT: &str = r#"set -e
mount --make-rprivate /
hostname "$2"
mount --bind "$1/machine-id" /etc/machine-id
mount --bind "$1/system" /etc/systemd/system
mount --bind "$1/lib" /var/lib
mount --bind "$1/opt" /opt
mount --bind "$1/systemctl" /usr/bin/systemctl
mount --bind "$1/journalctl" /usr/bin/journalctl
mount -t tmpfs none /run
mkdir -p /run/sshd /run/systemd/system
if [ -e "$1/more" ]; then . "$1/more"; fi
exec /usr/sbin/sshd -D -e -f "$1/sshd_config"
"#;

/// The stand-in for systemctl: remembers what it was asked for, and what units are. It runs agents, and nothing else.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/var/lib/systemctl.log
mkdir -p /var/lib/state
asked="$*"
words=
for word; do case $word in -*) ;; *) words="$words $word" ;; esac; done
set -- $words
verb=$1
shift
code=0
agent_ends() {
  if [ -e "/var/lib/state/$1.pid" ]; then kill -9 "$(cat "/var/lib/state/$1.pid")" 2>/dev/null; fi
  rm -f "/var/lib/state/$1.pid"
}
case $verb in
  add-wants)
    target=$1
    shift
    mkdir -p "/etc/systemd/system/$target.wants"
    for unit; do ln -sf "../$unit" "/etc/systemd/system/$target.wants/$unit"; done ;;
  show)
    for unit; do
      case $asked in *MainPID*) cat "/var/lib/state/$unit.pid" 2>/dev/null || echo 0; continue ;; esac
      load=not-found
      if [ -e "/etc/systemd/system/$unit" ]; then load=loaded; fi
      active=$(cat "/var/lib/state/$unit" 2>/dev/null || echo inactive)
      case $active in active) sub=running ;; failed) sub=failed ;; *) sub=dead ;; esac
      printf 'LoadState=%s\nActiveState=%s\nSubState=%s\n' "$load" "$active" "$sub"
    done ;;
  enable)
    mkdir -p /etc/systemd/system/multi-user.target.wants
    for unit; do ln -sf "../$unit" "/etc/systemd/system/multi-user.target.wants/$unit"; done ;;
  is-active)
    for unit; do [ "$(cat "/var/lib/state/$unit" 2>/dev/null)" = active ] || code=3; done ;;
  start | restart)
    for unit; do
      file="/etc/systemd/system/$unit"
      if [ ! -e "$file" ]; then echo "Unit $unit not found." >&2; exit 5; fi
      if grep -q '^ExecStart=/bin/false' "$file"; then
        echo failed >"/var/lib/state/$unit"
        echo "Job for $unit failed" >&2
        exit 1
      fi
      if grep -q '^ExecStart=/opt/bin/corediscover agent' "$file"; then
        if [ "$verb" = start ] && [ -e "/var/lib/state/$unit.pid" ]; then continue; fi
        agent_ends "$unit"
        # As for a unit with DynamicUser and StateDirectory.
        mkdir -p /var/lib/private/corediscover
        ln -sfn private/corediscover /var/lib/corediscover
        line=$(sed -n '/^ExecStart=/,/[^\\]$/p' "$file" | sed 's/^ExecStart=//; s/\\$//' | tr '\n' ' ')
        setsid sh -c "exec $line" </dev/null >>/var/lib/agent.log 2>&1 &
        echo $! >"/var/lib/state/$unit.pid"
      fi
      echo active >"/var/lib/state/$unit"
    done ;;
  try-restart)
    if [ -e /var/lib/refuses ]; then echo "Job for $* failed" >&2; exit 1; fi
    for unit; do
      if [ -e "/var/lib/state/$unit.pid" ]; then "$0" restart "$unit"; fi
    done ;;
  stop)
    for unit; do agent_ends "$unit"; echo inactive >"/var/lib/state/$unit"; done ;;
  status)
    for unit; do echo "* $unit - $(cat "/var/lib/state/$unit" 2>/dev/null || echo inactive)"; done ;;
esac
exit $code
"#;

/// The stand-in for journalctl: says what it was asked for, or what the agent wrote.
const JOURNALCTL: &str = r#"#!/bin/sh
echo "journal: $*"
cat /var/lib/agent.log 2>/dev/null
exit 0
"#;

/// A machine that runs.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    folder: tempfile::TempDir,
    process: Option<Running>,
    launcher: Vec<String>,
}

impl Machine {
    /// On an address of its own on loopback, where ports below 1024 are the host's.
    pub(super) fn new(name: &str) -> Self {
        Self::at(name, (loopback(), 2222).into(), Vec::new())
    }

    /// At this address, started by the words of `launcher`.
    pub(super) fn at(name: &str, address: SocketAddr, launcher: Vec<String>) -> Self {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: install the Debian package openssh-server");
        assert!(nix::unistd::geteuid().is_root(), "this test makes mount namespaces: run the tests as root");
        let folder = tempfile::tempdir_in(ROOT).unwrap();
        let machine = Self { name: name.to_owned(), address, folder, process: None, launcher };
        for name in ["system", "lib", "opt"] {
            fs::create_dir(machine.path(name)).unwrap();
        }
        let id: String = name.bytes().cycle().take(16).map(|byte| format!("{byte:02x}")).collect();
        machine.put("machine-id", &format!("{id}\n"), 0o644);
        machine.put("systemctl", SYSTEMCTL, 0o755);
        machine.put("journalctl", JOURNALCTL, 0o755);
        machine.put("authorized_keys", "", 0o600);
        machine.new_host_key("ed25519");
        machine.configure("");
        machine
    }

    /// Its settings of sshd, and `more` before them: the first word counts.
    pub(super) fn configure(&self, more: &str) {
        let folder = self.folder.path().display();
        let keys: Vec<String> = ["ed25519", "rsa"]
            .map(|kind| self.path(&format!("host_{kind}")))
            .iter()
            .filter(|path| path.exists())
            .map(|path| format!("HostKey {}\n", path.display()))
            .collect();
        let (ip, port) = (self.address.ip(), self.address.port());
        let text = format!(
            "{more}\nListenAddress {ip}\nPort {port}\n{}PidFile none\nAuthorizedKeysFile {folder}/authorized_keys\n\
             StrictModes yes\nLogLevel VERBOSE\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n",
            keys.concat()
        );
        self.put("sshd_config", &text, 0o600);
    }

    /// A host key of this kind, in place of one that was there.
    pub(super) fn new_host_key(&self, kind: &str) {
        let path = self.path(&format!("host_{kind}"));
        // There is none the first time.
        drop(fs::remove_file(&path));
        key(&path, kind, "");
    }

    /// Lets the owner of this key in as root.
    pub(super) fn let_in(self, key: &Path) -> Self {
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        self.put("authorized_keys", &public, 0o600);
        self
    }

    /// Lets the owner of this key in as `core` too, whom sudo asks for a password.
    pub(super) fn with_user(self, key: &Path) -> Self {
        let machine = self.let_in(key);
        let users = fs::read_to_string("/etc/passwd").unwrap();
        machine.put("passwd", &format!("{users}core:x:4711:4711::/:/bin/sh\n"), 0o644);
        fs::create_dir(machine.path("bin")).unwrap();
        fs::set_permissions(machine.path("bin"), fs::Permissions::from_mode(0o755)).unwrap();
        machine.put("bin/sudo", "#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n", 0o755);
        let more = "mount --bind \"$1/passwd\" /etc/passwd\nmount --bind \"$1/bin\" /usr/local/bin\n";
        machine.put("more", more, 0o644);
        // `core` may not read a file that only root may read.
        let keys = machine.path("authorized_keys").display().to_string();
        machine.configure(&format!(
            "AuthorizedKeysCommand /bin/cat {keys}\nAuthorizedKeysCommandUser root\nSetEnv PATH=/usr/local/bin:/usr/bin:/bin"
        ));
        machine
    }

    /// Switches it on, and waits until sshd listens.
    pub(super) fn start(mut self) -> Self {
        self.power_on();
        self
    }

    /// As [`Machine::start`], for a machine that was on before.
    pub(super) fn power_on(&mut self) {
        let words = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut line: Vec<String> = self.launcher.clone();
        line.extend(words.map(str::to_owned));
        line.extend(["sh", "-c", INIT, "sh"].map(str::to_owned));
        line.push(self.folder.path().display().to_string());
        line.push(self.name.clone());
        let log = fs::File::create(self.path("sshd.log")).unwrap();
        let mut command = bare_command(&line[0]);
        command.args(&line[1..]).stdout(Stdio::null()).stderr(log);
        self.process = Some(Running::start(&self.name, &mut command));
        let address = self.address;
        if self.launcher.is_empty() {
            eventually(PATIENCE, "sshd listens", || TcpStream::connect(address).ok());
        } else {
            eventually(PATIENCE, "sshd listens", || {
                self.sshd_log().contains("Server listening").then_some(())
            });
        }
    }

    /// Cuts its power; on loopback, waits until nobody listens there any more: the next sshd wants that port.
    pub(super) fn power_off(&mut self) {
        self.process = None;
        if self.launcher.is_empty() {
            eventually(PATIENCE, "sshd is gone", || TcpStream::connect(self.address).is_err().then_some(()));
        }
    }

    /// What sshd wrote.
    pub(super) fn sshd_log(&self) -> String {
        fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
    }

    /// A file of the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The text of a file on the machine; empty if it is not there.
    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// How `--machines` names it.
    pub(super) fn spoken(&self) -> String {
        format!("root@{}", self.address)
    }

    /// Writes a file of the folder.
    pub(super) fn put(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        corediscover::host::files::write_atomic(&path, text.as_bytes(), mode).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Makes a key of this kind.
pub(super) fn key(path: &Path, kind: &str, passphrase: &str) {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "a test", "-f"])
        .arg(path)
        .output()
        .expect("ssh-keygen is installed (openssh-client)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Someone who uses the machines: a home with a key.
pub(super) struct User {
    pub(super) home: tempfile::TempDir,
}

impl User {
    /// With an ed25519 key, and nothing known.
    pub(super) fn new() -> Self {
        let user = Self::without_key();
        key(&user.key(), "ed25519", "");
        user
    }

    /// With nothing at all.
    pub(super) fn without_key() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        Self { home }
    }

    /// Where the key is.
    pub(super) fn key(&self) -> PathBuf {
        self.home.path().join(".ssh/id_ed25519")
    }

    /// The known hosts.
    pub(super) fn known_hosts(&self) -> PathBuf {
        self.home.path().join(".ssh/known_hosts")
    }

    /// `corediscover fleet` with the user's home.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = corediscover();
        command.env("HOME", self.home.path()).env("USER", "root").arg("fleet").args(words);
        command
    }

    /// Runs it: code, stdout, stderr.
    pub(super) fn fleet(&self, words: &[&str]) -> (i32, String, String) {
        said(&self.command(words).output().unwrap())
    }

    /// Runs it on these machines, whose keys are trusted; it must succeed. Gives stdout.
    #[track_caller]
    pub(super) fn fine(&self, machines: &[&Machine], words: &[&str]) -> String {
        let (code, stdout, stderr) = self.on(machines, words);
        assert_eq!(code, 0, "{words:?}: {stdout}{stderr}");
        stdout
    }

    /// Runs it on these machines, whose keys are trusted.
    pub(super) fn on(&self, machines: &[&Machine], words: &[&str]) -> (i32, String, String) {
        let spoken: Vec<String> = machines.iter().map(|machine| machine.spoken()).collect();
        let list = spoken.join(",");
        self.fleet(&[&["--accept-new", "--machines", &list], words].concat())
    }
}

/// Code, stdout, stderr.
pub(super) fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// An address on loopback where nobody listens.
pub(super) fn nobody() -> Ipv4Addr {
    loopback()
}
