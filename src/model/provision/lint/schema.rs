//! What keys a file may have and what their values must be. The texts are coreos-cloudinit's, whatever reads the file.

use super::yaml::{Kind, Node, Type};
use super::{Finding, Rule, Severity};

/// What a value must be.
#[derive(Clone, Copy)]
pub(super) enum Want {
    Text,
    Bool,
    Int,
    Float,
    /// Whatever; not looked into.
    Any,
    /// Text, one of these.
    Word(&'static [&'static str]),
    /// Text, three or four octal digits.
    Mode,
    /// A list of texts.
    Texts,
    Map(&'static [(&'static str, Want)]),
    /// A list of maps.
    Maps(&'static [(&'static str, Want)]),
    /// A map of many keys, by the type of their values.
    Keys(&'static Keys),
}

/// The keys of a map by their type.
pub(super) struct Keys {
    pub(super) text: &'static [&'static str],
    pub(super) bool: &'static [&'static str],
    pub(super) int: &'static [&'static str],
    pub(super) float: &'static [&'static str],
    pub(super) words: &'static [(&'static str, &'static [&'static str])],
}

impl Want {
    /// As coreos-cloudinit calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Text | Self::Word(_) | Self::Mode | Self::Any => "string",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float64",
            Self::Texts => "[]string",
            Self::Map(_) | Self::Keys(_) => "struct",
            Self::Maps(_) => "[]struct",
        }
    }

    /// What the key below this one must be; `None` for a key that is unknown here.
    fn below(self, key: &str) -> Option<Want> {
        match self {
            Self::Map(fields) | Self::Maps(fields) => {
                fields.iter().find(|(name, _)| *name == key).map(|(_, want)| *want)
            }
            Self::Keys(keys) => {
                let words = keys.words.iter().find(|(name, _)| *name == key);
                words.map(|(_, words)| Self::Word(words)).or_else(|| {
                    let lists = [
                        (keys.text, Self::Text),
                        (keys.bool, Self::Bool),
                        (keys.int, Self::Int),
                        (keys.float, Self::Float),
                    ];
                    lists.into_iter().find(|(names, _)| names.contains(&key)).map(|(_, want)| want)
                })
            }
            _ => None,
        }
    }

    /// A number, true or false is a text as well for coreos-cloudinit, and for no other; the other way round never.
    fn takes(self, value: &Node, reading: Reading) -> bool {
        let scalar = value.scalar_type();
        match (self, &value.kind) {
            (Self::Any, _) | (_, Kind::Alias) => true,
            _ if scalar == Some(Type::Null) => true,
            (Self::Text | Self::Word(_) | Self::Mode, Kind::Scalar { .. }) => {
                reading == Reading::Lenient || scalar == Some(Type::Text)
            }
            (Self::Texts | Self::Maps(_), Kind::List { .. })
            | (Self::Map(_) | Self::Keys(_), Kind::Map { .. }) => true,
            (Self::Bool, _) => scalar == Some(Type::Bool),
            (Self::Int, _) => scalar == Some(Type::Int),
            (Self::Float, _) => matches!(scalar, Some(Type::Int | Type::Float)),
            _ => false,
        }
    }
}

/// How exact a reader is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// Types are types, and a value of another one is refused.
    Exact,
    /// As coreos-cloudinit: keys may be spelled with `-` for `_`, and what has a wrong type is left out.
    Lenient,
}

/// Checks `root` against `want`: keys and types, and apart from them values, as coreos-cloudinit does.
pub(super) fn check(root: &Node, want: Want, reading: Reading) -> (Vec<Finding>, Vec<Finding>) {
    let mut walk = Walk { reading, types: Vec::new(), values: Vec::new() };
    if want.takes(root, reading) {
        walk.map(root, want);
    } else {
        walk.types.push(wrong_type(root, "", want));
    }
    if reading == Reading::Exact {
        let wrong = walk.types.iter_mut().filter(|finding| finding.rule == Rule::WrongType);
        wrong.for_each(|finding| finding.severity = Severity::Error);
    }
    (walk.types, walk.values)
}

struct Walk {
    reading: Reading,
    types: Vec<Finding>,
    values: Vec<Finding>,
}

impl Walk {
    fn map(&mut self, node: &Node, want: Want) {
        let mut seen: Vec<(String, usize)> = Vec::new();
        for (key, value) in node.entries() {
            let Some(spelled) = key.text() else { continue };
            let name = match self.reading {
                Reading::Lenient => spelled.replace('-', "_"),
                Reading::Exact => spelled.to_owned(),
            };
            if let Some((_, line)) = seen.iter().find(|(earlier, _)| *earlier == name) {
                self.types.push(Finding::at(
                    key,
                    Rule::DuplicateKey,
                    format!("\"{name}\" stands in line {line} already, and hides it"),
                    "keep one of the two",
                ));
            }
            seen.push((name.clone(), key.line));
            match want.below(&name) {
                None => self.types.push(Finding::at(
                    key,
                    Rule::UnknownKey,
                    format!("unrecognized key \"{spelled}\""),
                    advice_for_unknown(&name, want),
                )),
                Some(inner) => self.value(key, spelled, value, inner),
            }
        }
    }

    fn value(&mut self, key: &Node, name: &str, value: &Node, want: Want) {
        if !want.takes(value, self.reading) {
            self.types.push(wrong_type(key, name, want));
            return;
        }
        match want {
            Want::Map(_) | Want::Keys(_) => self.map(value, want),
            Want::Maps(_) => {
                for item in value.items() {
                    if matches!(item.kind, Kind::Map { .. } | Kind::Alias) {
                        self.map(item, want);
                    } else {
                        self.types.push(wrong_type(item, name, Want::Map(&[])));
                    }
                }
            }
            Want::Texts => {
                for item in value.items().iter().filter(|item| !Want::Text.takes(item, self.reading)) {
                    self.types.push(wrong_type(item, name, Want::Text));
                }
            }
            Want::Word(words) => {
                // An empty text is a gap.
                let text = value.text().unwrap_or_default();
                if !text.is_empty() && !words.contains(&text) {
                    self.values.push(Finding::at(
                        key,
                        Rule::InvalidValue,
                        format!("invalid value {text}"),
                        format!("use one of {}", words.join(", ")),
                    ));
                }
            }
            Want::Mode => {
                let text = value.text().unwrap_or_default();
                if !text.is_empty() && !is_octal_mode(text) {
                    self.values.push(Finding::at(
                        key,
                        Rule::InvalidValue,
                        format!("invalid value {text}"),
                        "write three or four octal digits in quotes, as in \"0644\"",
                    ));
                }
            }
            Want::Text | Want::Bool | Want::Int | Want::Float | Want::Any => {}
        }
    }
}

fn wrong_type(node: &Node, name: &str, want: Want) -> Finding {
    let advice = match want {
        Want::Bool => "write true or false, without quotes",
        Want::Int | Want::Float => "write the number without quotes",
        Want::Text | Want::Word(_) | Want::Mode | Want::Any => "write one text, in quotes",
        Want::Texts => "write a list, one `- \"…\"` in each line",
        Want::Map(_) | Want::Keys(_) => "write `key: value` below it, indented",
        Want::Maps(_) => "write a list, each entry beginning with `- key: value`",
    };
    Finding::at(
        node,
        Rule::WrongType,
        format!("incorrect type for \"{name}\" (want {})", want.name()),
        advice,
    )
}

/// The known key that was meant, if one is near.
fn advice_for_unknown(name: &str, want: Want) -> String {
    let known: Vec<&str> = match want {
        Want::Map(fields) | Want::Maps(fields) => fields.iter().map(|(name, _)| *name).collect(),
        Want::Keys(keys) => [keys.text, keys.bool, keys.int, keys.float].concat(),
        _ => Vec::new(),
    };
    let near = known.iter().find(|other| is_near(name, other));
    match near {
        Some(near) => format!("it is ignored: `{near}` is a key here"),
        None => "it is ignored: leave it out, or move it to where it is known".to_owned(),
    }
}

/// Whether one letter more, less, other or exchanged turns one word into the other.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let start = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[start..], &other[start..]);
    let end = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[..one.len() - end], &other[..other.len() - end]);
    (one.len() <= 1 && other.len() <= 1)
        || (one.len() == 2 && other.len() == 2 && one[0] == other[1] && one[1] == other[0])
}

fn is_octal_mode(text: &str) -> bool {
    let digits = if text.len() == 5 { text.strip_prefix('0').unwrap_or("") } else { text };
    (3..=4).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn a_slip_of_one_letter_is_near() {
        assert!(
            is_near("hostnme", "hostname")
                && is_near("wirte_files", "write_files")
                && is_near("units", "unit")
        );
        assert!(!is_near("runcmd", "units") && !is_near("", "name"));
    }
}
