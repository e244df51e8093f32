//! The `SERVICE_*` keys of a container, as they apply to one of its ports.
//!
//! * `SERVICE_KEY` applies to every port, `SERVICE_80_KEY` to port 80. Of the living fork: `SERVICE_53_udp_KEY` to
//!   one protocol, `SERVICE_8000-8010_KEY` to a range. The narrower key wins, wherever it was written.
//! * Of the same key, the label wins over the environment.
//! * The prefix is case-sensitive; the rest is lower-cased.
//! * `SERVICE_80=x` is a plain key named `80`.

use std::collections::BTreeMap;

use super::facts::{Facts, Port};

const PREFIX: &str = "SERVICE_";

/// The keys that apply to one port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    text: String,
    scope: Scope,
}

/// To which ports a key applies; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    All,
    Range,
    Port,
    PortAndProtocol,
}

impl Metadata {
    /// The keys of `facts` that apply to `port`.
    pub fn of(facts: &Facts, port: Port) -> Self {
        let mut metadata = Self::default();
        for (key, value) in entries(facts) {
            let Some((key, scope)) = scoped(key, port) else { continue };
            let held = metadata.values.get(&key).map(|held| held.scope);
            if held.is_none_or(|held| held <= scope) {
                metadata.values.insert(key, Value { text: value.to_owned(), scope });
            }
        }
        metadata
    }

    /// The value of `key` (lower case), unless it is missing or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// Whether `key` was given for this port (or its range) and not only for all.
    pub fn is_port_specific(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.scope > Scope::All)
    }

    /// All keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.text.as_str()))
    }
}

/// Whether the container names a service, for all ports or one: what `-explicit` asks for.
pub fn names_a_service(facts: &Facts) -> bool {
    entries(facts).any(|(key, value)| {
        let key = key.to_ascii_lowercase();
        !value.is_empty() && (key == "name" || key.ends_with("_name") && key.as_bytes()[0].is_ascii_digit())
    })
}

/// Keys without their prefix, environment first, so that a label for the same key wins.
fn entries(facts: &Facts) -> impl Iterator<Item = (&str, &str)> {
    let environment = facts.environment.iter().filter_map(|entry| entry.split_once('='));
    let labels = facts.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    environment.chain(labels).filter_map(|(key, value)| {
        let key = key.strip_prefix(PREFIX).filter(|key| !key.is_empty())?;
        Some((key, value))
    })
}

/// The plain key and how narrowly it was meant, if it applies to `port`.
fn scoped(key: &str, port: Port) -> Option<(String, Scope)> {
    let plain = |key: &str, scope| Some((key.to_ascii_lowercase(), scope));
    let Some((head, rest)) = key.split_once('_') else { return plain(key, Scope::All) };
    if let Ok(number) = head.parse::<u32>() {
        if number != u32::from(port.number) {
            return None;
        }
        return match with_protocol(rest) {
            Some((protocol, key)) if protocol == port.protocol.as_str() => plain(key, Scope::PortAndProtocol),
            Some(_) => None,
            None => plain(rest, Scope::Port),
        };
    }
    let Some((first, last)) = range(head) else { return plain(key, Scope::All) };
    if !(first..=last).contains(&port.number) {
        return None;
    }
    match with_protocol(rest) {
        Some((protocol, key)) if protocol == port.protocol.as_str() => plain(key, Scope::Range),
        Some(_) => None,
        None => plain(rest, Scope::Range),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// `udp_NAME` as (`udp`, `NAME`).
fn with_protocol(text: &str) -> Option<(String, &str)> {
    let (protocol, key) = text.split_once('_')?;
    let protocol = protocol.to_ascii_lowercase();
    (matches!(protocol.as_str(), "tcp" | "udp" | "sctp") && !key.is_empty()).then_some((protocol, key))
}

#[cfg(test)]
mod tests {
    use super::{Metadata, names_a_service};
    use crate::model::registration::{Facts, Port};

    fn facts(environment: &[&str], labels: &[(&str, &str)]) -> Facts {
        Facts {
            environment: environment.iter().map(ToString::to_string).collect(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Facts::default()
        }
    }

    #[track_caller]
    fn check(facts: &Facts, port: &str, want: &[(&str, &str)]) {
        let port: Port = port.parse().unwrap();
        assert_eq!(Metadata::of(facts, port).iter().collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_label_wins_over_the_environment_and_the_rest_of_a_key_is_lower_cased() {
        let facts =
            facts(&["SERVICE_Name=env", "SERVICE_Region=eu", "PATH=/bin"], &[("SERVICE_NAME", "label")]);
        check(&facts, "80/tcp", &[("name", "label"), ("region", "eu")]);
    }

    #[test]
    fn the_prefix_is_case_sensitive() {
        check(&facts(&["service_name=a"], &[("Service_NAME", "b")]), "80/tcp", &[]);
    }

    #[test]
    fn a_key_for_the_port_wins_in_any_order_and_from_any_source() {
        let facts = facts(&["SERVICE_80_NAME=port", "SERVICE_NAME=all"], &[("SERVICE_NAME", "label")]);
        check(&facts, "80/tcp", &[("name", "port")]);
        check(&facts, "81/tcp", &[("name", "label")]);
    }

    #[test]
    fn a_key_that_is_only_a_number_is_a_plain_key() {
        check(&facts(&["SERVICE_80=foo"], &[]), "443/tcp", &[("80", "foo")]);
    }

    #[test]
    fn protocol_beats_port_beats_range_beats_all() {
        let facts = facts(
            &[
                "SERVICE_53_udp_NAME=dns",
                "SERVICE_53_NAME=port",
                "SERVICE_50-60_NAME=range",
                "SERVICE_NAME=all",
            ],
            &[],
        );
        check(&facts, "53/udp", &[("name", "dns")]);
        check(&facts, "53/tcp", &[("name", "port")]);
        check(&facts, "60/tcp", &[("name", "range")]);
        check(&facts, "61/tcp", &[("name", "all")]);
    }

    #[test]
    fn values_keep_their_equals_signs_and_entries_without_one_are_no_keys() {
        check(&facts(&["SERVICE_X=a=b", "SERVICE_Y", "SERVICE_=z"], &[]), "80/tcp", &[("x", "a=b")]);
    }

    #[test]
    fn explicit_means_a_name_for_all_ports_or_one() {
        assert!(names_a_service(&facts(&["SERVICE_NAME=a"], &[])));
        assert!(names_a_service(&facts(&[], &[("SERVICE_80_NAME", "a")])));
        assert!(!names_a_service(&facts(&["SERVICE_NAME=", "SERVICE_TAGS=a"], &[])));
        assert!(!names_a_service(&facts(&["SERVICE_HOST_NAME=a"], &[])));
    }

    proptest::proptest! {
        #[test]
        fn no_key_can_break_the_reading(key in "\\PC{0,20}", value in "\\PC{0,10}", port in 0_u16..) {
            let facts = facts(&[&format!("SERVICE_{key}={value}")], &[]);
            let port = Port { number: port, protocol: crate::model::registration::Protocol::Udp };
            assert!(Metadata::of(&facts, port).iter().count() <= 1);
            names_a_service(&facts);
        }
    }
}
