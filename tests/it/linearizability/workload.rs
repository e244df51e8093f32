//! Clients that write, compare-and-set, delete and read a few keys at once, and record what they saw.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::history::{Action, History, Operation, StaleRead, Value, Version};
use crate::support::chance::Chance;
use crate::support::client::{Answer, Client, Lost};

/// Keys in use at a time: few, so that clients meet.
const KEYS: usize = 5;
/// Operations after which other keys are taken, so that the search through one key's history stays short.
const OPERATIONS_PER_KEYS: u64 = 1000;
/// Longest wait for an answer: shorter than a server's patience without a leader, so that many stay unanswered.
const WAIT: Duration = Duration::from_millis(1500);
/// Pause of a client that reached nobody.
const REST: Duration = Duration::from_millis(20);

/// What all clients share.
pub(super) struct Load {
    pub(super) servers: Vec<SocketAddr>,
    /// How often each server has been started.
    pub(super) lives: Vec<AtomicU64>,
    /// Ends the load.
    pub(super) stop: AtomicBool,
    /// Operations that were answered or may have been done, stale reads included.
    pub(super) operations: AtomicU64,
    attempts: AtomicU64,
    began: Instant,
    histories: Mutex<BTreeMap<String, History>>,
}

impl Load {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            lives: servers.iter().map(|_| AtomicU64::new(0)).collect(),
            servers,
            stop: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            began: Instant::now(),
            histories: Mutex::default(),
        }
    }

    /// The histories of all keys.
    pub(super) fn into_histories(self) -> BTreeMap<String, History> {
        self.histories.into_inner().unwrap()
    }

    /// Works as one client until the load is stopped.
    pub(super) fn run(&self, client: usize, seed: u64) {
        let clients = self.servers.iter().map(|address| Client::new(*address, WAIT)).collect();
        let worker = Worker {
            load: self,
            client,
            clients,
            chance: Chance::new(seed),
            writes: 0,
            known: HashMap::new(),
        };
        worker.run();
    }

    /// Reads every key of the last round once more, when all faults are over: what was acknowledged is there.
    pub(super) fn read_all(&self, server: usize) {
        let mut client = Client::new(self.servers[server], WAIT * 4);
        let keys: Vec<String> = self.histories.lock().unwrap().keys().cloned().collect();
        for key in keys {
            let invoked = self.time();
            let answer = client.call("GET", &format!("/v1/kv/{key}?consistent"), b"").unwrap();
            let found = found(&answer).unwrap_or_else(|_| panic!("{key}: {}", answer.text()));
            self.record(&key, usize::MAX, Action::Get(found), invoked, Some(self.time()));
        }
    }

    fn time(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn record(&self, key: &str, client: usize, action: Action, invoked: u64, returned: Option<u64>) {
        let operation = Operation { client, action, invoked, returned };
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.histories.lock().unwrap().entry(key.to_owned()).or_default().operations.push(operation);
    }
}

struct Worker<'a> {
    load: &'a Load,
    client: usize,
    clients: Vec<Client>,
    chance: Chance,
    writes: u64,
    /// The index last read of each key.
    known: HashMap<String, u64>,
}

impl Worker<'_> {
    fn run(mut self) {
        while !self.load.stop.load(Ordering::Relaxed) {
            let number = self.load.attempts.fetch_add(1, Ordering::Relaxed);
            let round = number / OPERATIONS_PER_KEYS;
            let key = format!("{round}/{}", self.chance.below(KEYS));
            // Each client has a server that it prefers, as real ones do: their own machine's.
            let server = if self.chance.percent(70) {
                self.client % self.clients.len()
            } else {
                self.chance.below(self.clients.len())
            };
            let done = match self.chance.below(100) {
                0..35 => self.read(server, &key, ""),
                35..48 => self.read(server, &key, "?consistent"),
                48..60 => self.read_stale(server, &key),
                60..78 => self.put(server, &key),
                78..94 => self.compare_and_set(server, &key),
                _ => self.delete(server, &key),
            };
            if !done {
                std::thread::park_timeout(REST);
            }
        }
    }

    /// A value that nobody else writes.
    fn value(&mut self) -> Value {
        self.writes += 1;
        u64::try_from(self.client).unwrap() * 1_000_000_000 + self.writes
    }

    fn read(&mut self, server: usize, key: &str, mode: &str) -> bool {
        let invoked = self.load.time();
        let answer = self.clients[server].call("GET", &format!("/v1/kv/{key}{mode}"), b"");
        let returned = self.load.time();
        let Ok(found) = answer.and_then(|answer| found(&answer)) else { return false };
        self.know(key, found);
        self.load.record(key, self.client, Action::Get(found), invoked, Some(returned));
        true
    }

    fn know(&mut self, key: &str, found: Option<Version>) {
        if self.known.len() > 10 * KEYS {
            self.known.clear();
        }
        self.known.insert(key.to_owned(), found.map_or(0, |found| found.index));
    }

    fn read_stale(&mut self, server: usize, key: &str) -> bool {
        let life = self.load.lives[server].load(Ordering::Acquire);
        let Ok(answer) = self.clients[server].call("GET", &format!("/v1/kv/{key}?stale"), b"") else {
            return false;
        };
        // Between two lives nobody knows which one answered.
        let same = self.load.lives[server].load(Ordering::Acquire) == life;
        let (Ok(found), Some(index), true) = (found(&answer), answer.index, same) else { return false };
        let read = StaleRead { client: self.client, server, life, found, index, returned: self.load.time() };
        self.load.histories.lock().unwrap().entry(key.to_owned()).or_default().stale.push(read);
        self.load.operations.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn put(&mut self, server: usize, key: &str) -> bool {
        let value = self.value();
        let invoked = self.load.time();
        let answer = self.clients[server].call("PUT", &format!("/v1/kv/{key}"), value.to_string().as_bytes());
        self.written(key, invoked, fate(answer), |_| Action::Put(value))
    }

    fn compare_and_set(&mut self, server: usize, key: &str) -> bool {
        let Some(expected) = self.known.get(key).copied() else { return self.read(server, key, "") };
        let value = self.value();
        let invoked = self.load.time();
        let path = format!("/v1/kv/{key}?cas={expected}");
        let answer = self.clients[server].call("PUT", &path, value.to_string().as_bytes());
        self.written(key, invoked, fate(answer), |done| Action::Cas { expected, value, done })
    }

    fn delete(&mut self, server: usize, key: &str) -> bool {
        let invoked = self.load.time();
        let answer = self.clients[server].call("DELETE", &format!("/v1/kv/{key}"), b"");
        self.written(key, invoked, fate(answer), |_| Action::Delete)
    }

    fn written(
        &self,
        key: &str,
        invoked: u64,
        fate: Fate,
        action: impl FnOnce(Option<bool>) -> Action,
    ) -> bool {
        match fate {
            Fate::Answered(done) => {
                self.load.record(key, self.client, action(Some(done)), invoked, Some(self.load.time()));
                true
            }
            Fate::Unknown => {
                self.load.record(key, self.client, action(None), invoked, None);
                false
            }
            Fate::NotDone => false,
        }
    }
}

/// What became of a write.
enum Fate {
    Answered(bool),
    Unknown,
    NotDone,
}

fn fate(answer: Result<Answer, Lost>) -> Fate {
    match answer {
        Ok(answer) if answer.status == 200 => Fate::Answered(answer.body == b"true"),
        // The one refusal that says that nothing was written.
        Ok(answer) if answer.status == 500 && answer.body == b"No cluster leader" => Fate::NotDone,
        Ok(_) | Err(Lost::Unknown) => Fate::Unknown,
        Err(Lost::NotSent) => Fate::NotDone,
    }
}

/// What a read found, if it was answered.
fn found(answer: &Answer) -> Result<Option<Version>, Lost> {
    match answer.status {
        200 => {
            let rows = answer.json();
            let text = BASE64_STANDARD.decode(rows[0]["Value"].as_str().unwrap()).unwrap();
            let value = std::str::from_utf8(&text).unwrap().parse().unwrap();
            Ok(Some(Version { value, index: rows[0]["ModifyIndex"].as_u64().unwrap() }))
        }
        404 => Ok(None),
        _ => Err(Lost::Unknown),
    }
}
