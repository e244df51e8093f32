//! The README's ways from blank machines to a cluster: its lines are typed as they stand there, on the machine that the
//! user sits at and on those that became a cluster.

use std::fs;
use std::path::Path;

use corediscover::host::files::{MODE_PUBLIC, write_atomic};

use crate::ignition::apply;
use crate::machines::{Machine, Network, PATIENCE};
use crate::over_ssh::vagrants_key;
use crate::released::binary;
use crate::story::{give_image, until_agreed, until_resolved};
use crate::wait::{eventually, tell_failures_at_once};

/// The most commands that may lead from blank machines to a cluster.
const COMMANDS_MAX: usize = 3;

/// The blocks of commands in one section of the README.
#[track_caller]
pub(crate) fn commands(section: &str) -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let heading = format!("### {section}\n");
    let (_, text) = readme.split_once(&heading).unwrap_or_else(|| panic!("README has no {heading:?}"));
    let text = text.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect()
}

/// The one block that makes a cluster.
#[track_caller]
pub(crate) fn way(section: &str) -> String {
    let blocks = commands(section);
    let [block] = &blocks[..] else { panic!("{section} has one block, not {}", blocks.len()) };
    assert!(block.lines().count() <= COMMANDS_MAX, "{section} has at most {COMMANDS_MAX} commands: {block}");
    block.clone()
}

/// Types lines at a machine, as root in its home.
#[track_caller]
fn types(machine: &Machine, lines: &str) -> String {
    // What goes on in the background keeps the terminal, which here is a file.
    let typed = format!("cd && exec bash -e >/root/typed 2>&1 <<'END'\n{lines}END\n");
    let output = machine.try_run(&["sh", "-c", &typed]);
    let told = machine.run(&["cat", "/root/typed"]);
    assert!(output.status.success(), "{}: {lines}{told}", machine.name);
    told
}

/// The README's network: the machine that the user sits at, which is on, and three blank ones that are off.
struct Site {
    desk: Machine,
    machines: Vec<Machine>,
    // Goes after the machines in it.
    _network: Network,
}

impl Site {
    fn new() -> Self {
        let network = Network::of_documents();
        let desk = Machine::blank(&network, 0);
        let machines = (1..=3).map(|number| Machine::blank(&network, number)).collect();
        let root = tempfile::tempdir().unwrap();
        let programs = root.path().join("usr/local/bin");
        fs::create_dir_all(&programs).unwrap();
        fs::copy(binary(), programs.join("corediscover")).unwrap();
        let keys = root.path().join("root/.ssh");
        fs::create_dir_all(&keys).unwrap();
        write_atomic(&keys.join("id_rsa"), &vagrants_key(), 0o600).unwrap();
        desk.bring(root.path());
        desk.power_on();
        desk.until_running();
        Self { desk, machines, _network: network }
    }

    /// What the README promises of every way.
    fn is_a_cluster(&self) {
        let machines: Vec<&Machine> = self.machines.iter().collect();
        until_agreed(&machines, &machines);
        let servers: Vec<&str> = machines.iter().map(|machine| machine.address.as_str()).collect();
        for machine in &machines {
            until_resolved(machine, "consul.service.consul", &servers);
            // The last step of a machine's way into the cluster: it restarts dockerd, on which no container runs yet.
            machine.until(&["systemctl", "is-active", "corediscover-resolved.service"], |state| {
                state == "active"
            });
        }
        let blocks = commands("What you have then");
        let [start, find] = &blocks[..] else { panic!("one machine starts, all find: {blocks:?}") };
        let [_, second, _] = machines[..] else { panic!("three machines") };
        give_image(second, "redis", 6379);
        types(second, start);
        for machine in &machines {
            until_resolved(machine, "redis.service.consul", &[&second.address]);
            let told = types(machine, find);
            assert!(told.contains(&second.address), "{told}");
        }
    }
}

#[test]
fn the_lines_of_the_readme_lead_from_blank_machines_to_a_cluster() {
    tell_failures_at_once();
    by_cloud_init();
    by_ignition();
    by_ssh();
}

fn by_cloud_init() {
    let site = Site::new();
    types(&site.desk, &way("Debian, Ubuntu"));
    let user_data = site.desk.run(&["cat", "/root/user-data"]);
    for machine in &site.machines {
        machine.user_data(&user_data);
        machine.power_on();
    }
    site.is_a_cluster();
}

fn by_ignition() {
    let site = Site::new();
    types(&site.desk, &way("Flatcar, Fedora CoreOS"));
    let work = tempfile::tempdir().unwrap();
    let root = apply(work.path(), &site.desk.run(&["cat", "/root/config.ign"]));
    // systemd takes this for the first boot, in which it enables what Ignition says; an image of Flatcar has the same.
    write_atomic(&root.join("etc/machine-id"), b"uninitialized\n", MODE_PUBLIC).unwrap();
    for machine in &site.machines {
        machine.bring(&root);
        machine.power_on();
    }
    site.is_a_cluster();
}

fn by_ssh() {
    let site = Site::new();
    for machine in &site.machines {
        machine.power_on();
    }
    for machine in &site.machines {
        machine.until_running();
        eventually(PATIENCE, &format!("{}'s sshd listens", machine.name), || {
            machine.answer(&["systemctl", "is-active", "ssh.service"])
        });
    }
    types(&site.desk, &way("Plain machines with SSH"));
    site.is_a_cluster();
}
