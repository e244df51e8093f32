//! `/v1/catalog`, `/v1/health`, `/v1/status`.

use std::sync::atomic::Ordering;

use super::Subject;

const WEB: &str = r#"{"Node":"n1","Address":"10.0.0.1","ID":"40e4a748-2192-161a-0510-9bf59fe950b5",
    "TaggedAddresses":{"lan":"10.0.0.1"},"NodeMeta":{"rack":"7"},
    "Service":{"ID":"w1","Service":"web","Tags":["v1","Prod"],"Port":80,"Meta":{"a":"<b>"}},
    "Check":{"CheckID":"service:w1","Name":"up","Status":"passing","ServiceID":"w1","Output":"ok"}}"#;

const NODE: &str = r#"{"ID":"40e4a748-2192-161a-0510-9bf59fe950b5","Node":"n1","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{"lan":"10.0.0.1"},"Meta":{"rack":"7"},"CreateIndex":1,"ModifyIndex":1}"#;
const EXTERNAL: &str = r#"{"ID":"","Node":"ext","Address":"db.example","Datacenter":"dc1","TaggedAddresses":null,"Meta":null,"CreateIndex":2,"ModifyIndex":2}"#;
const SERVICE: &str = r#"{"ID":"w1","Service":"web","Tags":["v1","Prod"],"Address":"","Meta":{"a":"\u003cb\u003e"},"Port":80,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{},"CreateIndex":1,"ModifyIndex":1}"#;
const CHECK: &str = r#"{"Node":"n1","CheckID":"service:w1","Name":"up","Status":"passing","Notes":"","Output":"ok","ServiceID":"w1","ServiceName":"web","ServiceTags":["v1","Prod"],"Type":"","Interval":"","Timeout":"","ExposedPort":0,"Definition":{},"CreateIndex":1,"ModifyIndex":1}"#;

async fn with_web() -> Subject {
    let subject = Subject::start().await;
    let reply = subject.expect_put("/v1/catalog/register", WEB, 200, "true").await;
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    let external = r#"{"Node":"ext","Address":"db.example"}"#;
    subject.expect_put("/v1/catalog/register", external, 200, "true").await;
    subject
}

#[tokio::test]
async fn the_catalog_is_written_as_consul_writes_it() {
    let subject = with_web().await;
    subject.expect("/v1/catalog/datacenters", 200, r#"["dc1"]"#).await;
    subject.expect("/v1/catalog/nodes", 200, &format!("[{EXTERNAL},{NODE}]")).await;
    subject.expect("/v1/catalog/services", 200, r#"{"web":["Prod","v1"]}"#).await;
    subject
        .expect(
            "/v1/catalog/service/web",
            200,
            r#"[{"ID":"40e4a748-2192-161a-0510-9bf59fe950b5","Node":"n1","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{"lan":"10.0.0.1"},"NodeMeta":{"rack":"7"},"ServiceKind":"","ServiceID":"w1","ServiceName":"web","ServiceTags":["v1","Prod"],"ServiceAddress":"","ServiceWeights":{"Passing":1,"Warning":1},"ServiceMeta":{"a":"\u003cb\u003e"},"ServicePort":80,"ServiceSocketPath":"","ServiceEnableTagOverride":false,"ServiceProxy":{"Mode":"","MeshGateway":{},"Expose":{}},"ServiceConnect":{},"CreateIndex":1,"ModifyIndex":1}]"#,
        )
        .await;
    let by_name = format!(r#"{{"Node":{NODE},"Services":{{"w1":{SERVICE}}}}}"#);
    subject.expect("/v1/catalog/node/N1", 200, &by_name).await;
    subject.expect("/v1/catalog/node/40e4a748", 200, &by_name).await;
    subject
        .expect("/v1/catalog/node-services/n1", 200, &format!(r#"{{"Node":{NODE},"Services":[{SERVICE}]}}"#))
        .await;
    subject.expect("/v1/catalog/node/none", 200, "null").await;
    subject.expect("/v1/catalog/node-services/none", 200, r#"{"Node":null,"Services":null}"#).await;
    subject.expect("/v1/catalog/service/none", 200, "[]").await;
    subject.expect("/v1/catalog/service/", 400, "Missing service name").await;
    subject.expect("/v1/catalog/connect/web", 200, "[]").await;
}

#[tokio::test]
async fn health_is_written_as_consul_writes_it() {
    let subject = with_web().await;
    let row = format!(r#"[{{"Node":{NODE},"Service":{SERVICE},"Checks":[{CHECK}]}}]"#);
    subject.expect("/v1/health/service/web", 200, &row).await;
    subject.expect("/v1/health/service/WEB?passing&tag=prod&tag=V1&node-meta=rack:7", 200, &row).await;
    for none in ["none", "web?tag=v2", "web?node-meta=rack:8", "web?passing=1&tag=x"] {
        subject.expect(&format!("/v1/health/service/{none}"), 200, "[]").await;
    }
    let checks = format!("[{CHECK}]");
    for path in ["node/n1", "checks/web", "state/any", "state/passing", "state/any?node-meta=rack:7"] {
        subject.expect(&format!("/v1/health/{path}"), 200, &checks).await;
    }
    for path in ["node/none", "checks/none", "state/critical", "state/unknown", "connect/web"] {
        subject.expect(&format!("/v1/health/{path}"), 200, "[]").await;
    }
    for (path, text) in [
        ("node/", "Missing node name"),
        ("checks/", "Missing service name"),
        ("service/", "Missing service name"),
        ("state/", "Missing check state"),
        ("service/web?passing=maybe", "Invalid value for ?passing"),
    ] {
        let reply = subject.expect(&format!("/v1/health/{path}"), 400, text).await;
        assert_eq!(reply.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
}

#[tokio::test]
async fn a_warning_is_not_passing_and_a_node_check_concerns_all_services() {
    let subject = with_web().await;
    let check = r#"{"Node":"n1","SkipNodeUpdate":true,"Check":{"Name":"disk","Status":"warning"}}"#;
    subject.expect_put("/v1/catalog/register", check, 200, "true").await;
    subject.expect("/v1/health/service/web?passing", 200, "[]").await;
    let all = subject.get("/v1/health/service/web?passing=false").await;
    let (node_check, service_check) = (
        all.text().find(r#""CheckID":"disk""#).unwrap(),
        all.text().find(r#""CheckID":"service:w1""#).unwrap(),
    );
    assert!(node_check < service_check, "the node's checks come first: {}", all.text());
    assert_eq!(all.index(), 3, "the service's index moves with the node's checks");
    assert_eq!(subject.get("/v1/catalog/services").await.index(), 1, "and the list of services does not");
}

#[tokio::test]
async fn filters_select_rows_and_wrong_ones_are_refused() {
    let subject = with_web().await;
    for (path, want) in [
        ("/v1/catalog/services?filter=ServiceName%20matches%20%22%5Ew%22", r#"{"web":["Prod","v1"]}"#),
        ("/v1/catalog/services?filter=ServiceName+==+db", "{}"),
        ("/v1/health/service/web?filter=Checks.Status==critical", "[]"),
        ("/v1/health/state/any?filter=Name==down", "[]"),
        ("/v1/catalog/node-services/none?filter=Port==80", r#"{"Node":null,"Services":null}"#),
    ] {
        subject.expect(path, 200, want).await;
    }
    subject.expect("/v1/catalog/nodes?filter=Node==ext", 200, &format!("[{EXTERNAL}]")).await;
    let text = r#"Failed to create boolean expression evaluator: Selector "Foo" is not valid"#;
    subject.expect("/v1/catalog/nodes?filter=Foo==1", 500, text).await;
}

#[tokio::test]
async fn registrations_are_refused_in_consuls_words() {
    let subject = with_web().await;
    for (body, status, text) in [
        ("", 400, "Request decode failed: EOF"),
        (
            "{bad",
            400,
            "Request decode failed: invalid character 'b' looking for beginning of object key string",
        ),
        (r#"{"Node":"a","Foo":1}"#, 400, r#"Request decode failed: json: unknown field "Foo""#),
        (r#"{"Address":"a"}"#, 500, "Must provide node"),
        (r#"{"Node":"a"}"#, 500, "Must provide address if SkipNodeUpdate is not set"),
        (r#"{"Node":"a","Address":"b","Service":{"ID":"x"}}"#, 500, "Must provide service name with ID"),
        (
            r#"{"Node":"ext","Address":"b","Check":{"Name":"x","ServiceID":"none"}}"#,
            500,
            r#"failed inserting check: Missing service registration on node "ext""#,
        ),
        (r#"{"Node":"a","Address":"b","Datacenter":"dc9"}"#, 500, "No path to datacenter"),
    ] {
        subject.expect_put("/v1/catalog/register", body, status, text).await;
    }
    subject.expect_put("/v1/catalog/deregister", "{}", 500, "Must provide node").await;
    subject.expect_put("/v1/catalog/deregister", r#"{"Node":"none"}"#, 200, "true").await;
    let service = r#"{"node":"N1","serviceid":"w1"} and what follows is not read"#;
    subject.expect_put("/v1/catalog/deregister", service, 200, "true").await;
    subject.expect("/v1/catalog/services", 200, "{}").await;
    subject.expect_put("/v1/catalog/deregister", r#"{"Node":"n1"}"#, 200, "true").await;
    subject.expect("/v1/catalog/nodes", 200, &format!("[{EXTERNAL}]")).await;
}

#[tokio::test]
async fn reads_say_how_fresh_they_are() {
    let subject = with_web().await;
    for (query, mode) in [("", "leader"), ("?consistent", "consistent"), ("?stale", "stale")] {
        let reply = subject.get(&format!("/v1/catalog/nodes{query}")).await;
        for (name, value) in [
            ("X-Consul-Index", "2"),
            ("X-Consul-KnownLeader", "true"),
            ("X-Consul-LastContact", "0"),
            ("X-Consul-Effective-Consistency", mode),
            ("X-Consul-Query-Backend", "blocking-query"),
            ("X-Consul-Default-ACL-Policy", "allow"),
            ("Vary", "Accept-Encoding"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name}");
        }
    }
    assert_eq!(subject.consensus.barriers.load(Ordering::Relaxed), 2, "a stale read asks nobody");
    let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
    subject.expect("/v1/catalog/nodes?stale&consistent", 400, text).await;
    *subject.consensus.last_contact.lock() = std::time::Duration::from_secs(9);
    let reply = subject.get("/v1/catalog/nodes?stale&max_stale=5s").await;
    assert_eq!(reply.header("X-Consul-LastContact"), Some("9000"));
    assert_eq!(subject.consensus.barriers.load(Ordering::Relaxed), 3, "too old: the leader is asked");
}

#[tokio::test]
async fn without_a_leader_only_stale_reads_are_answered() {
    let subject = with_web().await;
    subject.consensus.has_leader.store(false, Ordering::Relaxed);
    for path in ["/v1/catalog/nodes", "/v1/health/service/web?consistent", "/v1/kv/a"] {
        let reply = subject.expect(path, 500, "No cluster leader").await;
        assert_eq!(reply.index(), 1);
        assert_eq!(reply.header("X-Consul-KnownLeader"), Some("false"));
        assert_eq!(reply.header("X-Consul-LastContact"), Some("0"));
    }
    subject.expect_put("/v1/catalog/deregister", r#"{"Node":"n1"}"#, 500, "No cluster leader").await;
    let reply = subject.get("/v1/catalog/nodes?stale").await;
    assert_eq!((reply.status, reply.header("X-Consul-KnownLeader")), (200, Some("false")));
    subject.expect("/v1/status/leader", 200, r#""""#).await;
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let subject = Subject::start().await;
    for (query, status, text) in [
        ("index=x", 400, "Invalid index"),
        ("index=-1", 400, "Invalid index"),
        ("wait=x", 400, "Invalid wait time"),
        ("dc=dc9", 500, "No path to datacenter"),
        ("dc=dc1&datacenter=dc9", 500, "No path to datacenter"),
        ("ns=x", 400, r#"Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature"#),
    ] {
        let reply = subject.expect(&format!("/v1/catalog/services?{query}"), status, text).await;
        assert_eq!(reply.index(), 1, "{query}");
    }
    subject.expect("/v1/catalog/services?dc=dc1&token=x&near=_agent&cached", 200, "{}").await;
}

#[tokio::test]
async fn status_tells_leader_and_servers() {
    let subject = Subject::start().await;
    let reply = subject.expect("/v1/status/leader", 200, r#""10.0.0.1:8300""#).await;
    assert_eq!(reply.header("X-Consul-Index"), None);
    subject.expect("/v1/status/peers?dc=dc1", 200, r#"["10.0.0.1:8300"]"#).await;
    subject.expect("/v1/status/peers?dc=dc2", 500, "No path to datacenter").await;
}
