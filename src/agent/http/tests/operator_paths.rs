//! `/v1/operator`.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Reply, Subject};
use crate::agent::handle::{Order, Which};
use crate::model::catalog::{Departure, Nomination, Purpose, Swap};
use crate::model::sync::servers::{Proposal, ServerReport};

const CLUSTER: &str = "9b2f3c1e-0d5a-4c7b-8e6f-1a2b3c4d5e6f";

/// A server that is well and has everything.
fn server(number: u64) -> ServerReport {
    ServerReport {
        id: number,
        name: format!("n{number}"),
        incarnation: format!("i{number}"),
        address: format!("10.0.0.{number}:8300"),
        voter: true,
        leader: number == 1,
        up: true,
        dead_for_ms: None,
        stable_for_ms: 5000,
        last_index: Some(100),
        heard_ms: (number != 1).then_some(40),
    }
}

impl Subject {
    /// With three servers of which the first one leads.
    async fn of_three() -> Self {
        let subject = Self::start().await;
        subject.consensus.report.lock().servers = (1..=3).map(server).collect();
        subject
    }

    async fn send(&self, method: &str, path: &str) -> Reply {
        self.connect().await.send(method, path, "").await
    }

    /// Asserts status and body of a request without a body.
    async fn expect_of(&self, method: &str, path: &str, status: u16, body: &str) {
        let reply = self.send(method, path).await;
        assert_eq!((reply.status, reply.text()), (status, body), "{method} {path}");
    }

    async fn json(&self, path: &str, status: u16) -> Value {
        let reply = self.get(path).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        serde_json::from_slice(&reply.body).unwrap()
    }
}

#[tokio::test]
async fn the_raft_configuration_is_the_leaders_or_with_stale_our_own() {
    let subject = Subject::of_three().await;
    let shown = subject.json("/v1/operator/raft/configuration", 200).await;
    assert_eq!(shown["Index"], 0);
    assert_eq!(shown["Servers"].as_array().unwrap().len(), 3);
    assert_eq!(
        shown["Servers"][1],
        json!({"ID": "i2", "Node": "n2", "Address": "10.0.0.2:8300", "Leader": false,
            "ProtocolVersion": "3", "Voter": true, "LastIndex": 100})
    );
    // Nobody leads: what this agent knows by itself is all that there is.
    subject.consensus.has_leader.store(false, Ordering::Relaxed);
    subject.expect("/v1/operator/raft/configuration", 500, "No cluster leader").await;
    let own = subject.json("/v1/operator/raft/configuration?stale", 200).await;
    assert_eq!(
        own["Servers"],
        json!([{"ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": "n1", "Address": "10.0.0.1:8300",
            "Leader": false, "ProtocolVersion": "3", "Voter": true, "LastIndex": 0}])
    );
}

#[tokio::test]
async fn a_server_is_removed_by_id_or_address_and_gone_when_that_is_answered() {
    let subject = Subject::of_three().await;
    let path = "/v1/operator/raft/peer";
    let text = "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove";
    subject.expect_of("DELETE", path, 400, text).await;
    let both = format!("{path}?id=i2&address=10.0.0.2:8300");
    subject.expect_of("DELETE", &both, 400, "Must specify only one of ?id or ?address").await;
    subject.expect_of("DELETE", &format!("{path}?id=i2"), 200, "").await;
    subject.expect_of("DELETE", &format!("{path}?address=10.0.0.3:8300"), 200, "").await;
    assert_eq!(
        *subject.consensus.orders.lock(),
        [
            Order::Retire(Which::Id("i2".to_owned())),
            Order::Retire(Which::Address("10.0.0.3:8300".to_owned()))
        ]
    );
    assert_eq!(subject.consensus.report.lock().servers, [server(1)]);
    *subject.consensus.refusal.lock() = Some("it is the last voter".to_owned());
    subject.expect_of("DELETE", &format!("{path}?id=i1"), 500, "it is the last voter").await;
}

#[tokio::test]
async fn leadership_is_handed_over_to_whom_is_named_or_to_anybody() {
    let subject = Subject::of_three().await;
    let path = "/v1/operator/raft/transfer-leader";
    for (method, query) in [("POST", ""), ("PUT", "?id="), ("PUT", "?id=n3")] {
        subject.expect_of(method, &format!("{path}{query}"), 200, r#"{"Success":true}"#).await;
    }
    let named = Order::Transfer(Some(Which::Id("n3".to_owned())));
    assert_eq!(*subject.consensus.orders.lock(), [Order::Transfer(None), Order::Transfer(None), named]);
    *subject.consensus.refusal.lock() = Some("n9 is no voter".to_owned());
    subject.expect_of("PUT", &format!("{path}?id=n9"), 500, "n9 is no voter").await;
}

#[tokio::test]
async fn the_report_says_what_is_pending_what_was_done_and_why_nothing_is_done() {
    let subject = Subject::of_three().await;
    let quiet = subject.json("/v1/operator/servers", 200).await;
    assert_eq!((&quiet["Mode"], &quiet["ReplaceAfter"]), (&json!("auto"), &json!("30s")));
    assert_eq!((&quiet["Wanted"], &quiet["WantedByOperator"]), (&json!(3), &json!(false)));
    for key in ["Pending", "Proposal", "Last", "Reason"] {
        assert_eq!(quiet[key], Value::Null, "{key}");
    }
    let purpose = Purpose::Replace { id: 2, node: "n2".to_owned(), why: Departure::Dead };
    {
        let mut report = subject.consensus.report.lock();
        report.servers[1] = ServerReport {
            up: false,
            dead_for_ms: Some(61_500),
            last_index: None,
            heard_ms: None,
            ..server(2)
        };
        report.pending = Some(Nomination {
            serial: 7,
            node: "n4".to_owned(),
            incarnation: "i4".to_owned(),
            purpose: purpose.clone(),
        });
        report.proposal = Some(Proposal { old: None, new: "n5".to_owned() });
        report.last = Some(Swap { node: "n3".to_owned(), purpose, at: 1_700_000_000 });
        report.reason = Some("there is no healthy client".to_owned());
        report.epoch = 2;
    }
    let busy = subject.json("/v1/operator/servers", 200).await;
    assert_eq!(
        busy["Servers"][1],
        json!({"ID": "i2", "RaftID": "0000000000000002", "Node": "n2", "Address": "10.0.0.2:8300",
            "Leader": false, "Voter": true, "Up": false, "DeadForSeconds": 61, "LastIndex": null,
            "LastContactMs": null})
    );
    let why = "in the place of n2: it is dead";
    assert_eq!(busy["Pending"], json!({"Node": "n4", "Purpose": why}));
    assert_eq!(busy["Proposal"], json!({"Old": null, "New": "n5"}));
    assert_eq!(busy["Last"], json!({"New": "n3", "Old": "n2", "Purpose": why, "At": "2023-11-14T22:13:20Z"}));
    assert_eq!((&busy["Reason"], &busy["Epoch"]), (&json!("there is no healthy client"), &json!(2)));
}

#[tokio::test]
async fn the_number_of_servers_is_set_within_its_limits() {
    let subject = Subject::of_three().await;
    let missing = "Missing or invalid ?count: the number of servers is expected";
    for (query, status, body) in [
        ("", 400, missing),
        ("?count=", 400, missing),
        ("?count=-1", 400, missing),
        ("?count=three", 400, missing),
        ("?count=0", 400, "0 servers are not between 1 and 9"),
        ("?count=10", 400, "10 servers are not between 1 and 9"),
    ] {
        subject.expect_put(&format!("/v1/operator/servers{query}"), "", status, body).await;
    }
    assert_eq!(subject.replica.load().servers().wanted, None);
    subject.expect_put("/v1/operator/servers?count=5", "", 200, "true").await;
    assert_eq!(subject.replica.load().servers().wanted, Some(5));
}

#[tokio::test]
async fn a_replacement_is_carried_out_as_proposed_or_as_named() {
    let subject = Subject::of_three().await;
    let path = "/v1/operator/servers/replace";
    subject.expect_put(path, "", 200, "true").await;
    subject.expect_put(&format!("{path}?old=n2&new=n4"), "", 200, "true").await;
    let named = Order::Replace { old: Some("n2".to_owned()), new: Some("n4".to_owned()) };
    assert_eq!(*subject.consensus.orders.lock(), [Order::Replace { old: None, new: None }, named]);
    *subject.consensus.refusal.lock() = Some("no server is dead".to_owned());
    subject.expect_put(path, "", 500, "no server is dead").await;
}

#[tokio::test]
async fn a_recovery_needs_the_clusters_id_and_answers_the_successors() {
    let subject = Subject::start().await;
    let missing = "Missing or invalid ?cluster: the cluster's id is expected";
    subject.expect_put("/v1/operator/recover", "", 400, missing).await;
    subject.expect_put("/v1/operator/recover?cluster=dc1", "", 400, missing).await;
    let path = format!("/v1/operator/recover?cluster={CLUSTER}");
    for (how, insisted) in [("", false), ("&force", true), ("&force=false", false)] {
        subject.expect_put(&format!("{path}{how}"), "", 200, &format!("\"{CLUSTER}\"")).await;
        assert_eq!(subject.consensus.insisted.load(Ordering::Relaxed), insisted, "{how}");
    }
    let why = "the cluster has a leader: there is nothing to recover";
    *subject.consensus.refusal.lock() = Some(why.to_owned());
    subject.expect_put(&path, "", 500, why).await;
}

#[tokio::test]
async fn autopilots_settings_are_shown_and_replaced_as_a_whole() {
    let subject = Subject::start().await;
    let path = "/v1/operator/autopilot/configuration";
    let defaults = json!({"CleanupDeadServers": true, "LastContactThreshold": "200ms", "MaxTrailingLogs": 250,
        "MinQuorum": 0, "ServerStabilizationTime": "10s", "RedundancyZoneTag": "", "DisableUpgradeMigration": false,
        "UpgradeVersionTag": "", "CreateIndex": 0, "ModifyIndex": 0});
    assert_eq!(subject.json(path, 200).await, defaults);
    // Go's clients write durations as text or as nanoseconds.
    let body =
        r#"{"CleanupDeadServers":false,"LastContactThreshold":"1m","ServerStabilizationTime":2000000000}"#;
    subject.expect_put(path, body, 200, "true").await;
    let set = subject.json(path, 200).await;
    assert_eq!(
        (&set["CleanupDeadServers"], &set["LastContactThreshold"], &set["ServerStabilizationTime"]),
        (&json!(false), &json!("1m0s"), &json!("2s"))
    );
    subject.expect_put(&format!("{path}?cas=99"), r#"{"MinQuorum":3}"#, 200, "false").await;
    let index = &set["ModifyIndex"];
    subject.expect_put(&format!("{path}?cas={index}"), r#"{"MinQuorum":3}"#, 200, "true").await;
    let set = subject.json(path, 200).await;
    assert_eq!(
        (&set["MinQuorum"], &set["CleanupDeadServers"]),
        (&json!(3), &json!(true)),
        "left out: default"
    );
}

#[tokio::test]
async fn autopilots_settings_that_are_not_understood_are_refused_and_change_nothing() {
    let subject = Subject::start().await;
    let path = "/v1/operator/autopilot/configuration";
    let before = subject.json(path, 200).await;
    let wrong = |text: &str| format!("Error parsing autopilot config: {text}");
    for (body, text) in [
        ("[]", wrong("an object is expected")),
        (r#"{"MinQuorums":3}"#, wrong("invalid key MinQuorums")),
        (r#"{"MinQuorum":"3"}"#, wrong("MinQuorum cannot be \"3\"")),
        (r#"{"MaxTrailingLogs":-1}"#, wrong("MaxTrailingLogs cannot be -1")),
        (r#"{"CleanupDeadServers":"yes"}"#, wrong("CleanupDeadServers cannot be \"yes\"")),
        (r#"{"LastContactThreshold":"soon"}"#, wrong("LastContactThreshold cannot be \"soon\"")),
        (r#"{"RedundancyZoneTag":1}"#, wrong("RedundancyZoneTag cannot be 1")),
    ] {
        subject.expect_put(path, body, 400, &text).await;
    }
    let text = r#"Error parsing cas value: strconv.ParseUint: parsing "x": invalid syntax"#;
    subject.expect_put(&format!("{path}?cas=x"), "{}", 400, text).await;
    assert_eq!(subject.put(path, "{").await.status, 400);
    assert_eq!(subject.json(path, 200).await, before);
}

#[tokio::test]
async fn autopilots_health_has_429_while_a_server_is_down_behind_or_not_heard() {
    let subject = Subject::of_three().await;
    let health = subject.json("/v1/operator/autopilot/health", 200).await;
    assert_eq!((&health["Healthy"], &health["FailureTolerance"]), (&json!(true), &json!(1)));
    let row = &health["Servers"][1];
    assert_eq!(
        [&row["ID"], &row["Name"], &row["Address"], &row["SerfStatus"], &row["LastContact"]],
        ["i2", "n2", "10.0.0.2:8300", "alive", "40ms"]
    );
    assert_eq!((&row["LastTerm"], &row["LastIndex"], &row["Voter"]), (&json!(2), &json!(100), &json!(true)));
    assert_eq!(health["Servers"][0]["LastContact"], "0s", "the leader hears itself");
    let ill = [
        ServerReport { up: false, ..server(3) },
        ServerReport { heard_ms: Some(60_000), ..server(3) },
        ServerReport { heard_ms: None, ..server(3) },
        // 250 entries are the most that may be missing.
        ServerReport { last_index: Some(0), ..server(3) },
    ];
    subject.consensus.report.lock().servers[0].last_index = Some(251);
    subject.consensus.report.lock().servers[1].last_index = Some(251);
    for server in ill {
        subject.consensus.report.lock().servers[2] = server.clone();
        let health = subject.json("/v1/operator/autopilot/health", 429).await;
        assert_eq!(
            (&health["Healthy"], &health["FailureTolerance"]),
            (&json!(false), &json!(0)),
            "{server:?}"
        );
        assert_eq!(health["Servers"][2]["Healthy"], false);
        assert_eq!(health["Servers"][2]["SerfStatus"], if server.up { "alive" } else { "failed" });
    }
}

#[tokio::test]
async fn autopilots_state_names_the_leader_the_voters_and_who_does_not_vote() {
    let subject = Subject::of_three().await;
    subject.consensus.report.lock().servers[2].voter = false;
    let state = subject.json("/v1/operator/autopilot/state", 200).await;
    assert_eq!((&state["Healthy"], &state["Leader"]), (&json!(true), &json!("i1")));
    assert_eq!((&state["Voters"], &state["FailureTolerance"]), (&json!(["i1", "i2"]), &json!(0)));
    let roles = ["i1", "i2", "i3"].map(|id| state["Servers"][id]["Status"].clone());
    assert_eq!(roles, ["leader", "voter", "non-voter"]);
    assert_eq!(state["Servers"]["i2"]["NodeStatus"], "alive");
}

#[tokio::test]
async fn without_a_leader_elsewhere_or_with_the_wrong_method_every_path_refuses() {
    let subject = Subject::of_three().await;
    let recover = format!("recover?cluster={CLUSTER}");
    let all = [
        ("GET", "raft/configuration"),
        ("DELETE", "raft/peer?id=i2"),
        ("PUT", "raft/transfer-leader"),
        ("GET", "servers"),
        ("PUT", "servers?count=5"),
        ("PUT", "servers/replace"),
        ("GET", "autopilot/configuration"),
        ("GET", "autopilot/health"),
        ("GET", "autopilot/state"),
    ];
    for (method, path) in all.iter().chain([&("PUT", recover.as_str())]) {
        let with = if path.contains('?') { "&" } else { "?" };
        let elsewhere = format!("/v1/operator/{path}{with}dc=dc9");
        subject.expect_of(method, &elsewhere, 500, "No path to datacenter").await;
        let text = "Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature";
        subject.expect_of(method, &format!("/v1/operator/{path}{with}ns=a"), 400, text).await;
        let reply = subject.send("PATCH", &format!("/v1/operator/{path}")).await;
        assert_eq!((reply.status, reply.text()), (405, "method PATCH not allowed"), "{path}");
    }
    subject.consensus.has_leader.store(false, Ordering::Relaxed);
    for (method, path) in all {
        subject.expect_of(method, &format!("/v1/operator/{path}"), 500, "No cluster leader").await;
    }
    assert!(subject.consensus.orders.lock().is_empty());
}
