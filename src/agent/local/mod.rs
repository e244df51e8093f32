//! The agent's own services and checks: registered here, kept on disk, told to the catalog.
//!
//! [`LocalState`] is the one owner. It does not run checks (`agent::checks` does, through [`ProbeBoard`]) and does
//! not decide what the catalog needs (`model::sync` does).

mod registrations;
mod state;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::state::{Source, State};
use self::store::{CheckOrigin, Loaded, Store};
use super::handle::{Consensus, Local, LocalError, Maintenance, ProbeBoard, ProbeOrders, Replica};
use crate::hint::WithHint as _;
use crate::model::catalog::{Check, NodeRegistration, Service, Status};
use crate::model::health::{OUTPUT_BYTES_MAX, maintenance_id};
use crate::model::sync::{CheckRegistration, ServiceRegistration};
use crate::tasks::Spawner;

/// How long a change of a check's output alone may wait (Consul's `check_update_interval`).
pub const CHECK_UPDATE_INTERVAL: Duration = Duration::from_mins(5);

/// What the local state needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is kept; `None` keeps nothing (`-dev`).
    pub data_dir: Option<PathBuf>,
    /// The own node as it stands in the catalog ([`crate::model::sync::agent_node`]).
    pub node: NodeRegistration,
    /// See [`CHECK_UPDATE_INTERVAL`]; zero tells every change at once.
    pub check_update_interval: Duration,
    /// Bytes of output that a check keeps unless it says otherwise.
    pub output_max: usize,
    /// Services from configuration files.
    pub services: Vec<ServiceRegistration>,
    /// Checks from configuration files.
    pub checks: Vec<ConfiguredCheck>,
}

/// A check from a configuration file.
#[derive(Debug, Clone)]
pub struct ConfiguredCheck {
    /// The file, for who has to correct it.
    pub file: String,
    /// The check.
    pub check: CheckRegistration,
}

impl Settings {
    /// The defaults for a node.
    pub fn new(node: NodeRegistration, data_dir: Option<PathBuf>) -> Self {
        Self {
            data_dir,
            node,
            check_update_interval: CHECK_UPDATE_INTERVAL,
            output_max: OUTPUT_BYTES_MAX,
            services: Vec::new(),
            checks: Vec::new(),
        }
    }
}

/// The agent's own services and checks.
pub struct LocalState {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeRegistration,
    check_update_interval: Duration,
    output_max: usize,
    started: Instant,
    store: Option<Store>,
    /// Registrations change disk and memory one after the other.
    door: Mutex<()>,
    state: Mutex<State>,
    orders: watch::Sender<ProbeOrders>,
    /// There is something for the catalog.
    changed: Notify,
    /// A deadline may have come nearer.
    timers: Notify,
    /// The catalog is no longer told anything.
    quiet: CancellationToken,
}

impl LocalState {
    /// Reads what was registered before, and takes the configuration's services and checks.
    ///
    /// # Errors
    /// When the data directory cannot be used, or the configuration names a service that is not there.
    pub fn open(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let (store, loaded) = match &settings.data_dir {
            Some(data_dir) => {
                let (store, loaded) = Store::open(data_dir)
                    .with_context(|| format!("cannot use the data directory {}", data_dir.display()))
                    .hint("give a directory that the agent may write to with -data-dir")?;
                (Some(store), loaded)
            }
            None => (None, Loaded::default()),
        };
        let shared = Shared {
            state: Mutex::new(State::new(&settings.node.node)),
            node: settings.node,
            check_update_interval: settings.check_update_interval,
            output_max: settings.output_max,
            started: Instant::now(),
            store,
            door: Mutex::default(),
            orders: watch::channel(ProbeOrders::default()).0,
            changed: Notify::new(),
            timers: Notify::new(),
            quiet: CancellationToken::new(),
        };
        // Services first, so that a start accepts what a reload accepts: the configuration may have checks of clients' services.
        shared.load_services(&loaded);
        shared.configure(&settings.services, &settings.checks, false)?;
        shared.load_checks(loaded);
        shared.publish();
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }

    /// Starts the tasks that tell the catalog, expire TTL checks, and keep the states of checks on disk.
    pub fn start(&self, replica: Arc<Replica>, consensus: Arc<dyn Consensus>, spawner: &Spawner) {
        let stop = spawner.stop_token();
        spawner.start("anti-entropy", sync::run(self.shared.clone(), replica, consensus, stop.clone()));
        spawner.start("check timers", timers::run(self.shared.clone(), stop));
    }

    /// Tells the catalog nothing more. To be called before the agent leaves: the leader removes the node then, and
    /// anti-entropy would bring it back.
    pub fn stop_sync(&self) {
        self.shared.quiet.cancel();
    }

    /// Replaces what came from configuration files, after they were read again. Known checks keep their state.
    ///
    /// # Errors
    /// When a check names a service that is not there; nothing is changed then.
    pub async fn reload(
        &self,
        services: Vec<ServiceRegistration>,
        checks: Vec<ConfiguredCheck>,
    ) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let _door = shared.door.lock();
            shared.configure(&services, &checks, true)?;
            shared.publish();
            Ok(())
        })
        .await
        .context("the reload of services was interrupted")?
    }

    /// Does something that may write to disk. It is carried through even when nobody waits any longer, so that disk
    /// and memory agree.
    async fn carry_through(
        &self,
        work: impl FnOnce(&Shared) -> Result<(), LocalError> + Send + 'static,
    ) -> Result<(), LocalError> {
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _door = shared.door.lock();
            work(&shared)?;
            shared.publish();
            Ok(())
        });
        done.await.map_err(|error| LocalError::Persist(error.to_string()))?
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When a change of the output alone is told: Consul's half to one and a half intervals.
    fn output_delay(&self) -> Duration {
        if self.check_update_interval.is_zero() {
            return Duration::ZERO;
        }
        self.check_update_interval / 2 + rand::random_range(Duration::ZERO..self.check_update_interval)
    }

    /// Wakes whoever has to do with a change.
    fn publish(&self) {
        let orders = self.state.lock().orders.clone();
        self.orders.send_if_modified(|present| {
            let is_new = !Arc::ptr_eq(present, &orders);
            if is_new {
                *present = orders;
            }
            is_new
        });
        self.changed.notify_one();
        self.timers.notify_one();
    }

    /// Wakes the tasks after the state of a check was set.
    fn wake(&self, deadline_is_new: bool) {
        if !self.state.lock().dirty.is_empty() {
            self.changed.notify_one();
        }
        if deadline_is_new {
            self.timers.notify_one();
        }
    }

    /// Takes the configuration's services and checks; those that it no longer has go.
    fn configure(
        &self,
        services: &[ServiceRegistration],
        checks: &[ConfiguredCheck],
        again: bool,
    ) -> anyhow::Result<()> {
        let now = self.now();
        let mut state = self.state.lock();
        let named: BTreeSet<&str> =
            services.iter().map(|registration| registration.service.id.as_str()).collect();
        for ConfiguredCheck { file, check } in checks {
            if check.service_id.is_empty() {
                continue;
            }
            let id = check.service_id.as_str();
            let is_there = named.contains(id) || state.service_source(id) == Some(Source::Client);
            if !is_there {
                let error = LocalError::UnknownServiceOfCheck(id.to_owned());
                return Err(error)
                    .with_context(|| format!("failed to parse {file}: check {:?}", check.check_id))
                    .hint("define the service in a configuration file too, or take its id out of the check");
            }
        }
        let named_checks: BTreeSet<&str> = services
            .iter()
            .flat_map(|registration| &registration.checks)
            .chain(checks.iter().map(|configured| &configured.check))
            .map(|check| check.check_id.as_str())
            .collect();
        let surplus: Vec<String> = state
            .owned
            .services
            .keys()
            .filter(|id| {
                state.service_source(id) == Some(Source::Configuration) && !named.contains(id.as_str())
            })
            .cloned()
            .collect();
        for id in &surplus {
            state.remove_service(id);
        }
        let surplus: Vec<String> = state
            .owned
            .checks
            .keys()
            .filter(|id| {
                state.check(id).is_some_and(|check| check.source == Source::Configuration)
                    && !named_checks.contains(id.as_str())
            })
            .cloned()
            .collect();
        for id in &surplus {
            state.remove_check(id);
        }
        for registration in services {
            state.put_service(registration.service.clone(), Source::Configuration);
        }
        let checks = checks.iter().map(|configured| &configured.check);
        for check in services.iter().flat_map(|registration| &registration.checks).chain(checks) {
            state.put_check(check.clone(), Source::Configuration, !again, now);
        }
        Ok(())
    }

    /// Takes clients' services that were on disk. The configuration, which comes afterwards, wins over one of the same id.
    fn load_services(&self, loaded: &Loaded) {
        let mut state = self.state.lock();
        for service in loaded.services.iter().filter_map(|record| record.service.as_ref()) {
            state.put_service(service.clone(), Source::Client);
        }
    }

    /// Takes clients' checks that were on disk, also those of the configuration's services.
    fn load_checks(&self, loaded: Loaded) {
        let now = self.now();
        let mut state = self.state.lock();
        for check in loaded.services.into_iter().flat_map(|record| record.checks) {
            load_check(&mut state, check, now);
        }
        for record in loaded.checks {
            load_check(&mut state, record.check, now);
        }
        let unix_now = unix_milliseconds();
        for record in loaded.states {
            if record.expires.is_none_or(|expires| expires > unix_now) {
                state.restore(&record.check_id, record.status, &record.output, now);
            }
        }
        state.dirty.all = true;
    }
}

fn check_id_of(origin: &CheckOrigin) -> String {
    match origin {
        CheckOrigin::Registered(registration) => registration.check_id.clone(),
        CheckOrigin::Maintenance { service_id, .. } => maintenance_id(service_id),
    }
}

fn load_check(state: &mut State, origin: CheckOrigin, now: Duration) {
    let id = check_id_of(&origin);
    let service_id = match &origin {
        CheckOrigin::Registered(registration) => registration.service_id.clone(),
        CheckOrigin::Maintenance { service_id, .. } => service_id.clone(),
    };
    if !service_id.is_empty() && !state.owned.services.contains_key(&service_id) {
        tracing::warn!("check {id} is forgotten: its service {service_id} is no longer there");
        return;
    }
    if state.check(&id).is_some_and(|check| check.source == Source::Configuration) {
        return;
    }
    match origin {
        CheckOrigin::Registered(registration) => {
            state.put_check(*registration, Source::Client, true, now);
        }
        CheckOrigin::Maintenance { service_id, reason } => state.put_maintenance(&service_id, &reason),
    }
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Local for LocalState {
    fn services(&self) -> BTreeMap<String, Arc<Service>> {
        self.shared.state.lock().owned.services.clone()
    }

    fn checks(&self) -> BTreeMap<String, Arc<Check>> {
        self.shared.state.lock().owned.checks.clone()
    }

    async fn register_service(&self, registration: ServiceRegistration) -> Result<(), LocalError> {
        self.carry_through(move |shared| shared.register_service(registration)).await
    }

    async fn deregister_service(&self, service_id: &str) -> Result<(), LocalError> {
        let service_id = service_id.to_owned();
        self.carry_through(move |shared| shared.deregister_service(&service_id)).await
    }

    async fn register_check(&self, registration: CheckRegistration) -> Result<(), LocalError> {
        self.carry_through(move |shared| shared.register_check(registration)).await
    }

    async fn deregister_check(&self, check_id: &str) -> Result<(), LocalError> {
        let check_id = check_id.to_owned();
        self.carry_through(move |shared| shared.deregister_check(&check_id)).await
    }

    async fn update_ttl(&self, check_id: &str, status: Status, output: &str) -> Result<(), LocalError> {
        let shared = &self.shared;
        let (delay, now) = (shared.output_delay(), shared.now());
        let had_expired =
            shared.state.lock().report_ttl(check_id, status, output, shared.output_max, delay, now);
        let had_expired = had_expired.ok_or_else(|| LocalError::NotTtl(check_id.to_owned()))?;
        shared.wake(had_expired);
        Ok(())
    }

    async fn maintain(&self, maintenance: Maintenance) -> Result<(), LocalError> {
        self.carry_through(move |shared| shared.maintain(&maintenance)).await
    }
}

impl ProbeBoard for LocalState {
    fn orders(&self) -> watch::Receiver<ProbeOrders> {
        self.shared.orders.subscribe()
    }

    fn output_max(&self) -> usize {
        self.shared.output_max
    }

    fn report(&self, check_id: &str, generation: u64, status: Status, output: &str) {
        let shared = &self.shared;
        let (delay, now) = (shared.output_delay(), shared.now());
        {
            let mut state = shared.state.lock();
            if state.check(check_id).is_none_or(|check| check.generation != generation) {
                return;
            }
            state.update(check_id, status, output.to_owned(), delay, now);
        }
        shared.wake(true);
    }
}
