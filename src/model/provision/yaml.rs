//! YAML (and JSON, which is YAML) as a tree in which every node knows its place and its spelling.
//!
//! Types are resolved as YAML 1.1 does, which is what coreos-cloudinit and cloud-init read. serde-saphyr, which the tests
//! compare with, knows the places of values but not their spelling.

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};

/// Deepest nesting: user-data of any kind has less than ten levels, and each costs stack.
const DEPTH_MAX: usize = 64;
/// Words that YAML 1.1 reads as true or false and YAML 1.2 as text.
const OLD_BOOLEANS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

/// One value, or key, of a file.
#[derive(Debug)]
pub(super) struct Node {
    /// Line, from 1.
    pub(super) line: usize,
    /// Column, from 1.
    pub(super) column: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar {
        text: String,
        style: Style,
    },
    List {
        items: Vec<Node>,
        flow: bool,
    },
    Map {
        entries: Vec<(Node, Node)>,
        flow: bool,
    },
    /// `*name`: what it stands for is checked where it is defined.
    Alias,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Quoted,
    /// `|` and `>`: the text begins in the next line.
    Block,
}

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Bool,
    Int,
    Float,
    Text,
}

/// Why a text is no YAML, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) reason: String,
}

impl Node {
    /// The scalar's text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::List { .. } | Kind::Map { .. } | Kind::Alias => None,
        }
    }

    /// The list's entries; none of anything else.
    pub(super) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List { items, .. } => items,
            Kind::Scalar { .. } | Kind::Map { .. } | Kind::Alias => &[],
        }
    }

    /// The map's keys and values; none of anything else.
    pub(super) fn entries(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Map { entries, .. } => entries,
            Kind::Scalar { .. } | Kind::List { .. } | Kind::Alias => &[],
        }
    }

    /// The value of a key, which may be spelled with `-` or `_`; the last one wins, as in the readers.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let is_key = |node: &Node| node.text().is_some_and(|text| text.replace('-', "_") == key);
        self.entries().iter().rfind(|(name, _)| is_key(name)).map(|(_, value)| value)
    }

    /// This node and all below, in the order of the file.
    pub(super) fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a Node)) {
        see(self);
        self.items().iter().for_each(|item| item.visit(see));
        for (key, value) in self.entries() {
            key.visit(see);
            value.visit(see);
        }
    }

    /// The type of a scalar.
    pub(super) fn scalar_type(&self) -> Option<Type> {
        match &self.kind {
            Kind::Scalar { text, style: Style::Plain } => Some(resolve(text)),
            Kind::Scalar { .. } => Some(Type::Text),
            Kind::List { .. } | Kind::Map { .. } | Kind::Alias => None,
        }
    }

    /// Whether versions of YAML read this differently: `0744`, `12:30:45`, `off`, `1_000`.
    pub(super) fn is_ambiguous(&self) -> bool {
        let Kind::Scalar { text, style: Style::Plain } = &self.kind else { return false };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_octal = text.len() > 1 && text.starts_with('0') && is_number(text);
        let is_sixties = text.contains(':')
            && text.split(':').enumerate().all(|(position, part)| {
                is_number(part) && (position == 0 || (part.len() <= 2 && part < "60"))
            });
        let is_grouped = text.contains('_')
            && text.starts_with(|first: char| first.is_ascii_digit())
            && is_number(&text.replace('_', ""));
        is_octal
            || is_sixties
            || is_grouped
            || OLD_BOOLEANS.iter().any(|word| text.eq_ignore_ascii_case(word))
    }
}

fn resolve(text: &str) -> Type {
    let is_word = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_word(&["", "~", "null"]) {
        return Type::Null;
    }
    if is_word(&OLD_BOOLEANS) || is_word(&["true", "false"]) {
        return Type::Bool;
    }
    let digits = text.trim_start_matches(['+', '-']).replace('_', "");
    let is_based = |prefix: &str, radix: u32| {
        digits.strip_prefix(prefix).is_some_and(|rest| u64::from_str_radix(rest, radix).is_ok())
    };
    if digits.starts_with(|first: char| first.is_ascii_digit())
        && (digits.parse::<u64>().is_ok() || is_based("0x", 16) || is_based("0b", 2) || is_based("0o", 8))
    {
        return Type::Int;
    }
    let is_numeric = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if is_numeric && digits.parse::<f64>().is_ok() { Type::Float } else { Type::Text }
}

/// A list or map that is not at its end yet.
struct Open {
    node: Node,
    key: Option<Node>,
}

/// Reads the first document of a text; `None` when there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Fault> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|error| Fault {
            line: error.marker().line(),
            column: error.marker().col() + 1,
            reason: error.info(),
        })?;
        let (line, column) = (span.start.line(), span.start.col() + 1);
        let node = |kind| Node { line, column, kind };
        let is_flow = |style| style == StructureStyle::Flow;
        let done = match event {
            Event::Scalar(text, style, _, _) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                // The parser's place of a block is its first line; ours is where it is announced.
                let key = open.last().and_then(|outer| outer.key.as_ref());
                let line = match style {
                    Style::Block => key.map_or(line.saturating_sub(1).max(1), |key| key.line),
                    Style::Plain | Style::Quoted => line,
                };
                Node { line, column, kind: Kind::Scalar { text: text.into_owned(), style } }
            }
            Event::Alias(_) => node(Kind::Alias),
            Event::SequenceStart(style, ..) => {
                open.push(Open {
                    node: node(Kind::List { items: Vec::new(), flow: is_flow(style) }),
                    key: None,
                });
                Open::limit(&open)?;
                continue;
            }
            Event::MappingStart(style, ..) => {
                open.push(Open {
                    node: node(Kind::Map { entries: Vec::new(), flow: is_flow(style) }),
                    key: None,
                });
                Open::limit(&open)?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(ended) => ended.node,
                None => continue,
            },
            Event::DocumentEnd => break,
            _ => continue,
        };
        let Some(outer) = open.last_mut() else {
            root = Some(done);
            continue;
        };
        match &mut outer.node.kind {
            Kind::List { items, .. } => items.push(done),
            Kind::Map { entries, .. } => match outer.key.take() {
                Some(key) => entries.push((key, done)),
                None => outer.key = Some(done),
            },
            Kind::Scalar { .. } | Kind::Alias => {}
        }
    }
    Ok(root)
}

impl Open {
    fn limit(open: &[Self]) -> Result<(), Fault> {
        match open.last() {
            Some(last) if open.len() > DEPTH_MAX => Err(Fault {
                line: last.node.line,
                column: last.node.column,
                reason: format!("more than {DEPTH_MAX} levels of nesting"),
            }),
            _ => Ok(()),
        }
    }
}

/// A text as YAML reads it back, in double quotes. Control characters have no place in our texts.
pub(super) fn quoted(text: &str) -> String {
    let mut result = String::from("\"");
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            result.push('\\');
        }
        result.push(character);
    }
    result.push('"');
    result
}

#[cfg(test)]
mod tests {
    use super::{Type, parse};

    #[test]
    fn nodes_know_their_place_type_and_spelling() {
        let root = parse("a: 1\nb-c:\n  - \"x\"\n  - 0744\n").unwrap().unwrap();
        let list = root.get("b_c").unwrap();
        let mode = &list.items()[1];
        assert_eq!((mode.line, mode.column), (4, 5));
        assert!(mode.is_ambiguous() && !list.items()[0].is_ambiguous());
        assert_eq!(root.get("a").unwrap().scalar_type(), Some(Type::Int));
    }

    #[test]
    fn scalars_have_the_types_of_yaml_1_1() {
        for (text, wanted) in [
            ("off", Type::Bool),
            ("True", Type::Bool),
            ("~", Type::Null),
            ("12", Type::Int),
            ("-0x1f", Type::Int),
            ("1.5", Type::Float),
            ("1e3", Type::Float),
            ("1.2.3", Type::Text),
            ("0.5s", Type::Text),
            ("\"12\"", Type::Text),
        ] {
            let root = parse(&format!("a: {text}\n")).unwrap().unwrap();
            assert_eq!(root.get("a").unwrap().scalar_type(), Some(wanted), "{text}");
        }
        for (text, ambiguous) in [
            ("0744", true),
            ("12:30:45", true),
            ("NO", true),
            ("1_000", true),
            ("true", false),
            ("07a", false),
            ("8600", false),
            ("a:1", false),
        ] {
            let root = parse(&format!("a: {text}\n")).unwrap().unwrap();
            assert_eq!(root.get("a").unwrap().is_ambiguous(), ambiguous, "{text}");
        }
    }

    #[test]
    fn faults_and_bottomless_nesting_have_a_place() {
        assert_eq!(parse("a: \"b\nc: d\n").unwrap_err().line, 2);
        assert!(parse(&"- ".repeat(1000)).unwrap_err().reason.contains("nesting"));
        assert!(parse("").unwrap().is_none());
    }
}
