//! Real sockets on loopback addresses, real `dig`, a catalog filled by hand, and fakes of the other parts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::op::{Message, MessageType, OpCode, Query as HickoryQuery, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name as HickoryName, RData, Record as HickoryRecord, RecordType as HickoryType};

use super::{Bound, Counters, DnsSettings, Strategy, bind, start};
use crate::agent::handle::{
    AgentHandle, Consensus, ConsensusStatus, Freshness, Identity, JoinReport, KvRead, Local, LocalError,
    Maintenance, Members, NoLeader, NoSuchMember, ProposeError, ReadMode, Replica,
};
use crate::model::catalog::{
    Catalog, Check, Command, KvAnswer, NodeRegistration, Registration, Reply, Service, Status,
};
use crate::model::dns::wire::encode_query;
use crate::model::dns::{Name, RecordType};
use crate::model::membership::Member;
use crate::model::sync::{CheckRegistration, ServiceRegistration};
use crate::tasks::Tasks;

struct Nobody;

#[async_trait]
impl Consensus for Nobody {
    async fn propose(&self, _: Command) -> Result<Reply, ProposeError> {
        unreachable!("DNS writes nothing")
    }
    async fn barrier(&self, _: ReadMode) -> Result<Freshness, NoLeader> {
        unreachable!("DNS waits for nobody")
    }
    async fn kv_read(&self, _: KvRead) -> Result<(KvAnswer, Freshness), NoLeader> {
        unreachable!("DNS reads no keys")
    }
    fn freshness(&self) -> Freshness {
        unreachable!("DNS answers from what there is")
    }
    async fn status(&self) -> ConsensusStatus {
        unreachable!("DNS answers without a leader")
    }
}

#[async_trait]
impl Members for Nobody {
    fn members(&self) -> Arc<Vec<Member>> {
        Arc::default()
    }
    fn changes(&self) -> tokio::sync::watch::Receiver<Arc<Vec<Member>>> {
        unreachable!("DNS asks no members")
    }
    async fn join(&self, _: &[String]) -> JoinReport {
        JoinReport::default()
    }
    async fn leave(&self) {}
    async fn force_leave(&self, _: &str, _: bool) -> Result<(), NoSuchMember> {
        Ok(())
    }
}

#[async_trait]
impl Local for Nobody {
    fn services(&self) -> BTreeMap<String, Arc<Service>> {
        BTreeMap::new()
    }
    fn checks(&self) -> BTreeMap<String, Arc<Check>> {
        BTreeMap::new()
    }
    async fn register_service(&self, _: ServiceRegistration) -> Result<(), LocalError> {
        Ok(())
    }
    async fn deregister_service(&self, _: &str) -> Result<(), LocalError> {
        Ok(())
    }
    async fn register_check(&self, _: CheckRegistration) -> Result<(), LocalError> {
        Ok(())
    }
    async fn deregister_check(&self, _: &str) -> Result<(), LocalError> {
        Ok(())
    }
    async fn update_ttl(&self, _: &str, _: Status, _: &str) -> Result<(), LocalError> {
        Ok(())
    }
    async fn maintain(&self, _: Maintenance) -> Result<(), LocalError> {
        Ok(())
    }
}

/// A DNS server with a catalog of its own; it stops when the test ends.
struct Server {
    address: SocketAddr,
    agent: AgentHandle,
    counters: Arc<Counters>,
    tasks: Option<Tasks>,
}

fn loopback() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 220, high, low).into()
}

fn settings() -> DnsSettings {
    DnsSettings {
        recursor_timeout: Duration::from_millis(300),
        ..DnsSettings::new("consul".parse().unwrap())
    }
}

impl Server {
    fn start(settings: DnsSettings) -> Self {
        Self::on(bind(&[loopback()], 0).unwrap(), settings)
    }

    fn on(bound: Bound, settings: DnsSettings) -> Self {
        let identity = Identity {
            node_id: String::new(),
            node_name: "n1".to_owned(),
            datacenter: "dc1".to_owned(),
            domain: "consul".to_owned(),
            advertise: loopback(),
            server: true,
            node_meta: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pretty: false,
            debug_config: BTreeMap::new(),
        };
        let agent = AgentHandle {
            identity: Arc::new(identity),
            replica: Arc::new(Replica::new(Catalog::default())),
            consensus: Arc::new(Nobody),
            members: Arc::new(Nobody),
            local: Arc::new(Nobody),
            dead_nodes: Arc::new(ArcSwap::from_pointee(BTreeSet::new())),
            shutdown: tokio_util::sync::CancellationToken::new(),
        };
        let tasks = Tasks::default();
        let address = bound.addresses()[0];
        let counters = start(bound, &agent, settings, &tasks.spawner()).unwrap();
        Self { address, agent, counters, tasks: Some(tasks) }
    }

    fn apply(&self, command: &Command) {
        let mut catalog = self.agent.replica.snapshot().as_ref().clone();
        let outcome = catalog.apply(catalog.index() + 1, command);
        outcome.result.unwrap();
        self.agent.replica.publish(Arc::new(catalog), &outcome.changes);
    }

    fn register(&self, node: &str, address: &str, service: Option<Service>) {
        let node = NodeRegistration {
            node: node.to_owned(),
            address: address.to_owned(),
            datacenter: "dc1".to_owned(),
            ..NodeRegistration::default()
        };
        self.apply(&Command::Register(Box::new(Registration { node, service, ..Registration::default() })));
    }

    fn web(&self, count: u16) {
        for number in 1..=count {
            let [high, low] = number.to_be_bytes();
            self.register(&format!("n{number}"), &format!("10.0.{high}.{low}"), Some(service("web", "")));
        }
    }

    /// Runs dig(1) against the server, without blocking the server's tasks.
    async fn dig(&self, arguments: &str) -> String {
        dig_at(self.address, arguments).await
    }

    /// Asks over UDP and reads the answer with hickory.
    async fn ask(&self, request: &[u8]) -> Message {
        Message::from_vec(&self.ask_raw(request).await).unwrap()
    }

    async fn ask_raw(&self, request: &[u8]) -> Vec<u8> {
        let (address, request) = (self.address, request.to_vec());
        tokio::task::spawn_blocking(move || {
            let socket = client_socket(address);
            socket.send(&request).unwrap();
            let mut buffer = vec![0; 65_535];
            let length = socket.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            buffer
        })
        .await
        .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(tasks) = self.tasks.take() {
            tasks.stop_token().cancel();
        }
    }
}

fn service(name: &str, address: &str) -> Service {
    Service {
        id: name.to_owned(),
        name: name.to_owned(),
        address: address.to_owned(),
        port: 80,
        ..Service::default()
    }
}

fn client_socket(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(address).unwrap();
    socket
}

async fn dig_at(address: SocketAddr, arguments: &str) -> String {
    let mut command = Process::new("dig");
    command.args([&format!("@{}", address.ip()), "-p", &address.port().to_string()]);
    command.args(["+tries=1", "+timeout=5"]).args(arguments.split_whitespace());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.expect("dig is installed (Debian's bind9-dnsutils)");
    String::from_utf8(output.stdout).unwrap()
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    encode_query(&name.parse().unwrap(), kind)
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_finds_addresses_ports_and_names() {
    let server = Server::start(settings());
    server.web(3);
    let wanted = BTreeSet::from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(lines(&server.dig("+short web.service.consul").await), wanted);
    assert_eq!(lines(&server.dig("+short +tcp web.service.consul").await), wanted);
    assert_eq!(lines(&server.dig("+short +noedns web.service.consul").await), wanted);
    assert_eq!(lines(&server.dig("+short +subnet=10.0.0.0/8 web.service.consul").await), wanted);
    let srv = server.dig("web.service.consul SRV").await;
    assert!(srv.contains("SRV\t1 1 80 n2.node.dc1.consul."), "{srv}");
    assert!(srv.contains("n2.node.dc1.consul.\t0\tIN\tA\t10.0.0.2"), "{srv}");
    assert!(srv.contains("flags: qr aa rd;"), "{srv}");
    assert_eq!(server.dig("+short -x 10.0.0.3").await, "n3.node.dc1.consul.\n");
    let none = server.dig("web.service.consul AAAA").await;
    assert!(none.contains("status: NOERROR") && none.contains("ANSWER: 0, AUTHORITY: 1"), "{none}");
    assert!(server.dig("nothing.service.consul").await.contains("status: NXDOMAIN"));
    let spelled = server.dig("wEB.Service.conSUL").await;
    assert!(spelled.contains("\nwEB.Service.conSUL.\t0\tIN\tA\t10.0.0.1"), "{spelled}");
    let subnet = server.dig("+subnet=10.0.0.0/8 web.service.consul").await;
    assert!(subnet.contains("CLIENT-SUBNET: 10.0.0.0/8/0"), "{subnet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_refused_without_recursors() {
    let server = Server::start(settings());
    for arguments in ["example.com", "+tcp example.com"] {
        let refused = server.dig(arguments).await;
        assert!(refused.contains("status: REFUSED") && refused.contains("flags: qr rd;"), "{refused}");
    }
    assert!(server.dig("-x 9.9.9.9").await.contains("status: NXDOMAIN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_are_cut_for_udp_and_whole_over_tcp() {
    let server = Server::start(settings());
    server.web(300);
    let count = |text: String| text.lines().count();
    assert_eq!(count(server.dig("+short +noedns web.service.consul").await), 3);
    assert_eq!(count(server.dig("+short +bufsize=1232 web.service.consul").await), 73);
    assert_eq!(count(server.dig("+short +tcp web.service.consul").await), 300);
    assert!(
        !server.dig("+noedns web.service.consul").await.contains(" tc"),
        "Consul does not say so by default"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_enable_truncate_dig_turns_to_tcp() {
    let mut settings = settings();
    settings.policy.enable_truncate = true;
    let server = Server::start(settings);
    server.web(300);
    assert_eq!(server.dig("+short +noedns web.service.consul").await.lines().count(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_follow_the_catalog_and_gossip_at_once() {
    let server = Server::start(settings());
    server.web(2);
    let question = query("web.service.consul", RecordType::A);
    for number in 0..100 {
        assert_eq!(server.ask(&question).await.answers.len(), 2);
        // Every write is seen by the next question, whether it concerns it or not.
        let instance = Service { port: number, ..service("moving", "") };
        server.register("n1", "10.0.0.1", Some(instance));
        let moving = server.ask(&query("moving.service.consul", RecordType::SRV)).await;
        assert!(
            moving.answers[0].data.to_string().starts_with(&format!("1 1 {number} ")),
            "{}",
            moving.answers[0]
        );
    }
    server.register("n3", "10.0.0.3", Some(service("web", "")));
    assert_eq!(server.ask(&question).await.answers.len(), 3);
    server.register("other", "10.0.0.9", None);
    assert_eq!(server.ask(&question).await.answers.len(), 3);
    server.agent.dead_nodes.store(Arc::new(BTreeSet::from([Arc::from("n1")])));
    server.agent.replica.touch();
    assert_eq!(server.ask(&question).await.answers.len(), 2);
    let critical = Check { check_id: "c".into(), ..Check::default() };
    let node = NodeRegistration { node: "n2".into(), ..NodeRegistration::default() };
    server.apply(&Command::Register(Box::new(Registration {
        node,
        skip_node_update: true,
        checks: vec![critical],
        ..Registration::default()
    })));
    assert_eq!(server.ask(&question).await.answers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_answers_get_the_id_the_flags_and_the_spelling_of_each_question() {
    let server = Server::start(settings());
    server.web(1);
    for (id, rd, name) in
        [(7_u16, 1, "web.service.consul"), (8, 0, "WEB.SERVICE.consul"), (9, 1, "Web.service.CONSUL")]
    {
        let mut question = query(name, RecordType::A);
        question[..2].copy_from_slice(&id.to_be_bytes());
        question[2] = rd;
        for _ in 0..3 {
            let answer = server.ask(&question).await;
            assert_eq!(answer.metadata.id, id);
            assert_eq!(answer.metadata.recursion_desired, rd == 1);
            assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
            assert_eq!(answer.answers[0].name.to_string(), format!("{name}."));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_comes_first_at_times() {
    let server = Server::start(settings());
    server.web(5);
    let question = query("web.service.consul", RecordType::A);
    let mut first = BTreeSet::new();
    for _ in 0..2000 {
        first.insert(server.ask(&question).await.answers[0].data.to_string());
        if first.len() == 5 {
            return;
        }
    }
    panic!("only {first:?} came first");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_never_stops_a_worker() {
    let server = Server::start(settings());
    server.web(1);
    let good = query("web.service.consul", RecordType::A);
    let address = server.address;
    tokio::task::spawn_blocking(move || {
        // Many sockets, so that all workers get their share.
        for _ in 0..20 {
            let socket = client_socket(address);
            for _ in 0..200 {
                let mut bytes: Vec<u8> = (0..rand::random::<u16>() % 100).map(|_| rand::random()).collect();
                if rand::random() {
                    bytes.splice(..0, good[..good.len() - 11].iter().copied());
                }
                socket.send(&bytes).unwrap();
            }
            socket.send(&[]).unwrap();
            socket.send(&vec![0; 60_000]).unwrap();
        }
    })
    .await
    .unwrap();
    for _ in 0..20 {
        let question = query("web.service.consul", RecordType::A);
        assert_eq!(server.ask(&question).await.answers.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_requests_get_the_error_that_fits() {
    let server = Server::start(settings());
    let code = |message: Message| message.metadata.response_code;
    let mut status = query("web.service.consul", RecordType::A);
    status[2] |= 2 << 3;
    assert_eq!(code(server.ask(&status).await), ResponseCode::NotImp);
    let mut version = query("web.service.consul", RecordType::A);
    let at = version.len() - 5;
    version[at] = 1;
    // BADVERS and BADSIG share a number.
    assert_eq!(u16::from(code(server.ask(&version).await)), 16);
    let mut chaos = query("version.bind", RecordType::TXT);
    let at = chaos.len() - 12;
    chaos[at] = 3;
    assert_eq!(code(server.ask(&chaos).await), ResponseCode::Refused);
    let short = &query("web.service.consul", RecordType::A)[..20];
    assert_eq!(server.ask_raw(short).await[3] & 0x0f, 1, "FORMERR");
    assert_eq!(code(server.ask(&query("consul", RecordType::AXFR)).await), ResponseCode::NotImp);
}

/// A recursor that answers `reply(question)`, or nothing.
async fn upstream(reply: impl Fn(&Message) -> Option<Message> + Send + 'static) -> SocketAddr {
    let address = SocketAddr::new(loopback(), 0);
    let udp = tokio::net::UdpSocket::bind(address).await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = tokio::net::TcpListener::bind(address).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut buffer = [0; 1024];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, peer) = received.unwrap();
                    if let Some(answer) = reply(&Message::from_vec(&buffer[..length]).unwrap()) {
                        udp.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
                    }
                }
                accepted = tcp.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    let length = usize::from(stream.read_u16().await.unwrap());
                    stream.read_exact(&mut buffer[..length]).await.unwrap();
                    if let Some(answer) = reply(&Message::from_vec(&buffer[..length]).unwrap()) {
                        let answer = answer.to_vec().unwrap();
                        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                }
            }
        }
    });
    tasks.detach_all();
    address
}

fn reply_to(question: &Message, code: ResponseCode, addresses: &[[u8; 4]]) -> Message {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.add_query(question.queries[0].clone());
    for address in addresses {
        let name = question.queries[0].name().clone();
        answer.add_answer(HickoryRecord::from_rdata(name, 60, RData::A(A(Ipv4Addr::from(*address)))));
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_names_go_to_the_first_recursor_that_works() {
    let silent = upstream(|_| None).await;
    let broken = upstream(|question| Some(reply_to(question, ResponseCode::ServFail, &[]))).await;
    let good = upstream(|question| {
        let exists = question.queries[0].name().to_string().starts_with("www");
        Some(if exists {
            reply_to(question, ResponseCode::NoError, &[[192, 0, 2, 1]])
        } else {
            reply_to(question, ResponseCode::NXDomain, &[])
        })
    })
    .await;
    let nobody = SocketAddr::new(loopback(), 9);
    let server = Server::start(DnsSettings { recursors: vec![nobody, silent, broken, good], ..settings() });
    for arguments in ["www.example.com", "+tcp www.example.com"] {
        let found = server.dig(arguments).await;
        assert!(found.contains("192.0.2.1") && found.contains("flags: qr rd ra;"), "{found}");
    }
    assert!(server.dig("other.example.com").await.contains("status: NXDOMAIN"));
    assert!(server.dig("nothing.service.consul").await.contains("flags: qr aa rd ra;"));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_recursors_fail_the_client_hears_it() {
    let silent = upstream(|_| None).await;
    let mut settings = DnsSettings { recursors: vec![silent, silent], ..settings() };
    settings.strategy = Strategy::Random;
    let server = Server::start(settings);
    server.web(1);
    let failed = server.dig("www.example.com").await;
    assert!(failed.contains("status: SERVFAIL") && failed.contains("flags: qr rd ra;"), "{failed}");
    assert_eq!(server.dig("+short web.service.consul").await, "10.0.0.1\n", "I5: our own names do not wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_recursions_hold_up_nobody() {
    let silent = upstream(|_| None).await;
    let settings = DnsSettings { recursors: vec![silent], ..settings() };
    let server = Server::start(DnsSettings { recursor_timeout: Duration::from_mins(1), ..settings });
    server.web(1);
    let address = server.address;
    let overflowed = tokio::task::spawn_blocking(move || {
        let socket = client_socket(address);
        let question = query("www.example.com", RecordType::A);
        for _ in 0..300 {
            socket.send(&question).unwrap();
        }
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).unwrap();
        buffer[3] & 0x0f
    });
    assert_eq!(overflowed.await.unwrap(), 2, "SERVFAIL for those beyond the limit");
    assert!(server.counters.overflowed.load(Ordering::Relaxed) > 0);
    assert_eq!(server.dig("+short -x 10.0.0.1").await, "n1.node.dc1.consul.\n");
    assert_eq!(server.dig("+short +subnet=10.0.0.0/8 web.service.consul").await, "10.0.0.1\n");
    assert_eq!(server.dig("+short web.service.consul").await, "10.0.0.1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_its_own_recursor_does_not_go_in_circles() {
    let bound = bind(&[loopback()], 0).unwrap();
    let recursors = bound.addresses();
    let server = Server::on(bound, DnsSettings { recursors, ..settings() });
    assert!(server.dig("www.example.com").await.contains("status: REFUSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_outside_is_a_cname_with_the_records_behind_it() {
    let good = upstream(|question| Some(reply_to(question, ResponseCode::NoError, &[[192, 0, 2, 7]]))).await;
    let server = Server::start(DnsSettings { recursors: vec![good], ..settings() });
    server.register("ext", "db.example.com", Some(service("db", "")));
    assert_eq!(server.dig("+short db.service.consul").await, "db.example.com.\n192.0.2.7\n");
    let alone = Server::start(settings());
    alone.register("ext", "db.example.com", Some(service("db", "")));
    assert_eq!(alone.dig("+short db.service.consul").await, "db.example.com.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_for_all_addresses_answers_from_the_one_that_was_asked() {
    let bound = bind(&[Ipv4Addr::UNSPECIFIED.into()], 0).unwrap();
    let server = Server::on(bound, settings());
    server.web(1);
    let addresses: Vec<_> = (0..8).map(|_| SocketAddr::new(loopback(), server.address.port())).collect();
    let asked = addresses.clone();
    let answered = tokio::task::spawn_blocking(move || {
        // Connected sockets: an answer from another address would not arrive.
        let sockets: Vec<_> = asked.iter().map(|address| client_socket(*address)).collect();
        let question = query("web.service.consul", RecordType::A);
        for _ in 0..20 {
            for socket in &sockets {
                socket.send(&question).unwrap();
            }
        }
        sockets
            .iter()
            .map(|socket| (0..20).filter(|_| socket.recv(&mut [0; 512]).is_ok()).count())
            .sum::<usize>()
    });
    assert_eq!(answered.await.unwrap(), 160);
    for asked in addresses {
        assert_eq!(dig_at(asked, "+short -x 10.0.0.1").await, "n1.node.dc1.consul.\n", "the slow path too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_all_connections() {
    let server = Server::start(settings());
    server.web(1);
    let address = server.address;
    let held = tokio::task::spawn_blocking(move || {
        let question = query("web.service.consul", RecordType::A);
        let message = [&u16::try_from(question.len()).unwrap().to_be_bytes(), question.as_slice()].concat();
        let mut held = Vec::new();
        loop {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // Writing to a connection that is closed already may fail, and reading from it does.
            if stream.write_all(&message).is_err() || !matches!(stream.read(&mut [0; 100]), Ok(1..)) {
                return held;
            }
            held.push(stream);
        }
    });
    let held = held.await.unwrap();
    assert_eq!(held.len(), 128);
    assert_eq!(server.counters.connections_refused.load(Ordering::Relaxed), 1);
    assert_eq!(server.dig("+short web.service.consul").await, "10.0.0.1\n", "UDP goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_end_when_the_process_stops() {
    let mut server = Server::start(settings());
    let tasks = server.tasks.take().unwrap();
    let begin = Instant::now();
    tasks.run_until(std::future::ready(())).await.unwrap();
    assert!(begin.elapsed() < crate::tasks::STOP_DEADLINE);
    assert!(bind(&[server.address.ip()], server.address.port()).is_ok(), "the sockets are free again");
}

#[tokio::test]
async fn an_address_in_use_is_said_at_the_start() {
    let first = bind(&[loopback()], 0).unwrap();
    let address = first.addresses()[0];
    let error = bind(&[address.ip()], address.port()).unwrap_err();
    assert!(format!("{error:#}").contains(&format!("cannot listen for DNS on {address}")), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hickory_reads_what_we_write() {
    let server = Server::start(settings());
    server.web(40);
    server.register("six", "fd00::1", Some(service("web", "")));
    server.register("own", "10.3.0.1", Some(service("web", "10.1.2.3")));
    server.register("s1", "10.4.0.1", Some(service("consul", "")));
    server.register("alias", "n1.node.consul", Some(service("alias", "")));
    let meta = BTreeMap::from([("key".to_owned(), "v".repeat(300))]);
    let node = NodeRegistration {
        node: "Text".to_owned(),
        address: "10.5.0.1".to_owned(),
        meta: Some(meta),
        ..NodeRegistration::default()
    };
    server.apply(&Command::Register(Box::new(Registration { node, ..Registration::default() })));
    let catalog = server.agent.replica.snapshot();
    let zones = crate::model::dns::Zones {
        primary: "consul".parse().unwrap(),
        alternative: None,
        datacenter: "dc1".to_owned(),
    };
    let policy = crate::model::dns::Policy::default();
    let view = crate::model::dns::View {
        catalog: &catalog,
        zones: &zones,
        policy: &policy,
        hidden: &BTreeSet::new(),
        seed: 1,
        time: 5,
    };
    let names =
        ["web.service.consul", "consul", "Text.node.consul", "alias.service.consul", "1.0.0.10.in-addr.arpa"];
    let kinds =
        [RecordType::A, RecordType::SRV, RecordType::ANY, RecordType::SOA, RecordType::NS, RecordType::PTR];
    for (name, kind) in names.into_iter().flat_map(|name| kinds.map(|kind| (name, kind))) {
        let name: Name = name.parse().unwrap();
        let question = crate::model::dns::Question::parse(&name, kind, &zones);
        let answer = crate::model::dns::answer(&view, &question);
        let edns = Some(crate::model::dns::wire::Edns { size: 4096, options: Vec::new() });
        let head = crate::model::dns::wire::Head {
            id: 77,
            recursion_desired: true,
            recursion_available: false,
            name: name.clone(),
            kind,
            edns,
        };
        for compress in [false, true] {
            let bytes = crate::model::dns::wire::encode(&answer, &head, compress);
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.metadata.id, 77);
            assert_eq!(message.queries[0].name().to_string(), name.to_string());
            let wanted = [&answer.answers, &answer.authority, &answer.additional];
            let found = [&message.answers, &message.authorities, &message.additionals];
            for (wanted, found) in wanted.into_iter().zip(found) {
                let wanted: Vec<String> = wanted.iter().map(|record| plain(&record.to_string())).collect();
                let found: Vec<String> = found.iter().map(|record| plain(&record.to_string())).collect();
                assert_eq!(found, wanted, "{name} {kind}");
            }
        }
    }
}

/// Both texts of a record without quotes and blanks: hickory shows pieces of TXT, one after the other.
fn plain(record: &str) -> String {
    record.chars().filter(|letter| !matches!(letter, '"' | ' ')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recursors_answer_to_another_question_is_not_taken() {
    let liar = upstream(|question| {
        let mut answer = reply_to(question, ResponseCode::NoError, &[[192, 0, 2, 66]]);
        answer.metadata.id = answer.metadata.id.wrapping_add(1);
        Some(answer)
    })
    .await;
    let other = upstream(|question| {
        let mut other = Message::new(question.metadata.id, MessageType::Query, OpCode::Query);
        other
            .add_query(HickoryQuery::query(HickoryName::from_ascii("bad.example.").unwrap(), HickoryType::A));
        Some(reply_to(&other, ResponseCode::NoError, &[[192, 0, 2, 66]]))
    })
    .await;
    let server = Server::start(DnsSettings { recursors: vec![liar, other], ..settings() });
    let failed = server.dig("www.example.com").await;
    assert!(failed.contains("status: SERVFAIL") && !failed.contains("192.0.2.66"), "{failed}");
}
