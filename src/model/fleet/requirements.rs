//! `[X-Fleet]`: what a unit asks of the machine that it runs on. Keys, rules and messages are fleet 1.0's.

use std::collections::{BTreeMap, BTreeSet};

use super::machines::Metadata;
use crate::model::provision::lint::unit_options;

/// What a unit asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    /// A copy on every machine that matches.
    pub global: bool,
    /// The machine's id, or how it begins.
    pub machine_id: Option<String>,
    /// Units that must be on the same machine.
    pub machine_of: Vec<String>,
    /// Values of which the machine must have one, for every key.
    pub metadata: BTreeMap<String, BTreeSet<String>>,
    /// Patterns of units that must not be on the same machine.
    pub conflicts: Vec<String>,
    /// Units whose place this one takes.
    pub replaces: Vec<String>,
    /// Keys of the section that mean nothing.
    pub unknown: Vec<String>,
}

/// Why a unit cannot be placed by anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequirementsError {
    /// Two keys that exclude each other.
    #[error("{0} cannot be used with {1}")]
    Together(&'static str, &'static str),
    /// It must be where it must not be.
    #[error("unresolvable requirements: peer \"{0}\" matches conflict \"{1}\"")]
    Unresolvable(String, String),
    /// Metadata without a value.
    #[error("MachineMetadata={0} is no key=value: several pairs in one line stand in quotes of their own")]
    Metadata(String),
}

impl Requirements {
    /// Reads the section of the unit `name`.
    ///
    /// # Errors
    /// When what it asks for excludes itself.
    pub fn read(name: &str, text: &str) -> Result<Self, RequirementsError> {
        let mut read = Self::default();
        for option in unit_options(text).into_iter().filter(|option| option.section == "X-Fleet") {
            let value = resolve_specifiers(name, &option.value);
            match option.key.as_str() {
                "Global" => read.global = is_true(&value),
                "MachineID" | "X-ConditionMachineID" => read.machine_id = Some(value),
                "MachineOf" | "X-ConditionMachineOf" => read.machine_of.extend(words(&value)),
                "Conflicts" | "X-Conflicts" => read.conflicts.extend(words(&value)),
                "Replaces" => read.replaces.extend(words(&value)),
                "MachineMetadata" | "X-ConditionMachineMetadata" => {
                    for pair in words(&value) {
                        let (key, value) = pair
                            .split_once('=')
                            .filter(|(key, value)| !key.is_empty() && !value.is_empty())
                            .ok_or_else(|| RequirementsError::Metadata(pair.clone()))?;
                        read.metadata.entry(key.to_owned()).or_default().insert(value.to_owned());
                    }
                }
                _ => read.unknown.push(option.key),
            }
        }
        read.machine_id = read.machine_id.filter(|id| !id.is_empty());
        read.check()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), RequirementsError> {
        let (peers, conflicts, replaces) =
            (!self.machine_of.is_empty(), !self.conflicts.is_empty(), !self.replaces.is_empty());
        let id = self.machine_id.is_some();
        let excluded = [
            (id && peers, "MachineID", "Peers"),
            (id && conflicts, "MachineID", "Conflicts"),
            (id && self.global, "MachineID", "Global"),
            (id && replaces, "MachineID", "Replaces"),
            (self.global && peers, "Global", "Peers"),
            (self.global && replaces, "Global", "Replaces"),
            (conflicts && replaces, "Conflicts", "Replaces"),
        ];
        if let Some((_, one, other)) = excluded.into_iter().find(|(both, ..)| *both) {
            return Err(RequirementsError::Together(one, other));
        }
        for peer in &self.machine_of {
            if let Some(pattern) = self.conflicts.iter().find(|pattern| glob(pattern, peer)) {
                return Err(RequirementsError::Unresolvable(peer.clone(), pattern.clone()));
            }
        }
        Ok(())
    }

    /// Why a machine with this id and this metadata is none for the unit; `None`: it is one.
    pub fn objection(&self, machine_id: &str, metadata: &Metadata) -> Option<String> {
        if let Some(id) = self.machine_id.as_ref().filter(|id| !machine_id.starts_with(id.as_str())) {
            return Some(format!("it is not machine {id}"));
        }
        let missing = self
            .metadata
            .iter()
            .find(|(key, values)| !metadata.get(*key).is_some_and(|value| values.contains(value)))?;
        let (key, values) = missing;
        let pairs: Vec<String> = values.iter().map(|value| format!("{key}={value}")).collect();
        Some(format!("its metadata has not {}", pairs.join(" or ")))
    }

    /// Whether this unit must not be where the unit `other` is.
    pub fn conflicts_with(&self, other: &str) -> bool {
        self.conflicts.iter().any(|pattern| glob(pattern, other))
    }
}

/// The name without its type: `web@1` of `web@1.service`.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The template of an instance: `web@.service` of `web@1.service`.
pub fn template_of(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// `%n %N %p %i`, those that fleet resolves in its section.
fn resolve_specifiers(name: &str, value: &str) -> String {
    let stem = stem(name);
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let mut resolved = String::with_capacity(value.len());
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        let known = match (character, characters.peek()) {
            ('%', Some('n')) => name,
            ('%', Some('N')) => stem,
            ('%', Some('p')) => prefix,
            ('%', Some('i')) => instance,
            _ => {
                resolved.push(character);
                continue;
            }
        };
        resolved.push_str(known);
        characters.next();
    }
    resolved
}

fn is_true(value: &str) -> bool {
    ["true", "yes", "1", "on", "t"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Words between blanks; quotes hold one together.
fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in value.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            blank if blank.is_whitespace() && !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words.retain(|word| !word.is_empty());
    words
}

/// One part of a pattern.
enum Part {
    /// Any characters, or none.
    Star,
    /// Any character.
    Any,
    /// This character.
    One(char),
    /// One of these ranges, or none of them.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Part {
    fn takes(&self, character: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => character != '/',
            Self::One(one) => *one == character,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
            }
        }
    }
}

/// Go's `path.Match`: `*`, `?`, `[a-z]`, `[^a]`, `\x`. A pattern that is none matches nothing.
pub fn glob(pattern: &str, name: &str) -> bool {
    let Some(parts) = parse_pattern(pattern) else { return false };
    let name: Vec<char> = name.chars().collect();
    let (mut part, mut at) = (0, 0);
    // Where the last star stands, and what it has taken: only the last one ever has to take more.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (parts.get(part), name.get(at)) {
            (None, None) => return true,
            (Some(Part::Star), _) => {
                star = Some((part, at));
                part += 1;
            }
            (Some(wanted), Some(character)) if wanted.takes(*character) => {
                part += 1;
                at += 1;
            }
            _ => match star {
                Some((stands, taken)) if name.get(taken).is_some_and(|character| *character != '/') => {
                    star = Some((stands, taken + 1));
                    part = stands + 1;
                    at = taken + 1;
                }
                _ => return false,
            },
        }
    }
}

fn parse_pattern(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        parts.push(match character {
            '*' => Part::Star,
            '?' => Part::Any,
            '\\' => Part::One(rest.next()?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                    let low = class_character(rest.next()?, &mut rest)?;
                    let high = match rest.next_if_eq(&'-') {
                        Some(_) => class_character(rest.next()?, &mut rest)?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Part::Class { negated, ranges }
            }
            one => Part::One(one),
        });
    }
    Some(parts)
}

fn class_character(character: char, rest: &mut impl Iterator<Item = char>) -> Option<char> {
    match character {
        '-' | ']' => None,
        '\\' => rest.next(),
        one => Some(one),
    }
}

#[cfg(test)]
mod tests {
    use super::{Requirements, glob, template_of};
    use crate::model::fleet::machines::{Metadata, parse_metadata};

    fn read(section: &str) -> Requirements {
        Requirements::read("web@1.service", &format!("[Service]\nGlobal=true\n[X-Fleet]\n{section}")).unwrap()
    }

    #[test]
    fn the_section_says_what_a_unit_asks_for() {
        let all = read(
            "MachineMetadata=\"role=web\" \"disk=ssd\"\nMachineMetadata=role=db\nConflicts=%p@*.service x.*\n",
        );
        assert_eq!(all.metadata["role"].len(), 2);
        assert_eq!(all.conflicts, ["web@*.service", "x.*"]);
        assert!(!all.global && read("Global=On\n").global && !read("Global=true\nGlobal=no\n").global);
        assert_eq!(read("MachineOf=%p-%i.%n %N\n").machine_of, ["web-1.web@1.service", "web@1"]);
        assert_eq!(read("Foo=1\nX-Conflicts=a\n").unknown, ["Foo"]);
        assert_eq!(read("MachineID=\n").machine_id, None);
    }

    #[test]
    fn what_excludes_itself_is_refused_in_fleets_words() {
        for (section, said) in [
            ("MachineID=a\nMachineOf=b\n", "MachineID cannot be used with Peers"),
            ("MachineID=a\nConflicts=b\n", "MachineID cannot be used with Conflicts"),
            ("MachineID=a\nGlobal=true\n", "MachineID cannot be used with Global"),
            ("MachineID=a\nReplaces=b\n", "MachineID cannot be used with Replaces"),
            ("Global=true\nMachineOf=b\n", "Global cannot be used with Peers"),
            ("Global=true\nReplaces=b\n", "Global cannot be used with Replaces"),
            ("Conflicts=a\nReplaces=b\n", "Conflicts cannot be used with Replaces"),
            (
                "MachineOf=x.service\nConflicts=x*\n",
                "unresolvable requirements: peer \"x.service\" matches conflict \"x*\"",
            ),
            (
                "MachineMetadata=role\n",
                "MachineMetadata=role is no key=value: several pairs in one line stand in quotes of their own",
            ),
        ] {
            let error = Requirements::read("a.service", &format!("[X-Fleet]\n{section}")).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
        assert!(Requirements::read("a.service", "[X-Fleet]\nGlobal=true\nConflicts=b\n").is_ok());
    }

    #[test]
    fn the_same_key_twice_is_or_and_different_keys_are_and() {
        let asks = read("MachineMetadata=\"role=web\" \"role=db\" \"disk=ssd\"\n");
        let check = |metadata: &str| asks.objection("0123abcd", &parse_metadata(metadata).unwrap());
        assert_eq!(check("role=web,disk=ssd"), None);
        assert_eq!(check("role=db,disk=ssd,more=1"), None);
        assert_eq!(check("role=web").as_deref(), Some("its metadata has not disk=ssd"));
        assert_eq!(check("role=x,disk=ssd").as_deref(), Some("its metadata has not role=db or role=web"));
        let id = read("MachineID=0123\n");
        assert_eq!(id.objection("0123abcd", &Metadata::new()), None);
        assert!(id.objection("9123abcd", &Metadata::new()).is_some());
    }

    #[test]
    fn patterns_are_those_of_go() {
        for (pattern, name, want) in [
            ("web@*.service", "web@1.service", true),
            ("web@*.service", "web.service", false),
            ("web.?ervice", "web.service", true),
            ("[a-c]*", "b.service", true),
            ("[^a-c]*", "b.service", false),
            ("[ab]", "b", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[a", "a", false),
            ("a\\", "a\\", false),
            ("*a*b*.service", "xaxxab.service", true),
            ("*a*b*.service", "xaxx.service", false),
            ("[a\\-]", "-", true),
            ("[-a]", "a", false),
            ("a*", "a/b", false),
            ("*", "", true),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn an_instance_has_a_template() {
        assert_eq!(template_of("web@1.service").as_deref(), Some("web@.service"));
        assert_eq!(template_of("web@.service"), None);
        assert_eq!(template_of("web.service"), None);
    }
}
