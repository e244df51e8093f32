//! The words of HCL.

use std::fmt;
use std::str::Chars;

use serde_json::Number;

use super::{HclError, number};

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A key, `true` or `false`.
    Word(String),
    /// In quotes, or a heredoc.
    Text(String),
    Number(Number),
    Assign,
    Comma,
    Open,
    Close,
    OpenList,
    CloseList,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Assign => f.write_str("`=`"),
            Self::Comma => f.write_str("`,`"),
            Self::Open => f.write_str("`{`"),
            Self::Close => f.write_str("`}`"),
            Self::OpenList => f.write_str("`[`"),
            Self::CloseList => f.write_str("`]`"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    rest: Chars<'a>,
    /// Where the word begins that was read last, in bytes.
    begin: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        // Windows' editors put a mark there.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { text, rest: text.chars(), begin: 0 }
    }

    /// A mistake in the word that was read last.
    pub(super) fn fault(&self, message: impl Into<String>) -> HclError {
        let before = self.text.get(..self.begin).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
        HclError { line, column, message: message.into() }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest.as_str();
        let end = rest.find(|character| !wanted(character)).unwrap_or(rest.len());
        let (taken, after) = rest.split_at(end);
        self.rest = after.chars();
        taken
    }

    fn strip(&mut self, prefix: &str) -> bool {
        let after = self.rest.as_str().strip_prefix(prefix);
        if let Some(after) = after {
            self.rest = after.chars();
        }
        after.is_some()
    }

    /// Blanks and comments.
    fn skip(&mut self) -> Result<(), HclError> {
        loop {
            self.take_while(char::is_whitespace);
            self.begin = self.text.len() - self.rest.as_str().len();
            if self.strip("#") || self.strip("//") {
                self.take_while(|character| character != '\n');
            } else if self.strip("/*") {
                match self.rest.as_str().split_once("*/") {
                    Some((_, after)) => self.rest = after.chars(),
                    None => return Err(self.fault("a comment is not closed: `*/` is missing")),
                }
            } else {
                return Ok(());
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Token, HclError> {
        self.skip()?;
        let Some(first) = self.peek() else { return Ok(Token::End) };
        let single = match first {
            '=' => Some(Token::Assign),
            ',' => Some(Token::Comma),
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            '[' => Some(Token::OpenList),
            ']' => Some(Token::CloseList),
            _ => None,
        };
        if let Some(token) = single {
            self.rest.next();
            return Ok(token);
        }
        let in_word = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.');
        match first {
            '"' => self.quoted(),
            '<' if self.strip("<<") => self.heredoc(),
            '0'..='9' | '-' => {
                let text = self.take_while(|character| in_word(character) || character == '+');
                number(text).map(Token::Number).ok_or_else(|| self.fault(format!("`{text}` is not a number")))
            }
            letter if letter.is_alphabetic() || letter == '_' => {
                Ok(Token::Word(self.take_while(in_word).to_owned()))
            }
            other => Err(self.fault(format!("{other:?} has no meaning here"))),
        }
    }

    fn quoted(&mut self) -> Result<Token, HclError> {
        self.rest.next();
        let mut text = String::new();
        // Inside `${…}` a quote does not end the text.
        let mut braces = 0_usize;
        loop {
            match self.rest.next() {
                Some('"') if braces == 0 => return Ok(Token::Text(text)),
                Some('\n') if braces == 0 => {
                    return Err(self.fault("a text is not closed on its line: `\"` is missing"));
                }
                Some('\\') if braces == 0 => text.push(self.escaped()?),
                Some('$') if self.peek() == Some('{') => {
                    self.rest.next();
                    text.push_str("${");
                    braces += 1;
                }
                Some(character) => {
                    match character {
                        '{' if braces > 0 => braces += 1,
                        '}' => braces = braces.saturating_sub(1),
                        _ => {}
                    }
                    text.push(character);
                }
                None => return Err(self.fault("a text is not closed: `\"` is missing")),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, HclError> {
        let digits = match self.rest.next() {
            Some('n') => return Ok('\n'),
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('a') => return Ok('\u{7}'),
            Some('b') => return Ok('\u{8}'),
            Some('f') => return Ok('\u{c}'),
            Some('v') => return Ok('\u{b}'),
            Some(same @ ('"' | '\\')) => return Ok(same),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            other => {
                let shown = other.map_or_else(String::new, String::from);
                return Err(self.fault(format!("`\\{shown}` is not an escape of HCL")));
            }
        };
        let code: String = self.rest.by_ref().take(digits).collect();
        u32::from_str_radix(&code, 16)
            .ok()
            .filter(|_| code.len() == digits)
            .and_then(char::from_u32)
            .ok_or_else(|| self.fault(format!("`{code}` is not the number of a character")))
    }

    /// Lines up to one that holds only the word behind `<<`; with `<<-`, without the blanks that the last line has.
    fn heredoc(&mut self) -> Result<Token, HclError> {
        let indented = self.strip("-");
        let word = self.take_while(|character| character != '\n').trim_end_matches('\r');
        if word.is_empty() || !word.chars().all(|character| character.is_alphanumeric() || character == '_') {
            return Err(
                self.fault("a word that ends the text is expected behind `<<`, and nothing behind it")
            );
        }
        self.strip("\n");
        let mut lines: Vec<&str> = Vec::new();
        while !self.rest.as_str().is_empty() {
            let line = self.take_while(|character| character != '\n');
            let content = line.trim_end_matches('\r');
            if content.trim_start() == word {
                let blanks = if indented { content.len() - content.trim_start().len() } else { 0 };
                let is_blank = |line: &str| line.get(..blanks).is_some_and(|start| start.trim().is_empty());
                let cut = if lines.iter().all(|line| line.is_empty() || is_blank(line)) { blanks } else { 0 };
                let shown = lines.iter().map(|line| format!("{}\n", line.get(cut..).unwrap_or_default()));
                return Ok(Token::Text(shown.collect()));
            }
            lines.push(content);
            self.strip("\n");
        }
        Err(self.fault(format!(
            "the text that began with <<{word} does not end: a line with {word} alone is missing"
        )))
    }
}
