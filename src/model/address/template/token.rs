//! The words between `{{` and `}}`.

use super::TemplateError;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A function, or a word of Go's templates.
    Name(String),
    /// A quoted text.
    Text(String),
    /// A number.
    Number(i64),
    /// `.`, which is all interfaces.
    Dot,
    /// `|`
    Pipe,
    /// `(`
    Open,
    /// `)`
    Close,
}

/// What stands between the braces, and what follows.
pub(super) struct Action<'a> {
    pub(super) tokens: Vec<Token>,
    pub(super) rest: &'a str,
    /// `{{-`
    pub(super) trims_before: bool,
    /// `-}}`
    pub(super) trims_behind: bool,
}

/// Reads from behind `{{` to its `}}`.
pub(super) fn action(text: &str) -> Result<Action<'_>, TemplateError> {
    let syntax = |what: &str| TemplateError::Syntax(what.to_owned());
    let after_mark = text.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace));
    let (trims_before, mut rest) = (after_mark.is_some(), after_mark.unwrap_or(text));
    let mut tokens = Vec::new();
    loop {
        let spaced = rest.len() != rest.trim_start().len();
        rest = rest.trim_start();
        if let Some(behind) = rest.strip_prefix("}}") {
            return Ok(Action { tokens, rest: behind, trims_before, trims_behind: false });
        }
        if let Some(behind) = rest.strip_prefix("-}}").filter(|_| spaced) {
            return Ok(Action { tokens, rest: behind, trims_before, trims_behind: true });
        }
        let first = rest.chars().next().ok_or_else(|| syntax("`{{` has no `}}`"))?;
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '.' => (Token::Dot, 1),
            '`' => {
                let end = rest[1..].find('`').ok_or_else(|| syntax("a quote ` is not closed"))?;
                (Token::Text(rest[1..=end].to_owned()), end + 2)
            }
            '"' => quoted(rest)?,
            '-' | '+' | '0'..='9' => {
                let length = 1 + rest[1..].bytes().take_while(u8::is_ascii_digit).count();
                let number = rest[..length].parse();
                (Token::Number(number.map_err(|_| unreadable(rest))?), length)
            }
            first if first.is_ascii_alphabetic() => {
                let length =
                    rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
                (Token::Name(rest[..length].to_owned()), length)
            }
            _ => return Err(unreadable(rest)),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
}

fn unreadable(rest: &str) -> TemplateError {
    let word: String = rest.chars().take_while(|character| !character.is_whitespace()).collect();
    TemplateError::Syntax(format!("`{word}` is not understood"))
}

/// A text in double quotes, with Go's usual escapes.
fn quoted(text: &str) -> Result<(Token, usize), TemplateError> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Token::Text(value), at + 1)),
            '\\' => match characters.next() {
                Some((_, same @ ('"' | '\\' | '\''))) => value.push(same),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => {
                    return Err(TemplateError::Syntax(format!(
                        "`\\{other}` is no escape: write `\\\\{other}`, or quote with ` instead of \""
                    )));
                }
                None => break,
            },
            other => value.push(other),
        }
    }
    Err(TemplateError::Syntax("a quote \" is not closed".to_owned()))
}
