//! What people and their programs write: bodies of requests, filters, configuration, user-data.

use std::hint::black_box;

use crate::agent::config::{Dialect, parse_file};
use crate::model::api::filter::{self, Filter};
use crate::model::api::{agent, catalog, decode_check, decode_service, json, syntax};
use crate::model::catalog::{Catalog, Command};
use crate::model::dns::Name;
use crate::model::duration;
use crate::model::fleet::formation::{Asked, Facts, architecture_of, plan};
use crate::model::fleet::known_hosts::{KnownHosts, kind_of, new_line};
use crate::model::fleet::requirements::{Requirements, glob};
use crate::model::fleet::{key_file, machines, survey};
use crate::model::hcl;
use crate::model::provision::lint::{self, Language};
use crate::model::provision::spec_file;

/// A body of `PUT /v1/…`, read as each of those that there are; what is accepted goes into a catalog and out again.
pub(super) fn http_body(bytes: &[u8]) {
    let Ok(value) = syntax::parse_first(bytes) else { return };
    let mut written = Vec::new();
    json::value(&mut written, &value);
    assert_eq!(syntax::parse_first(&written).as_ref(), Ok(&value), "what we write we read");
    assert!(
        serde_json::from_slice::<serde_json::Value>(&json::indent(&written)).is_ok(),
        "others read it too"
    );
    let mut rows = Catalog::default();
    if let Ok((registration, _)) = catalog::decode_register(&value) {
        drop(rows.apply(1, &Command::Register(Box::new(registration))));
        show(&rows);
    }
    if let Ok((deregistration, _)) = catalog::decode_deregister(&value) {
        drop(rows.apply(2, &Command::Deregister(deregistration)));
        show(&rows);
    }
    drop(decode_service(&value));
    drop(decode_check(&value));
    drop(agent::decode_check_update(&value));
}

/// All rows as the API writes them: always JSON.
fn show(rows: &Catalog) {
    let mut out = Vec::new();
    for node in rows.nodes() {
        out.clear();
        catalog::node(&mut out, &node.node);
        assert!(
            serde_json::from_slice::<serde_json::Value>(&out).is_ok(),
            "{}",
            String::from_utf8_lossy(&out)
        );
    }
    for service in rows.services() {
        for instance in rows.instances_of(service) {
            out.clear();
            catalog::service_node(&mut out, instance);
            assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
    }
}

/// A filter expression, for every kind of rows.
pub(crate) fn filter_text(text: &str) {
    const ROW: &[u8] = br#"{"Node": {"Node": "a"}, "Service": {"Tags": ["x"], "Meta": {"k": "v"}, "Port": 80},
        "ServiceTags": ["x"], "ServiceMeta": {"k": "v"}, "Checks": [{"Status": "passing"}], "ServiceName": "a"}"#;
    for fields in
        [filter::NODE, filter::SERVICE, filter::SERVICE_NODE, filter::CHECK, filter::HEALTH, filter::MEMBER]
    {
        if let Ok(filter) = Filter::parse(text, fields) {
            filter.matches(ROW);
        }
    }
    drop(duration::parse(text));
}

/// A configuration file of the agent, in JSON.
pub(super) fn config_file(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(parse_file("fuzz.json", Dialect::Json, text));
    }
}

/// A configuration file of the agent, in HCL; what is read is what the same in JSON says.
pub(super) fn config_hcl(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(object) = hcl::parse(text) {
        let json = serde_json::Value::Object(object).to_string();
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
    }
    drop(parse_file("fuzz.hcl", Dialect::Hcl, text));
}

/// Files that `lint` is given.
pub(super) fn user_data(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.lines().count() + 1;
    for language in Language::ALL {
        for finding in lint::lint(language, text) {
            assert!(finding.line <= lines, "line {} of {lines}", finding.line);
        }
    }
    drop(spec_file::read(text));
    drop(text.parse::<Name>());
}

/// What machines answer over SSH, and the files about them: hosts, keys, units.
pub(super) fn fleet(bytes: &[u8]) {
    black_box(kind_of(bytes));
    black_box(architecture_of(bytes));
    if let Some(line) = new_line("host", 22, bytes) {
        let known = KnownHosts::parse(&line);
        assert!(!known.kinds("host", 22).is_empty(), "the line of a new host is understood: {line}");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(survey) = survey::parse(text) {
        for unit in &survey.units {
            drop(unit.hash());
        }
    }
    let mut facts = Facts::default();
    facts.read(text);
    drop(plan(&[facts], &Asked::default()));
    black_box(KnownHosts::parse(text).look("host", 22, bytes));
    black_box(key_file::is_encrypted(text));
    drop(machines::parse_file(text));
    drop(machines::parse_ssh_config(text));
    drop(Requirements::read("web@1.service", text));
    if let Some((pattern, name)) = text.split_once('\n') {
        black_box(glob(pattern, name));
    }
}
