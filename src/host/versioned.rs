//! JSON files with the number of their format, so that a later version can change them and an earlier one says so.
//!
//! An object has the number as its field `format`; anything else is wrapped: `{"format":1,"data":…}`. A file without
//! a number is of format 1.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::files::ADVICE_NEWER;
use crate::hint::fault;

/// The present format of all of them.
pub const FORMAT: u64 = 1;

const FORMAT_FIELD: &str = "format";
const DATA_FIELD: &str = "data";

/// Why a file is not understood.
#[derive(Debug, thiserror::Error)]
pub enum VersionedError {
    /// Nothing may be done with it, least of all write it: there is more in it than this version knows.
    #[error("it has format {0}; this program reads {FORMAT}")]
    Newer(u64),
    /// It is not what was written.
    #[error(transparent)]
    Damaged(#[from] serde_json::Error),
}

impl VersionedError {
    /// The error about the file `path`; `advice` is for a damaged one.
    pub fn about(self, path: &std::path::Path, advice: &str) -> anyhow::Error {
        match self {
            Self::Newer(_) => fault(format!("{} cannot be used: {self}", path.display()), ADVICE_NEWER),
            Self::Damaged(error) => {
                let error = anyhow::Error::new(error).context(format!("{} is damaged", path.display()));
                crate::hint::advise(error, advice)
            }
        }
    }
}

/// The bytes of a file.
///
/// # Errors
/// When `content` has no JSON.
pub fn encode(content: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut fields = match serde_json::to_value(content)? {
        Value::Object(fields) => fields,
        other => Map::from_iter([(DATA_FIELD.to_owned(), other)]),
    };
    fields.insert(FORMAT_FIELD.to_owned(), FORMAT.into());
    serde_json::to_vec_pretty(&fields)
}

/// The content of a file.
///
/// # Errors
/// See [`VersionedError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, VersionedError> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    if let Value::Object(fields) = &mut value {
        let format = fields.remove(FORMAT_FIELD);
        match format.as_ref().and_then(Value::as_u64) {
            Some(newer) if newer > FORMAT => return Err(VersionedError::Newer(newer)),
            _ => {}
        }
        if format.is_some()
            && fields.len() == 1
            && let Some(data) = fields.remove(DATA_FIELD)
        {
            value = data;
        }
    }
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::{VersionedError, decode, encode};

    #[test]
    fn objects_and_lists_carry_a_number_and_files_without_one_are_read() {
        let list = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(decode::<Vec<String>>(&encode(&list).unwrap()).unwrap(), list);
        assert_eq!(decode::<Vec<String>>(br#"["a", "b"]"#).unwrap(), list);
        let map = BTreeMap::from([("x".to_owned(), u64::MAX)]);
        let bytes = encode(&map).unwrap();
        assert!(String::from_utf8(bytes.clone()).unwrap().contains("\"format\": 1"));
        assert_eq!(decode::<BTreeMap<String, u64>>(&bytes).unwrap(), map);
        assert_eq!(decode::<BTreeMap<String, u64>>(br#"{"x": 18446744073709551615}"#).unwrap(), map);
    }

    #[test]
    fn a_newer_format_is_refused_with_advice_and_damage_with_another() {
        let refused = decode::<Vec<String>>(br#"{"format": 2, "other": true}"#).unwrap_err();
        assert!(matches!(refused, VersionedError::Newer(2)));
        let report = crate::hint::report(&refused.about(Path::new("/data/peers.json"), "mend it"));
        for word in ["/data/peers.json", "format 2", "reads 1", "hint: ", "newer version"] {
            assert!(report.contains(word), "{report}");
        }
        let damaged = decode::<Vec<String>>(b"{").unwrap_err();
        let report = crate::hint::report(&damaged.about(Path::new("/data/peers.json"), "mend it"));
        assert!(report.contains("is damaged") && report.contains("hint: mend it"), "{report}");
    }
}
