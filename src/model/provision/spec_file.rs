//! `corediscover.yaml`: the settings of a cluster in a file. It says what the flags say, in the same words.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::etcd::Etcd;
use super::render::{RenderError, render};
use super::spec::Spec;
use crate::model::names::Datacenter;

/// Longest file that is read, in bytes: each setting has a limit of its own, and together they are far below it.
pub const SPEC_FILE_BYTES_MAX: usize = 64 << 10;

/// Why a text is no spec file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct SpecFileError {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong there.
    pub reason: String,
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
    // serde-saphyr has no document to give for a text of comments alone.
    let is_empty = text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim().starts_with('#'));
    if is_empty {
        return Ok(Draft::default());
    }
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map_or((1, 1), |location| (location.line(), location.column()));
        // The further lines draw the place, and the end of the first names it.
        let reason = error.without_snippet().to_string();
        let reason = reason.lines().next().unwrap_or_default();
        let reason = reason.rsplit_once(" at line ").map_or(reason, |(reason, _)| reason).to_owned();
        SpecFileError { line: place.0.max(1), column: place.1.max(1), reason }
    })?;
    Ok(Draft {
        servers: file.servers.0,
        etcd: file.etcd.0,
        discovery: file.discovery.0,
        join: file.join.0,
        fleet: file.fleet.0,
        binary: file.binary.0,
        datacenter: file.datacenter.0.map(|Checked(name)| name),
        domain: file.domain.0,
        advertise: file.advertise.0,
        node: file.node.0,
        dns_port: file.dns_port.0,
        client: file.client.0,
    })
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    servers: One<super::spec::Servers>,
    etcd: Many<super::etcd::Endpoint>,
    discovery: One<super::etcd::Url>,
    join: Many<super::etcd::Peer>,
    fleet: One<bool>,
    binary: One<super::binary::Binary>,
    datacenter: One<Checked>,
    domain: One<super::spec::Domain>,
    advertise: One<super::spec::AddressSource>,
    node: One<super::spec::NodeSource>,
    dns_port: One<super::spec::DnsPort>,
    client: Many<std::net::IpAddr>,
}

struct Checked(Datacenter);

impl FromStr for Checked {
    type Err = crate::model::names::NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A value of a flag: text, or a bare number or boolean of YAML, read as the flag reads it. Nothing is a gap.
struct One<T>(Option<T>);

impl<T> Default for One<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneVisitor(PhantomData)).map(Self)
    }
}

struct OneVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for OneVisitor<T> {
    type Value = Option<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map(Some).map_err(|error| E::custom(&error))
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        self.visit_str(&value.to_string())
    }
    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A list of such values: a list of YAML, or one text with commas as on the command line.
struct Many<T>(Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ManyVisitor(PhantomData)).map(Self)
    }
}

struct ManyVisitor<T>(PhantomData<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for ManyVisitor<T> {
    type Value = Vec<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.split(',').map(|part| part.trim().parse().map_err(|error| E::custom(&error))).collect()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(One(value)) = sequence.next_element::<One<T>>()? {
            values.extend(value);
        }
        Ok(values)
    }
    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

#[derive(Serialize)]
struct Values {
    servers: u8,
    etcd: Vec<String>,
    discovery: Option<String>,
    join: Vec<String>,
    fleet: bool,
    binary: String,
    datacenter: String,
    domain: String,
    advertise: &'static str,
    node: &'static str,
    dns_port: u16,
    client: Vec<String>,
}

/// The file that says what `spec` says, with an explanation of each setting.
///
/// # Errors
/// Never for a template of this program.
pub fn print(spec: &Spec) -> Result<String, RenderError> {
    let (etcd, discovery, join) = match &spec.etcd {
        Etcd::Given(endpoints) => (endpoints.iter().map(ToString::to_string).collect(), None, Vec::new()),
        Etcd::Local { discovery } => (Vec::new(), discovery.as_ref().map(ToString::to_string), Vec::new()),
        Etcd::Absent { join } => (Vec::new(), None, join.iter().map(ToString::to_string).collect()),
    };
    render(
        "spec-file",
        &Values {
            servers: spec.servers.count(),
            etcd,
            discovery,
            join,
            fleet: spec.fleet,
            binary: spec.binary.to_string(),
            datacenter: spec.datacenter.to_string(),
            domain: spec.domain.as_str().to_owned(),
            advertise: spec.address.word(),
            node: spec.node.word(),
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
        let join =
            Draft { join: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()], ..Draft::default() };
        let full = read(
            "servers: 5\nnode: machine-id\nadvertise: public\ndomain: corp.example\nclient: 127.0.0.1,::1\n",
        );
        for draft in [Draft::default(), join, full.unwrap()] {
            let spec: Spec = draft.into_spec(Format::CloudConfig).unwrap();
            let text = print(&spec).unwrap();
            let again = read(&text).map_err(|error| format!("{error}\n{text}")).unwrap();
            assert_eq!(again.into_spec(Format::CloudConfig).unwrap(), spec, "{text}");
        }
    }

    #[track_caller]
    fn refused(text: &str, place: (u64, u64), part: &str) {
        let error = read(text).unwrap_err();
        assert!(error.reason.contains(part), "{error}");
        assert_eq!((error.line, error.column), place, "{error}");
    }

    #[test]
    fn a_mistake_is_named_with_line_and_column() {
        refused("servers: 2\n", (1, 10), "2 servers are not possible");
        refused("servers: 3\nserver: 3\n", (2, 1), "server");
        refused("servers: 3\nservers: 5\n", (2, 1), "servers");
        refused("etcd:\n  - \"10.0.0.1\"\n", (2, 5), "is not an etcd endpoint");
        refused("domain: a b\n", (1, 9), "is not a domain");
        refused("fleet: maybe\n", (1, 8), "");
        assert!(read("etcd: [\n").is_err());
    }
}
