//! The keys of a birth in etcd and what they say together: the same names and values by both of etcd's APIs.
//!
//! `<prefix>/machines/<machine-id>` (the address as plain text, as the originals wrote it),
//! `<prefix>/incarnations/<machine-id>` (JSON, lives as long), `<prefix>/cluster` (JSON, lives for ever).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::hint::WithHint as _;
use crate::model::election::{Claim, ClaimDetails, Revision, View};
use crate::model::names::MachineId;

/// Where the originals kept their keys, too.
pub const DEFAULT_PREFIX: &str = "/consul.io/bootstrap";

/// The names of the keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// Without a slash at the end.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn machine(&self, machine_id: &MachineId) -> String {
        format!("{}/machines/{machine_id}", self.prefix)
    }

    pub(super) fn incarnation(&self, machine_id: &MachineId) -> String {
        format!("{}/incarnations/{machine_id}", self.prefix)
    }

    pub(super) fn cluster(&self) -> String {
        format!("{}/cluster", self.prefix)
    }
}

/// One key as etcd shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key's whole path.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// etcd's revision at which the key was created.
    pub created: Revision,
    /// etcd's revision of the last change.
    pub modified: Revision,
}

/// The value of an `incarnations` key.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredDetails {
    #[serde(flatten)]
    pub(super) details: ClaimDetails,
    /// Where the two halves of a claim are not written in one transaction, this half names the other one, so that
    /// halves of different writers are never read as one claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
}

/// What the keys below `prefix` say. `claim_revision` makes a claim's revision of its two halves.
///
/// # Errors
/// When the certificate's key holds something else.
pub fn view_of(
    prefix: &str,
    pairs: &[Pair],
    claim_revision: impl Fn(&Pair, &Pair) -> Revision,
) -> Result<View> {
    let mut view = View::default();
    let mut machines: BTreeMap<MachineId, &Pair> = BTreeMap::new();
    let mut details: BTreeMap<MachineId, (StoredDetails, &Pair)> = BTreeMap::new();
    for pair in pairs {
        let Some(name) = pair.key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        if name == "cluster" {
            let certificate = serde_json::from_slice(&pair.value)
                .with_context(|| format!("{} holds no birth certificate", pair.key))
                .hint("another program wrote this key: choose another --prefix")?;
            view.certificate = Some((certificate, pair.modified));
        } else if let Some(id) = name.strip_prefix("machines/")
            && let Ok(id) = id.parse()
        {
            machines.insert(id, pair);
        } else if let Some(id) = name.strip_prefix("incarnations/")
            && let (Ok(id), Ok(found)) = (id.parse(), serde_json::from_slice(&pair.value))
        {
            details.insert(id, (found, pair));
        }
    }
    for (machine_id, pair) in machines {
        let address = String::from_utf8_lossy(&pair.value).into_owned();
        let other_half = details.remove(&machine_id);
        match other_half.filter(|(found, _)| found.address.as_ref().is_none_or(|named| *named == address)) {
            None => view.strangers.push(machine_id),
            Some((found, half)) => view.claims.push(Claim {
                machine_id,
                address,
                details: found.details,
                created: pair.created,
                revision: claim_revision(pair, half),
            }),
        }
    }
    view.claims.sort_by_key(|claim| claim.created);
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::{Pair, view_of};
    use crate::model::election::View;

    fn read(pairs: &[(&str, &str)]) -> anyhow::Result<View> {
        let pairs: Vec<Pair> = pairs
            .iter()
            .zip(1..)
            .map(|((key, value), number)| Pair {
                key: (*key).to_owned(),
                value: value.as_bytes().to_vec(),
                created: number,
                modified: 10 + number,
            })
            .collect();
        view_of("/p", &pairs, |machine, _| machine.modified)
    }

    const DETAILS: &str = r#"{"incarnation": "00000000-0000-4000-8000-000000000001", "name": "a", "boot_id": "b",
        "version": "1""#;

    #[test]
    fn two_halves_are_a_claim_and_one_is_a_stranger() {
        let details = format!("{DETAILS}}}");
        let view = read(&[
            ("/p/machines/m2", "10.0.0.2"),
            ("/p/incarnations/m1", &details),
            ("/p/machines/m1", "10.0.0.1"),
            ("/p/incarnations/m3", &details),
            ("/p/other/m1", "x"),
            ("/pp/machines/m9", "x"),
        ])
        .unwrap();
        assert_eq!(view.claims.len(), 1);
        let claim = &view.claims[0];
        assert_eq!((claim.machine_id.as_str(), &*claim.address, claim.created), ("m1", "10.0.0.1", 3));
        assert_eq!(claim.revision, 13);
        assert_eq!(view.strangers, ["m2".parse().unwrap()]);
    }

    #[test]
    fn halves_of_different_writers_are_no_claim() {
        let details = format!("{DETAILS}, \"address\": \"10.0.0.7\"}}");
        let view = read(&[("/p/machines/m1", "10.0.0.1"), ("/p/incarnations/m1", &details)]).unwrap();
        assert_eq!((view.claims.len(), view.strangers.len()), (0, 1));
        let view = read(&[("/p/machines/m1", "10.0.0.7"), ("/p/incarnations/m1", &details)]).unwrap();
        assert_eq!(view.claims.len(), 1);
    }

    #[test]
    fn another_programs_value_in_the_certificates_key_is_an_error() {
        let error = read(&[("/p/cluster", "main")]).unwrap_err();
        assert!(crate::hint::report(&error).contains("--prefix"), "{error:?}");
    }
}
