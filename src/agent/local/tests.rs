//! The local state against a catalog that applies at once, and real folders.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{ConfiguredCheck, LocalState, Settings};
use crate::agent::handle::{
    Consensus, ConsensusStatus, Freshness, KvRead, Local, LocalError, Maintenance, NoLeader, ProbeBoard,
    ProposeError, ReadMode, Replica,
};
use crate::agent::testing::poll;
use crate::model::catalog::{
    Catalog, Command, Deregistration, KvAnswer, Registration, Reply, Service, Status,
};
use crate::model::health::{CheckDefinition, CheckKind};
use crate::model::sync::{CheckRegistration, ServiceRegistration, agent_node};
use crate::tasks::Tasks;

/// A log that applies each command at once, or has no leader.
struct OneMachine {
    replica: Arc<Replica>,
    catalog: Mutex<Catalog>,
    has_no_leader: AtomicBool,
    proposals: AtomicUsize,
}

impl OneMachine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            replica: Arc::default(),
            catalog: Mutex::default(),
            has_no_leader: AtomicBool::new(false),
            proposals: AtomicUsize::new(0),
        })
    }

    fn write(&self, command: &Command) -> Result<Reply, ProposeError> {
        let mut catalog = self.catalog.lock();
        let index = catalog.index() + 1;
        let outcome = catalog.apply(index, command);
        self.replica.publish(Arc::new(catalog.clone()), &outcome.changes);
        Ok(outcome.result?)
    }

    fn lose_leader(&self, lost: bool) {
        self.has_no_leader.store(lost, Ordering::SeqCst);
    }

    /// The services of our node in the catalog.
    fn services(&self) -> Vec<String> {
        let catalog = self.replica.snapshot();
        catalog
            .node("m1")
            .map(|row| row.services.keys().map(ToString::to_string).collect())
            .unwrap_or_default()
    }

    /// Status and output of a check of our node in the catalog.
    fn check(&self, id: &str) -> Option<(Status, String)> {
        let catalog = self.replica.snapshot();
        let check = catalog.node("m1")?.checks.get(id)?;
        Some((check.status, check.output.clone()))
    }
}

#[async_trait]
impl Consensus for OneMachine {
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        if self.has_no_leader.load(Ordering::SeqCst) {
            return Err(NoLeader.into());
        }
        self.proposals.fetch_add(1, Ordering::SeqCst);
        self.write(&command)
    }

    async fn barrier(&self, _mode: ReadMode) -> Result<Freshness, NoLeader> {
        if self.has_no_leader.load(Ordering::SeqCst) { Err(NoLeader) } else { Ok(self.freshness()) }
    }

    async fn kv_read(&self, _read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        Err(NoLeader)
    }

    fn freshness(&self) -> Freshness {
        Freshness { known_leader: true, last_contact: Duration::ZERO }
    }

    async fn status(&self) -> ConsensusStatus {
        unreachable!("the local state does not ask")
    }
}

struct Agent {
    local: Arc<LocalState>,
    machine: Arc<OneMachine>,
    tasks: Tasks,
}

fn settings(data_dir: Option<&Path>) -> Settings {
    let node = agent_node("id-1", "m1", "10.0.0.1".parse().unwrap(), "dc1", &BTreeMap::new());
    Settings::new(node, data_dir.map(Path::to_owned))
}

impl Agent {
    fn start(settings: Settings) -> Self {
        Self::start_on(settings, OneMachine::new())
    }

    fn start_on(settings: Settings, machine: Arc<OneMachine>) -> Self {
        let local = LocalState::open(settings).unwrap();
        let tasks = Tasks::default();
        local.start(machine.replica.clone(), machine.clone(), &tasks.spawner());
        Self { local, machine, tasks }
    }

    async fn stop(self) {
        self.tasks.run_until(async {}).await.unwrap();
    }
}

async fn until(what: &str, probe: impl FnMut() -> bool) {
    poll(Duration::from_secs(10), what, probe).await;
}

fn service(id: &str, checks: Vec<CheckRegistration>) -> ServiceRegistration {
    let service = Service { id: id.to_owned(), name: "web".to_owned(), port: 80, ..Service::default() };
    ServiceRegistration { service, checks, replace_existing_checks: false }
}

fn check(id: &str, service_id: &str, kind: CheckKind) -> CheckRegistration {
    let is_ttl = matches!(kind, CheckKind::Ttl { .. });
    CheckRegistration {
        check_id: id.to_owned(),
        name: id.to_owned(),
        notes: String::new(),
        service_id: service_id.to_owned(),
        status: None,
        definition: CheckDefinition {
            kind,
            interval: if is_ttl { Duration::ZERO } else { Duration::from_secs(10) },
            timeout: None,
            success_before_passing: 0,
            failures_before_warning: 0,
            failures_before_critical: 0,
            deregister_critical_service_after: None,
            output_max_size: None,
        },
    }
}

fn ttl(id: &str, service_id: &str, seconds: u64) -> CheckRegistration {
    check(id, service_id, CheckKind::Ttl { ttl: Duration::from_secs(seconds) })
}

fn tcp(id: &str, service_id: &str) -> CheckRegistration {
    check(id, service_id, CheckKind::Tcp { address: "127.0.0.1:1".to_owned() })
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_registration_reaches_the_catalog_and_its_end_too() {
    let agent = Agent::start(settings(None));
    agent.local.register_service(service("web-1", vec![ttl("web-1:ttl", "", 10)])).await.unwrap();
    until("registered", || agent.machine.services() == ["web-1"]).await;
    assert_eq!(agent.machine.check("web-1:ttl"), Some((Status::Critical, String::new())));
    agent.local.update_ttl("web-1:ttl", Status::Passing, "fine").await.unwrap();
    until("passing", || agent.machine.check("web-1:ttl") == Some((Status::Passing, "fine".to_owned()))).await;
    agent.local.deregister_service("web-1").await.unwrap();
    until("removed", || agent.machine.services().is_empty()).await;
    assert_eq!(agent.machine.check("web-1:ttl"), None);
    assert!(agent.local.checks().is_empty());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn unknown_ids_are_refused_with_the_texts_of_consul() {
    let local = LocalState::open(settings(None)).unwrap();
    let refused = [
        local.deregister_service("x").await,
        local.deregister_check("x").await,
        local.register_check(tcp("c", "x")).await,
        local.update_ttl("x", Status::Passing, "").await,
    ];
    let texts: Vec<String> = refused.into_iter().map(|refused| refused.unwrap_err().to_string()).collect();
    assert_eq!(
        texts,
        [
            "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name.",
            "Unknown check ID \"x\". Ensure that the check ID is passed, not the check name.",
            "ServiceID \"x\" does not exist",
            "CheckID \"x\" does not have associated TTL",
        ]
    );
    local.register_check(tcp("c", "")).await.unwrap();
    let not_ttl = local.update_ttl("c", Status::Passing, "").await;
    assert_eq!(not_ttl, Err(LocalError::NotTtl("c".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_registrations_wait_and_are_told_later() {
    let agent = Agent::start(settings(None));
    agent.machine.lose_leader(true);
    agent.local.register_service(service("web-1", vec![])).await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(agent.machine.services().is_empty());
    agent.machine.lose_leader(false);
    // The longest pause between two tries is 15 s.
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(agent.machine.services(), ["web-1"]);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn foreign_changes_to_the_own_node_are_undone_and_nothing_is_written_when_all_is_well() {
    let agent = Agent::start(settings(None));
    agent.local.register_service(service("web-1", vec![])).await.unwrap();
    until("registered", || agent.machine.services() == ["web-1"]).await;
    let node = settings(None).node;
    let stray = Service { id: "stray".to_owned(), name: "stray".to_owned(), ..Service::default() };
    let registration = Registration { node, service: Some(stray), ..Registration::default() };
    agent.machine.write(&Command::Register(Box::new(registration))).unwrap();
    until("stray is removed", || agent.machine.services() == ["web-1"]).await;
    let removal = Deregistration { node: "m1".to_owned(), ..Deregistration::default() };
    agent.machine.write(&Command::Deregister(removal)).unwrap();
    until("all is back", || agent.machine.services() == ["web-1"]).await;
    let proposals = agent.machine.proposals.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(agent.machine.proposals.load(Ordering::SeqCst), proposals);
    agent.local.stop_sync();
    let removal = Deregistration { node: "m1".to_owned(), ..Deregistration::default() };
    agent.machine.write(&Command::Deregister(removal)).unwrap();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(agent.machine.services().is_empty(), "an agent that leaves does not come back");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_output_alone_is_told_late_and_a_status_at_once() {
    let agent = Agent::start(settings(None));
    agent.local.register_check(ttl("beat", "", 100_000)).await.unwrap();
    agent.local.update_ttl("beat", Status::Passing, "1").await.unwrap();
    until("told", || agent.machine.check("beat") == Some((Status::Passing, "1".to_owned()))).await;
    agent.local.update_ttl("beat", Status::Passing, "2").await.unwrap();
    assert_eq!(agent.local.checks()["beat"].output, "2");
    tokio::time::sleep(Duration::from_secs(149)).await;
    assert_eq!(agent.machine.check("beat"), Some((Status::Passing, "1".to_owned())));
    tokio::time::sleep(Duration::from_secs(302)).await;
    assert_eq!(agent.machine.check("beat"), Some((Status::Passing, "2".to_owned())));
    agent.local.update_ttl("beat", Status::Warning, "3").await.unwrap();
    until("told", || agent.machine.check("beat") == Some((Status::Warning, "3".to_owned()))).await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_ttl_check_expires_when_nobody_reports() {
    let agent = Agent::start(settings(None));
    agent.local.register_check(ttl("beat", "", 10)).await.unwrap();
    agent.local.update_ttl("beat", Status::Passing, "ok").await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    agent.local.update_ttl("beat", Status::Passing, "ok").await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(agent.machine.check("beat").unwrap().0, Status::Passing);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let expired = "TTL expired (last output before timeout follows): ok".to_owned();
    assert_eq!(agent.machine.check("beat"), Some((Status::Critical, expired)));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_critical_is_removed() {
    let agent = Agent::start(settings(None));
    let mut deadly = ttl("deadly", "", 10);
    deadly.definition.deregister_critical_service_after = Some(Duration::from_mins(1));
    agent.local.register_service(service("web-1", vec![deadly])).await.unwrap();
    agent.local.register_service(service("web-2", vec![ttl("patient", "", 10)])).await.unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(agent.machine.services(), ["web-1", "web-2"]);
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(agent.machine.services(), ["web-2"]);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn registering_again_keeps_the_state_of_checks_and_drops_unlisted_ones_only_on_request() {
    let local = LocalState::open(settings(None)).unwrap();
    local.register_service(service("web-1", vec![ttl("a", "", 10), tcp("b", "")])).await.unwrap();
    local.update_ttl("a", Status::Passing, "ok").await.unwrap();
    let generation = local.orders().borrow()["b"].generation;
    local.register_service(service("web-1", vec![ttl("a", "", 10)])).await.unwrap();
    assert_eq!(local.checks()["a"].status, Status::Passing);
    assert_eq!(local.checks().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(local.orders().borrow()["b"].generation, generation, "an equal check goes on as it was");
    let mut replacing = service("web-1", vec![ttl("a", "", 10)]);
    replacing.replace_existing_checks = true;
    local.register_service(replacing).await.unwrap();
    assert_eq!(local.checks().keys().collect::<Vec<_>>(), ["a"]);
    assert!(local.orders().borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn results_of_a_replaced_check_are_dropped() {
    let local = LocalState::open(settings(None)).unwrap();
    local.register_check(tcp("a", "")).await.unwrap();
    let old = local.orders().borrow()["a"].generation;
    let other = check("a", "", CheckKind::Tcp { address: "127.0.0.1:2".to_owned() });
    local.register_check(other).await.unwrap();
    local.report("a", old, Status::Passing, "late");
    assert_eq!(local.checks()["a"].status, Status::Critical);
    let new = local.orders().borrow()["a"].generation;
    local.report("a", new, Status::Passing, "here");
    assert_eq!(local.checks()["a"].status, Status::Passing);
}

#[tokio::test(start_paused = true)]
async fn a_restart_brings_back_services_checks_states_and_maintenance() {
    let folder = tempfile::tempdir().unwrap();
    let machine = OneMachine::new();
    let agent = Agent::start_on(settings(Some(folder.path())), machine.clone());
    let local = &agent.local;
    local.register_service(service("web/1", vec![ttl("long", "", 3600), ttl("short", "", 5)])).await.unwrap();
    local.register_check(tcp("disk", "")).await.unwrap();
    local.register_check(tcp("extra", "web/1")).await.unwrap();
    local.update_ttl("long", Status::Passing, "fine").await.unwrap();
    let maintenance = |service_id: Option<&str>| Maintenance {
        service_id: service_id.map(str::to_owned),
        enable: true,
        reason: "moving".to_owned(),
    };
    local.maintain(maintenance(None)).await.unwrap();
    local.maintain(maintenance(Some("web/1"))).await.unwrap();
    // Registering again does not end the maintenance.
    local.register_service(service("web/1", vec![])).await.unwrap();
    let (services, checks) = (local.services(), local.checks());
    assert_eq!(checks.len(), 6);
    agent.stop().await;

    let agent = Agent::start_on(settings(Some(folder.path())), machine.clone());
    assert_eq!(agent.local.services(), services);
    assert_eq!(agent.local.checks(), checks);
    assert_eq!(agent.local.checks()["long"].output, "fine");
    assert_eq!(agent.local.checks()["_service_maintenance:web/1"].notes, "moving");
    agent.local.deregister_check("extra").await.unwrap();
    let end = Maintenance { enable: false, ..maintenance(Some("web/1")) };
    agent.local.maintain(end).await.unwrap();
    agent.local.deregister_check("disk").await.unwrap();
    agent.stop().await;

    let local = LocalState::open(settings(Some(folder.path()))).unwrap();
    assert_eq!(local.checks().keys().collect::<Vec<_>>(), ["_node_maintenance", "long", "short"]);
    local.deregister_service("web/1").await.unwrap();
    assert_eq!(files(&folder.path().join("services")), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_ran_out_while_the_agent_was_down_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(settings(Some(folder.path())));
    agent.local.register_check(ttl("beat", "", 1)).await.unwrap();
    agent.local.update_ttl("beat", Status::Passing, "ok").await.unwrap();
    // The clock of the tasks is stopped, that of the disk is not: make the written time lie in the past.
    agent.stop().await;
    let path = folder.path().join("checks/state/all.json");
    let mut states: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(states["data"][0]["expires"].as_u64().unwrap() > 1_000_000_000_000);
    states["data"][0]["expires"] = 1.into();
    crate::host::files::write_atomic(&path, states.to_string().as_bytes(), 0o600).unwrap();
    let local = LocalState::open(settings(Some(folder.path()))).unwrap();
    assert_eq!(local.checks()["beat"].status, Status::Critical);
    assert_eq!(local.checks()["beat"].output, "");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_read_is_set_aside_and_the_others_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalState::open(settings(Some(folder.path()))).unwrap();
    for id in ["web-1", "web-2"] {
        local.register_service(service(id, vec![])).await.unwrap();
    }
    drop(local);
    let services = folder.path().join("services");
    crate::host::files::write_atomic(&services.join("web-1.json"), b"{\"service", 0o600).unwrap();
    crate::host::files::write_atomic(&services.join(".web-3.json.1.new"), b"half", 0o600).unwrap();
    let local = LocalState::open(settings(Some(folder.path()))).unwrap();
    assert_eq!(local.services().keys().collect::<Vec<_>>(), ["web-2"]);
    assert_eq!(files(&services), ["web-1.json.corrupt", "web-2.json"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_refused_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(settings(Some(folder.path())));
    agent.local.register_service(service("web-1", vec![])).await.unwrap();
    until("registered", || agent.machine.services() == ["web-1"]).await;
    // Root may write everywhere, so the folder itself is taken away.
    let services = folder.path().join("services");
    let away = folder.path().join("away");
    std::fs::rename(&services, &away).unwrap();
    let refused = agent.local.register_service(service("web-2", vec![ttl("a", "", 10)])).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("failed persisting: cannot write ") && text.contains("web-2.json"), "{text}");
    let refused = agent.local.deregister_service("web-1").await;
    assert!(matches!(refused, Err(LocalError::Persist(_))), "{refused:?}");
    let refused = agent.local.register_check(ttl("a", "web-1", 10)).await;
    assert!(matches!(refused, Err(LocalError::Persist(_))), "{refused:?}");
    assert_eq!(agent.local.services().keys().collect::<Vec<_>>(), ["web-1"]);
    assert!(agent.local.checks().is_empty());
    until("taken back", || agent.machine.services() == ["web-1"]).await;
    agent.local.register_service(service("web-1", vec![])).await.expect("nothing new needs no disk");
    std::fs::rename(&away, &services).unwrap();
    agent.local.register_service(service("web-2", vec![])).await.unwrap();
    until("registered", || agent.machine.services() == ["web-1", "web-2"]).await;
    agent.stop().await;
    assert_eq!(files(&services), ["web-1.json", "web-2.json"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_written_leaves_the_service_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalState::open(settings(Some(folder.path()))).unwrap();
    local.register_service(service("web-1", vec![ttl("a", "", 10), tcp("b", "")])).await.unwrap();
    local.register_check(tcp("loose", "")).await.unwrap();
    local.update_ttl("a", Status::Passing, "fine").await.unwrap();
    let (services, checks) = (local.services(), local.checks());
    let orders = || {
        local.orders().borrow().iter().map(|(id, order)| (id.clone(), order.generation)).collect::<Vec<_>>()
    };
    let orders_before = orders();
    std::fs::rename(folder.path().join("services"), folder.path().join("away")).unwrap();
    let mut other = service("web-1", vec![tcp("a", ""), ttl("new", "", 5), tcp("loose", "")]);
    other.service.port = 99;
    other.replace_existing_checks = true;
    assert!(matches!(local.register_service(other).await, Err(LocalError::Persist(_))));
    assert_eq!((local.services(), local.checks(), orders()), (services, checks, orders_before));
    local.update_ttl("a", Status::Warning, "").await.expect("it is a TTL check again");
}

#[test]
fn a_data_directory_that_is_a_file_is_refused_with_advice() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(error) = LocalState::open(settings(Some(file.path()))) else { panic!("opened a file") };
    let text = crate::hint::report(&error);
    assert!(text.starts_with("error: ") && text.contains("-data-dir"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_a_reload_accepts_a_start_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let checks = vec![ConfiguredCheck { file: "up.json".to_owned(), check: ttl("up", "web", 100) }];
    let agent = Agent::start(settings(Some(folder.path())));
    agent.local.register_service(service("web", vec![ttl("own", "web", 100)])).await.unwrap();
    agent.local.reload(vec![], checks.clone()).await.unwrap();
    agent.stop().await;

    let local = LocalState::open(Settings { checks, ..settings(Some(folder.path())) }).unwrap();
    assert_eq!(local.checks().keys().collect::<Vec<_>>(), ["own", "up"]);
    assert_eq!(local.checks()["up"].service_name, "web");
}

#[tokio::test(start_paused = true)]
async fn services_of_the_configuration_are_not_on_disk_and_follow_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let configured = Settings {
        services: vec![service("web-1", vec![ttl("a", "web-1", 100)])],
        ..settings(Some(folder.path()))
    };
    let agent = Agent::start(configured.clone());
    until("registered", || agent.machine.services() == ["web-1"]).await;
    agent.local.register_check(ttl("b", "web-1", 100)).await.unwrap();
    agent.local.update_ttl("a", Status::Passing, "").await.unwrap();
    assert_eq!(files(&folder.path().join("services")), ["web-1.json"], "only the client's check");
    let services = vec![service("web-1", vec![ttl("a", "web-1", 100)]), service("web-2", vec![])];
    agent.local.reload(services, vec![]).await.unwrap();
    until("reloaded", || agent.machine.services() == ["web-1", "web-2"]).await;
    assert_eq!(agent.local.checks()["a"].status, Status::Passing);
    agent.local.reload(vec![service("web-2", vec![])], vec![]).await.unwrap();
    until("reloaded", || agent.machine.services() == ["web-2"]).await;
    let stray = agent
        .local
        .reload(vec![], vec![ConfiguredCheck { file: "x.json".to_owned(), check: tcp("x", "nowhere") }])
        .await;
    let text = format!("{:#}", stray.unwrap_err());
    assert!(text.contains("x.json") && text.contains("\"nowhere\" does not exist"), "{text}");
    assert_eq!(agent.local.services().keys().collect::<Vec<_>>(), ["web-2"]);
    agent.stop().await;

    let local = LocalState::open(configured).unwrap();
    assert_eq!(local.checks().keys().collect::<Vec<_>>(), ["a", "b"]);
    let local = LocalState::open(settings(Some(folder.path()))).unwrap();
    assert!(local.services().is_empty() && local.checks().is_empty());
}
