//! The life of units: submitted, started, stopped, destroyed; where they go; what a later call finds.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::machine::{Machine, User};

/// Three machines, the first and the second with metadata, and the file that names them.
struct Site {
    user: User,
    machines: Vec<Machine>,
    file: String,
}

impl Site {
    fn new() -> Self {
        let user = User::new();
        let start = |name: &&str| Machine::new(name).let_in(&user.key()).start();
        // The first letters are those of the machine-ids, which decide between equal machines.
        let machines: Vec<Machine> = ["alpha", "bravo", "charlie"].iter().map(start).collect();
        let lines: Vec<String> = machines.iter().map(Machine::spoken).collect();
        let text = format!("{} role=web,disk=ssd\n{} role=db\n{}\n", lines[0], lines[1], lines[2]);
        let file = user.home.path().join("machines");
        corediscover::host::files::write_atomic(&file, text.as_bytes(), 0o600).unwrap();
        Self { machines, file: file.display().to_string(), user }
    }

    /// Writes a unit file and gives its path.
    fn unit(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.user.home.path().join(name);
        corediscover::host::files::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        path.display().to_string()
    }

    fn fleet(&self, words: &[&str]) -> (i32, String, String) {
        self.user.fleet(&[&["--accept-new", "--machines", &self.file], words].concat())
    }

    #[track_caller]
    fn fine(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = self.fleet(words);
        assert_eq!(code, 0, "{words:?}: {stdout}{stderr}");
        stdout
    }

    /// How tables name a machine.
    fn place(&self, number: usize) -> String {
        let machine = &self.machines[number];
        format!("{}.../{}", &machine.read("machine-id")[..8], machine.address.ip())
    }
}

const SLEEPS: &str = "[Service]\nExecStart=/bin/sleep 1000\n";

#[test]
fn a_unit_is_submitted_started_stopped_and_destroyed_and_every_call_finds_it_where_it_is() {
    let site = Site::new();
    let file = site.unit("hello.service", SLEEPS);
    let first = site.place(0);
    assert_eq!(site.fine(&["submit", &file]), "Unit hello.service inactive\n");
    let files = |state: &str| format!("hello.service\t2d432f4\t{state}\n");
    let list = || site.fine(&["list-unit-files", "--no-legend"]);
    assert_eq!(list(), files("inactive\tinactive\t-"));
    assert_eq!(site.fine(&["list-units"]), "UNIT\tMACHINE\tACTIVE\tSUB\n");
    assert_eq!(site.fine(&["start", "hello.service"]), format!("Unit hello.service launched on {first}\n"));
    assert_eq!(list(), files(&format!("launched\tlaunched\t{first}")));
    let running = format!("hello.service\t{first}\tactive\trunning\n");
    assert_eq!(site.fine(&["list-units", "--no-legend"]), running);
    assert_eq!(site.fine(&["cat", "hello.service"]), SLEEPS);
    assert!(site.fine(&["status", "hello.service"]).contains("* hello.service - active"));
    let status = site.fine(&["status", "--json", "hello.service"]);
    let rows: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&rows[0]["desired"], &rows[0]["active"]), (&"launched".into(), &"active".into()));
    let journal = site.fine(&["journal", "--lines", "3", "hello.service"]);
    assert_eq!(journal, "journal: --no-pager --unit hello.service --lines 3\n");
    // It starts at boot.
    let wants = site.machines[0].path("system/multi-user.target.wants/hello.service");
    assert!(wants.is_symlink());
    assert_eq!(site.fine(&["restart", "hello.service"]), format!("Unit hello.service launched on {first}\n"));
    assert_eq!(site.fine(&["stop", "hello.service"]), format!("Unit hello.service loaded on {first}\n"));
    assert!(!wants.is_symlink());
    assert_eq!(list(), files(&format!("loaded\tloaded\t{first}")));
    assert_eq!(site.fine(&["destroy", "hello.service"]), "Destroyed hello.service\n");
    assert_eq!(list(), "");
    assert!(!site.machines[0].path("system/hello.service").exists());
    let (code, _, stderr) = site.fleet(&["start", "hello.service"]);
    assert!(code == 1 && stderr.contains("error: hello.service: no machine knows this unit"), "{stderr}");
    let (code, _, stderr) = site.fleet(&["stop", "hello.service"]);
    assert!(code == 1 && stderr.contains("no machine that answered has this unit"), "{stderr}");
}

#[test]
fn units_go_where_they_ask_to_be_and_are_spread_otherwise() {
    let site = Site::new();
    let section = |asks: &str| format!("{SLEEPS}[X-Fleet]\n{asks}\n");
    let every = site.unit("every.service", &section("Global=true"));
    let web = site.unit("web.service", &section("MachineMetadata=role=web"));
    let beside = site.unit("beside.service", &section("MachineOf=web.service"));
    let lone = site.unit("lone@.service", &section("Conflicts=lone@*.service"));
    let told = site.fine(&["start", &every, &beside, &web]);
    let first = site.place(0);
    for line in [
        "Triggered global unit every.service start".to_owned(),
        format!("Unit beside.service launched on {first}"),
        format!("Unit web.service launched on {first}"),
    ] {
        assert_eq!(told.matches(&line).count(), 1, "{told}");
    }
    site.fine(&["submit", &lone]);
    let (code, told, stderr) =
        site.fleet(&["start", "lone@1.service", "lone@2.service", "lone@3.service", "lone@4.service"]);
    assert_eq!(code, 1, "{told}{stderr}");
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(stderr.contains("error: lone@4.service: no machine can have it: "), "{stderr}");
    assert!(stderr.contains("the unit conflicts with lone@"), "{stderr}");
    let units = site.fine(&["list-units", "--no-legend", "--fields", "unit,machine"]);
    for machine in &site.machines {
        let ip = format!("/{}\n", machine.address.ip());
        let of = |unit: &str| {
            units.lines().filter(|line| line.starts_with(unit) && format!("{line}\n").ends_with(&ip)).count()
        };
        assert_eq!((of("every"), of("lone@")), (1, 1), "{units}");
    }
    let (code, _, stderr) =
        site.fleet(&["start", &site.unit("no.service", &section("MachineMetadata=role=none"))]);
    assert!(code == 1 && stderr.contains("its metadata has not role=none"), "{stderr}");
    let (code, _, stderr) =
        site.fleet(&["start", &site.unit("no.service", &section("Global=true\nMachineOf=a"))]);
    assert!(code == 1 && stderr.contains("Global cannot be used with Peers"), "{stderr}");
}

#[test]
fn a_changed_file_changes_nothing_until_it_is_to_replace_the_unit() {
    let site = Site::new();
    let file = site.unit("hello.service", SLEEPS);
    site.fine(&["start", &file]);
    let installed = site.machines[0].path("system/hello.service");
    let before = std::fs::metadata(&installed).unwrap().ino();
    site.fine(&["start", &file]);
    // An equal file is not written again.
    assert_eq!(std::fs::metadata(&installed).unwrap().ino(), before);
    let changed = SLEEPS.replace("1000", "2000");
    let file = site.unit("hello.service", &changed);
    let (code, _, stderr) = site.fleet(&["start", &file]);
    let warning = "WARNING: Unit hello.service in registry differs from local unit file hello.service. Add --replace to override.";
    assert!(code == 0 && stderr.contains(warning), "{stderr}");
    assert_eq!(site.fine(&["cat", "hello.service"]), SLEEPS);
    site.fine(&["submit", "--replace", &file]);
    assert_eq!(std::fs::read_to_string(&installed).unwrap(), SLEEPS);
    let log = site.machines[0].read("lib/systemctl.log").len();
    // What runs is of the text of before.
    site.fine(&["start", "hello.service"]);
    assert_eq!(site.fine(&["cat", "hello.service"]), changed);
    assert_eq!(std::fs::read_to_string(installed).unwrap(), changed);
    let log = site.machines[0].read("lib/systemctl.log")[log..].to_owned();
    assert!(log.contains("restart -- hello.service"), "{log}");
}

#[test]
fn a_unit_that_fails_is_told_with_what_it_wrote_and_the_others_start() {
    let site = Site::new();
    let bad =
        site.unit("bad.service", "[Service]\nExecStart=/bin/false\n[X-Fleet]\nMachineMetadata=role=db\n");
    let good = site.unit("good.service", &format!("{SLEEPS}[X-Fleet]\nMachineMetadata=role=web\n"));
    let (code, stdout, stderr) = site.fleet(&["start", &bad, &good]);
    assert_eq!((code, stdout), (1, format!("Unit good.service launched on {}\n", site.place(0))), "{stderr}");
    let name = site.machines[1].address;
    assert!(stderr.contains(&format!("error: {name}: bad.service: journal: ")), "{stderr}");
    assert!(stderr.contains("failed with code 1: Job for bad.service failed"), "{stderr}");
}

#[test]
fn a_file_that_is_no_unit_is_refused_with_its_line_and_the_other_files_go_on() {
    let site = Site::new();
    let bad = site.unit("bad.service", "[Service]\nExecStart /bin/true\n");
    let good = site.unit("good.service", SLEEPS);
    let (code, stdout, stderr) = site.fleet(&["submit", &bad, &good]);
    assert_eq!((code, stdout.as_str()), (1, "Unit good.service inactive\n"), "{stderr}");
    assert!(stderr.contains("error: bad.service: line 2: ") && stderr.contains("hint: "), "{stderr}");
    assert_eq!(site.fine(&["list-unit-files", "--no-legend", "--fields", "unit"]), "good.service\n");
}

#[test]
fn a_unit_is_not_started_twice_because_its_machine_is_silent() {
    let mut site = Site::new();
    let file = site.unit("hello.service", SLEEPS);
    site.fine(&["start", &file]);
    site.machines[0].power_off();
    let (code, stdout, stderr) = site.fleet(&["start", &file]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    let name = site.machines[0].address;
    assert!(stderr.contains(&format!("and may be on {name}: repair them")), "{stderr}");
    // The units of the others can be worked with.
    let (code, stdout, stderr) = site.fleet(&["list-machines", "--no-legend"]);
    assert_eq!((code, stdout.lines().count()), (1, 2), "{stderr}");
    site.machines[0].power_on();
    assert!(site.fine(&["list-units"]).contains("hello.service"));
}

#[test]
fn a_unit_that_fleet_did_not_put_there_is_never_replaced_stopped_or_removed() {
    let site = Site::new();
    let own = "[Service]\nExecStart=/bin/sleep 7\n";
    for machine in &site.machines {
        machine.put("system/hello.service", own, 0o644);
    }
    let file = site.unit("hello.service", SLEEPS);
    for verb in ["submit", "start"] {
        let (code, stdout, stderr) = site.fleet(&[verb, &file]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        let said = "/etc/systemd/system/hello.service is there already, and fleet did not put it there";
        assert!(stderr.contains(said) && stderr.contains("hint: give the unit another name"), "{stderr}");
    }
    assert_eq!(site.fine(&["list-unit-files", "--no-legend"]), "");
    // One that came after fleet was given a unit of that name.
    let later = site.unit("later.service", SLEEPS);
    site.fine(&["submit", &later]);
    site.machines[0].put("system/later.service", own, 0o644);
    assert_eq!(site.fine(&["list-units", "--no-legend"]), "");
    assert_eq!(site.fine(&["stop", "later.service"]), "Unit later.service inactive\n");
    let (code, _, stderr) = site.fleet(&["restart", "later.service"]);
    assert!(code == 1 && stderr.contains("later.service: it is only submitted"), "{stderr}");
    site.fine(&["destroy", "later.service"]);
    for name in ["hello", "later"] {
        assert_eq!(site.machines[0].read(&format!("system/{name}.service")), own);
    }
    let log = site.machines[0].read("lib/systemctl.log");
    assert!(!log.lines().any(|line| !line.starts_with("show")), "{log}");
}

#[test]
fn a_unit_that_fails_leaves_out_no_other_unit_of_its_machine() {
    let site = Site::new();
    let section = "[X-Fleet]\nMachineMetadata=role=web\n";
    let bad = site.unit("bad.service", &format!("[Service]\nExecStart=/bin/false\n{section}"));
    let good = site.unit("good.service", &format!("{SLEEPS}{section}"));
    let (code, stdout, stderr) = site.fleet(&["start", &bad, &good]);
    assert_eq!((code, stdout), (1, format!("Unit good.service launched on {}\n", site.place(0))), "{stderr}");
    assert!(stderr.contains("bad.service: journal: "), "{stderr}");
}

#[test]
fn the_journals_of_the_others_are_printed_when_one_machine_has_none() {
    let site = Site::new();
    let every = site.unit("every.service", &format!("{SLEEPS}[X-Fleet]\nGlobal=true\n"));
    site.fine(&["start", &every]);
    site.machines[0].put("journalctl", "#!/bin/sh\nexit 4\n", 0o755);
    let mut site = site;
    // The file is mounted when it is switched on.
    site.machines[0].power_off();
    site.machines[0].power_on();
    let (code, stdout, stderr) = site.fleet(&["journal", "every.service"]);
    assert_eq!((code, stdout.matches("journal: ").count()), (1, 2), "{stderr}");
    let said = format!("error: {}: journalctl ended with code 4\n", site.machines[0].address);
    assert!(stderr.contains(&said), "{stderr}");
}
