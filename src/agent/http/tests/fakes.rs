//! What stands behind the handle in tests: everything happens at once and nothing fails unless told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::agent::handle::{
    Consensus, ConsensusState, ConsensusStatus, Freshness, JoinReport, KvRead, Local, LocalError,
    Maintenance, Members, NoLeader, NoSuchMember, Order, OrderError, OrderReply, Peer, ProposeError,
    ReadMode, Replica, Topic, Which, blocking,
};
use crate::model::catalog::{
    Catalog, Check, Command, KvAnswer, KvQuery, Reply, ServersCommand, Service, Status,
};
use crate::model::health::CheckKind;
use crate::model::membership::Member;
use crate::model::names::ClusterId;
use crate::model::sync::servers::{Mode, Report, ServerReport};
use crate::model::sync::{CheckRegistration, ServiceRegistration};

/// A log of one server that commits at once.
pub(super) struct FakeConsensus {
    replica: Arc<Replica>,
    writer: Mutex<Catalog>,
    pub(super) has_leader: AtomicBool,
    pub(super) barriers: AtomicUsize,
    pub(super) last_contact: Mutex<Duration>,
    /// What the leader says about the servers.
    pub(super) report: Mutex<Report>,
    /// What it was ordered, reports apart.
    pub(super) orders: Mutex<Vec<Order>>,
    /// Why it refuses orders and recoveries.
    pub(super) refusal: Mutex<Option<String>>,
    /// Whether an operator insisted on the last recovery.
    pub(super) insisted: AtomicBool,
}

impl FakeConsensus {
    pub(super) fn new(replica: Arc<Replica>) -> Self {
        Self {
            replica,
            writer: Mutex::default(),
            has_leader: AtomicBool::new(true),
            barriers: AtomicUsize::new(0),
            last_contact: Mutex::default(),
            report: Mutex::new(Report {
                mode: Mode::Auto,
                replace_after_ms: 30_000,
                wanted: 3,
                wanted_by_operator: false,
                servers: Vec::new(),
                pending: None,
                proposal: None,
                last: None,
                reason: None,
                epoch: 0,
                predecessors: Vec::new(),
                replacements: Vec::new(),
            }),
            orders: Mutex::default(),
            refusal: Mutex::default(),
            insisted: AtomicBool::default(),
        }
    }

    /// Applies a command as the next log entry.
    pub(super) fn apply(&self, command: &Command) -> Result<Reply, ProposeError> {
        let mut catalog = self.writer.lock();
        let index = catalog.index() + 1;
        let outcome = catalog.apply(index, command);
        self.replica.publish(Arc::new(catalog.clone()), &outcome.changes);
        Ok(outcome.result?)
    }
}

#[async_trait]
impl Consensus for FakeConsensus {
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        if !self.has_leader.load(Ordering::Relaxed) {
            return Err(NoLeader.into());
        }
        self.apply(&command)
    }

    async fn barrier(&self, _: ReadMode) -> Result<Freshness, NoLeader> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        if self.has_leader.load(Ordering::Relaxed) { Ok(self.freshness()) } else { Err(NoLeader) }
    }

    async fn kv_read(&self, read: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        if read.mode != ReadMode::Stale {
            self.barrier(read.mode).await?;
        }
        let topic = match &read.query {
            KvQuery::Get { key } => Topic::Key(key.as_str().into()),
            KvQuery::List { prefix } | KvQuery::Keys { prefix, .. } => {
                Topic::KeyPrefix(prefix.as_str().into())
            }
        };
        let (index, wait) = read.blocking.map_or((0, Duration::ZERO), |wanted| (wanted.index, wanted.wait));
        let (_, answer) = blocking(&self.replica, topic, index, wait, |catalog| {
            let answer = catalog.kv_query(&read.query);
            (answer.index, answer)
        })
        .await;
        Ok((answer, self.freshness()))
    }

    fn freshness(&self) -> Freshness {
        Freshness {
            known_leader: self.has_leader.load(Ordering::Relaxed),
            last_contact: *self.last_contact.lock(),
        }
    }

    async fn status(&self) -> ConsensusStatus {
        let has_leader = self.has_leader.load(Ordering::Relaxed);
        let peer = Peer {
            id: 1,
            name: "n1".into(),
            address: "10.0.0.1:8300".into(),
            voter: true,
            leader: has_leader,
            incarnation: "40e4a748-2192-161a-0510-9bf59fe950b5".into(),
        };
        ConsensusStatus {
            state: if has_leader { ConsensusState::Leader } else { ConsensusState::Candidate },
            term: 2,
            leader_address: has_leader.then(|| peer.address.clone()),
            leader_name: has_leader.then(|| peer.name.clone()),
            last_log_index: 9,
            last_log_term: Some(2),
            commit_index: 9,
            applied_index: 9,
            peers: vec![peer],
            storage: None,
        }
    }

    async fn recover(&self, cluster: ClusterId, force: bool) -> Result<ClusterId, OrderError> {
        self.insisted.store(force, Ordering::Relaxed);
        match self.refusal.lock().clone() {
            Some(why) => Err(OrderError::Refused(why)),
            None => Ok(cluster),
        }
    }

    async fn order(&self, order: Order) -> Result<OrderReply, OrderError> {
        if !self.has_leader.load(Ordering::Relaxed) {
            return Err(NoLeader.into());
        }
        if order == Order::Report {
            return Ok(OrderReply::Report(Box::new(self.report.lock().clone())));
        }
        if let Some(why) = self.refusal.lock().clone() {
            return Err(OrderError::Refused(why));
        }
        if let Order::Retire(Which::Id(id) | Which::Address(id)) = &order {
            let stays =
                |server: &ServerReport| ![&server.incarnation, &server.name, &server.address].contains(&id);
            self.report.lock().servers.retain(stays);
        }
        if let Order::Want(servers) = order {
            let command = Command::Servers(ServersCommand::Want { servers });
            self.propose(command).await.map_err(|error| OrderError::Refused(error.to_string()))?;
        }
        self.orders.lock().push(order);
        Ok(OrderReply::Done)
    }
}

/// Members as set by a test.
pub(super) struct FakeMembers {
    current: watch::Sender<Arc<Vec<Member>>>,
}

impl Default for FakeMembers {
    fn default() -> Self {
        Self { current: watch::channel(Arc::default()).0 }
    }
}

impl FakeMembers {
    pub(super) fn set(&self, members: Vec<Member>) {
        self.current.send_replace(Arc::new(members));
    }
}

#[async_trait]
impl Members for FakeMembers {
    fn members(&self) -> Arc<Vec<Member>> {
        self.current.borrow().clone()
    }

    fn changes(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.current.subscribe()
    }

    async fn join(&self, addresses: &[String]) -> JoinReport {
        let mut report = JoinReport::default();
        for address in addresses {
            if address == "10.0.0.2" {
                report.joined += 1;
            } else {
                report.failures.push((address.clone(), "connection refused".into()));
            }
        }
        report
    }

    async fn leave(&self) {}

    async fn force_leave(&self, name: &str, _prune: bool) -> Result<(), NoSuchMember> {
        let known = self.members().iter().any(|member| member.name == name);
        if known { Ok(()) } else { Err(NoSuchMember(name.into())) }
    }
}

/// Services and checks in memory.
#[derive(Default)]
pub(super) struct FakeLocal {
    services: Mutex<BTreeMap<String, Arc<Service>>>,
    checks: Mutex<BTreeMap<String, Arc<Check>>>,
    pub(super) registrations: Mutex<Vec<ServiceRegistration>>,
}

impl FakeLocal {
    fn put_check(&self, registration: &CheckRegistration) {
        let service = self.services.lock().get(&registration.service_id).cloned().unwrap_or_default();
        let kind = match registration.definition.kind {
            CheckKind::Ttl { .. } => "ttl",
            CheckKind::Http { .. } => "http",
            CheckKind::Tcp { .. } => "tcp",
        };
        let check = Check {
            node: "n1".into(),
            check_id: registration.check_id.clone(),
            name: registration.name.clone(),
            status: registration.status.unwrap_or(Status::Critical),
            notes: registration.notes.clone(),
            service_id: registration.service_id.clone(),
            service_name: service.name.clone(),
            service_tags: service.tags.clone(),
            kind: kind.into(),
            ..Check::default()
        };
        self.checks.lock().insert(check.check_id.clone(), Arc::new(check));
    }
}

#[async_trait]
impl Local for FakeLocal {
    fn services(&self) -> BTreeMap<String, Arc<Service>> {
        self.services.lock().clone()
    }

    fn checks(&self) -> BTreeMap<String, Arc<Check>> {
        self.checks.lock().clone()
    }

    async fn register_service(&self, registration: ServiceRegistration) -> Result<(), LocalError> {
        let service = registration.service.clone();
        self.services.lock().insert(service.id.clone(), Arc::new(service));
        registration.checks.iter().for_each(|check| self.put_check(check));
        self.registrations.lock().push(registration);
        Ok(())
    }

    async fn deregister_service(&self, service_id: &str) -> Result<(), LocalError> {
        let removed = self.services.lock().remove(service_id);
        removed.map(|_| ()).ok_or_else(|| LocalError::UnknownService(service_id.into()))
    }

    async fn register_check(&self, registration: CheckRegistration) -> Result<(), LocalError> {
        let service_id = registration.service_id.clone();
        if !service_id.is_empty() && !self.services.lock().contains_key(&service_id) {
            return Err(LocalError::UnknownServiceOfCheck(service_id));
        }
        self.put_check(&registration);
        Ok(())
    }

    async fn deregister_check(&self, check_id: &str) -> Result<(), LocalError> {
        let removed = self.checks.lock().remove(check_id);
        removed.map(|_| ()).ok_or_else(|| LocalError::UnknownCheck(check_id.into()))
    }

    async fn update_ttl(&self, check_id: &str, status: Status, output: &str) -> Result<(), LocalError> {
        let mut checks = self.checks.lock();
        let check = checks
            .get_mut(check_id)
            .filter(|check| check.kind == "ttl")
            .ok_or_else(|| LocalError::NotTtl(check_id.into()))?;
        let check = Arc::make_mut(check);
        check.status = status;
        check.output = output.into();
        Ok(())
    }

    async fn maintain(&self, maintenance: Maintenance) -> Result<(), LocalError> {
        let service_id = maintenance.service_id.unwrap_or_default();
        if !service_id.is_empty() && !self.services.lock().contains_key(&service_id) {
            return Err(LocalError::UnknownService(service_id));
        }
        let check_id = match service_id.as_str() {
            "" => "_node_maintenance".to_owned(),
            id => format!("_service_maintenance:{id}"),
        };
        let mut checks = self.checks.lock();
        if maintenance.enable {
            let check = Check {
                check_id: check_id.clone(),
                service_id,
                notes: maintenance.reason,
                ..Check::default()
            };
            checks.insert(check_id, Arc::new(check));
        } else {
            checks.remove(&check_id);
        }
        Ok(())
    }
}
