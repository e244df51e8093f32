//! Stories of one node: what is owned, what the catalog has, and what a sync writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{BATCH_COMMANDS_MAX, Owned, Scope, agent_node, overridden_tags, plan};
use crate::model::catalog::{Catalog, Check, Command, NodeRegistration, Registration, Service, Status};

fn node() -> NodeRegistration {
    agent_node("id-1", "m1", "10.0.0.1".parse().unwrap(), "dc1", &BTreeMap::new())
}

fn service(id: &str) -> Service {
    Service { id: id.to_owned(), name: id.to_owned(), port: 80, ..Service::default() }
}

fn check(id: &str, service_id: &str, status: Status) -> Check {
    Check {
        check_id: id.to_owned(),
        name: id.to_owned(),
        service_id: service_id.to_owned(),
        status,
        ..Check::default()
    }
}

fn owned(services: &[Service], checks: &[Check]) -> Owned {
    Owned {
        services: services.iter().map(|service| (service.id.clone(), Arc::new(service.clone()))).collect(),
        checks: checks.iter().map(|check| (check.check_id.clone(), Arc::new(check.clone()))).collect(),
    }
}

/// A catalog with our node, the leader's rows on it, and another node.
fn catalog(services: Vec<Service>, checks: Vec<Check>) -> Catalog {
    let mut catalog = Catalog::default();
    for name in ["m1", "other"] {
        let mut registration = Registration {
            node: NodeRegistration { node: name.to_owned(), id: format!("id-{name}"), ..node() },
            service: Some(service("consul")),
            checks: vec![check("serfHealth", "", Status::Passing)],
            ..Registration::default()
        };
        if name == "m1" {
            registration.node.id = "id-1".to_owned();
        }
        write(&mut catalog, Command::Register(Box::new(registration)));
    }
    for service in services {
        let registration = Registration { node: node(), service: Some(service), ..Registration::default() };
        write(&mut catalog, Command::Register(Box::new(registration)));
    }
    write(
        &mut catalog,
        Command::Register(Box::new(Registration { node: node(), checks, ..Registration::default() })),
    );
    catalog
}

fn write(catalog: &mut Catalog, command: Command) {
    catalog.apply(catalog.index() + 1, &command).result.unwrap();
}

/// One line per command, batches flattened.
fn lines(commands: &[Command]) -> Vec<String> {
    commands.iter().flat_map(line).collect()
}

fn line(command: &Command) -> Vec<String> {
    match command {
        Command::Batch(commands) => lines(commands),
        Command::Register(registration) => {
            let mut words = vec![format!("register {}", registration.node.node)];
            if !registration.skip_node_update {
                words.push("node".to_owned());
            }
            words.extend(registration.service.iter().map(|service| format!("service {}", service.id)));
            words.extend(registration.checks.iter().map(|check| format!("check {}", check.check_id)));
            vec![words.join(" ")]
        }
        Command::Deregister(row) => {
            let what = match (&row.service_id, &row.check_id) {
                (Some(id), _) => format!(" service {id}"),
                (None, Some(id)) => format!(" check {id}"),
                (None, None) => String::new(),
            };
            vec![format!("deregister {}{what}", row.node)]
        }
        other => vec![other.to_string()],
    }
}

#[track_caller]
fn check_plan(owned: &Owned, catalog: &Catalog, want: &[&str]) {
    let commands = plan(owned, &node(), catalog.node("m1"), Scope::All, &BTreeSet::new());
    assert_eq!(lines(&commands), want);
}

/// Applies what a sync writes and finds that a second one has nothing to do.
#[track_caller]
fn converges(owned: &Owned, catalog: &mut Catalog) {
    for command in plan(owned, &node(), catalog.node("m1"), Scope::All, &BTreeSet::new()) {
        write(catalog, command);
    }
    check_plan(owned, catalog, &[]);
}

#[test]
fn an_empty_catalog_gets_the_node_first_and_each_service_with_its_checks() {
    let owned = owned(
        &[service("db"), service("web")],
        &[check("disk", "", Status::Passing), check("web:1", "web", Status::Critical)],
    );
    let mut catalog = Catalog::default();
    check_plan(
        &owned,
        &catalog,
        &[
            "register m1 node",
            "register m1 service db",
            "register m1 service web check web:1",
            "register m1 check disk",
        ],
    );
    converges(&owned, &mut catalog);
}

#[test]
fn what_is_not_owned_goes_but_the_leaders_rows_and_other_nodes_stay() {
    let mut catalog = catalog(
        vec![service("old"), service("web")],
        vec![
            check("old:1", "old", Status::Passing),
            check("stray", "", Status::Passing),
            check("web:old", "web", Status::Passing),
            check("consul:1", "consul", Status::Passing),
        ],
    );
    let owned = owned(&[service("web")], &[]);
    check_plan(
        &owned,
        &catalog,
        &["deregister m1 service old", "deregister m1 check stray", "deregister m1 check web:old"],
    );
    converges(&owned, &mut catalog);
    assert!(catalog.node("m1").unwrap().services.contains_key("consul"));
    assert!(catalog.node("m1").unwrap().checks.get("serfHealth").is_some());
    assert!(catalog.node("other").unwrap().services.contains_key("consul"));
}

#[test]
fn equal_rows_are_left_alone_and_different_ones_written() {
    let catalog = catalog(vec![service("web")], vec![check("web:1", "web", Status::Passing)]);
    let same = owned(&[service("web")], &[check("web:1", "web", Status::Passing)]);
    check_plan(&same, &catalog, &[]);
    let port = owned(&[Service { port: 81, ..service("web") }], &[check("web:1", "web", Status::Passing)]);
    check_plan(&port, &catalog, &["register m1 service web"]);
    let status = owned(&[service("web")], &[check("web:1", "web", Status::Critical)]);
    check_plan(&status, &catalog, &["register m1 check web:1"]);
    let notes = Check { notes: "new".to_owned(), ..check("web:1", "web", Status::Passing) };
    check_plan(&owned(&[service("web")], &[notes]), &catalog, &["register m1 check web:1"]);
}

#[test]
fn a_changed_address_writes_the_node_alone() {
    let catalog = catalog(vec![], vec![]);
    let moved = agent_node("id-1", "m1", "10.0.0.9".parse().unwrap(), "dc1", &BTreeMap::new());
    let commands = plan(&Owned::default(), &moved, catalog.node("m1"), Scope::All, &BTreeSet::new());
    assert_eq!(lines(&commands), ["register m1 node"]);
}

#[test]
fn a_name_that_another_id_holds_is_asked_for_before_anything_else() {
    let catalog = catalog(vec![service("theirs")], vec![]);
    let we = NodeRegistration { id: "id-2".to_owned(), ..node() };
    let owned = owned(&[service("web")], &[]);
    let commands = plan(&owned, &we, catalog.node("m1"), Scope::All, &BTreeSet::new());
    assert_eq!(lines(&commands), ["register m1 node"]);
}

#[test]
fn an_output_alone_waits_when_told_to_and_goes_with_a_status() {
    let catalog = catalog(vec![], vec![check("disk", "", Status::Passing)]);
    let said = Check { output: "97 %".to_owned(), ..check("disk", "", Status::Passing) };
    let waits = BTreeSet::from(["disk".to_owned()]);
    let plan_with = |check: &Check, waits: &BTreeSet<String>| {
        lines(&plan(&owned(&[], std::slice::from_ref(check)), &node(), catalog.node("m1"), Scope::All, waits))
    };
    assert_eq!(plan_with(&said, &waits), Vec::<String>::new());
    assert_eq!(plan_with(&said, &BTreeSet::new()), ["register m1 check disk"]);
    let failed = Check { status: Status::Critical, ..said };
    assert_eq!(plan_with(&failed, &waits), ["register m1 check disk"]);
}

#[test]
fn the_catalog_keeps_its_tags_when_the_service_allows_it() {
    let tagged = |tag: &str, enable_tag_override| Service {
        tags: vec![tag.to_owned()],
        enable_tag_override,
        ..service("web")
    };
    let mut catalog = catalog(vec![tagged("theirs", true)], vec![]);
    let ours = owned(&[tagged("ours", true)], &[]);
    check_plan(&ours, &catalog, &[]);
    let adopted = overridden_tags(&ours, catalog.node("m1").unwrap());
    assert_eq!(adopted, [("web".to_owned(), vec!["theirs".to_owned()])]);
    // Another difference is written with the catalog's tags.
    converges(&owned(&[Service { port: 99, ..tagged("ours", true) }], &[]), &mut catalog);
    assert_eq!(catalog.node("m1").unwrap().services["web"].tags, ["theirs"]);
    // Without the switch, the agent's tags win.
    converges(&owned(&[tagged("ours", false)], &[]), &mut catalog);
    assert_eq!(catalog.node("m1").unwrap().services["web"].tags, ["ours"]);
}

#[test]
fn a_narrow_scope_looks_only_at_what_changed() {
    let catalog = catalog(vec![service("old")], vec![]);
    let owned = owned(
        &[service("a"), service("b")],
        &[check("a:1", "a", Status::Passing), check("b:1", "b", Status::Passing)],
    );
    let only = |services: &[&str], checks: &[&str]| {
        let services = services.iter().map(ToString::to_string).collect();
        let checks = checks.iter().map(ToString::to_string).collect();
        let scope = Scope::Only { services: &services, checks: &checks };
        lines(&plan(&owned, &node(), catalog.node("m1"), scope, &BTreeSet::new()))
    };
    assert_eq!(only(&["a"], &[]), ["register m1 service a check a:1"]);
    assert_eq!(only(&[], &["b:1"]), ["register m1 service b check b:1"]);
    assert_eq!(only(&["old"], &["gone"]), ["deregister m1 service old"]);
    assert_eq!(only(&["unknown"], &[]), Vec::<String>::new());
}

#[test]
fn many_changes_are_few_entries() {
    let services: Vec<Service> = (0..300).map(|number| service(&format!("s{number}"))).collect();
    let commands = plan(&owned(&services, &[]), &node(), None, Scope::All, &BTreeSet::new());
    assert_eq!(commands.len(), 301_usize.div_ceil(BATCH_COMMANDS_MAX));
    assert_eq!(lines(&commands).len(), 301);
}
