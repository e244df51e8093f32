//! Reads the first JSON value of a body and names mistakes in the words of Go's decoder.
//!
//! What follows the first complete value is not looked at, as Consul does not.

use serde_json::{Map, Number, Value};

use super::fields::DecodeError;

/// How deep arrays and objects may nest: registrations have four levels; each level costs stack.
const DEPTH_MAX: usize = 64;

/// Reads the first JSON value in `bytes`.
///
/// # Errors
/// With Go's text: `EOF`, `unexpected EOF`, `invalid character 'b' looking for …`.
pub fn parse_first(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut parser = Parser { bytes, position: 0 };
    parser.skip_blanks();
    if parser.position == bytes.len() {
        return Err(DecodeError::Eof);
    }
    parser.value(0)
}

struct Parser<'a> {
    bytes: &'a [u8],
    position: usize,
}

type Parsed<T> = Result<T, DecodeError>;

impl Parser<'_> {
    fn skip_blanks(&mut self) {
        while matches!(self.bytes.get(self.position), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.position += 1;
        }
    }

    fn next(&mut self) -> Parsed<u8> {
        let byte = *self.bytes.get(self.position).ok_or(DecodeError::UnexpectedEof)?;
        self.position += 1;
        Ok(byte)
    }

    fn next_after_blanks(&mut self) -> Parsed<u8> {
        self.skip_blanks();
        self.next()
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::Syntax("exceeded max depth".to_owned()));
        }
        match self.next_after_blanks()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => Ok(Value::String(self.string()?)),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            byte @ (b'-' | b'0'..=b'9') => self.number(byte),
            byte => Err(unexpected(byte, "looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Parsed<Value> {
        let mut map = Map::new();
        let mut byte = self.next_after_blanks()?;
        if byte == b'}' {
            return Ok(Value::Object(map));
        }
        loop {
            if byte != b'"' {
                return Err(unexpected(byte, "looking for beginning of object key string"));
            }
            let key = self.string()?;
            match self.next_after_blanks()? {
                b':' => {}
                byte => return Err(unexpected(byte, "after object key")),
            }
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            match self.next_after_blanks()? {
                b',' => byte = self.next_after_blanks()?,
                b'}' => return Ok(Value::Object(map)),
                byte => return Err(unexpected(byte, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Parsed<Value> {
        let mut values = Vec::new();
        self.skip_blanks();
        if self.bytes.get(self.position) == Some(&b']') {
            self.position += 1;
            return Ok(Value::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            match self.next_after_blanks()? {
                b',' => {}
                b']' => return Ok(Value::Array(values)),
                byte => return Err(unexpected(byte, "after array element")),
            }
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Parsed<Value> {
        for expected in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expected {
                let context = format!("in literal {word} (expecting {})", quoted(expected));
                return Err(unexpected(byte, &context));
            }
        }
        Ok(value)
    }

    fn number(&mut self, first: u8) -> Parsed<Value> {
        let start = self.position - 1;
        let first = if first == b'-' { self.digit("in numeric literal")? } else { first };
        if first != b'0' {
            self.digits();
        }
        if self.bytes.get(self.position) == Some(&b'.') {
            self.position += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.bytes.get(self.position), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.bytes.get(self.position), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        let text = std::str::from_utf8(&self.bytes[start..self.position]).expect("digits are ASCII");
        let number: Number = text.parse().map_err(|_| {
            DecodeError::Syntax(format!("json: cannot unmarshal number {text} into Go value"))
        })?;
        // Fractions are read fast there, and the last digit may be wrong; here they are read as Go does.
        let exact = if number.is_f64() { text.parse().ok().and_then(Number::from_f64) } else { None };
        Ok(Value::Number(exact.unwrap_or(number)))
    }

    fn digit(&mut self, context: &str) -> Parsed<u8> {
        let byte = self.next()?;
        if byte.is_ascii_digit() { Ok(byte) } else { Err(unexpected(byte, context)) }
    }

    fn digits(&mut self) {
        while self.bytes.get(self.position).is_some_and(u8::is_ascii_digit) {
            self.position += 1;
        }
    }

    /// The rest of a string whose opening quote is behind us.
    fn string(&mut self) -> Parsed<String> {
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => self.escape(&mut text)?,
                byte if byte < 0x20 => return Err(unexpected(byte, "in string literal")),
                byte => text.push(byte),
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Parsed<()> {
        let byte = match self.next()? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = self.unicode_escape()?;
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            byte => return Err(unexpected(byte, "in string escape code")),
        };
        text.push(byte);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Parsed<char> {
        let high = self.four_hex_digits()?;
        if (0xd800..0xdc00).contains(&high) && self.bytes[self.position..].starts_with(b"\\u") {
            let back = self.position;
            self.position += 2;
            let low = self.four_hex_digits()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.position = back;
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn four_hex_digits(&mut self) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.next()?;
            let digit = char::from(byte)
                .to_digit(16)
                .ok_or_else(|| unexpected(byte, "in \\u hexadecimal character escape"))?;
            code = code * 16 + digit;
        }
        Ok(code)
    }
}

fn unexpected(byte: u8, context: &str) -> DecodeError {
    DecodeError::Syntax(format!("invalid character {} {context}", quoted(byte)))
}

/// A byte as Go quotes it in these texts.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => r#"'"'"#.to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x20..=0x7e | 0xa1..=0xac | 0xae..=0xff => format!("'{}'", char::from(byte)),
        0x80..=0xa0 | 0xad => format!("'\\u00{byte:02x}'"),
        byte => format!("'\\x{byte:02x}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_first;
    use serde_json::json;

    #[test]
    fn the_first_value_counts_and_what_follows_is_not_looked_at() {
        assert_eq!(
            parse_first(br#" {"a":[1,-2.5e3,true,null,{}]} trailing"#).unwrap(),
            json!({"a": [1, -2.5e3, true, null, {}]})
        );
        assert_eq!(parse_first(br#""\u00e9\ud83d\ude00\ud83d\n\/""#).unwrap(), json!("é😀\u{fffd}\n/"));
        assert_eq!(parse_first(b"[]").unwrap(), json!([]));
    }

    #[test]
    fn mistakes_are_named_as_go_names_them() {
        for (body, want) in [
            ("", "EOF"),
            ("  \n", "EOF"),
            ("{\"a\":1", "unexpected EOF"),
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.a", "invalid character 'a' after decimal point in numeric literal"),
            ("1ea", "invalid character 'a' in exponent of numeric literal"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u00zz\"", "invalid character 'z' in \\u hexadecimal character escape"),
            ("{'a'", "invalid character '\\'' looking for beginning of object key string"),
        ] {
            assert_eq!(parse_first(body.as_bytes()).unwrap_err().to_string(), want, "{body}");
        }
        assert_eq!(
            parse_first("[".repeat(1_000_000).as_bytes()).unwrap_err().to_string(),
            "exceeded max depth"
        );
    }
}
