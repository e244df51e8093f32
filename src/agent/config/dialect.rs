//! The languages that configuration files are written in.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value};

use crate::hint::WithHint as _;
use crate::model::hcl;

/// JSON, or HCL in its first version, which says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// One object.
    Json,
    /// Keys and blocks.
    Hcl,
}

impl Dialect {
    /// What a file's name tells.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "hcl" => Some(Self::Hcl),
            _ => None,
        }
    }

    /// The object that a text is; an empty text is an empty one.
    pub(super) fn read(self, name: &str, text: &str) -> anyhow::Result<Map<String, Value>> {
        if text.trim().is_empty() {
            return Ok(Map::new());
        }
        match self {
            Self::Json => {
                let value: Value =
                    serde_json::from_str(text).with_context(|| format!("failed to parse {name}")).hint(
                        "configuration files are JSON objects with Consul's keys; HCL needs a name in .hcl",
                    )?;
                let Value::Object(object) = value else {
                    bail!("failed to parse {name}: a JSON object is expected")
                };
                Ok(object)
            }
            Self::Hcl => {
                let mut object = hcl::parse(text).with_context(|| format!("failed to parse {name}")).hint(
                    "HCL is `key = value` and `key { … }`, in its first version; the keys are Consul's",
                )?;
                for (key, value) in &mut object {
                    if matches!(key.as_str(), "service" | "services") {
                        each(value, checks_of_one_block_are_a_list);
                    }
                }
                Ok(object)
            }
        }
    }
}

/// One block, or each of several.
fn each(value: &mut Value, change: fn(&mut Value)) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(change),
        single => change(single),
    }
}

/// HCL cannot tell one block from a list with one.
fn checks_of_one_block_are_a_list(service: &mut Value) {
    for (key, value) in service.as_object_mut().into_iter().flatten() {
        if key.eq_ignore_ascii_case("checks") && value.is_object() {
            *value = Value::Array(vec![value.take()]);
        }
    }
}
