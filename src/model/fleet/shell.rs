//! Words for the shell at the other end: SSH carries one command line, which the user's shell takes apart.

/// `word` as every shell reads it back: as it is, or in single quotes.
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:@%+,=".contains(&byte);
    if !word.is_empty() && !word.starts_with('=') && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A command line of these words.
pub fn command_line<Word: AsRef<str>>(words: &[Word]) -> String {
    words.iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{command_line, quote};

    #[test]
    fn a_word_stays_one_word_and_means_nothing_to_a_shell() {
        for (word, quoted) in [
            ("web@1.service", "web@1.service"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's", r"'it'\''s'"),
            ("a\\x2d.mount", r"'a\x2d.mount'"),
            ("=ls", "'=ls'"),
            ("*", "'*'"),
        ] {
            assert_eq!(quote(word), quoted);
        }
        assert_eq!(command_line(&["cat", "--", "a;b"]), "cat -- 'a;b'");
    }
}
