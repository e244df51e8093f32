//! `corediscover fleet` on machines with the real systemd, journald, Docker and sudo: the user `core` logs in with a key.
//!
//! Needs three machines and one more that are on and blank, and where the user `core` may use sudo without a password.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What this needs of the machines.
pub(crate) struct Site<'a> {
    /// The released binary: it is run here, and brought to the machines.
    pub(crate) binary: &'a Path,
    /// The private key that `core` is let in with; mode 0600.
    pub(crate) key: &'a Path,
    /// An empty folder: the home of the user here.
    pub(crate) home: &'a Path,
    /// The machines' addresses; the last one is the one more.
    pub(crate) addresses: Vec<String>,
    /// The machines' host names.
    pub(crate) names: Vec<String>,
    /// Runs a program on the machine with this number, as root and not through SSH; gives its standard output, whatever
    /// comes of it.
    pub(crate) look: &'a dyn Fn(usize, &[&str]) -> String,
    /// Waits until the probe says yes, and fails with this text otherwise.
    pub(crate) until: &'a dyn Fn(&str, &mut dyn FnMut() -> bool),
}

impl Site<'_> {
    /// Runs `fleet` with these words: code, stdout, stderr.
    fn fleet(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(self.binary);
        command.env_clear().env("HOME", self.home).env("PATH", "/usr/bin:/bin");
        command.args(["fleet", "--accept-new", "--user", "core", "--identity"]).arg(self.key).args(words);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    fn fine(&self, words: &[&str]) -> (String, String) {
        let (code, stdout, stderr) = self.fleet(words);
        assert_eq!(code, 0, "{words:?}: {stdout}{stderr}");
        (stdout, stderr)
    }

    /// As [`Site::fine`], for a command on all machines; gives stdout.
    #[track_caller]
    fn all(&self, words: &[&str]) -> String {
        let machines = self.addresses.join(",");
        self.fine(&[&["--machines", &machines], words].concat()).0
    }

    /// sshd may need a moment more than the rest of a machine that was switched on.
    fn until_reached(&self) {
        let machines = self.addresses.join(",");
        (self.until)("all machines let us in", &mut || {
            self.fleet(&["--machines", &machines, "list-machines"]).0 == 0
        });
    }

    #[track_caller]
    fn up(&self, count: usize) -> (String, String) {
        let addresses: Vec<&str> = self.addresses[..count].iter().map(String::as_str).collect();
        self.fine(&[&["up"], &addresses[..]].concat())
    }
}

/// Three blank machines become a cluster, the same command changes nothing, one more machine joins as a client, names are
/// found through the machines' own resolver, and all of it is there after a reboot (`reboot` does that to the machine).
pub(crate) fn becomes_a_cluster(site: &Site<'_>, reboot: &dyn Fn(usize)) {
    let (table, told) = site.up(3);
    assert_eq!(table.matches("  alive   server  ").count(), 3, "{table}{told}");
    assert_eq!(told.matches(": brought the binary and 4 units\n").count(), 3, "{told}");
    for number in 0..3 {
        for unit in ["corediscover-agent", "corediscover-registrator", "corediscover-resolved"] {
            (site.until)(&format!("{unit} runs on {}", site.names[number]), &mut || {
                (site.look)(number, &["systemctl", "is-active", unit]).trim() == "active"
            });
        }
        assert_eq!((site.look)(number, &["systemctl", "is-enabled", "corediscover-agent"]).trim(), "enabled");
        // The binary and the units belong to root, and only root may change them.
        let modes = ["/opt/bin/corediscover", "/etc/systemd/system/corediscover-agent.service"];
        let modes = (site.look)(number, &[&["stat", "-c", "%U %a"], &modes[..]].concat());
        assert_eq!(modes, "root 755\nroot 644\n");
    }
    let before =
        (site.look)(0, &["systemctl", "show", "-p", "ExecMainStartTimestampMonotonic", "corediscover-agent"]);
    let (again, told) = site.up(3);
    assert_eq!(told.matches(": nothing to change\n").count(), 3, "{told}");
    assert_eq!(again, table);
    let after =
        (site.look)(0, &["systemctl", "show", "-p", "ExecMainStartTimestampMonotonic", "corediscover-agent"]);
    assert_eq!(before, after);
    // Docker comes to the fourth machine later.
    (site.look)(3, &["sh", "-c", "systemctl stop docker.socket docker.service; rm -f /run/docker.sock"]);
    let (table, told) = site.up(4);
    assert_eq!(
        (table.matches("  server  ").count(), table.matches("  client  ").count()),
        (3, 1),
        "{table}{told}"
    );
    assert_eq!(told.matches(": nothing to change\n").count(), 3, "{told}");
    let fourth = &site.addresses[3];
    let lack =
        format!("{fourth}: no Docker: its containers are not registered; install it and run this again\n");
    assert!(told.contains(&lack), "{told}");
    assert!(told.contains(&format!("{fourth}: brought the binary and 2 units\n")), "{told}");
    let unit = || (site.look)(3, &["cat", "/etc/systemd/system/corediscover-agent.service"]);
    let agent = unit();
    (site.look)(3, &["systemctl", "start", "docker.socket", "docker.service"]);
    let (again, told) = site.up(4);
    assert_eq!(again, table, "{told}");
    assert!(told.contains(&format!("{fourth}: brought 2 units\n")) && !told.contains("no Docker"), "{told}");
    assert_eq!(unit(), agent);
    for name in ["corediscover-registrator", "corediscover-containers"] {
        (site.until)(&format!("{name} runs since Docker came"), &mut || {
            (site.look)(3, &["systemctl", "is-active", name]).trim() == "active"
        });
        assert_eq!((site.look)(3, &["systemctl", "is-enabled", name]).trim(), "enabled");
    }
    // A client whose agent is down is started with what it has: systemd keeps the data of its dynamic user.
    (site.look)(3, &["systemctl", "stop", "corediscover-agent", "corediscover-registrator"]);
    let (again, told) = site.up(4);
    assert_eq!(again, table, "{told}");
    let line =
        format!("{}: its agent was down and is started again; its units and data stay\n", site.addresses[3]);
    assert!(told.contains(&line), "{told}");
    for unit in ["corediscover-agent", "corediscover-registrator", "corediscover-resolved"] {
        (site.until)(&format!("{unit} runs again"), &mut || {
            (site.look)(3, &["systemctl", "is-active", unit]).trim() == "active"
        });
    }
    let name = format!("{}.node.consul", site.names[0]);
    (site.until)(&format!("the machine that joined finds {name}"), &mut || {
        (site.look)(3, &["getent", "ahostsv4", &name]).starts_with(&site.addresses[0])
    });
    reboot(1);
    (site.until)("the machine that was rebooted is back in the cluster", &mut || {
        let status = (site.look)(0, &["/opt/bin/corediscover", "status", "--json"]);
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.len() == 4 && members.iter().all(|member| member["status"] == "alive")
    });
}

/// Units are started where they ask to be, listed as systemd has them, run again after a reboot, and are gone when they
/// are destroyed. `reboot` does that to the machine with this number.
pub(crate) fn runs_units(site: &Site<'_>, reboot: &dyn Fn(usize)) {
    site.until_reached();
    let unit = |name: &str, text: &str| {
        let path = site.home.join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let sleeps = "[Service]\nExecStart=/bin/sleep infinity\n";
    let lone = unit("lone@.service", &format!("{sleeps}[X-Fleet]\nConflicts=lone@*.service\n"));
    let every = unit("every.service", &format!("{sleeps}[X-Fleet]\nGlobal=true\n"));
    let says = unit(
        "says.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/echo it says this\n",
    );
    site.all(&["submit", &lone]);
    site.all(&["start", &every, &says, "lone@1.service", "lone@2.service", "lone@3.service"]);
    let count = site.addresses.len();
    let table = site.all(&["list-units", "--no-legend"]);
    assert_eq!(
        table
            .lines()
            .filter(|line| line.starts_with("every.service") && line.ends_with("active\trunning"))
            .count(),
        count,
        "{table}"
    );
    let places: std::collections::BTreeSet<&str> = table
        .lines()
        .filter(|line| line.starts_with("lone@"))
        .filter_map(|line| line.split('\t').nth(1))
        .collect();
    assert_eq!(places.len(), 3, "{table}");
    assert!(site.all(&["journal", "says.service"]).contains("it says this"));
    assert!(site.all(&["status", "says.service"]).contains("Active: active (exited)"));
    // Who reboots a machine through its own sshd learns that the command had no end of its own, and never that all is well.
    let name = site.addresses[0].as_str();
    let words = ["ssh", name, "sudo", "sh", "-c", "systemctl reboot; sleep 1000"];
    let (code, _, told) = site.fleet(&[&["--machines", name], &words[..]].concat());
    let is_lost = code == 255 && told.contains("the connection ended before the machine said");
    // sshd may still have told that the command was ended by SIGTERM.
    assert!(is_lost || code == 143, "{code}: {told}");
    reboot(0);
    (site.until)("units that were launched run after a reboot", &mut || {
        (site.look)(0, &["systemctl", "is-active", "every.service"]).trim() == "active"
    });
    site.until_reached();
    assert_eq!(site.all(&["list-units", "--no-legend"]), table);
    let broken = unit(
        "broken.service",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo why it is broken; exit 3'\n",
    );
    let (code, _, told) = site.fleet(&["--machines", &site.addresses.join(","), "start", &broken]);
    assert!(code == 1 && told.contains("why it is broken"), "{told}");
    site.all(&["stop", "every.service"]);
    assert_eq!((site.look)(2, &["systemctl", "is-active", "every.service"]).trim(), "inactive");
    site.all(&[
        "destroy",
        "every.service",
        "says.service",
        "broken.service",
        "lone@.service",
        "lone@1.service",
        "lone@2.service",
        "lone@3.service",
    ]);
    assert_eq!(site.all(&["list-unit-files", "--no-legend"]), "");
    for number in 0..count {
        let left =
            (site.look)(number, &["sh", "-c", "ls /etc/systemd/system | grep -E 'every|says|lone|broken'"]);
        assert_eq!(left, "");
    }
}

/// A user who would have to type a password for sudo is told so, and nothing is changed. Run this last: it takes the
/// right away on the last machine.
pub(crate) fn says_when_sudo_wants_a_password(site: &Site<'_>) {
    site.until_reached();
    let last = site.addresses.len() - 1;
    (site.look)(last, &["rm", "/etc/sudoers.d/core"]);
    let path = site.home.join("late.service");
    let text = "[Service]\nExecStart=/bin/sleep infinity\n";
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let path = path.display().to_string();
    let (code, _, told) = site.fleet(&["--machines", &site.addresses[last], "start", &path]);
    assert_eq!(code, 1, "{told}");
    assert!(
        told.contains("core is not root, and sudo wants a password") && told.contains("NOPASSWD"),
        "{told}"
    );
    // What needs no root goes on.
    site.fine(&["--machines", &site.addresses[last], "list-units"]);
    assert_eq!((site.look)(last, &["ls", "/var/lib/corediscover-fleet/units"]), "");
}
