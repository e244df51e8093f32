//! `corediscover.yaml`: the settings of a cluster in a file. It says what the flags say, in the same words.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::draft::Draft;
use super::etcd::Etcd;
use super::format::Format;
use super::render::{RenderError, render};
use super::spec::Spec;
use super::yaml::{Kind, Node, Type, parse, quoted};

/// Longest file that is read, in bytes: each setting has a limit of its own, and together they are far below it.
pub const SPEC_FILE_BYTES_MAX: usize = 64 << 10;
/// All settings, in the order in which [`print`] writes them.
const NAMES: [&str; 15] = [
    "servers",
    "etcd",
    "etcd_ca",
    "etcd_cert",
    "etcd_key",
    "discovery",
    "join",
    "fleet",
    "binary",
    "datacenter",
    "domain",
    "advertise",
    "node",
    "dns_port",
    "client",
];

/// Why a text is no spec file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct SpecFileError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl SpecFileError {
    fn at(node: &Node, reason: impl fmt::Display) -> Self {
        Self { line: node.line, column: node.column, reason: reason.to_string() }
    }
}

/// Reads a spec file.
///
/// # Errors
/// Names the place and the reason.
pub fn read(text: &str) -> Result<Draft, SpecFileError> {
    if text.len() > SPEC_FILE_BYTES_MAX {
        let reason = format!("a spec file has at most {SPEC_FILE_BYTES_MAX} bytes");
        return Err(SpecFileError { line: 1, column: 1, reason });
    }
    let root = parse(text).map_err(|fault| SpecFileError {
        line: fault.line,
        column: fault.column,
        reason: fault.reason,
    })?;
    let mut draft = Draft::default();
    let Some(root) = root.filter(|root| root.scalar_type() != Some(Type::Null)) else {
        return Ok(draft);
    };
    if !matches!(root.kind, Kind::Map { .. }) {
        return Err(SpecFileError::at(&root, "a spec file has a setting in each line: `servers: 3`"));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (key, value) in root.entries() {
        let name = key.text().unwrap_or_default();
        if seen.contains(&name) {
            return Err(SpecFileError::at(key, format_args!("`{name}` stands twice: keep one of the two")));
        }
        seen.push(name);
        set(&mut draft, name, value).unwrap_or_else(|| {
            let names = NAMES.join(", ");
            Err(SpecFileError::at(key, format_args!("unknown setting `{name}`: there are {names}")))
        })?;
    }
    Ok(draft)
}

/// Sets what has this name; `None` when nothing has.
fn set(draft: &mut Draft, name: &str, value: &Node) -> Option<Result<(), SpecFileError>> {
    Some(match name {
        "servers" => one(value, &mut draft.servers),
        "etcd" => many(value, &mut draft.etcd),
        "etcd_ca" => one(value, &mut draft.etcd_files.ca),
        "etcd_cert" => one(value, &mut draft.etcd_files.cert),
        "etcd_key" => one(value, &mut draft.etcd_files.key),
        "discovery" => one(value, &mut draft.discovery),
        "join" => many(value, &mut draft.join),
        "fleet" => one(value, &mut draft.fleet),
        "binary" => one(value, &mut draft.binary),
        "datacenter" => one(value, &mut draft.datacenter),
        "domain" => one(value, &mut draft.domain),
        "advertise" => one(value, &mut draft.advertise),
        "node" => one(value, &mut draft.node),
        "dns_port" => one(value, &mut draft.dns_port),
        "client" => many(value, &mut draft.client),
        _ => return None,
    })
}

/// A value as its flag reads it, quoted or not. Nothing is a gap.
fn one<T: FromStr<Err: fmt::Display>>(node: &Node, target: &mut Option<T>) -> Result<(), SpecFileError> {
    let Some(text) = node.text() else {
        return Err(SpecFileError::at(node, "one value is wanted here"));
    };
    if node.scalar_type() != Some(Type::Null) {
        *target = Some(text.parse().map_err(|error| SpecFileError::at(node, error))?);
    }
    Ok(())
}

/// A list of values, or one text with commas as on the command line.
fn many<T: FromStr<Err: fmt::Display>>(node: &Node, target: &mut Vec<T>) -> Result<(), SpecFileError> {
    match (&node.kind, node.text()) {
        (Kind::List { items, .. }, _) => {
            for item in items {
                let mut value = None;
                one(item, &mut value)?;
                target.extend(value);
            }
        }
        (_, Some(_)) if node.scalar_type() == Some(Type::Null) => {}
        (_, Some(text)) => {
            for part in text.split(',') {
                target.push(part.trim().parse().map_err(|error| SpecFileError::at(node, error))?);
            }
        }
        _ => return Err(SpecFileError::at(node, "a list is wanted here")),
    }
    Ok(())
}

#[derive(Serialize)]
struct Values {
    servers: u8,
    etcd: Vec<String>,
    etcd_ca: Option<String>,
    etcd_cert: Option<String>,
    etcd_key: Option<String>,
    discovery: Option<String>,
    join: Vec<String>,
    fleet: bool,
    binary: String,
    datacenter: String,
    domain: String,
    advertise: String,
    node: &'static str,
    /// Whether it is said: what is usual differs from form to form, and the file is for all of them.
    says_dns_port: bool,
    dns_port: u16,
    client: Vec<String>,
}

/// The file that says what `spec` says, which is for `format`, with an explanation of each setting.
///
/// # Errors
/// Never for a template of this program.
pub fn print(spec: &Spec, format: Format) -> Result<String, RenderError> {
    let (etcd, discovery, join) = match &spec.etcd {
        Etcd::Given { endpoints, .. } => {
            (endpoints.iter().map(ToString::to_string).collect(), None, Vec::new())
        }
        Etcd::Local { discovery } => (Vec::new(), discovery.as_ref().map(ToString::to_string), Vec::new()),
        Etcd::Absent { join } => (Vec::new(), None, join.iter().map(ToString::to_string).collect()),
    };
    let tls = spec.etcd.tls();
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    render(
        "spec-file",
        &Values {
            servers: spec.servers.count(),
            etcd,
            etcd_ca: tls.map(|tls| tls.ca.to_string()),
            etcd_cert: identity.map(|(cert, _)| cert.to_string()),
            etcd_key: identity.map(|(_, key)| key.to_string()),
            discovery,
            join,
            fleet: spec.fleet,
            binary: spec.binary.to_string(),
            datacenter: spec.datacenter.to_string(),
            domain: spec.domain.as_str().to_owned(),
            advertise: quoted(&spec.address.to_string()),
            node: spec.node.word(),
            says_dns_port: spec.dns_port != format.usual_dns_port(spec.fleet),
            dns_port: spec.dns_port.number(),
            client: spec.client.iter().map(ToString::to_string).collect(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{print, read};
    use crate::model::provision::Spec;
    use crate::model::provision::draft::Draft;
    use crate::model::provision::format::Format;

    #[test]
    fn a_file_says_what_flags_say_in_any_spelling_of_yaml() {
        let draft = read(
            "servers: 5\nfleet: false\netcd: http://a:2379,http://b:2379\nclient:\n- 127.0.0.1\n- \"::1\"\n\
             dns_port: \"53\"\ndatacenter: ams\ndomain:\n",
        )
        .unwrap();
        assert_eq!(draft.servers, Some("5".parse().unwrap()));
        assert_eq!((draft.fleet, draft.etcd.len(), draft.client.len()), (Some(false), 2, 2));
        assert_eq!(draft.dns_port, Some("53".parse().unwrap()));
        assert_eq!(draft.domain, None);
        assert_eq!(read("# nothing\n\n").unwrap(), Draft::default());
    }

    #[test]
    fn a_printed_spec_is_read_as_the_same_spec() {
        let join = Draft {
            join: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            servers: Some("1".parse().unwrap()),
            ..Draft::default()
        };
        let full = read(
            "servers: 5\nnode: machine-id\nadvertise: public\ndomain: corp.example\nclient: 127.0.0.1,::1\n",
        );
        let closed = read(
            "etcd: https://a,https://b\netcd_ca: /etc/etcd/ca.pem\netcd_cert: /etc/etcd/c.pem\netcd_key: /etc/etcd/k.pem\n",
        );
        let template = r#"{{ GetAllInterfaces | include "name" "^eth\\d$" | attr `address` }}"#;
        let templated = Draft { advertise: Some(template.parse().unwrap()), ..Draft::default() };
        for draft in [Draft::default(), join, full.unwrap(), closed.unwrap(), templated] {
            let spec: Spec = draft.into_spec(Format::CloudConfig).unwrap();
            let text = print(&spec, Format::CloudConfig).unwrap();
            let again = read(&text).map_err(|error| format!("{error}\n{text}")).unwrap();
            assert_eq!(again.into_spec(Format::CloudConfig).unwrap(), spec, "{text}");
        }
    }

    #[test]
    fn a_port_that_is_usual_is_left_to_each_form_and_another_is_said() {
        for (format, fleet) in
            Format::ALL.map(|format| (format, None)).into_iter().chain([(Format::Units, Some(true))])
        {
            let spec = Draft { fleet, ..Draft::default() }.into_spec(format).unwrap();
            let draft = read(&print(&spec, format).unwrap()).unwrap();
            assert_eq!(draft.dns_port, None, "{format:?}");
            // Without it the last CoreOS could not ask the agent.
            assert_eq!(draft.into_spec(Format::CloudConfig).unwrap().dns_port.number(), 53, "{format:?}");
        }
        let own = Draft { dns_port: Some("5353".parse().unwrap()), ..Draft::default() };
        let spec = own.clone().into_spec(Format::CloudInit).unwrap();
        assert_eq!(read(&print(&spec, Format::CloudInit).unwrap()).unwrap().dns_port, own.dns_port);
    }

    #[track_caller]
    fn refused(text: &str, place: (usize, usize), part: &str) {
        let error = read(text).unwrap_err();
        assert!(error.reason.contains(part), "{error}");
        assert_eq!((error.line, error.column), place, "{error}");
    }

    #[test]
    fn a_mistake_is_named_with_line_and_column() {
        refused("servers: 2\n", (1, 10), "2 servers are not possible");
        refused("servers: 3\nserver: 3\n", (2, 1), "server");
        refused("servers: 3\nservers: 5\n", (2, 1), "twice");
        refused("etcd:\n  - \"10.0.0.1\"\n", (2, 5), "is not a URL of etcd");
        refused("domain: a b\n", (1, 9), "is not a domain");
        refused("fleet: maybe\n", (1, 8), "");
        refused("servers:\n  - 3\n", (2, 3), "one value");
        refused("- servers\n", (1, 1), "a setting in each line");
        assert!(read("etcd: [\n").is_err());
    }
}
