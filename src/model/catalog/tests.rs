//! Stories of a catalog, in few words.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Catalog, CatalogError, Changes, Check, Command, Condition, Depth, Deregistration, KvDelete, KvQuery,
    KvRows, KvWrite, NodeRegistration, Outcome, Registration, Reply, Service, Status,
};

/// A catalog and the next index, so that stories need no numbers.
#[derive(Default)]
struct Story(Catalog);

impl Story {
    fn apply(&mut self, command: Command) -> Outcome {
        self.0.apply(self.0.index() + 1, &command)
    }

    fn register(
        &mut self,
        node: &str,
        service: Option<(&str, &str)>,
        checks: &[(&str, &str, Status)],
    ) -> Outcome {
        self.apply(Command::Register(Box::new(registration(node, service, checks))))
    }

    fn put(&mut self, key: &str, value: &str) -> Outcome {
        self.apply(write(key, value, Condition::None))
    }

    fn keys(&self, prefix: &str, separator: &str) -> Vec<String> {
        let query = KvQuery::Keys { prefix: prefix.into(), separator: separator.into() };
        match self.0.kv_query(&query).rows {
            KvRows::Keys(keys) => keys,
            KvRows::Entries(_) => panic!("keys were asked"),
        }
    }

    fn prefix_index(&self, prefix: &str) -> u64 {
        self.0.kv_query(&KvQuery::List { prefix: prefix.into() }).index
    }
}

fn write(key: &str, value: &str, condition: Condition) -> Command {
    Command::KvWrite(KvWrite {
        key: key.into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        flags: 0,
        condition,
    })
}

fn registration(node: &str, service: Option<(&str, &str)>, checks: &[(&str, &str, Status)]) -> Registration {
    Registration {
        node: NodeRegistration {
            node: node.into(),
            address: "10.0.0.1".into(),
            ..NodeRegistration::default()
        },
        skip_node_update: false,
        service: service.map(|(id, name)| Service { id: id.into(), name: name.into(), ..Service::default() }),
        checks: checks
            .iter()
            .map(|(id, service, status)| Check {
                check_id: (*id).into(),
                service_id: (*service).into(),
                status: *status,
                ..Check::default()
            })
            .collect(),
    }
}

fn deregister(node: &str, service_id: Option<&str>, check_id: Option<&str>) -> Command {
    Command::Deregister(Deregistration {
        node: node.into(),
        service_id: service_id.map(Into::into),
        check_id: check_id.map(Into::into),
    })
}

#[test]
fn a_write_that_changes_nothing_raises_no_index_and_wakes_nobody() {
    let mut story = Story::default();
    story.register("n1", Some(("web1", "web")), &[("c1", "web1", Status::Passing)]);
    story.put("a", "1");
    let before = (story.0.table_indexes(), story.0.service_index("web"), story.prefix_index("a"));
    let again = story.register("n1", Some(("web1", "web")), &[("c1", "web1", Status::Passing)]);
    assert_eq!(again.changes, Changes::default());
    assert_eq!(story.put("a", "1").changes, Changes::default());
    assert_eq!((story.0.table_indexes(), story.0.service_index("web"), story.prefix_index("a")), before);
}

#[test]
fn a_node_level_check_moves_the_index_of_every_service_on_the_node() {
    let mut story = Story::default();
    story.register("n1", Some(("web1", "web")), &[]);
    story.register("n2", Some(("db1", "db")), &[]);
    let db = story.0.service_index("db");
    let outcome = story.register("n1", None, &[("serfHealth", "", Status::Critical)]);
    assert_eq!(story.0.service_index("web"), outcome.index);
    assert_eq!(story.0.service_index("db"), db);
    assert!(outcome.changes.services.contains("web") && !outcome.changes.services.contains("db"));
    assert_eq!(story.0.instances("web").next().unwrap().status(), Status::Critical);
}

#[test]
fn the_index_of_a_service_that_went_away_does_not_go_back() {
    let mut story = Story::default();
    story.register("n1", Some(("web1", "web")), &[]);
    let there = story.0.service_index("web");
    let gone = story.apply(deregister("n1", Some("web1"), None));
    assert!(story.0.service_index("web") > there);
    assert!(gone.changes.services.contains("web"));
    assert!(story.0.service("web").is_none());
    assert_eq!(story.apply(deregister("n1", Some("web1"), None)).changes, Changes::default());
}

#[test]
fn removing_a_node_removes_everything_on_it() {
    let mut story = Story::default();
    story.register(
        "N1",
        Some(("web1", "web")),
        &[("c1", "web1", Status::Passing), ("c2", "", Status::Passing)],
    );
    story.apply(deregister("n1", None, None));
    assert_eq!((story.0.node_count(), story.0.service_count(), story.0.checks().count()), (0, 0, 0));
}

#[test]
fn a_check_needs_its_service_and_a_refused_registration_changes_nothing() {
    let mut story = Story::default();
    let outcome = story.register("ext", None, &[("c1", "nope", Status::Passing)]);
    assert_eq!(outcome.result, Err(CatalogError::MissingService { node: "ext".into() }));
    assert_eq!(
        outcome.result.unwrap_err().to_string(),
        "failed inserting check: Missing service registration on node \"ext\""
    );
    assert_eq!(story.0.node_count(), 0);
}

#[test]
fn a_living_nodes_name_is_reserved_and_a_dead_ones_is_not() {
    let mut story = Story::default();
    let with_id = |id: &str, status| {
        let mut wanted = registration("n1", None, &[("serfHealth", "", status)]);
        wanted.node.id = id.into();
        Command::Register(Box::new(wanted))
    };
    story.apply(with_id("id-1", Status::Passing));
    let refused = story.apply(with_id("id-2", Status::Passing)).result.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "failed inserting node: Error while renaming Node ID: \"id-2\": Node name n1 is reserved by node id-1 \
         with name n1 (10.0.0.1)"
    );
    story.apply(with_id("id-1", Status::Critical));
    assert_eq!(story.apply(with_id("id-2", Status::Passing)).result, Ok(Reply::Done));
}

#[test]
fn an_agent_that_changes_its_name_leaves_nothing_under_the_old_one() {
    let mut story = Story::default();
    for name in ["old", "new"] {
        let mut wanted = registration(name, Some(("web1", "web")), &[]);
        wanted.node.id = "id-1".into();
        story.apply(Command::Register(Box::new(wanted)));
    }
    assert!(story.0.node("old").is_none());
    assert_eq!(story.0.instances("web").count(), 1);
}

#[test]
fn a_service_id_that_changes_its_name_leaves_the_old_name() {
    let mut story = Story::default();
    story.register("n1", Some(("id", "web")), &[("c", "id", Status::Passing)]);
    let outcome = story.register("n1", Some(("id", "api")), &[]);
    assert!(story.0.service("web").is_none());
    assert_eq!(story.0.instances("api").next().unwrap().checks().next().unwrap().service_name, "api");
    assert!(outcome.changes.services.contains("web") && outcome.changes.services.contains("api"));
}

#[test]
fn conditional_writes_and_deletes_follow_consul() {
    let mut story = Story::default();
    let cas = |value, index| write("k", value, Condition::ModifyIndex(index));
    let delete =
        |index| Command::KvDelete(KvDelete { key: "k".into(), recurse: false, modify_index: Some(index) });
    assert_eq!(story.apply(cas("1", 7)).result, Ok(Reply::Bool(false)));
    let created = story.apply(cas("1", 0));
    assert_eq!(created.result, Ok(Reply::Bool(true)));
    assert_eq!(story.apply(cas("2", 0)).result, Ok(Reply::Bool(false)));
    assert_eq!(story.apply(cas("2", created.index)).result, Ok(Reply::Bool(true)));
    assert_eq!(story.apply(delete(0)).result, Ok(Reply::Bool(false)));
    assert_eq!(story.apply(delete(created.index)).result, Ok(Reply::Bool(false)));
    let KvRows::Entries(entries) = story.0.kv_query(&KvQuery::Get { key: "k".into() }).rows else { panic!() };
    assert_eq!(entries[0].create_index, created.index);
    assert_eq!(story.apply(delete(entries[0].modify_index)).result, Ok(Reply::Bool(true)));
    assert_eq!(story.apply(delete(99)).result, Ok(Reply::Bool(true)), "a missing key is deleted already");
}

#[test]
fn keys_are_cut_after_the_first_separator_beyond_the_prefix() {
    let mut story = Story::default();
    for key in ["a/b", "a/c/d", "a/c/e", "ab", "b"] {
        story.put(key, "");
    }
    assert_eq!(story.keys("a/", "/"), ["a/b", "a/c/"]);
    assert_eq!(story.keys("a", "/"), ["a/", "ab"]);
    assert_eq!(story.keys("a", ""), ["a/b", "a/c/d", "a/c/e", "ab"]);
    assert_eq!(story.keys("", "/"), ["a/", "ab", "b"]);
}

#[test]
fn the_index_of_a_prefix_rises_with_deletes_and_not_with_others() {
    let mut story = Story::default();
    story.put("a/1", "x");
    let second = story.put("a/2", "x").index;
    story.put("b", "x");
    assert_eq!(story.prefix_index("a/"), second);
    let deleted =
        story.apply(Command::KvDelete(KvDelete { key: "a/1".into(), recurse: false, modify_index: None }));
    assert_eq!(story.prefix_index("a/"), deleted.index);
    let all =
        story.apply(Command::KvDelete(KvDelete { key: "a/".into(), recurse: true, modify_index: None }));
    assert_eq!(all.changes.keys, [Arc::from("a/2")].into());
    assert_eq!(story.prefix_index("a/"), all.index);
    story.apply(Command::KvReap { before: u64::MAX });
    assert_eq!(story.0.tombstone_count(), 0);
    assert!(story.prefix_index("a/") >= all.index);
}

#[test]
fn a_snapshot_brings_back_the_same_catalog() {
    let mut story = Story::default();
    story.register(
        "n1",
        Some(("web1", "Web")),
        &[("c1", "web1", Status::Warning), ("n", "", Status::Passing)],
    );
    story.register("n2", Some(("web2", "web")), &[]);
    story.put("a", "1");
    story.apply(Command::KvDelete(KvDelete { key: "a".into(), recurse: false, modify_index: None }));
    story.put("b", "2");
    let copy = Catalog::from_bytes(&story.0.to_bytes(Depth::Full).unwrap()).unwrap();
    assert_eq!(copy, story.0);
    let discovery = Catalog::from_bytes(&story.0.to_bytes(Depth::Discovery).unwrap()).unwrap();
    assert_eq!(discovery.kv_count(), 0);
    assert_eq!(discovery.instances("web").count(), 2);
    assert!(Catalog::from_bytes(b"garbage").is_err());
}
