//! A network in memory: datagrams are lost, late, doubled and reordered; connections are slow, stall, break; each
//! direction between two machines can be cut; a machine can vanish with or without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::chance::Chance;
use super::running;
use super::streams::{End, Pipe};

pub(crate) use super::streams::{Reading, Stream, Writing};

/// First port that is given out when none was asked for.
const PORT_FIRST: u16 = 40_000;
/// Time after which a connection that got no answer is tried again, as by TCP.
const CONNECT_RETRY: Duration = Duration::from_secs(1);

/// How it blows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Longest time on the way.
    pub(crate) delay_max: Duration,
    /// Datagrams in a hundred that are lost.
    pub(crate) lost: usize,
    /// Datagrams in a hundred that arrive twice.
    pub(crate) doubled: usize,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay_max: Duration::from_millis(3), lost: 0, doubled: 0 }
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Machine {
    /// Rises with every start and end of its process: what belongs to an earlier one is dead.
    pub(super) life: u64,
    pub(super) up: bool,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    weather: Weather,
    machines: BTreeMap<IpAddr, Machine>,
    /// What the first sends does not reach the second.
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    datagrams: BTreeMap<SocketAddr, Arc<Mailbox<(Bytes, SocketAddr)>>>,
    listeners: BTreeMap<SocketAddr, Arc<Mailbox<(Stream, SocketAddr)>>>,
    pipes: Vec<Weak<Pipe>>,
    next_port: u16,
    order: u64,
}

/// The network; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance: Chance::new(seed),
            weather: Weather::default(),
            machines: BTreeMap::new(),
            cuts: BTreeSet::new(),
            datagrams: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pipes: Vec::new(),
            next_port: PORT_FIRST,
            order: 0,
        })))
    }

    /// The place of a process that begins at this address.
    pub(crate) fn start(&self, ip: IpAddr) -> Host {
        let mut state = self.0.lock();
        let machine = state.machines.entry(ip).or_default();
        machine.life += 1;
        machine.up = true;
        let life = machine.life;
        Host { net: self.clone(), ip, life }
    }

    /// The process ends. When its machine lives on, those it was connected with hear of it; call this before the
    /// process is dropped.
    pub(crate) fn stop(&self, ip: IpAddr, machine_lives: bool) {
        let mut state = self.0.lock();
        let delay = state.delay();
        let machine = state.machines.entry(ip).or_default();
        machine.life += 1;
        machine.up = machine_lives;
        state.datagrams.retain(|at, _| at.ip() != ip);
        // Connections that nobody took in end with their listener, and look at the network when they do.
        let closed: Vec<_> = state.listeners.extract_if(.., |at, _| at.ip() == ip).collect();
        let pipes: Vec<Arc<Pipe>> = state.pipes.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        drop(closed);
        if machine_lives {
            for pipe in pipes.iter().filter(|pipe| pipe.from.0 == ip) {
                pipe.end(Instant::now() + delay, End::Reset);
            }
            for pipe in pipes.iter().filter(|pipe| pipe.to.0 == ip) {
                pipe.refuse();
            }
        }
    }

    /// How it blows from now on.
    pub(crate) fn weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// What `from` sends no longer reaches `to`.
    pub(crate) fn cut(&self, from: IpAddr, to: IpAddr) {
        self.0.lock().cuts.insert((from, to));
    }

    /// Everybody reaches everybody again.
    pub(crate) fn heal(&self) {
        let mut state = self.0.lock();
        state.cuts.clear();
        state.pipes.retain(|pipe| pipe.strong_count() > 0);
        let pipes: Vec<Arc<Pipe>> = state.pipes.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for pipe in pipes {
            pipe.wake();
        }
    }

    pub(crate) fn is_cut(&self, from: IpAddr, to: IpAddr) -> bool {
        self.0.lock().cuts.contains(&(from, to))
    }

    pub(super) fn life(&self, ip: IpAddr) -> Machine {
        self.0.lock().machines.get(&ip).copied().unwrap_or_default()
    }

    pub(super) fn delay(&self) -> Duration {
        self.0.lock().delay()
    }
}

impl State {
    fn delay(&mut self) -> Duration {
        let micros = usize::try_from(self.weather.delay_max.as_micros()).unwrap().max(1);
        Duration::from_micros(200 + self.chance.below(micros) as u64)
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn port(&mut self, at: SocketAddr) -> SocketAddr {
        if at.port() != 0 {
            return at;
        }
        self.next_port += 1;
        SocketAddr::new(at.ip(), self.next_port)
    }
}

/// A process on the network.
#[derive(Debug, Clone)]
pub struct Host {
    net: Net,
    ip: IpAddr,
    life: u64,
}

impl Host {
    fn is_alive(&self) -> bool {
        self.net.life(self.ip).life == self.life
    }

    pub(crate) fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
        let mut state = self.net.0.lock();
        let at = state.port(at);
        if state.listeners.contains_key(&at) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let mailbox = Arc::new(Mailbox::default());
        state.listeners.insert(at, Arc::clone(&mailbox));
        Ok(Listener { net: self.net.clone(), mailbox, at })
    }

    pub(crate) fn datagrams(&self, at: SocketAddr) -> io::Result<Datagrams> {
        let mut state = self.net.0.lock();
        let at = state.port(at);
        if state.datagrams.contains_key(&at) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let mailbox = Arc::new(Mailbox::default());
        state.datagrams.insert(at, Arc::clone(&mailbox));
        Ok(Datagrams { host: self.clone(), mailbox, at })
    }

    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<Stream> {
        loop {
            let (reached, delay) = {
                let mut state = self.net.0.lock();
                let cut =
                    state.cuts.contains(&(self.ip, to.ip())) || state.cuts.contains(&(to.ip(), self.ip));
                let up = state.machines.get(&to.ip()).is_some_and(|machine| machine.up);
                let lost = state.weather.lost;
                let lucky = state.chance.below(100) >= lost;
                (!cut && up && lucky, state.delay() + state.delay())
            };
            if !reached || !self.is_alive() {
                tokio::time::sleep(CONNECT_RETRY).await;
                continue;
            }
            tokio::time::sleep(delay).await;
            let mut state = self.net.0.lock();
            let Some(mailbox) = state.listeners.get(&to).cloned() else {
                return Err(ErrorKind::ConnectionRefused.into());
            };
            let from = state.port(SocketAddr::new(self.ip, 0));
            let theirs = state.machines.get(&to.ip()).copied().unwrap_or_default();
            let (here, there) = ((self.ip, self.life), (to.ip(), theirs.life));
            let (outward, inward) = (Pipe::new(here, there), Pipe::new(there, here));
            state.pipes.push(Arc::downgrade(&outward));
            state.pipes.push(Arc::downgrade(&inward));
            if state.pipes.len() > 256 {
                state.pipes.retain(|pipe| pipe.strong_count() > 0);
            }
            let order = state.next_order();
            drop(state);
            running::note((1, from, to));
            let net = &self.net;
            mailbox.put(Instant::now(), order, (Stream::new(net, &inward, &outward), from));
            return Ok(Stream::new(net, &outward, &inward));
        }
    }
}

/// What is on its way to somebody.
#[derive(Debug)]
struct Mailbox<T> {
    letters: Mutex<BTreeMap<(Instant, u64), T>>,
    changed: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { letters: Mutex::default(), changed: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    fn put(&self, at: Instant, order: u64, letter: T) {
        self.letters.lock().insert((at, order), letter);
        self.changed.notify_one();
    }

    fn take(&self) -> Option<T> {
        let mut letters = self.letters.lock();
        let first = letters.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }

    async fn ready(&self) {
        loop {
            let first = self.letters.lock().first_key_value().map(|(key, _)| key.0);
            match first {
                Some(at) if at <= Instant::now() => return,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(at) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }
}

/// Takes connections in.
#[derive(Debug)]
pub struct Listener {
    net: Net,
    mailbox: Arc<Mailbox<(Stream, SocketAddr)>>,
    at: SocketAddr,
}

impl Listener {
    pub(crate) async fn accept(&self) -> (Stream, SocketAddr) {
        loop {
            self.mailbox.ready().await;
            if let Some(taken) = self.mailbox.take() {
                return taken;
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.net.0.lock();
        // The next process may listen there by now.
        let ours = state.listeners.get(&self.at).is_some_and(|found| Arc::ptr_eq(found, &self.mailbox));
        let closed = if ours { state.listeners.remove(&self.at) } else { None };
        drop(state);
        // Connections that nobody took in look at the network when they end.
        drop(closed);
    }
}

/// A socket for datagrams.
#[derive(Debug)]
pub struct Datagrams {
    host: Host,
    mailbox: Arc<Mailbox<(Bytes, SocketAddr)>>,
    at: SocketAddr,
}

impl Datagrams {
    pub(crate) async fn readable(&self) {
        self.mailbox.ready().await;
    }

    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (bytes, from) = self.mailbox.take().ok_or(ErrorKind::WouldBlock)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        Ok((length, from))
    }

    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddr) {
        if !self.host.is_alive() {
            return;
        }
        let mut state = self.host.net.0.lock();
        let Weather { lost, doubled, .. } = state.weather;
        let copies = 1 + usize::from(state.chance.below(100) < doubled);
        let cut = state.cuts.contains(&(self.at.ip(), to.ip()));
        for _ in 0..copies {
            let (delay, order) = (state.delay(), state.next_order());
            if cut || state.chance.below(100) < lost {
                continue;
            }
            if let Some(mailbox) = state.datagrams.get(&to) {
                mailbox.put(Instant::now() + delay, order, (Bytes::copy_from_slice(bytes), self.at));
            }
        }
        drop(state);
        running::note((2, self.at, to, bytes.len()));
    }
}
