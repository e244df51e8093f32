//! `/v1/agent`.

use crate::agent::handle::Local as _;
use crate::model::membership::{Member, MemberStatus};

use super::{Settings, Subject};

#[tokio::test]
async fn a_service_is_registered_shown_and_removed() {
    let subject = Subject::start().await;
    subject.expect("/v1/agent/services", 200, "{}").await;
    subject.expect("/v1/agent/checks", 200, "{}").await;
    let body = r#"{"id":"w1","NAME":"web","enable_tag_override":true,"check":{"ttl":"10s","name":"up"}}"#;
    let reply = subject.expect_put("/v1/agent/service/register", body, 200, "").await;
    assert_eq!(reply.header("Content-Type"), None);
    let service = r#""ID":"w1","Service":"web","Tags":[],"Meta":{},"Port":0,"Address":"","Weights":{"Passing":1,"Warning":1},"EnableTagOverride":true"#;
    let shown = format!(r#"{{"w1":{{{service},"Datacenter":"dc1"}}}}"#);
    let reply = subject.expect("/v1/agent/services", 200, &shown).await;
    assert_eq!(reply.header("X-Consul-Index"), None);
    subject.expect("/v1/agent/services?filter=Service==db", 200, "{}").await;
    let check = r#"{"Node":"n1","CheckID":"service:w1","Name":"up","Status":"critical","Notes":"","Output":"","ServiceID":"w1","ServiceName":"web","ServiceTags":[],"Type":"ttl","Interval":"","Timeout":"","ExposedPort":0,"Definition":{},"CreateIndex":0,"ModifyIndex":0}"#;
    subject.expect("/v1/agent/checks", 200, &format!(r#"{{"service:w1":{check}}}"#)).await;

    let one = subject.get("/v1/agent/service/w1").await;
    let hash = one.header("X-Consul-ContentHash").unwrap();
    assert_eq!(one.text(), format!(r#"{{{service},"ContentHash":"{hash}","Datacenter":"dc1"}}"#));
    let again = subject.get(&format!("/v1/agent/service/w1?hash={hash}&wait=10ms")).await;
    assert_eq!(again.header("X-Consul-ContentHash"), Some(hash));
    subject.expect("/v1/agent/service/none", 404, "unknown service ID: none").await;

    subject.expect_put("/v1/agent/service/deregister/w1", "", 200, "").await;
    let text = r#"Unknown service ID "w1". Ensure that the service ID is passed, not the service name."#;
    subject.expect_put("/v1/agent/service/deregister/w1", "", 404, text).await;
    subject.expect("/v1/agent/services", 200, "{}").await;
}

#[tokio::test]
async fn replacing_existing_checks_is_passed_on() {
    let subject = Subject::start().await;
    for query in ["", "?replace-existing-checks", "?replace-existing-checks=false"] {
        let path = format!("/v1/agent/service/register{query}");
        subject.expect_put(&path, r#"{"Name":"web"}"#, 200, "").await;
    }
    let seen: Vec<_> =
        subject.local.registrations.lock().iter().map(|seen| seen.replace_existing_checks).collect();
    assert_eq!(seen, [false, true, false]);
}

#[tokio::test]
async fn ttl_checks_are_set_and_others_are_not() {
    let subject = Subject::start().await;
    subject.expect_put("/v1/agent/check/register", r#"{"Name":"up","TTL":"10s"}"#, 200, "").await;
    for (path, status) in [("pass", "passing"), ("warn", "warning"), ("fail", "critical")] {
        subject.expect_put(&format!("/v1/agent/check/{path}/up?note=a%20b"), "", 200, "").await;
        let check = subject.local.checks()["up"].clone();
        assert_eq!((check.status.as_str(), check.output.as_str()), (status, "a b"));
    }
    subject.expect_put("/v1/agent/check/update/up", r#"{"Output":"fine"}"#, 200, "").await;
    assert_eq!(subject.local.checks()["up"].output, "fine");
    for (path, body, status, text) in [
        ("update/up", r#"{"Status":"zz"}"#, 400, "Invalid check status: 'zz'"),
        ("pass/none", "", 404, r#"CheckID "none" does not have associated TTL"#),
        ("register", r#"{"Name":"c","TTL":"1s","ServiceID":"x"}"#, 404, r#"ServiceID "x" does not exist"#),
        ("register", r#"{"TTL":"1s"}"#, 400, "Missing check name"),
        (
            "register",
            r#"{"Name":"c","Args":["true"],"Interval":"1s"}"#,
            500,
            "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
        ),
        (
            "deregister/none",
            "",
            404,
            r#"Unknown check ID "none". Ensure that the check ID is passed, not the check name."#,
        ),
        ("deregister/up", "", 200, ""),
    ] {
        subject.expect_put(&format!("/v1/agent/check/{path}"), body, status, text).await;
    }
}

#[tokio::test]
async fn maintenance_is_begun_and_ended() {
    let subject = Subject::start().await;
    subject.expect_put("/v1/agent/service/register", r#"{"Name":"web"}"#, 200, "").await;
    for (path, status, text) in [
        ("maintenance", 400, "Missing value for enable"),
        ("maintenance?enable=zz", 400, r#"Invalid value for enable: "zz""#),
        ("service/maintenance/", 400, "Missing service ID"),
        ("service/maintenance/web", 400, "Missing value for enable"),
        (
            "service/maintenance/x?enable=true",
            404,
            r#"Unknown service ID "x". Ensure that the service ID is passed, not the service name."#,
        ),
        ("maintenance?enable=true&reason=new%20disk", 200, ""),
    ] {
        subject.expect_put(&format!("/v1/agent/{path}"), "", status, text).await;
    }
    assert_eq!(subject.local.checks()["_node_maintenance"].notes, "new disk");
    subject.expect("/v1/agent/health/service/id/web?format=text", 503, "maintenance").await;
    subject.expect_put("/v1/agent/maintenance?enable=false", "", 200, "").await;
    assert!(subject.local.checks().is_empty());
}

#[tokio::test]
async fn the_health_of_a_local_service_is_in_the_status_code() {
    let subject = Subject::start().await;
    let body = r#"{"Name":"web","Check":{"TTL":"1s","Status":"warning"}}"#;
    subject.expect_put("/v1/agent/service/register", body, 200, "").await;
    let reply = subject.expect("/v1/agent/health/service/name/web?format=text", 429, "warning").await;
    assert_eq!(reply.header("X-Consul-Reason"), Some("warning"));
    let reply = subject.get("/v1/agent/health/service/id/web").await;
    assert!(
        reply.text().starts_with(r#"{"AggregatedStatus":"warning","Service":{"ID":"web""#),
        "{}",
        reply.text()
    );
    let unknown = r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#;
    let reply = subject.expect("/v1/agent/health/service/id/none", 404, unknown).await;
    assert_eq!(reply.header("X-Consul-Reason"), Some("ServiceId none not found"));
    let reply = subject.expect("/v1/agent/health/service/name/none", 404, "[]").await;
    assert_eq!(reply.header("X-Consul-Reason"), Some("ServiceName none Not Found"));
}

#[tokio::test]
async fn members_are_shown_joined_and_forced_out() {
    let subject = Subject::start().await;
    subject.members.set(vec![Member {
        name: "n1".into(),
        address: "10.0.0.1".parse().unwrap(),
        port: 8301,
        tags: [("role".to_owned(), "consul".to_owned()), ("dc".to_owned(), "dc1".to_owned())].into(),
        status: MemberStatus::Alive,
        incarnation: 1,
    }]);
    let member = r#"{"Name":"n1","Addr":"10.0.0.1","Port":8301,"Tags":{"dc":"dc1","role":"consul"},"Status":1,"ProtocolMin":1,"ProtocolMax":5,"ProtocolCur":2,"DelegateMin":2,"DelegateMax":5,"DelegateCur":4}"#;
    subject.expect("/v1/agent/members", 200, &format!("[{member}]")).await;
    subject.expect("/v1/agent/members?wan=1", 200, "[]").await;
    subject.expect("/v1/agent/members?filter=Tags.role==node", 200, "[]").await;
    subject.expect_put("/v1/agent/join/10.0.0.2", "", 200, "").await;
    let text = "1 error occurred:\n\t* Failed to join 10.0.0.9: connection refused\n\n";
    subject.expect_put("/v1/agent/join/10.0.0.9", "", 500, text).await;
    subject.expect_put("/v1/agent/force-leave/n1", "", 200, "").await;
    subject.expect_put("/v1/agent/force-leave/X", "", 500, "agent: No node found with name 'X'").await;

    let myself: serde_json::Value =
        serde_json::from_slice(&subject.get("/v1/agent/self").await.body).unwrap();
    let keys: Vec<_> = myself.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["Config", "Coord", "DebugConfig", "Member", "Meta", "Stats", "xDS"]);
    assert_eq!(myself["Config"]["Datacenter"], "dc1");
    assert_eq!(myself["Config"]["Version"], crate::model::version::CONSUL_VERSION);
    assert_eq!(myself["Meta"]["consul-network-segment"], "");
    assert_eq!(myself["Member"]["Name"], "n1");
    assert_eq!(myself["Stats"]["raft"]["state"], "Leader");
}

#[tokio::test]
async fn leave_is_passed_on() {
    let subject = Subject::start().await;
    subject.expect_put("/v1/agent/leave", "", 200, "").await;
    assert!(subject.shutdown.is_cancelled());
}

#[tokio::test]
async fn a_reload_is_answered_when_it_is_done_or_with_what_is_wrong() {
    let (desk, mut requests) = tokio::sync::mpsc::channel(1);
    let settings = Settings { reload: Some(desk), ..Settings::default() };
    let subject = Subject::start_with(settings, &[], false).await;
    let carry_out = async {
        for done in [Ok(()), Err("failed to parse a.json: x\nhint: y".to_owned())] {
            requests.recv().await.unwrap().send(done).unwrap();
        }
        // The agent stops before it is done.
        requests.recv().await.unwrap()
    };
    let ask = async {
        subject.expect_put("/v1/agent/reload", "", 200, "").await;
        subject.expect_put("/v1/agent/reload", "", 500, "failed to parse a.json: x\nhint: y").await;
        let text = "The agent is shutting down";
        subject.expect_put("/v1/agent/reload", "", 503, text).await;
    };
    tokio::join!(async { drop(carry_out.await) }, ask);
    let nobody = Subject::start().await;
    let text = "this agent has no configuration to read again";
    nobody.expect_put("/v1/agent/reload", "", 500, text).await;
}

#[tokio::test]
async fn metrics_are_valid_and_prometheus_is_off() {
    let subject = Subject::start().await;
    let reply = subject.get("/v1/agent/metrics").await;
    assert!(reply.text().ends_with(r#" UTC","Gauges":[],"Points":[],"Counters":[],"Samples":[]}"#));
    let text = "Prometheus is not enabled since its retention time is not positive";
    subject.expect("/v1/agent/metrics?format=prometheus", 415, text).await;
    assert_eq!(subject.get("/v1/agent/host").await.status, 200);
    assert_eq!(subject.get("/v1/agent/version").await.status, 200);
}
