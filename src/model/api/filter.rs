//! `?filter=`: boolean expressions over the JSON fields of a row (the grammar of go-bexpr).
//!
//! A filter is checked against the fields that a row can have before any row is looked at.

use regex::Regex;
use serde_json::Value;

/// How deep parentheses and `not` may nest; each level costs stack.
const DEPTH_MAX: usize = 64;
/// Largest compiled regular expression in bytes: one request must not take more.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Rows have no such field.
    #[error("Selector {0:?} is not valid")]
    Selector(String),
    /// The field cannot be compared so.
    #[error("Invalid match operator {operator:?} for selector {selector:?}")]
    Operator {
        /// The operator.
        operator: &'static str,
        /// The field.
        selector: String,
    },
    /// Not an expression; the position counts characters from 1.
    #[error("1:{position} ({offset}): no match found, expected: {expected}")]
    Syntax {
        /// Column.
        position: usize,
        /// Bytes before it.
        offset: usize,
        /// What could stand there.
        expected: &'static str,
    },
    /// Not a regular expression.
    #[error("Failed to compile regular expression {0:?}")]
    Regex(String),
}

/// What a field of a row holds.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Text.
    Text,
    /// An integer.
    Number,
    /// A truth value.
    Boolean,
    /// A list of texts.
    Texts,
    /// Texts by name.
    TextMap,
    /// Named fields.
    Fields(&'static [(&'static str, Shape)]),
    /// Named fields by name.
    FieldsMap(&'static [(&'static str, Shape)]),
    /// A list of named fields: an expression holds when it holds for one of them.
    FieldsList(&'static [(&'static str, Shape)]),
}

type Named = &'static [(&'static str, Shape)];

const ADDRESS: Named = &[("Address", Shape::Text), ("Port", Shape::Number)];
const WEIGHTS: Named = &[("Passing", Shape::Number), ("Warning", Shape::Number)];

/// Fields of a node.
pub const NODE: Named = &[
    ("ID", Shape::Text),
    ("Node", Shape::Text),
    ("Address", Shape::Text),
    ("Datacenter", Shape::Text),
    ("TaggedAddresses", Shape::TextMap),
    ("Meta", Shape::TextMap),
];

/// Fields of a service on its node or at its agent.
pub const SERVICE: Named = &[
    ("Kind", Shape::Text),
    ("ID", Shape::Text),
    ("Service", Shape::Text),
    ("Tags", Shape::Texts),
    ("Address", Shape::Text),
    ("TaggedAddresses", Shape::FieldsMap(ADDRESS)),
    ("Meta", Shape::TextMap),
    ("Port", Shape::Number),
    ("SocketPath", Shape::Text),
    ("Weights", Shape::Fields(WEIGHTS)),
    ("EnableTagOverride", Shape::Boolean),
];

/// Fields of a row of `catalog/service`.
pub const SERVICE_NODE: Named = &[
    ("ID", Shape::Text),
    ("Node", Shape::Text),
    ("Address", Shape::Text),
    ("Datacenter", Shape::Text),
    ("TaggedAddresses", Shape::TextMap),
    ("NodeMeta", Shape::TextMap),
    ("ServiceKind", Shape::Text),
    ("ServiceID", Shape::Text),
    ("ServiceName", Shape::Text),
    ("ServiceTags", Shape::Texts),
    ("ServiceAddress", Shape::Text),
    ("ServiceTaggedAddresses", Shape::FieldsMap(ADDRESS)),
    ("ServiceWeights", Shape::Fields(WEIGHTS)),
    ("ServiceMeta", Shape::TextMap),
    ("ServicePort", Shape::Number),
    ("ServiceSocketPath", Shape::Text),
    ("ServiceEnableTagOverride", Shape::Boolean),
];

/// Fields of a check.
pub const CHECK: Named = &[
    ("Node", Shape::Text),
    ("CheckID", Shape::Text),
    ("Name", Shape::Text),
    ("Status", Shape::Text),
    ("Notes", Shape::Text),
    ("Output", Shape::Text),
    ("ServiceID", Shape::Text),
    ("ServiceName", Shape::Text),
    ("ServiceTags", Shape::Texts),
    ("Type", Shape::Text),
    ("Interval", Shape::Text),
    ("Timeout", Shape::Text),
    ("ExposedPort", Shape::Number),
];

/// Fields of a row of `health/service`.
pub const HEALTH: Named = &[
    ("Node", Shape::Fields(NODE)),
    ("Service", Shape::Fields(SERVICE)),
    ("Checks", Shape::FieldsList(CHECK)),
];

/// Fields of a member.
pub const MEMBER: Named = &[
    ("Name", Shape::Text),
    ("Addr", Shape::Text),
    ("Port", Shape::Number),
    ("Tags", Shape::TextMap),
    ("Status", Shape::Number),
    ("ProtocolMin", Shape::Number),
    ("ProtocolMax", Shape::Number),
    ("ProtocolCur", Shape::Number),
    ("DelegateMin", Shape::Number),
    ("DelegateMax", Shape::Number),
    ("DelegateCur", Shape::Number),
];

/// An expression that fits the rows it is for.
#[derive(Debug)]
pub struct Filter {
    expression: Expression,
}

#[derive(Debug)]
enum Expression {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Match { path: Vec<String>, absent: Absent, test: Test },
}

/// What it means that a field is not in the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// A map has no such key: equal to nothing.
    Nothing,
    /// A field that was left out because it is Go's zero value, which reads so.
    Zero(&'static str),
}

#[derive(Debug)]
enum Test {
    Equal(String),
    Contains(String),
    Empty,
    Matches(Regex),
}

impl Filter {
    /// Reads an expression for rows with these fields.
    ///
    /// # Errors
    /// When it is no expression, or does not fit the rows.
    pub fn parse(text: &str, fields: &'static [(&'static str, Shape)]) -> Result<Self, FilterError> {
        let mut parser = Parser { text, position: 0, fields };
        let expression = parser.alternatives(0)?;
        parser.skip_blanks();
        if parser.position < text.len() {
            return Err(parser.wrong("\"and\", \"or\" or the end"));
        }
        Ok(Self { expression })
    }

    /// Whether a row, given as JSON, fits.
    pub fn matches(&self, row: &[u8]) -> bool {
        serde_json::from_slice(row).is_ok_and(|row: Value| self.expression.holds(&row))
    }
}

impl Expression {
    fn holds(&self, row: &Value) -> bool {
        match self {
            Self::And(left, right) => left.holds(row) && right.holds(row),
            Self::Or(left, right) => left.holds(row) || right.holds(row),
            Self::Not(inner) => !inner.holds(row),
            Self::Match { path, absent, test } => test.any(row, path, *absent),
        }
    }
}

impl Test {
    /// Whether it holds for the value at `path`; of a list on the way, for one of its elements.
    fn any(&self, value: &Value, path: &[String], absent: Absent) -> bool {
        match (path.split_first(), value) {
            (Some(_), Value::Array(rows)) => rows.iter().any(|row| self.any(row, path, absent)),
            (Some((name, rest)), value) => self.any(value.get(name).unwrap_or(&Value::Null), rest, absent),
            (None, value) => self.holds(value, absent),
        }
    }

    fn holds(&self, value: &Value, absent: Absent) -> bool {
        match (self, value) {
            (Self::Equal(wanted), Value::String(text)) => text == wanted,
            (Self::Equal(wanted), Value::Number(number)) => {
                wanted.parse::<i64>().ok() == number.as_i64() && number.is_i64() | number.is_u64()
            }
            (Self::Equal(wanted), Value::Bool(value)) => {
                matches!(wanted.as_str(), "true" | "1" | "t" | "T" | "True" | "TRUE") == *value
            }
            (Self::Equal(wanted), Value::Null) => matches!(absent, Absent::Zero(zero) if zero == wanted),
            (Self::Contains(wanted), Value::Array(items)) => items.iter().any(|item| item == wanted),
            (Self::Contains(wanted), Value::Object(map)) => map.contains_key(wanted),
            (Self::Contains(wanted), Value::String(text)) => text.contains(wanted),
            (Self::Matches(regex), Value::String(text)) => regex.is_match(text),
            (Self::Empty, Value::Null) => true,
            (Self::Empty, Value::String(text)) => text.is_empty(),
            (Self::Empty, Value::Array(items)) => items.is_empty(),
            (Self::Empty, Value::Object(map)) => map.is_empty(),
            _ => false,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
    fields: Named,
}

enum Word {
    /// A quoted text.
    Quoted(String),
    /// A selector, name or number.
    Bare(String, Vec<String>),
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.position..]
    }

    fn skip_blanks(&mut self) {
        self.position += self.rest().len() - self.rest().trim_start().len();
    }

    fn wrong(&self, expected: &'static str) -> FilterError {
        let position = self.text[..self.position].chars().count() + 1;
        FilterError::Syntax { position, offset: self.position, expected }
    }

    /// Takes a keyword, which ends at something that is no letter.
    fn keyword(&mut self, word: &str) -> bool {
        self.skip_blanks();
        let Some(after) = self.rest().strip_prefix(word) else { return false };
        let symbol = !word.as_bytes()[0].is_ascii_alphabetic();
        if symbol || !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            self.position += word.len();
            return true;
        }
        false
    }

    fn alternatives(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.conjunction(depth)?;
        while self.keyword("or") {
            left = Expression::Or(Box::new(left), Box::new(self.conjunction(depth)?));
        }
        Ok(left)
    }

    fn conjunction(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.negation(depth)?;
        while self.keyword("and") {
            left = Expression::And(Box::new(left), Box::new(self.negation(depth)?));
        }
        Ok(left)
    }

    fn negation(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth == DEPTH_MAX {
            return Err(self.wrong("fewer levels"));
        }
        if self.keyword("not") {
            return Ok(Expression::Not(Box::new(self.negation(depth + 1)?)));
        }
        if self.keyword("(") {
            let inner = self.alternatives(depth + 1)?;
            return if self.keyword(")") { Ok(inner) } else { Err(self.wrong("\")\"")) };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expression, FilterError> {
        let first = self.word()?;
        if self.keyword("in") {
            return self.membership(first, false);
        }
        let mark = self.position;
        if self.keyword("not") && self.keyword("in") {
            return self.membership(first, true);
        }
        self.position = mark;
        let Word::Bare(selector, path) = first else { return Err(self.wrong("\"in\" or \"not in\"")) };
        let (negated, operator) = self.operator()?;
        let test = match operator {
            "==" => Test::Equal(self.value()?),
            "contains" => Test::Contains(self.value()?),
            "matches" => {
                let text = self.value()?;
                let regex = regex::RegexBuilder::new(&text).size_limit(REGEX_BYTES_MAX).build();
                Test::Matches(regex.map_err(|_| FilterError::Regex(text))?)
            }
            _ => Test::Empty,
        };
        self.select(selector, path, test, negated)
    }

    fn operator(&mut self) -> Result<(bool, &'static str), FilterError> {
        if self.keyword("==") {
            return Ok((false, "=="));
        }
        if self.keyword("!=") {
            return Ok((true, "=="));
        }
        if self.keyword("is") {
            let negated = self.keyword("not");
            return if self.keyword("empty") { Ok((negated, "empty")) } else { Err(self.wrong("\"empty\"")) };
        }
        let negated = self.keyword("not");
        for word in ["contains", "matches"] {
            if self.keyword(word) {
                return Ok((negated, word));
            }
        }
        Err(self.wrong("an operator"))
    }

    fn membership(&mut self, value: Word, negated: bool) -> Result<Expression, FilterError> {
        let (Word::Quoted(value) | Word::Bare(value, _)) = value;
        match self.word()? {
            Word::Bare(selector, path) => self.select(selector, path, Test::Contains(value), negated),
            Word::Quoted(_) => Err(self.wrong("a selector")),
        }
    }

    fn value(&mut self) -> Result<String, FilterError> {
        let (Word::Quoted(value) | Word::Bare(value, _)) = self.word()?;
        Ok(value)
    }

    fn word(&mut self) -> Result<Word, FilterError> {
        self.skip_blanks();
        if self.rest().starts_with(['"', '`']) {
            return Ok(Word::Quoted(self.quoted()?));
        }
        let start = self.position;
        let mut path = vec![self.name()?];
        loop {
            if self.rest().starts_with('.') {
                self.position += 1;
                path.push(self.name()?);
            } else if self.rest().starts_with("[\"") || self.rest().starts_with("[`") {
                self.position += 1;
                path.push(self.quoted()?);
                if !self.rest().starts_with(']') {
                    return Err(self.wrong("\"]\""));
                }
                self.position += 1;
            } else {
                return Ok(Word::Bare(self.text[start..self.position].to_owned(), path));
            }
        }
    }

    fn name(&mut self) -> Result<String, FilterError> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-/".contains(c);
        let length = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.wrong("a selector or a value"));
        }
        let name = self.rest()[..length].to_owned();
        self.position += length;
        Ok(name)
    }

    fn quoted(&mut self) -> Result<String, FilterError> {
        let raw = self.rest().starts_with('`');
        let mut text = String::new();
        let mut escaped = false;
        for (offset, character) in self.rest()[1..].char_indices() {
            match character {
                character if escaped => {
                    escaped = false;
                    text.push(match character {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                '\\' if !raw => escaped = true,
                '`' if raw => {
                    self.position += offset + 2;
                    return Ok(text);
                }
                '"' if !raw => {
                    self.position += offset + 2;
                    return Ok(text);
                }
                other => text.push(other),
            }
        }
        self.position = self.text.len();
        Err(self.wrong("the end of the text"))
    }

    fn select(
        &self,
        selector: String,
        path: Vec<String>,
        test: Test,
        negated: bool,
    ) -> Result<Expression, FilterError> {
        let Some((shape, in_map)) = shape_at(self.fields, &path) else {
            return Err(FilterError::Selector(selector));
        };
        let (fits, operator) = match (&test, shape) {
            (Test::Equal(_), Shape::Text | Shape::Number | Shape::Boolean) => (true, ""),
            (Test::Equal(_), _) => (false, if negated { "Not Equal" } else { "Equal" }),
            (Test::Matches(_), shape) => (matches!(shape, Shape::Text), "Matches"),
            (Test::Contains(_), shape) => (!matches!(shape, Shape::Number | Shape::Boolean), "In"),
            (Test::Empty, shape) => (!matches!(shape, Shape::Number | Shape::Boolean), "Is Empty"),
        };
        if !fits {
            return Err(FilterError::Operator { operator, selector });
        }
        let absent = match shape {
            _ if in_map => Absent::Nothing,
            Shape::Number => Absent::Zero("0"),
            Shape::Boolean => Absent::Zero("false"),
            _ => Absent::Zero(""),
        };
        let matching = Expression::Match { path, absent, test };
        Ok(if negated { Expression::Not(Box::new(matching)) } else { matching })
    }
}

/// What a path leads to, and whether its last step is the key of a map.
fn shape_at(fields: Named, path: &[String]) -> Option<(Shape, bool)> {
    let (name, rest) = path.split_first()?;
    let (_, shape) = fields.iter().find(|(known, _)| known == name)?;
    match (shape, rest) {
        (shape, []) => Some((*shape, false)),
        (Shape::Fields(inner) | Shape::FieldsList(inner), rest) => shape_at(inner, rest),
        (Shape::TextMap, [_]) => Some((Shape::Text, true)),
        (Shape::FieldsMap(inner), [_, rest @ ..]) if !rest.is_empty() => shape_at(inner, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, HEALTH, SERVICE_NODE};

    const ROW: &str = r#"{"Node":"n1","ServiceName":"web","ServiceTags":["v1","a b"],"ServicePort":80,
        "ServiceMeta":{"env":"prod"},"ServiceEnableTagOverride":false,"ServiceAddress":"","NodeMeta":null,
        "ServiceTaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":80}}}"#;

    #[test]
    fn expressions_select_rows() {
        for (text, want) in [
            (r#"ServiceName == "web""#, true),
            ("ServiceName == web", true),
            ("ServiceName != web", false),
            ("v1 in ServiceTags", true),
            (r#""v2" not in ServiceTags"#, true),
            ("ServiceTags contains `a b`", true),
            ("ServiceTags not contains v1", false),
            ("ServiceAddress is empty", true),
            ("ServiceTags is not empty", true),
            ("NodeMeta is empty", true),
            ("ServicePort == 80 and ServiceMeta.env == prod", true),
            (r#"ServiceMeta["env"] == "dev""#, false),
            ("ServiceMeta.none == x", false),
            ("ServiceMeta.none != x", true),
            ("ServiceMeta.none == ``", false),
            ("ServiceKind == ``", true),
            ("env in ServiceMeta", true),
            (r#"ServiceName matches "^w.b$""#, true),
            ("ServiceName not matches `x`", true),
            ("not (ServiceName == web or Node == x)", false),
            ("ServiceName == x or ServiceName == web and ServicePort == 81", false),
            ("ServiceEnableTagOverride == false", true),
            ("ServiceTaggedAddresses.lan.Port == 80", true),
        ] {
            let filter = Filter::parse(text, SERVICE_NODE).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(filter.matches(ROW.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn of_a_list_of_rows_one_is_enough() {
        let row = br#"{"Checks":[{"Status":"passing"},{"Status":"critical"}],"Service":{"Tags":["a"]}}"#;
        assert!(Filter::parse("Checks.Status == critical", HEALTH).unwrap().matches(row));
        assert!(!Filter::parse("Checks.Status == warning", HEALTH).unwrap().matches(row));
        assert!(Filter::parse("Service.Tags contains a and Service.Port == 0", HEALTH).unwrap().matches(row));
    }

    #[test]
    fn what_is_no_filter_for_these_rows_is_refused() {
        for (text, want) in [
            ("Foo == 1", "Selector \"Foo\" is not valid"),
            ("CreateIndex == 1", "Selector \"CreateIndex\" is not valid"),
            ("ServiceTags == v1", "Invalid match operator \"Equal\" for selector \"ServiceTags\""),
            ("ServiceName ==", "1:15 (14): no match found, expected: a selector or a value"),
            ("ServiceName = x", "1:13 (12): no match found, expected: an operator"),
            ("(Node == x", "1:11 (10): no match found, expected: \")\""),
            ("Node == x y", "1:11 (10): no match found, expected: \"and\", \"or\" or the end"),
            ("Node matches `(`", "Failed to compile regular expression \"(\""),
        ] {
            assert_eq!(Filter::parse(text, SERVICE_NODE).unwrap_err().to_string(), want, "{text}");
        }
        assert!(Filter::parse(&"(".repeat(100_000), SERVICE_NODE).is_err());
        assert!(Filter::parse(&"not ".repeat(100_000), SERVICE_NODE).is_err());
    }
}
