//! `/v1/operator`: the servers. Raft and autopilot as Consul's clients know them, and our own `servers`.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::Api;
use super::error::HttpError;
use super::request::{Request, parse_number};
use super::response::Answer;
use crate::agent::handle::{Order, OrderError, OrderReply, Which};
use crate::model::catalog::{Autopilot, Command, Purpose, Reply, ServersCommand, Swap};
use crate::model::duration;
use crate::model::sync::servers::{Report, SERVERS_MAX, ServerReport};
use crate::model::version::CONSUL_VERSION;

/// Raft's protocol version as Consul counts them.
const RAFT_PROTOCOL: &str = "3";
/// How long a removal may take before the answer says that it is under way.
const REMOVAL_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether it is done.
const REMOVAL_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A server is heard with each heartbeat, every 150 ms: a smaller threshold would call healthy servers ill.
const CONTACT_THRESHOLD_MIN: Duration = Duration::from_millis(600);

impl From<OrderError> for HttpError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::NoLeader(error) => error.into(),
            OrderError::Refused(text) => Self::Internal(text),
        }
    }
}

async fn report(api: &Api) -> Result<Report, HttpError> {
    match api.agent.consensus.order(Order::Report).await? {
        OrderReply::Report(report) => Ok(*report),
        other => Err(HttpError::Internal(format!("the leader answered {other:?}"))),
    }
}

/// The raft configuration; `?stale` asks nobody.
pub(super) async fn raft_configuration(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let options = request.read_options(&api.agent.identity)?;
    let servers: Vec<Value> = if options.mode == crate::agent::handle::ReadMode::Stale {
        let status = api.agent.consensus.status().await;
        let rows = status.peers.iter().map(|peer| {
            json!({
                "ID": peer.incarnation, "Node": peer.name, "Address": peer.address, "Leader": peer.leader,
                "ProtocolVersion": RAFT_PROTOCOL, "Voter": peer.voter, "LastIndex": 0,
            })
        });
        rows.collect()
    } else {
        let rows = report(api).await?.servers.into_iter().map(|server| {
            json!({
                "ID": server.incarnation, "Node": server.name, "Address": server.address,
                "Leader": server.leader, "ProtocolVersion": RAFT_PROTOCOL, "Voter": server.voter,
                "LastIndex": server.last_index.unwrap_or(0),
            })
        });
        rows.collect()
    };
    Ok(answer(&json!({ "Servers": servers, "Index": 0 })))
}

pub(super) async fn remove_peer(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let which = match (request.query.text("id"), request.query.text("address")) {
        ("", "") => {
            return Err(HttpError::invalid(
                "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove",
            ));
        }
        ("", address) => Which::Address(address.to_owned()),
        (id, "") => Which::Id(id.to_owned()),
        _ => {
            return Err(HttpError::invalid("Must specify only one of ?id or ?address"));
        }
    };
    let before = report(api).await?;
    api.agent.consensus.order(Order::Retire(which.clone())).await?;
    let gone = |server: &ServerReport| match &which {
        Which::Address(address) => server.address == *address,
        Which::Id(id) => {
            server.incarnation == *id || server.name == *id || format!("{:016x}", server.id) == *id
        }
    };
    let raft_id = before.servers.iter().find(|server| gone(server)).map(|server| server.id);
    let removed = async {
        loop {
            if !report(api).await?.servers.iter().any(|server| Some(server.id) == raft_id) {
                return Ok::<_, HttpError>(());
            }
            tokio::time::sleep(REMOVAL_LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(REMOVAL_WAIT, removed).await.map_err(|_| {
        HttpError::Internal(format!("the server is to be removed, and was not within {REMOVAL_WAIT:?}"))
    })??;
    Ok(Answer::empty())
}

pub(super) async fn transfer_leader(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let to = Some(request.query.text("id")).filter(|id| !id.is_empty());
    api.agent.consensus.order(Order::Transfer(to.map(|id| Which::Id(id.to_owned())))).await?;
    Ok(answer(&json!({ "Success": true })))
}

/// Our own report: what is pending, what was done last, why nothing is done.
pub(super) async fn servers(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let report = report(api).await?;
    let seconds = |millis: Option<u64>| millis.map(|millis| millis / 1000);
    let rows: Vec<Value> = report
        .servers
        .iter()
        .map(|server| {
            json!({
                "ID": server.incarnation, "RaftID": format!("{:016x}", server.id), "Node": server.name,
                "Address": server.address, "Leader": server.leader, "Voter": server.voter, "Up": server.up,
                "DeadForSeconds": seconds(server.dead_for_ms), "LastIndex": server.last_index,
                "LastContactMs": server.heard_ms,
            })
        })
        .collect();
    let pending = report.pending.as_ref();
    Ok(answer(&json!({
        "Mode": report.mode,
        "ReplaceAfter": duration::format(Duration::from_millis(report.replace_after_ms)),
        "Wanted": report.wanted,
        "WantedByOperator": report.wanted_by_operator,
        "Servers": rows,
        "Pending": pending.map(|nomination| {
            json!({ "Node": nomination.node, "Purpose": nomination.purpose.to_string() })
        }),
        "Proposal": report.proposal.as_ref().map(|proposal| json!({ "Old": proposal.old, "New": proposal.new })),
        "Last": report.last.as_ref().map(last),
        "Reason": report.reason,
        "Epoch": report.epoch,
    })))
}

fn last(swap: &Swap) -> Value {
    let old = match &swap.purpose {
        Purpose::Replace { node, .. } => Some(node),
        Purpose::Grow => None,
    };
    json!({ "New": swap.node, "Old": old, "Purpose": swap.purpose.to_string(), "At": time(swap.at) })
}

fn time(seconds: u64) -> String {
    let stamp = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    stamp.unwrap_or_default().to_string()
}

/// `?count=N`: how many servers there shall be.
pub(super) async fn set_servers(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let count = parse_number(request.query.text("count"))
        .map_err(|_| HttpError::invalid("Missing or invalid ?count: the number of servers is expected"))?;
    if !(1..=u64::from(SERVERS_MAX)).contains(&count) {
        return Err(HttpError::invalid(format!("{count} servers are not between 1 and {SERVERS_MAX}")));
    }
    let servers = u32::try_from(count).unwrap_or(1);
    api.agent.consensus.order(Order::Want(servers)).await?;
    Ok(Answer::boolean(true))
}

/// `?old=NAME&new=NAME`: carries out what is proposed, or what the operator says.
pub(super) async fn replace_server(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let name = |key: &str| Some(request.query.text(key)).filter(|text| !text.is_empty()).map(str::to_owned);
    api.agent.consensus.order(Order::Replace { old: name("old"), new: name("new") }).await?;
    Ok(Answer::boolean(true))
}

/// `?cluster=ID`: founds a successor of the cluster whose quorum is lost; answers its id.
pub(super) async fn recover(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let cluster = request.query.text("cluster").parse();
    let cluster = cluster
        .map_err(|_| HttpError::invalid("Missing or invalid ?cluster: the cluster's id is expected"))?;
    let successor = api.agent.consensus.recover(cluster, request.truth("force")?).await?;
    Ok(answer(&json!(successor.as_str())))
}

pub(super) async fn autopilot(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    let options = request.read_options(&api.agent.identity)?;
    api.agent.consensus.barrier(options.mode).await?;
    Ok(answer(&autopilot_json(&api.agent.replica.load().servers().autopilot)))
}

fn autopilot_json(autopilot: &Autopilot) -> Value {
    let span = |millis: u64| duration::format(Duration::from_millis(millis));
    json!({
        "CleanupDeadServers": autopilot.cleanup_dead_servers,
        "LastContactThreshold": span(autopilot.last_contact_threshold_ms),
        "MaxTrailingLogs": autopilot.max_trailing_logs,
        "MinQuorum": autopilot.min_quorum,
        "ServerStabilizationTime": span(autopilot.server_stabilization_time_ms),
        "RedundancyZoneTag": autopilot.redundancy_zone_tag,
        "DisableUpgradeMigration": autopilot.disable_upgrade_migration,
        "UpgradeVersionTag": autopilot.upgrade_version_tag,
        "CreateIndex": autopilot.create_index,
        "ModifyIndex": autopilot.modify_index,
    })
}

pub(super) async fn set_autopilot(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let Value::Object(body) = request.json()? else {
        return Err(HttpError::invalid("Error parsing autopilot config: an object is expected"));
    };
    let autopilot = parse_autopilot(&body)?;
    let if_index = match request.query.first("cas") {
        None => None,
        Some(text) => Some(
            parse_number(text)
                .map_err(|error| HttpError::invalid(format!("Error parsing cas value: {error}")))?,
        ),
    };
    let command = ServersCommand::Configure { autopilot, if_index };
    let reply = api.agent.consensus.propose(Command::Servers(command)).await?;
    Ok(Answer::boolean(reply != Reply::Bool(false)))
}

/// Keys that are left out have Consul's defaults.
fn parse_autopilot(body: &Map<String, Value>) -> Result<Autopilot, HttpError> {
    let mut autopilot = Autopilot::default();
    for (key, value) in body {
        let wrong = || HttpError::invalid(format!("Error parsing autopilot config: {key} cannot be {value}"));
        let truth = || value.as_bool().ok_or_else(wrong);
        let number = || value.as_u64().ok_or_else(wrong);
        let text = || value.as_str().map(str::to_owned).ok_or_else(wrong);
        let millis = || -> Result<u64, HttpError> {
            // Go's clients write durations as text or as nanoseconds.
            let nanoseconds = match value {
                Value::String(text) => duration::parse(text).ok().and_then(|span| u64::try_from(span).ok()),
                other => other.as_u64(),
            };
            nanoseconds.map(|span| span / 1_000_000).ok_or_else(wrong)
        };
        match key.as_str() {
            "CleanupDeadServers" => autopilot.cleanup_dead_servers = truth()?,
            "LastContactThreshold" => autopilot.last_contact_threshold_ms = millis()?,
            "MaxTrailingLogs" => autopilot.max_trailing_logs = number()?,
            "MinQuorum" => autopilot.min_quorum = number()?,
            "ServerStabilizationTime" => autopilot.server_stabilization_time_ms = millis()?,
            "RedundancyZoneTag" => autopilot.redundancy_zone_tag = text()?,
            "DisableUpgradeMigration" => autopilot.disable_upgrade_migration = truth()?,
            "UpgradeVersionTag" => autopilot.upgrade_version_tag = text()?,
            "CreateIndex" | "ModifyIndex" => {}
            _ => {
                return Err(HttpError::invalid(format!("Error parsing autopilot config: invalid key {key}")));
            }
        }
    }
    Ok(autopilot)
}

/// The servers as autopilot judges them.
struct Health {
    report: Report,
    term: u64,
    last_index: u64,
    threshold: Duration,
    trailing: u64,
}

impl Health {
    async fn read(api: &Api) -> Result<Self, HttpError> {
        let report = report(api).await?;
        let term = api.agent.consensus.status().await.term;
        let last_index = report.servers.iter().filter_map(|server| server.last_index).max().unwrap_or(0);
        let settings = api.agent.replica.load().servers().autopilot.clone();
        let threshold = Duration::from_millis(settings.last_contact_threshold_ms).max(CONTACT_THRESHOLD_MIN);
        Ok(Self { report, term, last_index, threshold, trailing: settings.max_trailing_logs })
    }

    fn is_healthy(&self, server: &ServerReport) -> bool {
        let near = server.heard_ms.is_some_and(|ms| Duration::from_millis(ms) <= self.threshold);
        let last = server.last_index.unwrap_or(0);
        server.up && (server.leader || near) && last + self.trailing >= self.last_index
    }

    fn all_healthy(&self) -> bool {
        self.report.servers.iter().all(|server| self.is_healthy(server))
    }

    fn tolerance(&self) -> usize {
        let voters = self.report.servers.iter().filter(|server| server.voter);
        let healthy = voters.clone().filter(|server| self.is_healthy(server)).count();
        healthy.saturating_sub(voters.count() / 2 + 1)
    }

    fn row(&self, server: &ServerReport) -> Map<String, Value> {
        let contact = if server.leader { Some(0) } else { server.heard_ms };
        let contact =
            contact.map_or_else(|| "never".to_owned(), |ms| duration::format(Duration::from_millis(ms)));
        let since =
            jiff::Timestamp::now().as_second() - i64::try_from(server.stable_for_ms / 1000).unwrap_or(0);
        let row = json!({
            "ID": server.incarnation, "Name": server.name, "Address": server.address,
            "Version": CONSUL_VERSION, "LastContact": contact, "LastTerm": self.term,
            "LastIndex": server.last_index.unwrap_or(0), "Healthy": self.is_healthy(server),
            "StableSince": time(u64::try_from(since).unwrap_or(0)),
        });
        match row {
            Value::Object(row) => row,
            _ => Map::new(),
        }
    }
}

fn serf(server: &ServerReport) -> &'static str {
    if server.up { "alive" } else { "failed" }
}

/// 429 when something is not healthy.
pub(super) async fn autopilot_health(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let health = Health::read(api).await?;
    let servers: Vec<Value> = health
        .report
        .servers
        .iter()
        .map(|server| {
            let mut row = health.row(server);
            row.insert("SerfStatus".to_owned(), serf(server).into());
            row.insert("Leader".to_owned(), server.leader.into());
            row.insert("Voter".to_owned(), server.voter.into());
            Value::Object(row)
        })
        .collect();
    let healthy = health.all_healthy();
    let body = json!({ "Healthy": healthy, "FailureTolerance": health.tolerance(), "Servers": servers });
    let status = if healthy { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    Ok(answer(&body).status(status))
}

pub(super) async fn autopilot_state(api: &Api, request: &Request) -> Result<Answer, HttpError> {
    request.write_options(&api.agent.identity)?;
    let health = Health::read(api).await?;
    let mut servers = Map::new();
    for server in &health.report.servers {
        let mut row = health.row(server);
        let status = match (server.leader, server.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "non-voter",
        };
        row.insert("NodeStatus".to_owned(), serf(server).into());
        row.insert("ReadReplica".to_owned(), false.into());
        row.insert("Status".to_owned(), status.into());
        row.insert("Meta".to_owned(), json!({}));
        row.insert("NodeType".to_owned(), "voter".into());
        servers.insert(server.incarnation.clone(), Value::Object(row));
    }
    let leader = health.report.servers.iter().find(|server| server.leader);
    let voters = health.report.servers.iter().filter(|server| server.voter);
    let body = json!({
        "Healthy": health.all_healthy(),
        "FailureTolerance": health.tolerance(),
        "OptimisticFailureTolerance": health.tolerance(),
        "Servers": servers,
        "Leader": leader.map_or("", |server| server.incarnation.as_str()),
        "Voters": voters.map(|server| server.incarnation.as_str()).collect::<Vec<_>>(),
    });
    Ok(answer(&body))
}

fn answer(value: &Value) -> Answer {
    Answer::json(value.to_string())
}
