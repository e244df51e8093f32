//! HCL as Consul reads it: the first version of the language (hashicorp/hcl v1), read into what JSON would say.
//!
//! `key = value` and `key "label" { … }`; a block is an object, and a key that has several blocks is a list of them.
//! Of a key that is given twice with other values, the last counts. The second version of HCL has expressions and
//! variables; neither is known here, and `${…}` is text.

mod lexer;

use serde_json::{Map, Number, Value};

use lexer::{Lexer, Token};

/// Deepest nesting that is read: configurations have five levels, and each costs stack.
const DEPTH_MAX: usize = 64;

/// Why a text is not HCL, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct HclError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// Reads a whole text.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(text: &str) -> Result<Map<String, Value>, HclError> {
    let mut parser = Parser { lexer: Lexer::new(text), ahead: None };
    let object = parser.items(None, 0)?;
    Ok(object)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<Token>,
}

impl Parser<'_> {
    fn peek(&mut self) -> Result<&Token, HclError> {
        let token = match self.ahead.take() {
            Some(token) => token,
            None => self.lexer.next()?,
        };
        Ok(self.ahead.insert(token))
    }

    fn take(&mut self) -> Result<Token, HclError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    fn fault<T>(&self, message: impl Into<String>) -> Result<T, HclError> {
        Err(self.lexer.fault(message))
    }

    /// Items up to `end`, or to the end of the text.
    fn items(&mut self, end: Option<&Token>, depth: usize) -> Result<Map<String, Value>, HclError> {
        if depth > DEPTH_MAX {
            return self.fault(format!("more than {DEPTH_MAX} blocks are nested"));
        }
        let mut object = Map::new();
        loop {
            let key = match self.take()? {
                Token::End if end.is_none() => return Ok(object),
                token if Some(&token) == end => return Ok(object),
                Token::Comma => continue,
                Token::Word(key) | Token::Text(key) => key,
                Token::End => return self.fault("a block is not closed: `}` is missing"),
                other => return self.fault(format!("a key is expected, not {other}")),
            };
            let value = self.value_of_key(depth)?;
            insert(&mut object, key, value);
        }
    }

    /// What comes behind a key: `= value`, or labels and a block.
    fn value_of_key(&mut self, depth: usize) -> Result<Value, HclError> {
        let mut labels = Vec::new();
        let mut value = loop {
            match self.take()? {
                Token::Assign if labels.is_empty() => return self.value(depth),
                Token::Open => break Value::Object(self.items(Some(&Token::Close), depth + 1)?),
                Token::Word(label) | Token::Text(label) if labels.len() < DEPTH_MAX => labels.push(label),
                other => return self.fault(format!("`=` or `{{` is expected behind a key, not {other}")),
            }
        };
        for label in labels.into_iter().rev() {
            value = Value::Object(Map::from_iter([(label, value)]));
        }
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Value, HclError> {
        match self.take()? {
            Token::Text(text) => Ok(Value::String(text)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Word(word) if word == "true" => Ok(Value::Bool(true)),
            Token::Word(word) if word == "false" => Ok(Value::Bool(false)),
            Token::Word(word) => self.fault(format!("`{word}` is not a value: a text needs quotes")),
            Token::Open => Ok(Value::Object(self.items(Some(&Token::Close), depth + 1)?)),
            Token::OpenList => self.list(depth + 1),
            other => self.fault(format!("a value is expected, not {other}")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, HclError> {
        if depth > DEPTH_MAX {
            return self.fault(format!("more than {DEPTH_MAX} lists are nested"));
        }
        let mut list = Vec::new();
        loop {
            if *self.peek()? == Token::CloseList {
                self.take()?;
                return Ok(Value::Array(list));
            }
            list.push(self.value(depth)?);
            match self.take()? {
                Token::Comma => {}
                Token::CloseList => return Ok(Value::Array(list)),
                other => return self.fault(format!("`,` or `]` is expected in a list, not {other}")),
            }
        }
    }
}

/// Blocks of one key become a list; of other values the last counts.
fn insert(object: &mut Map<String, Value>, key: String, value: Value) {
    let is_blocks = |value: &Value| match value {
        Value::Array(list) => list.iter().all(Value::is_object) && !list.is_empty(),
        other => other.is_object(),
    };
    let blocks = |value: Value| match value {
        Value::Array(list) => list,
        single => vec![single],
    };
    let value = match object.remove(&key) {
        Some(earlier) if is_blocks(&earlier) && is_blocks(&value) => {
            let mut list = blocks(earlier);
            list.extend(blocks(value));
            Value::Array(list)
        }
        _ => value,
    };
    object.insert(key, value);
}

/// A number as HCL writes it: decimal, hexadecimal (`0x`), octal (a leading 0), or with a fraction.
fn number(text: &str) -> Option<Number> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let whole = |digits: &str, radix| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok();
    if let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return whole(hexadecimal, 16).map(Number::from);
    }
    let octal =
        digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    if octal {
        return whole(digits, 8).map(Number::from);
    }
    whole(digits, 10).map(Number::from).or_else(|| Number::from_f64(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::parse;

    #[track_caller]
    fn reads(text: &str, wanted: Value) {
        assert_eq!(parse(text).map(Value::Object), Ok(wanted), "{text}");
    }

    #[track_caller]
    fn refused(text: &str, wanted: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }

    #[test]
    fn a_configuration_of_consul_is_what_its_json_would_be() {
        reads(
            r#"
            # A server.
            datacenter = "dc1" // the only one
            server = true
            bootstrap_expect = 3
            retry_join = ["10.0.0.1", "10.0.0.2",]
            ports { http = 8500, dns = -1 }
            /* two
               services */
            services {
              name = "web"
              meta = { "a.b" = "c" }
              check { id = "x" http = "http://127.0.0.1:80/" interval = "10s" }
            }
            services { name = "db" }
            "#,
            json!({
                "datacenter": "dc1", "server": true, "bootstrap_expect": 3, "retry_join": ["10.0.0.1", "10.0.0.2"],
                "ports": {"http": 8500, "dns": -1},
                "services": [
                    {"name": "web", "meta": {"a.b": "c"}, "check": {"id": "x", "http": "http://127.0.0.1:80/", "interval": "10s"}},
                    {"name": "db"},
                ],
            }),
        );
    }

    #[test]
    fn texts_have_escapes_heredocs_and_interpolations_that_are_left_alone() {
        reads(r#"a = "tab\t\"quoted\" \u00e9 \\""#, json!({"a": "tab\t\"quoted\" \u{e9} \\"}));
        reads("a = <<END\none\n  two\nEND\nb = 1", json!({"a": "one\n  two\n", "b": 1}));
        reads("a = <<-END\n    one\n      two\n    END\n", json!({"a": "one\n  two\n"}));
        reads(r#"a = "${b["c"]} }""#, json!({"a": "${b[\"c\"]} }"}));
    }

    #[test]
    fn labels_are_keys_and_numbers_have_bases() {
        reads(
            r#"key "a" { policy = "read" } key "b" {}"#,
            json!({"key": [{"a": {"policy": "read"}}, {"b": {}}]}),
        );
        reads(
            "a = 0x10, b = 010, c = 1.5, d = 1e3, e = 0",
            json!({"a": 16, "b": 8, "c": 1.5, "d": 1000.0, "e": 0}),
        );
        reads("a = 1\na = 2", json!({"a": 2}));
        reads("", json!({}));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        refused("a = b", "line 1, column 5: `b` is not a value: a text needs quotes");
        refused("a {\n  b = 1\n", "line 3, column 1: a block is not closed");
        refused("a = \"x", "a text is not closed");
        refused("a = [1 2]", "`,` or `]` is expected");
        refused("a\nb", "`=` or `{` is expected behind a key");
        refused("= 1", "a key is expected, not `=`");
        refused("a = 1x", "`1x` is not a number");
        refused("a = <<END\nx", "the text that began with <<END does not end");
        refused("/* a", "a comment is not closed");
        refused(&"a {".repeat(100), "nested");
        refused(&format!("a = {}", "[".repeat(100)), "nested");
    }
}
