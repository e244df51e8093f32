//! The parts of the agent's answers that commands and the registrator read; fields they do not know are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// One service of `GET /v1/agent/services`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentService {
    /// Its id, unique at this agent.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    #[serde(rename = "Service")]
    pub name: String,
    /// Its tags; old agents answer `null` for none.
    #[serde(deserialize_with = "null_is_default")]
    pub tags: Vec<String>,
    /// Its metadata; agents before 1.0 know none.
    #[serde(deserialize_with = "null_is_default")]
    pub meta: BTreeMap<String, String>,
    /// Its port, 0 for none.
    pub port: u16,
    /// Its address, empty for the node's.
    pub address: String,
}

/// One check of `GET /v1/agent/checks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentCheck {
    /// Its id, unique at this agent.
    #[serde(rename = "CheckID")]
    pub id: String,
    /// What people see.
    pub name: String,
    /// `passing`, `warning` or `critical`.
    pub status: String,
    /// A remark of whoever registered it.
    pub notes: String,
    /// What the last run said.
    pub output: String,
    /// The service it belongs to; empty for the node's.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
}

/// One member of `GET /v1/agent/members`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Member {
    /// Node name.
    pub name: String,
    /// Gossip address.
    pub addr: String,
    /// Gossip port.
    pub port: u16,
    /// Role, datacenter, build and more.
    #[serde(deserialize_with = "null_is_default")]
    pub tags: BTreeMap<String, String>,
    /// 1 alive, 2 leaving, 3 left, 4 failed.
    pub status: u8,
}

/// Go writes an empty list or map as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
