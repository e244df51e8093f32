//! Writes JSON as Go's encoder does: compact, `<`, `>` and `&` escaped, maps sorted by key.
//!
//! Rows are appended to one byte vector; nothing is built in between.

use std::collections::BTreeMap;

/// Indentation of `?pretty`.
const INDENT: &[u8] = b"    ";

/// Appends a text with its quotes.
pub fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (position, &byte) in bytes.iter().enumerate() {
        if PLAIN[byte as usize] {
            continue;
        }
        let (escape, skipped): (&[u8], usize) = match byte {
            b'"' => (b"\\\"", 1),
            b'\\' => (b"\\\\", 1),
            b'\n' => (b"\\n", 1),
            b'\r' => (b"\\r", 1),
            b'\t' => (b"\\t", 1),
            8 => (b"\\b", 1),
            12 => (b"\\f", 1),
            0xe2 => match bytes.get(position + 1..position + 3) {
                Some([0x80, 0xa8]) => (b"\\u2028", 3),
                Some([0x80, 0xa9]) => (b"\\u2029", 3),
                _ => continue,
            },
            _ => (b"", 1),
        };
        out.extend_from_slice(&bytes[start..position]);
        if escape.is_empty() {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[(byte >> 4) as usize]);
            out.push(HEX[(byte & 15) as usize]);
        } else {
            out.extend_from_slice(escape);
        }
        start = position + skipped;
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes that stand for themselves; 0xe2 may begin a line separator.
const PLAIN: [bool; 256] = {
    let mut table = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = false;
        byte += 1;
    }
    table[b'"' as usize] = false;
    table[b'\\' as usize] = false;
    table[b'<' as usize] = false;
    table[b'>' as usize] = false;
    table[b'&' as usize] = false;
    table[0xe2] = false;
    table
};

/// Appends bytes as they are.
pub fn raw(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

/// Appends `before` (punctuation and the key) and then a text.
pub fn field(out: &mut Vec<u8>, before: &str, value: &str) {
    raw(out, before);
    text(out, value);
}

/// Appends a number.
pub fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        #[allow(clippy::cast_possible_truncation, reason = "a decimal digit")]
        let digit = (number % 10) as u8;
        digits[start] = b'0' + digit;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends `before` and then a number.
pub fn number_field(out: &mut Vec<u8>, before: &str, value: u64) {
    raw(out, before);
    number(out, value);
}

/// Appends `true` or `false`.
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    raw(out, if value { "true" } else { "false" });
}

/// Appends a list whose elements `one` writes; never `null`.
pub fn list<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut one: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    let mut first = true;
    for item in items {
        if !std::mem::replace(&mut first, false) {
            out.push(b',');
        }
        one(out, item);
    }
    out.push(b']');
}

/// Appends an object whose values `one` writes; keys come in the order given.
pub fn object<K: AsRef<str>, T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = (K, T)>,
    mut one: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'{');
    let mut first = true;
    for (key, item) in items {
        if !std::mem::replace(&mut first, false) {
            out.push(b',');
        }
        text(out, key.as_ref());
        out.push(b':');
        one(out, item);
    }
    out.push(b'}');
}

/// Appends a list of texts.
pub fn texts<T: AsRef<str>>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>) {
    list(out, items, |out, item| text(out, item.as_ref()));
}

/// Appends a map of texts; `{}` when empty.
pub fn text_map(out: &mut Vec<u8>, map: &BTreeMap<String, String>) {
    object(out, map, |out, value| text(out, value));
}

/// Appends a map of texts, or `null`.
pub fn text_map_or_null(out: &mut Vec<u8>, map: Option<&BTreeMap<String, String>>) {
    match map {
        Some(map) => text_map(out, map),
        None => raw(out, "null"),
    }
}

/// Appends any value, keys sorted and texts escaped as everywhere.
pub fn value(out: &mut Vec<u8>, item: &serde_json::Value) {
    use serde_json::Value;
    match item {
        Value::Null => raw(out, "null"),
        Value::Bool(item) => boolean(out, *item),
        Value::Number(item) => raw(out, &item.to_string()),
        Value::String(item) => text(out, item),
        Value::Array(items) => list(out, items, value),
        Value::Object(items) => object(out, items, value),
    }
}

/// Indents compact JSON by four spaces a level, without a newline at its end.
pub fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth: usize = 0;
    let mut position = 0;
    while let Some(&byte) = compact.get(position) {
        position += 1;
        match byte {
            b'"' => {
                let end = position + string_length(&compact[position..]);
                out.extend_from_slice(&compact[position - 1..end]);
                position = end;
            }
            b'{' | b'[' => {
                out.push(byte);
                if let Some(close @ (b'}' | b']')) = compact.get(position) {
                    out.push(*close);
                    position += 1;
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                new_line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte => out.push(byte),
        }
    }
    out
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    for _ in 0..depth {
        out.extend_from_slice(INDENT);
    }
}

/// Length up to and with the closing quote of a string whose opening quote is behind us.
fn string_length(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (position, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return position + 1,
            _ => {}
        }
    }
    bytes.len()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding, in quotes; `null` for nothing, as Go writes a nil slice.
pub fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() {
        raw(out, "null");
        return;
    }
    out.reserve(bytes.len().div_ceil(3) * 4 + 2);
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { letter } else { b'=' });
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        assert_eq!(
            written(|out| super::text(out, "<a>&\"\\\n\r\t\u{1}\u{7f}é–\u{2028}\u{2029}x")),
            "\"\\u003ca\\u003e\\u0026\\\"\\\\\\n\\r\\t\\u0001\u{7f}é–\\u2028\\u2029x\""
        );
    }

    #[test]
    fn numbers_have_no_leading_zeros() {
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            assert_eq!(written(|out| super::number(out, number)), number.to_string());
        }
    }

    #[test]
    fn base64_is_padded_and_nothing_is_null() {
        for (bytes, want) in [
            ("", "null"),
            ("f", "\"Zg==\""),
            ("fo", "\"Zm8=\""),
            ("foo", "\"Zm9v\""),
            ("foob", "\"Zm9vYg==\""),
        ] {
            assert_eq!(written(|out| super::base64(out, bytes.as_bytes())), want);
        }
    }

    #[test]
    fn pretty_is_four_spaces_and_empty_containers_stay_short() {
        assert_eq!(
            String::from_utf8(super::indent(br#"{"a":[1,{"b":"x,\"{"}],"c":{},"d":[]}"#)).unwrap(),
            "{\n    \"a\": [\n        1,\n        {\n            \"b\": \"x,\\\"{\"\n        }\n    ],\n    \"c\": {},\n    \"d\": []\n}"
        );
    }
}
