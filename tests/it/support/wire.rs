//! A wire between network namespaces that the test holds in its hand: each machine's interface is a tunnel whose other
//! end is here, so packets can be cut, delayed, lost, doubled and overtaken in each direction, on any kernel.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::chance::Chance;

/// Name of a machine's interface.
pub(crate) const INTERFACE: &str = "eth0";
/// Longest packet: the interfaces keep the default MTU of 1,500.
const PACKET_BYTES_MAX: usize = 2048;
/// Packets taken from one machine before the others get their turn.
const PACKETS_PER_TURN: usize = 64;
/// How often the wire looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// What happens to packets on their way from one machine to another.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Link {
    /// Nothing arrives.
    pub(crate) cut: bool,
    /// Share of packets that are lost, 0 to 1.
    pub(crate) loss: f64,
    /// Share of packets that arrive twice, 0 to 1.
    pub(crate) double: f64,
    /// Time on the way.
    pub(crate) delay: Duration,
    /// More time, of each packet its own: packets overtake each other.
    pub(crate) jitter: Duration,
}

/// The links of all pairs of machines.
#[derive(Clone)]
pub(crate) struct Links {
    rules: Arc<Mutex<Vec<Vec<Link>>>>,
    passed: Arc<AtomicU64>,
}

impl Links {
    /// Changes the link from one machine to another.
    pub(crate) fn set(&self, from: usize, to: usize, link: Link) {
        self.rules.lock().unwrap()[from][to] = link;
    }

    /// Changes both directions between two machines.
    pub(crate) fn set_both(&self, one: usize, other: usize, link: Link) {
        self.set(one, other, link);
        self.set(other, one, link);
    }

    /// Makes all links perfect again.
    pub(crate) fn heal(&self) {
        self.rules.lock().unwrap().iter_mut().flatten().for_each(|link| *link = Link::default());
    }

    /// Packets that arrived so far.
    pub(crate) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

/// The thread that carries packets; ends when dropped.
pub(crate) struct Wire {
    links: Links,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Connects machines given by their address and the other end of their interface.
    pub(crate) fn new(ports: Vec<(Ipv4Addr, File)>, seed: u64) -> Self {
        let rules = vec![vec![Link::default(); ports.len()]; ports.len()];
        let links = Links { rules: Arc::new(Mutex::new(rules)), passed: Arc::default() };
        let stop = Arc::new(AtomicBool::new(false));
        let carrier = Carrier {
            ports,
            links: links.clone(),
            chance: Chance::new(seed),
            order: 0,
            waiting: BinaryHeap::new(),
        };
        let ending = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn(move || carrier.run(&ending))
            .expect("a thread for the wire");
        Self { links, stop, thread: Some(thread) }
    }

    /// The links, to be changed while packets flow.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said why if it panicked.
            drop(thread.join());
        }
    }
}

/// Makes a tunnel interface in the network namespace that this thread is in.
pub(crate) fn tunnel() -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun can be opened: the kernel has tunnels and we are root");
    let mut name = [0; libc::IFNAMSIZ];
    for (place, byte) in name.iter_mut().zip(INTERFACE.bytes()) {
        *place = libc::c_char::try_from(byte).expect("ASCII");
    }
    let flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two small bits");
    let request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    attach(&device, &request).expect("a tunnel interface can be made");
    device
}

#[allow(
    unsafe_code,
    reason = "no safe wrapper of this one ioctl exists; it reads `request` and keeps nothing"
)]
fn attach(device: &File, request: &libc::ifreq) -> nix::Result<()> {
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    // SAFETY: the descriptor is open, and the structure is whole and outlives the call.
    unsafe { set_interface(device.as_raw_fd(), request) }.map(drop)
}

/// A packet on its way: when it arrives, a number that keeps the order, where, and its bytes.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Carrier {
    ports: Vec<(Ipv4Addr, File)>,
    links: Links,
    chance: Chance,
    order: u64,
    waiting: BinaryHeap<Waiting>,
}

impl Carrier {
    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = [0; PACKET_BYTES_MAX];
        while !stop.load(Ordering::Relaxed) {
            for port in self.ready() {
                for _ in 0..PACKETS_PER_TURN {
                    match (&self.ports[port].1).read(&mut buffer) {
                        Ok(length) => self.route(port, &buffer[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => panic!("the wire cannot read from machine {port}: {error}"),
                    }
                }
            }
            let now = Instant::now();
            while self.waiting.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
                if let Some(Reverse((_, _, to, packet))) = self.waiting.pop() {
                    self.deliver(to, &packet);
                }
            }
        }
    }

    /// Waits until a machine has sent something or a packet is due; gives the machines.
    fn ready(&self) -> Vec<usize> {
        let due = self.waiting.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        let wait = Timespec::try_from(due.unwrap_or(LOOK).min(LOOK)).expect("a short time");
        let mut polled: Vec<PollFd<'_>> =
            self.ports.iter().map(|(_, device)| PollFd::new(device, PollFlags::IN)).collect();
        // An interrupted wait is a short one.
        let _interrupted = poll(&mut polled, Some(&wait)).is_err();
        let sent = |port: &PollFd<'_>| port.revents().contains(PollFlags::IN);
        polled.iter().enumerate().filter(|(_, port)| sent(port)).map(|(number, _)| number).collect()
    }

    fn route(&mut self, from: usize, packet: &[u8]) {
        // IPv4 only; what the kernel says about IPv6 on its own has no place to go.
        if packet.len() < 20 || packet[0] >> 4 != 4 {
            return;
        }
        let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
        let Some(to) = self.ports.iter().position(|(address, _)| *address == to) else { return };
        let link = self.links.rules.lock().unwrap()[from][to];
        if link.cut || (link.loss > 0.0 && self.chance.fraction() < link.loss) {
            return;
        }
        let copies = if link.double > 0.0 && self.chance.fraction() < link.double { 2 } else { 1 };
        for _ in 0..copies {
            let time = link.delay + link.jitter.mul_f64(self.chance.fraction());
            if time.is_zero() {
                self.deliver(to, packet);
            } else {
                self.order += 1;
                self.waiting.push(Reverse((Instant::now() + time, self.order, to, packet.to_vec())));
            }
        }
    }

    fn deliver(&self, to: usize, packet: &[u8]) {
        // A full or closed interface loses packets, as real ones do.
        if (&self.ports[to].1).write(packet).is_ok() {
            self.links.passed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
