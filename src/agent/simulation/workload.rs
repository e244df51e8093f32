//! People who use the cluster all the time: writes of values that nobody else writes, reads in every mode,
//! registrations, blocking queries. What they were told is compared with what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::truth::Truth;
use crate::agent::handle::{Consensus, KvRead, NoLeader, ProposeError, ReadMode, Replica, Topic, blocking};
use crate::agent::role::Roles;
use crate::agent::rpc::encode;
use crate::model::catalog::{
    Catalog, Command, Condition, KvDelete, KvQuery, KvRows, KvWrite, NodeRegistration, Registration, Reply,
    Service,
};
use crate::model::names::ClusterId;
use crate::simulation::chance::Chance;
use crate::simulation::running;

/// Keys that are written: few, so that writers meet.
const KEYS: [&str; 3] = ["a", "a/b", "c"];
/// Longest pause between two requests of one user, in milliseconds.
const PAUSE_MAX: usize = 100;

/// What somebody was told.
#[derive(Debug, Clone)]
enum Told {
    /// Written, and whether the condition held.
    Written(bool),
    /// Not written, certainly.
    Refused,
    /// Nobody knows.
    Uncertain,
    /// Read.
    Value(Option<Bytes>),
    /// Nobody could be asked.
    Nothing,
}

#[derive(Debug, Clone)]
struct Done {
    asked: Instant,
    /// In which cluster the agent that was asked was then.
    cluster: Option<ClusterId>,
    answered: Instant,
    what: What,
    told: Told,
}

#[derive(Debug, Clone)]
enum What {
    Write { key: Option<&'static str>, command: Bytes },
    Read { key: &'static str, mode: ReadMode },
}

/// Somebody who waits for a change.
struct Waiting {
    process: u64,
    replica: Arc<Replica>,
    roles: Arc<Roles>,
    /// Its raft id when the waiting began, if it was a server with all that servers have.
    server: Option<u64>,
    topic: Topic,
    /// What was there when the waiting began.
    shown: String,
    since: Instant,
}

impl Waiting {
    /// Only servers have keys: who waits for one at a server that ceases to be it is sent away, and not woken; who asks a
    /// client is not answered by its replica.
    fn is_over(&self) -> bool {
        let for_keys = matches!(self.topic, Topic::Key(_) | Topic::KeyPrefix(_));
        for_keys && (self.server.is_none() || whole_server(&self.roles) != self.server)
    }
}

/// The raft id of a server that has all that servers have.
fn whole_server(roles: &Roles) -> Option<u64> {
    roles.is_whole_server().then(|| roles.part().raft_id)
}

/// What a process offers to those who use it.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) process: u64,
    pub(super) roles: Arc<Roles>,
    pub(super) consensus: Arc<dyn Consensus>,
    pub(super) gone: CancellationToken,
    pub(super) replica: Arc<Replica>,
}

impl Access {
    /// Does it as a part of the process; `None` when that ends before.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let process = running::within(self.process, work);
        tokio::select! {
            biased;
            () = self.gone.cancelled() => None,
            done = process => Some(done),
        }
    }
}

/// All users.
#[derive(Clone, Default)]
pub(super) struct Users {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// By machine; none where no agent runs.
    access: Vec<Option<Access>>,
    done: Vec<Done>,
    /// How many of them [`Users::check_acknowledged`] has looked at.
    checked: usize,
    waiting: BTreeMap<u64, Waiting>,
    /// What each user has asked and not heard of: since when, the process, what.
    asking: BTreeMap<u64, (Instant, u64, &'static str)>,
    /// Those who ask.
    at_work: Vec<AbortHandle>,
    stop: bool,
}

impl Users {
    pub(super) fn set_access(&self, access: Vec<Option<Access>>) {
        self.inner.lock().access = access;
    }

    /// Nobody begins anything any more.
    pub(super) fn stop(&self) {
        self.inner.lock().stop = true;
    }

    /// Whether anybody still waits for an answer, or is about to ask.
    pub(super) fn are_at_work(&self) -> bool {
        self.inner.lock().at_work.iter().any(|user| !user.is_finished())
    }

    /// Requests that were answered with success.
    pub(super) fn acknowledged(&self) -> usize {
        let inner = self.inner.lock();
        inner.done.iter().filter(|done| matches!(done.told, Told::Written(true) | Told::Value(_))).count()
    }

    /// Who waits for what, and how long already.
    pub(super) fn pending(&self) -> String {
        let inner = self.inner.lock();
        let pending = inner.asking.iter().map(|(user, (since, process, what))| {
            format!("user {user} waits for a {what} at process {process} since {:?}", since.elapsed())
        });
        pending.collect::<Vec<_>>().join("; ")
    }

    pub(super) fn start(&self, users: u64, watchers: u64, seed: u64) {
        for user in 0..users {
            let (this, chance) = (self.clone(), Chance::new(seed ^ (user << 32)));
            let user = running::spawn(this.use_it(user, chance));
            self.inner.lock().at_work.push(user.abort_handle());
        }
        for watcher in 0..watchers {
            let (this, chance) = (self.clone(), Chance::new(!seed ^ (watcher << 32)));
            running::spawn(this.watch(watcher, chance));
        }
    }

    fn pick(&self, chance: &mut Chance) -> Option<Access> {
        let inner = self.inner.lock();
        let running: Vec<&Access> = inner.access.iter().flatten().collect();
        if running.is_empty() { None } else { Some(running[chance.below(running.len())].clone()) }
    }

    async fn use_it(self, user: u64, mut chance: Chance) {
        let mut number = 0_u64;
        while !self.inner.lock().stop {
            tokio::time::sleep(Duration::from_millis(1 + chance.below(PAUSE_MAX) as u64)).await;
            let Some(access) = self.pick(&mut chance) else { continue };
            number += 1;
            let key = chance.pick(&KEYS);
            let asked = Instant::now();
            let cluster = access.replica.load().cluster().cloned();
            let kind = chance.below(10);
            let what = ["write", "delete", "registration", "read"][kind.clamp(4, 7) - 4];
            self.inner.lock().asking.insert(user, (asked, access.process, what));
            let (what, told) = match kind {
                0..=4 => {
                    let value = Bytes::from(format!("{user}-{number}"));
                    let condition = match chance.below(4) {
                        0 => {
                            let rows =
                                access.replica.load().kv_query(&KvQuery::Get { key: key.to_owned() }).rows;
                            let KvRows::Entries(entries) = rows else { continue };
                            Condition::ModifyIndex(entries.first().map_or(0, |entry| entry.modify_index))
                        }
                        _ => Condition::None,
                    };
                    let write = KvWrite { key: key.to_owned(), value, flags: 0, condition };
                    write_it(&access, Some(key), Command::KvWrite(write)).await
                }
                5 => {
                    // A number of its own makes the command one of its own: no key has so high an index.
                    let modify_index = chance.one_in(3).then_some((1 << 40) + (user << 32) + number);
                    let delete = KvDelete { key: key.to_owned(), recurse: false, modify_index };
                    write_it(&access, Some(key), Command::KvDelete(delete)).await
                }
                6 => {
                    let service = Service {
                        id: format!("web-{}", chance.below(3)),
                        name: "web".to_owned(),
                        port: u16::try_from(number % 60_000).unwrap(),
                        meta: BTreeMap::from([("by".to_owned(), format!("{user}-{number}"))]),
                        ..Service::default()
                    };
                    let node = NodeRegistration {
                        node: "elsewhere".to_owned(),
                        address: "10.9.9.9".to_owned(),
                        ..NodeRegistration::default()
                    };
                    let registration =
                        Registration { node, service: Some(service), ..Registration::default() };
                    write_it(&access, None, Command::Register(Box::new(registration))).await
                }
                _ => {
                    let mode = chance.pick(&[ReadMode::Default, ReadMode::Consistent, ReadMode::Stale]);
                    let query = KvQuery::Get { key: key.to_owned() };
                    let read = access.consensus.kv_read(KvRead { query, mode, blocking: None });
                    let read = access.within(read).await.unwrap_or(Err(NoLeader));
                    let told = match read {
                        Ok((answer, _)) => {
                            let KvRows::Entries(entries) = answer.rows else { continue };
                            Told::Value(entries.first().map(|entry| entry.value.clone()))
                        }
                        Err(_) => Told::Nothing,
                    };
                    (What::Read { key, mode }, told)
                }
            };
            self.inner.lock().asking.remove(&user);
            running::note((20, user, number, told.to_hash()));
            let done = Done { asked, cluster, answered: Instant::now(), what, told };
            self.inner.lock().done.push(done);
        }
    }

    async fn watch(self, watcher: u64, mut chance: Chance) {
        while !self.inner.lock().stop {
            tokio::time::sleep(Duration::from_millis(1 + chance.below(20) as u64)).await;
            let Some(access) = self.pick(&mut chance) else { continue };
            let topic = match chance.below(if access.roles.is_whole_server() { 4 } else { 2 }) {
                0 => Topic::Service("web".into()),
                1 => Topic::Nodes,
                2 => Topic::KeyPrefix("a".into()),
                _ => Topic::Key(chance.pick(&KEYS).into()),
            };
            for _ in 0..4 {
                let (index, shown) = look(&access.replica.load(), &topic);
                let waiting = Waiting {
                    process: access.process,
                    replica: access.replica.clone(),
                    roles: access.roles.clone(),
                    server: whole_server(&access.roles),
                    topic: topic.clone(),
                    shown,
                    since: Instant::now(),
                };
                self.inner.lock().waiting.insert(watcher, waiting);
                let wait = Duration::from_millis(200 + chance.below(3000) as u64);
                let read = |catalog: &Catalog| (look(catalog, &topic).0, ());
                let waited = blocking(&access.replica, topic.clone(), index, wait, read);
                let now = access.within(waited).await.map(|(now, ())| now);
                self.inner.lock().waiting.remove(&watcher);
                running::note((21, watcher, now));
                if now.is_none() {
                    break;
                }
            }
        }
    }

    /// Nobody waits for a change that is there.
    pub(super) async fn check_watchers(&self) {
        let late = |inner: &Inner| -> Vec<(u64, Instant)> {
            let waiting = inner
                .waiting
                .iter()
                .filter(|(_, waiting)| !running::is_paused(waiting.process) && !waiting.is_over())
                .filter(|(_, waiting)| look(&waiting.replica.load(), &waiting.topic).1 != waiting.shown);
            waiting.map(|(watcher, waiting)| (*watcher, waiting.since)).collect()
        };
        let suspected = late(&self.inner.lock());
        if suspected.is_empty() {
            return;
        }
        // The change may be of this very moment.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let inner = self.inner.lock();
        for one in late(&inner) {
            let waiting = &inner.waiting[&one.0];
            let shown = waiting.process;
            assert!(
                !suspected.contains(&one),
                "a watcher of {:?} at process {shown} missed a change",
                waiting.topic
            );
        }
    }

    /// Looks for the writes that were acknowledged since the last look among what was committed, which never changes.
    pub(super) fn check_acknowledged(&self, truth: &Truth) {
        let mut inner = self.inner.lock();
        let all = inner.done.len();
        let since = std::mem::replace(&mut inner.checked, all);
        let mut new = inner.done[since..].iter().filter_map(|done| match (&done.what, &done.told) {
            (What::Write { command, .. }, Told::Written(_)) => Some((command, done)),
            _ => None,
        });
        let Some(first) = new.next() else { return };
        let committed: Vec<_> = truth.lines_since(None).map(Line::places).collect();
        for (command, done) in std::iter::once(first).chain(new) {
            let found = committed.iter().any(|places| places.contains_key(command));
            assert!(found, "an acknowledged write is lost: {done:?}");
        }
    }

    /// Compares everything that anybody was told with what is true. A write that was acknowledged is in the cluster that
    /// there is, or in one that was given up and not where its survivors had it.
    pub(super) fn check(&self, truth: &Truth) {
        let inner = self.inner.lock();
        let mut places: BTreeMap<Bytes, BTreeSet<(u64, u64)>> = BTreeMap::new();
        for line in truth.lines_since(None) {
            for (command, at) in line.places() {
                places.entry(command).or_default().extend(at);
            }
        }
        let mut repeated: BTreeMap<&Bytes, usize> = BTreeMap::new();
        for done in &inner.done {
            if let What::Write { command, .. } = &done.what {
                let times = repeated.entry(command).or_default();
                *times += usize::from(!matches!(done.told, Told::Refused));
            }
        }
        for done in &inner.done {
            let What::Write { command, .. } = &done.what else { continue };
            let found = places.get(command).map_or(0, BTreeSet::len);
            match done.told {
                Told::Written(_) => assert!(found >= 1, "an acknowledged write is lost: {done:?}"),
                Told::Refused if repeated[command] == 0 => {
                    assert_eq!(found, 0, "a write that was said to be not done was done: {done:?}");
                }
                _ => {}
            }
            assert!(found <= repeated[command], "a write was done more than once: {done:?}");
        }
        for key in KEYS {
            check_key(&inner.done, key, truth);
        }
    }
}

/// A fresh read shows what was there at some moment since it was asked, as far as anybody can tell: in the cluster of
/// the agent that was asked, or in a successor.
fn check_key(done: &[Done], key: &str, truth: &Truth) {
    let mut histories: BTreeMap<Option<&ClusterId>, Vec<KeyHistory>> = BTreeMap::new();
    for one in done {
        let (What::Read { key: of, mode }, Told::Value(value)) = (&one.what, &one.told) else { continue };
        if *of != key {
            continue;
        }
        let histories = histories.entry(one.cluster.as_ref()).or_insert_with(|| {
            truth.lines_since(one.cluster.as_ref()).map(|line| KeyHistory::of(key, line, done)).collect()
        });
        let mut floors = histories.iter().map(|history| history.floor(one.asked));
        let fresh = histories.iter().any(|history| history.shows(value.as_ref(), *mode, one.asked));
        assert!(
            fresh,
            "a read shows what was not there (or no longer, at index {:?}): {one:?}",
            floors.next().unwrap_or(0)
        );
    }
}

/// What a key was in one cluster, and when which of it was known to somebody.
struct KeyHistory {
    /// Each value with the index since when.
    values: Vec<(u64, Option<Bytes>)>,
    known: Vec<(Instant, u64)>,
}

impl KeyHistory {
    fn of(key: &str, line: &Line, done: &[Done]) -> Self {
        let (places, values) = (line.places(), line.values_of(key));
        // Where each value came, if it came once.
        let mut came: BTreeMap<&Bytes, Option<u64>> = BTreeMap::new();
        for (index, value) in &values {
            if let Some(value) = value {
                came.entry(value).and_modify(|place| *place = None).or_insert(Some(*index));
            }
        }
        let told = |one: &Done| match (&one.what, &one.told) {
            (What::Write { key: Some(of), command }, Told::Written(_)) if *of == key => {
                let places = places.get(command).filter(|places| places.len() == 1)?;
                places.first().map(|(index, _)| *index)
            }
            // Acknowledged or not: what a fresh read has shown, later ones show, or what came after it.
            (
                What::Read { key: of, mode: ReadMode::Default | ReadMode::Consistent },
                Told::Value(Some(value)),
            ) if *of == key => came.get(value).copied().flatten(),
            _ => None,
        };
        let known = done.iter().filter_map(|one| Some((one.answered, told(one)?))).collect();
        Self { values, known }
    }

    /// The last index of which somebody knew before.
    fn floor(&self, before: Instant) -> u64 {
        self.known.iter().filter(|(at, _)| *at < before).map(|(_, index)| *index).max().unwrap_or(0)
    }

    /// Whether a read that was asked then may show this.
    fn shows(&self, value: Option<&Bytes>, mode: ReadMode, asked: Instant) -> bool {
        let floor = self.floor(asked);
        let mut ends = self.values.iter().skip(1).map(|(since, _)| *since).chain([u64::MAX]);
        self.values.iter().any(|(_, was)| {
            let end = ends.next().unwrap_or(u64::MAX);
            was.as_ref() == value && (end > floor || mode == ReadMode::Stale)
        })
    }
}

impl Told {
    fn to_hash(&self) -> (u8, Option<&[u8]>) {
        match self {
            Self::Written(done) => (u8::from(*done), None),
            Self::Refused => (2, None),
            Self::Uncertain => (3, None),
            Self::Value(value) => (4, value.as_deref()),
            Self::Nothing => (5, None),
        }
    }
}

async fn write_it(access: &Access, key: Option<&'static str>, command: Command) -> (What, Told) {
    let bytes = encode(&command).expect("a command");
    let proposed = access.within(access.consensus.propose(command)).await;
    let proposed = proposed.unwrap_or_else(|| Err(ProposeError::Uncertain("the agent is gone".to_owned())));
    let told = match proposed {
        Ok(Reply::Done) => Told::Written(true),
        Ok(Reply::Bool(done)) => Told::Written(done),
        Err(ProposeError::Rejected(_)) => Told::Written(false),
        Err(ProposeError::NoLeader(_) | ProposeError::Unavailable(_)) => Told::Refused,
        Err(ProposeError::Uncertain(_)) => Told::Uncertain,
    };
    (What::Write { key, command: bytes }, told)
}

/// The index that a query of the topic waits on, and what it shows.
fn look(catalog: &Catalog, topic: &Topic) -> (u64, String) {
    let of = |query: KvQuery| {
        let answer = catalog.kv_query(&query);
        (answer.index, format!("{:?}", answer.rows))
    };
    match topic {
        Topic::Service(name) => (
            catalog.service_index(name),
            format!("{:?}", catalog.instances(name).map(|one| one.service.modify_index).collect::<Vec<_>>()),
        ),
        Topic::Key(key) => of(KvQuery::Get { key: key.to_string() }),
        Topic::KeyPrefix(prefix) => of(KvQuery::List { prefix: prefix.to_string() }),
        _ => (
            catalog.nodes_index(),
            format!("{:?}", catalog.nodes().map(|row| row.node.modify_index).collect::<Vec<_>>()),
        ),
    }
}
