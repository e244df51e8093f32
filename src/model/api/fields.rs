//! Walks a JSON object by a table of field names, as Go's strict decoder does.
//!
//! Names match in any case, in snake case and through aliases; a name that is not in the table is refused; `null` is
//! as good as absent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::model::duration::{self, DurationError};

/// Why a body could not be decoded; the texts are Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No value at all.
    #[error("EOF")]
    Eof,
    /// The value is cut off.
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A field that does not exist.
    #[error("json: unknown field {0:?}")]
    UnknownField(String),
    /// A field of another type.
    #[error("json: cannot unmarshal {found} into Go struct field .{field} of type {wanted}")]
    FieldType {
        /// The JSON type, with the value when it is a number.
        found: String,
        /// The field.
        field: &'static str,
        /// The Go type.
        wanted: &'static str,
    },
    /// Not an object.
    #[error("json: cannot unmarshal {found} into Go value of type {wanted}")]
    ValueType {
        /// The JSON type.
        found: String,
        /// The Go type.
        wanted: &'static str,
    },
    /// A duration that is none.
    #[error(transparent)]
    Duration(#[from] DurationError),
}

/// The fields that an object may have.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Go's name of the type, for error texts.
    pub type_name: &'static str,
    /// Field names as documented.
    pub names: &'static [&'static str],
    /// Other names of fields: (alias, name).
    pub aliases: &'static [(&'static str, &'static str)],
}

impl Table {
    /// The documented name that `written` stands for, and whether it is that name itself and no alias.
    fn find(&self, written: &str) -> Option<(&'static str, bool)> {
        if let Some(name) = self.names.iter().find(|name| name.eq_ignore_ascii_case(written)) {
            return Some((name, true));
        }
        if let Some((_, name)) = self.aliases.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(written)) {
            return Some((name, false));
        }
        let is_snake = written.contains('_') && !written.bytes().any(|byte| byte.is_ascii_uppercase());
        let joined = written.replace('_', "");
        let same = |name: &&&str| is_snake && name.eq_ignore_ascii_case(&joined);
        self.names.iter().find(same).map(|name| (*name, false))
    }

    /// Takes the fields of `value`; none for `null`.
    ///
    /// # Errors
    /// When it is no object, or has a field that is not in the table.
    pub fn take<'a>(&self, value: &'a Value) -> Result<Fields<'a>, DecodeError> {
        let mut values: Vec<(&'static str, bool, &'a Value)> = Vec::new();
        let object = match value {
            Value::Null => return Ok(Fields { values }),
            Value::Object(object) => object,
            other => {
                return Err(DecodeError::ValueType { found: kind_of(other), wanted: self.type_name });
            }
        };
        for (written, value) in object {
            let (name, own) = self.find(written).ok_or_else(|| DecodeError::UnknownField(written.clone()))?;
            if value.is_null() {
                continue;
            }
            match values.iter_mut().find(|(known, ..)| *known == name) {
                // The documented name wins over an alias.
                Some(entry) if own || !entry.1 => *entry = (name, own, value),
                Some(_) => {}
                None => values.push((name, own, value)),
            }
        }
        Ok(Fields { values })
    }
}

/// The fields that were given and are not `null`.
#[derive(Debug)]
pub struct Fields<'a> {
    values: Vec<(&'static str, bool, &'a Value)>,
}

impl<'a> Fields<'a> {
    /// The raw value of a field.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.values.iter().find(|(known, ..)| *known == name).map(|(.., value)| *value)
    }

    /// Whether no field was given.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether a field is given and not its type's zero value (`""`, `false`, `0`, `[]`, `{}`).
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !is_zero(value))
    }

    /// A text, empty when absent.
    pub fn text(&self, name: &'static str) -> Result<String, DecodeError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(wrong_type(name, other, "string")),
        }
    }

    /// A truth value, false when absent.
    pub fn boolean(&self, name: &'static str) -> Result<bool, DecodeError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(wrong_type(name, other, "bool")),
        }
    }

    /// An integer, 0 when absent.
    pub fn integer(&self, name: &'static str) -> Result<i64, DecodeError> {
        match self.get(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| wrong_type(name, value, "int")),
        }
    }

    /// A duration in nanoseconds, from Go's text or a number of nanoseconds; 0 when absent.
    pub fn nanoseconds(&self, name: &'static str) -> Result<i64, DecodeError> {
        match self.get(name) {
            None => Ok(0),
            Some(Value::String(text)) if text.is_empty() => Ok(0),
            Some(Value::String(text)) => Ok(duration::parse(text)?),
            Some(value @ Value::Number(number)) => match number.as_i64() {
                Some(nanoseconds) => Ok(nanoseconds),
                #[allow(clippy::cast_possible_truncation, reason = "Go converts a float to nanoseconds so")]
                None => number
                    .as_f64()
                    .map(|value| value as i64)
                    .ok_or_else(|| wrong_type(name, value, "time.Duration")),
            },
            Some(other) => Err(wrong_type(name, other, "time.Duration")),
        }
    }

    /// As [`Fields::nanoseconds`], but what is not positive is zero.
    pub fn duration(&self, name: &'static str) -> Result<Duration, DecodeError> {
        Ok(Duration::from_nanos(u64::try_from(self.nanoseconds(name)?).unwrap_or(0)))
    }

    /// A list of texts, empty when absent.
    pub fn texts(&self, name: &'static str) -> Result<Vec<String>, DecodeError> {
        self.get(name).map_or(Ok(Vec::new()), |value| texts_of(name, value))
    }

    /// A map of texts; `None` when absent.
    pub fn text_map(&self, name: &'static str) -> Result<Option<BTreeMap<String, String>>, DecodeError> {
        let one = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            other => Err(wrong_type(name, other, "string")),
        };
        self.map(name, "map[string]string", one)
    }

    /// A map of lists of texts (HTTP header fields), empty when absent.
    pub fn lists(&self, name: &'static str) -> Result<BTreeMap<String, Vec<String>>, DecodeError> {
        Ok(self.map(name, "map[string][]string", |value| texts_of(name, value))?.unwrap_or_default())
    }

    /// A map whose values `one` reads; `None` when absent.
    pub fn map<T>(
        &self,
        name: &'static str,
        type_name: &'static str,
        one: impl Fn(&Value) -> Result<T, DecodeError>,
    ) -> Result<Option<BTreeMap<String, T>>, DecodeError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => map
                .iter()
                .map(|(key, value)| Ok((key.clone(), one(value)?)))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(wrong_type(name, other, type_name)),
        }
    }

    /// The elements of a list, none when absent.
    pub fn list(&self, name: &'static str, type_name: &'static str) -> Result<&'a [Value], DecodeError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(wrong_type(name, other, type_name)),
        }
    }
}

fn texts_of(name: &'static str, value: &Value) -> Result<Vec<String>, DecodeError> {
    let Value::Array(values) = value else { return Err(wrong_type(name, value, "[]string")) };
    values
        .iter()
        .map(|value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            other => Err(wrong_type(name, other, "string")),
        })
        .collect()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(object) => object.values().all(is_zero),
    }
}

fn wrong_type(field: &'static str, found: &Value, wanted: &'static str) -> DecodeError {
    DecodeError::FieldType { found: kind_of(found), field, wanted }
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_f64() => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use serde_json::json;

    const TABLE: Table = Table {
        type_name: "t",
        names: &["Name", "TLSSkipVerify", "ScriptArgs"],
        aliases: &[("Args", "ScriptArgs")],
    };

    #[test]
    fn names_match_in_any_case_in_snake_case_and_through_aliases() {
        let value = json!({"NAME": "a", "tls_skip_verify": true, "args": ["x"]});
        let fields = TABLE.take(&value).unwrap();
        assert_eq!(fields.text("Name").unwrap(), "a");
        assert!(fields.boolean("TLSSkipVerify").unwrap());
        assert_eq!(fields.texts("ScriptArgs").unwrap(), ["x"]);
        let both = json!({"args": ["x"], "ScriptArgs": ["y"]});
        assert_eq!(TABLE.take(&both).unwrap().texts("ScriptArgs").unwrap(), ["y"]);
    }

    #[test]
    fn what_does_not_fit_is_named_as_go_names_it() {
        for (value, want) in [
            (json!({"Foo": null}), r#"json: unknown field "Foo""#),
            (json!({"Name": 1}), "json: cannot unmarshal number into Go struct field .Name of type string"),
            (json!([]), "json: cannot unmarshal array into Go value of type t"),
        ] {
            let error = TABLE.take(&value).and_then(|fields| fields.text("Name")).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}
