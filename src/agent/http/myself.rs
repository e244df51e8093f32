//! `/v1/agent/self`, `host`, `version` and `metrics`: what this agent says about itself.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Api;
use super::error::HttpError;
use super::request::Request;
use super::response::Answer;
use crate::agent::handle::{ConsensusState, ConsensusStatus, Freshness};
use crate::model::api::{agent as rows, json};
use crate::model::membership::{Member, MemberStatus};
use crate::model::version::CONSUL_VERSION;

/// Our own name and version, where Consul has its commit.
const REVISION: &str = concat!("corediscover-", env!("CARGO_PKG_VERSION"));

type Stats = BTreeMap<&'static str, BTreeMap<&'static str, String>>;

pub(super) async fn myself(api: &Api) -> Answer {
    let agent = &api.agent;
    let identity = &agent.identity;
    let members = agent.members.members();
    let status = agent.consensus.status().await;
    // What it is now, not what it was started as.
    let server = status.state != ConsensusState::Client;
    let mut debug_config = identity.debug_config.clone();
    if debug_config.contains_key("ServerMode") {
        debug_config.insert("ServerMode".to_owned(), server.into());
    }
    let sections = stats(api, &status, agent.consensus.freshness(), &members);
    let mut out = Vec::with_capacity(4096);
    rows::myself(
        &mut out,
        &rows::Myself {
            datacenter: &identity.datacenter,
            node_name: &identity.node_name,
            node_id: &identity.node_id,
            server,
            version: CONSUL_VERSION,
            revision: REVISION,
            debug_config: &debug_config,
            member: members.iter().find(|member| member.name == identity.node_name),
            stats: &sections,
            meta: &identity.node_meta,
        },
    );
    Answer::json(out)
}

fn stats(api: &Api, status: &ConsensusStatus, freshness: Freshness, members: &[Member]) -> Stats {
    let agent = &api.agent;
    let checks = agent.local.checks();
    let ttl_checks = checks.values().filter(|check| check.kind == "ttl").count();
    let mut sections = Stats::new();
    sections.insert(
        "agent",
        BTreeMap::from([
            ("check_monitors", "0".to_owned()),
            ("check_ttls", ttl_checks.to_string()),
            ("checks", checks.len().to_string()),
            ("services", agent.local.services().len().to_string()),
        ]),
    );
    sections.insert(
        "build",
        BTreeMap::from([
            ("prerelease", String::new()),
            ("revision", REVISION.to_owned()),
            ("version", CONSUL_VERSION.to_owned()),
        ]),
    );
    let server = status.state != ConsensusState::Client;
    let mut consul = BTreeMap::from([("server", server.to_string())]);
    if server {
        let leader = status.state == ConsensusState::Leader;
        consul.insert("acl", "disabled".to_owned());
        consul.insert("known_datacenters", "1".to_owned());
        consul.insert("leader", leader.to_string());
        consul.insert("leader_addr", status.leader_address.clone().unwrap_or_default());
        sections.insert("raft", raft(status, freshness));
    } else {
        consul.insert("known_servers", status.peers.len().to_string());
    }
    sections.insert("consul", consul);
    let count = |wanted| members.iter().filter(|member| member.status == wanted).count().to_string();
    sections.insert(
        "serf_lan",
        BTreeMap::from([
            ("members", members.len().to_string()),
            ("failed", count(MemberStatus::Failed)),
            ("left", count(MemberStatus::Left)),
        ]),
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    sections.insert(
        "runtime",
        BTreeMap::from([
            ("arch", std::env::consts::ARCH.to_owned()),
            ("cpu_count", cores.to_string()),
            ("os", std::env::consts::OS.to_owned()),
        ]),
    );
    sections
}

fn raft(status: &ConsensusStatus, freshness: Freshness) -> BTreeMap<&'static str, String> {
    let state = match status.state {
        ConsensusState::Leader => "Leader",
        ConsensusState::Follower | ConsensusState::Learner => "Follower",
        ConsensusState::Candidate => "Candidate",
        ConsensusState::Client => "Shutdown",
    };
    let last_contact = match (status.state, freshness.known_leader) {
        (ConsensusState::Leader, _) => "0".to_owned(),
        (_, false) => "never".to_owned(),
        (_, true) => crate::model::duration::format(freshness.last_contact),
    };
    let others = status.peers.iter().filter(|peer| peer.voter).count().saturating_sub(1);
    let mut raft = BTreeMap::from([
        ("applied_index", status.applied_index.to_string()),
        ("commit_index", status.commit_index.to_string()),
        ("last_contact", last_contact),
        ("last_log_index", status.last_log_index.to_string()),
        ("last_log_term", status.last_log_term.unwrap_or(0).to_string()),
        ("num_peers", others.to_string()),
        ("state", state.to_owned()),
        ("term", status.term.to_string()),
    ]);
    if let Some(storage) = &status.storage {
        raft.insert("storage", storage.clone());
    }
    raft
}

pub(super) fn version() -> Answer {
    let mut out = Vec::new();
    json::field(&mut out, "{\"SHA\":", REVISION);
    json::field(&mut out, ",\"BuildDate\":", "1970-01-01T00:00:00Z");
    json::field(&mut out, ",\"HumanVersion\":", CONSUL_VERSION);
    json::raw(&mut out, ",\"FIPS\":\"\"}");
    Answer::json(out)
}

pub(super) fn host() -> Answer {
    let system = rustix::system::sysinfo();
    let name = rustix::system::uname();
    let unit = u64::from(system.mem_unit.max(1));
    #[allow(clippy::useless_conversion, reason = "the width of these numbers depends on the machine")]
    let (total, free) = (u64::from(system.totalram) * unit, u64::from(system.freeram) * unit);
    let mut out = Vec::new();
    json::number_field(&mut out, "{\"Memory\":{\"total\":", total);
    json::number_field(&mut out, ",\"free\":", free);
    json::field(&mut out, "},\"CPU\":[],\"Host\":{\"hostname\":", &name.nodename().to_string_lossy());
    json::field(&mut out, ",\"os\":", std::env::consts::OS);
    json::field(&mut out, ",\"kernelVersion\":", &name.release().to_string_lossy());
    json::field(&mut out, ",\"kernelArch\":", &name.machine().to_string_lossy());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    json::number_field(&mut out, "},\"Disk\":null,\"CollectionTime\":", now);
    json::raw(&mut out, ",\"Errors\":null}");
    Answer::json(out)
}

pub(super) fn metrics(request: &Request) -> Result<Answer, HttpError> {
    if request.query.text("format") == "prometheus" {
        return Err(HttpError::NoPrometheus);
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string();
    let mut out = Vec::new();
    json::field(&mut out, "{\"Timestamp\":", &now);
    json::raw(&mut out, ",\"Gauges\":[],\"Points\":[],\"Counters\":[],\"Samples\":[]}");
    Ok(Answer::json(out))
}
