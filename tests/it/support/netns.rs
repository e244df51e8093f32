//! Machines with a network of their own: one namespace each, joined by a [`Wire`] that can be disturbed.
//!
//! Nothing of it is seen outside: the namespaces have no way out, so addresses need not differ between tests. They go
//! when the test ends, however it ends; what a killed test left is removed by the next one.

use std::fs::File;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::sched::{CloneFlags, setns};

use super::wire::{INTERFACE, Links, Wire, tunnel};

/// Where `ip netns` keeps its namespaces.
const FOLDER: &str = "/run/netns";
/// First part of our namespaces' names, before the process id.
const PREFIX: &str = "cdtest";

/// Machines that reach each other, and a place for clients that reaches them all.
pub(crate) struct Network {
    wire: Wire,
    spaces: Vec<Namespace>,
}

impl Network {
    /// Makes `machines` namespaces and one for clients. `seed` decides which packets a lossy link loses.
    pub(crate) fn new(machines: usize, seed: u64) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces, which only root may: run the tests as root"
        );
        remove_what_killed_tests_left();
        let spaces: Vec<Namespace> = (0..=machines).map(|_| Namespace::new()).collect();
        let ports = spaces.iter().enumerate().map(|(number, space)| {
            let device = {
                let _inside = space.enter();
                tunnel()
            };
            let address = address(number);
            ip(&["-n", &space.name, "address", "add", &format!("{address}/24"), "dev", INTERFACE]);
            ip(&["-n", &space.name, "link", "set", INTERFACE, "up"]);
            ip(&["-n", &space.name, "link", "set", "lo", "up"]);
            (address, device)
        });
        let wire = Wire::new(ports.collect(), seed);
        Self { wire, spaces }
    }

    /// The address of a machine, counted from 0.
    pub(crate) fn address(&self, machine: usize) -> Ipv4Addr {
        assert!(machine < self.clients(), "there are {} machines", self.clients());
        address(machine)
    }

    /// The words that a command line begins with to run on a machine.
    pub(crate) fn launcher(&self, machine: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.spaces[machine].name].map(str::to_owned).to_vec()
    }

    /// Where `nsenter --net=` finds a machine's namespace.
    pub(crate) fn namespace(&self, machine: usize) -> PathBuf {
        self.spaces[machine].path()
    }

    /// The place for clients: what this thread connects to and starts is there until the guard is dropped.
    pub(crate) fn enter(&self) -> Inside {
        self.spaces[self.clients()].enter()
    }

    /// As [`Network::enter`], on a machine.
    pub(crate) fn enter_machine(&self, machine: usize) -> Inside {
        self.spaces[machine].enter()
    }

    /// The number that the place for clients has among the links.
    pub(crate) fn clients(&self) -> usize {
        self.spaces.len() - 1
    }

    /// What happens to packets.
    pub(crate) fn links(&self) -> &Links {
        self.wire.links()
    }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(number + 1).expect("few machines"))
}

/// One named network namespace.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    fn enter(&self) -> Inside {
        let back = File::open("/proc/thread-self/ns/net").unwrap();
        let there = File::open(self.path()).unwrap();
        setns(there, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
        Inside { back, _this_thread_only: PhantomData }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What still runs inside is killed by its own owner; a failure leaves a name, which the next test removes.
        drop(Command::new("ip").args(["netns", "del", &self.name]).output());
    }
}

/// While it lives this thread is in another network namespace.
pub(crate) struct Inside {
    back: File,
    _this_thread_only: PhantomData<*const ()>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        setns(&self.back, CloneFlags::CLONE_NEWNET).expect("the way back is open");
    }
}

static TURN: RwLock<()> = RwLock::new(());

/// Tests that measure time or load the machine take turns; keep the guard until the test ends.
pub(crate) fn turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// Tests that mostly wait, and would be slowed down by those that take turns, run beside each other.
pub(crate) fn beside() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip is installed (iproute2)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {errors}", arguments.join(" "));
}

fn remove_what_killed_tests_left() {
    let Ok(folder) = std::fs::read_dir(FOLDER) else { return };
    for entry in folder.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            // Another test may have been quicker.
            drop(Command::new("ip").args(["netns", "del", &name]).output());
        }
    }
}
