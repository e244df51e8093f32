//! Names that are checked once, when text becomes a value, and valid ever after.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest machine-id in bytes: systemd's have 32; ids given by hand may be longer, but stay one etcd path element.
const MACHINE_ID_BYTES_MAX: usize = 64;
/// Longest DNS label in bytes (RFC 1035 §2.3.4).
pub const DNS_LABEL_BYTES_MAX: usize = 63;
/// Longest datacenter name in bytes: it is one DNS label.
const DATACENTER_BYTES_MAX: usize = DNS_LABEL_BYTES_MAX;

/// Why a text is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not usable as a bootstrap key.
    #[error("`{0}` is not a machine-id: use 1 to 64 letters, digits, `-`, `_` or `.`, as in /etc/machine-id")]
    MachineId(String),
    /// Consul's text for the same mistake.
    #[error("datacenter can only contain lowercase alphanumeric, - or _ characters.")]
    Datacenter(String),
    /// A cluster id is what [`ClusterId::from_random`] made; anything else was damaged on its way.
    #[error("`{0}` is not a cluster id (a UUID is expected)")]
    ClusterId(String),
}

macro_rules! text_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

/// Identity of a machine (machine-id(5)); the last element of its bootstrap key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);
text_name!(MachineId);

impl FromStr for MachineId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=MACHINE_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && text != "."
            && text != "..";
        if fits { Ok(Self(text.to_owned())) } else { Err(NameError::MachineId(text.to_owned())) }
    }
}

/// Name of the datacenter: one DNS label's length, lower case, as Consul checks it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Datacenter(String);
text_name!(Datacenter);

impl FromStr for Datacenter {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.to_ascii_lowercase();
        let fits = (1..=DATACENTER_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if fits { Ok(Self(text)) } else { Err(NameError::Datacenter(text)) }
    }
}

impl Default for Datacenter {
    fn default() -> Self {
        Self("dc1".to_owned())
    }
}

/// Identity of one cluster for its whole life; servers refuse to talk across different ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);
text_name!(ClusterId);

impl ClusterId {
    /// A cluster id from 128 random bits (a version 4 UUID).
    pub fn from_random(bits: u128) -> Self {
        Self(uuid_text(bits))
    }
}

impl FromStr for ClusterId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_uuid(text) { Ok(Self(text.to_owned())) } else { Err(NameError::ClusterId(text.to_owned())) }
    }
}

/// Random bits as the text of a version 4 UUID (RFC 9562 §5.4).
pub fn uuid_text(bits: u128) -> String {
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Whether `text` is written as a UUID: 36 characters, hexadecimal, hyphens in their places.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether DNS can find this name: Consul's `^[A-Za-z0-9\-]+$`, at most 63 bytes. Other names only draw a warning.
pub fn is_dns_label(name: &str) -> bool {
    (1..=DNS_LABEL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::{ClusterId, Datacenter, MachineId, is_dns_label, is_uuid, uuid_text};

    #[test]
    fn machine_ids_are_one_path_element() {
        for good in ["625a1fcf5d4e4d6e8e4b8a5e1c1f2a3b", "m1", "core-01.example"] {
            assert_eq!(good.parse::<MachineId>().unwrap().as_str(), good);
        }
        for bad in ["", "a/b", "..", "ü", &"a".repeat(65)] {
            assert!(bad.parse::<MachineId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn datacenters_are_lower_cased() {
        assert_eq!("DC1".parse::<Datacenter>().unwrap().as_str(), "dc1");
        assert!("a b".parse::<Datacenter>().is_err());
    }

    #[test]
    fn cluster_ids_are_version_four_uuids() {
        let id = ClusterId::from_random(u128::MAX);
        assert_eq!(id.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert!(is_uuid(&uuid_text(0)));
        assert!(!is_uuid("ffffffff-ffff-4fff-bfff-fffffffffff"));
    }

    #[test]
    fn dns_labels_are_letters_digits_and_hyphens() {
        assert!(is_dns_label("web-1"));
        assert!(!is_dns_label("web_1"));
        assert!(!is_dns_label(""));
        assert!(!is_dns_label(&"a".repeat(64)));
    }
}
