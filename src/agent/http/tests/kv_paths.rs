//! `/v1/kv`.

use super::Subject;

#[tokio::test]
async fn keys_are_written_read_and_deleted() {
    let subject = Subject::start().await;
    let miss = subject.expect("/v1/kv/a", 404, "").await;
    assert_eq!(miss.index(), 1);
    assert_eq!(miss.header("Content-Type"), None);
    subject.expect_put("/v1/kv/a?flags=42", "<hi>", 200, "true").await;
    subject.expect_put("/v1/kv/a%2Fb", "", 200, "true").await;
    let reply = subject
        .expect(
            "/v1/kv/a",
            200,
            r#"[{"LockIndex":0,"Key":"a","Flags":42,"Value":"PGhpPg==","CreateIndex":1,"ModifyIndex":1}]"#,
        )
        .await;
    assert_eq!(reply.index(), 1);
    assert_eq!(reply.header("X-Consul-Effective-Consistency"), None);
    subject
        .expect(
            "/v1/kv/a/?recurse=false",
            200,
            r#"[{"LockIndex":0,"Key":"a/b","Flags":0,"Value":null,"CreateIndex":2,"ModifyIndex":2}]"#,
        )
        .await;
    let raw = subject.expect("/v1/kv/a?raw", 200, "<hi>").await;
    assert_eq!(raw.header("Content-Type"), Some("text/plain"));
    assert_eq!(raw.header("Content-Security-Policy"), Some("sandbox"));
    assert_eq!(raw.header("X-Content-Type-Options"), Some("nosniff"));
    subject.expect("/v1/kv/none?raw", 404, "").await;
    let reply = subject.connect().await.send("DELETE", "/v1/kv/a", "").await;
    assert_eq!((reply.status, reply.text()), (200, "true"));
    subject.expect("/v1/kv/a", 404, "").await;
}

#[tokio::test]
async fn lists_of_keys_are_cut_at_the_separator() {
    let subject = Subject::start().await;
    subject.expect("/v1/kv/?keys", 200, "[]").await;
    subject.expect("/v1/kv/?recurse", 404, "").await;
    for key in ["a/b", "a/c/d", "a/c/e", "z"] {
        subject.expect_put(&format!("/v1/kv/{key}"), "x", 200, "true").await;
    }
    subject.expect("/v1/kv/?keys", 200, r#"["a/b","a/c/d","a/c/e","z"]"#).await;
    subject.expect("/v1/kv/a/?keys&separator=/", 200, r#"["a/b","a/c/"]"#).await;
    subject.expect("/v1/kv/?keys&seperator=/", 200, r#"["a/","z"]"#).await;
    subject.expect("/v1/kv/none?keys", 404, "").await;
    let moved = subject.expect("/v1/kv?keys", 301, "").await;
    assert_eq!(moved.header("Location"), Some("/v1/kv/?keys"));
    let reply = subject.connect().await.send("DELETE", "/v1/kv/a/?recurse", "").await;
    assert_eq!(reply.text(), "true");
    subject.expect("/v1/kv/?keys", 200, r#"["z"]"#).await;
}

#[tokio::test]
async fn conditions_decide_over_writes_and_deletes() {
    let subject = Subject::start().await;
    subject.expect_put("/v1/kv/a?cas=0", "1", 200, "true").await;
    subject.expect_put("/v1/kv/a?cas=0", "2", 200, "false").await;
    subject.expect_put("/v1/kv/a?cas=1", "2", 200, "true").await;
    let mut client = subject.connect().await;
    assert_eq!(client.send("DELETE", "/v1/kv/a?cas=0", "").await.text(), "false");
    assert_eq!(client.send("DELETE", "/v1/kv/a?cas=1", "").await.text(), "false");
    let index = subject.get("/v1/kv/a").await.index();
    assert_eq!(client.send("DELETE", &format!("/v1/kv/a?cas={index}"), "").await.text(), "true");
    assert_eq!(client.send("DELETE", "/v1/kv/a?cas=7", "").await.text(), "true", "it is gone already");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_in_consuls_words() {
    let subject = Subject::start().await;
    subject.expect("/v1/kv/", 400, "Missing key name").await;
    for (query, status, text) in [
        ("a?acquire=f&cas=1", 400, "Conflicting flags: acquire=f&cas=1"),
        ("a?flags=abc", 500, r#"strconv.ParseUint: parsing "abc": invalid syntax"#),
        ("a?cas=-1", 500, r#"strconv.ParseUint: parsing "-1": invalid syntax"#),
        ("a?acquire=x", 400, "Cannot acquire the key: this agent has no sessions, so it has no locks"),
        ("", 400, "Missing key name"),
    ] {
        subject.expect_put(&format!("/v1/kv/{query}"), "x", status, text).await;
    }
    let mut client = subject.connect().await;
    let reply = client.send("DELETE", "/v1/kv/a?recurse&cas=1", "").await;
    assert_eq!((reply.status, reply.text()), (400, "Conflicting flags: cas=1&recurse="));
    let reply = client.send("DELETE", "/v1/kv/", "").await;
    assert_eq!((reply.status, reply.text()), (400, "Missing key name"));
    assert_eq!(subject.replica.snapshot().kv_count(), 0);
}

#[tokio::test]
async fn values_have_a_limit() {
    let subject = Subject::start().await;
    let limit = subject.settings.limits.value_bytes;
    assert_eq!(limit, 524_288);
    subject.expect_put("/v1/kv/big", &"x".repeat(limit), 200, "true").await;
    let text = "Request body(524289 bytes) too large, max size: 524288 bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size.";
    subject.expect_put("/v1/kv/big", &"x".repeat(limit + 1), 413, text).await;
    let mut client = subject.connect().await;
    client.write("PUT /v1/kv/big HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = "y".repeat(limit + 1);
    client.write(&format!("{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len())).await;
    assert_eq!(client.read(false).await.status, 413);
}
