//! Words that survive `$(command)` without quotes, when the command prints `eval …`.
//!
//! The shell splits what was printed at blanks, expands file name patterns in the parts, and hands them to `eval`,
//! which joins them by one blank each and reads the result as a command line. So a quoted word survives as long as it
//! has no runs of blanks and no pattern; the rest is spelled as octal escapes that `printf` turns back.

use std::fmt::Write as _;

/// Why a word cannot be printed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// `$(…)` cuts newlines off the end of what a command prints.
    #[error("it ends in a line break, which `$(…)` removes")]
    EndsInLineBreak,
    /// No program can get one as an argument.
    #[error("it holds a NUL byte, which no program can be given")]
    Nul,
}

/// The text that becomes exactly `word` after `$(…)` and `eval`, in dash and in bash.
///
/// Words of plain characters stay as they are.
///
/// # Errors
/// When no text does.
pub fn eval_word(word: &str) -> Result<String, WordError> {
    if word.contains('\0') {
        return Err(WordError::Nul);
    }
    if !word.is_empty() && word.bytes().all(is_plain) {
        return Ok(word.to_owned());
    }
    if word.ends_with('\n') {
        return Err(WordError::EndsInLineBreak);
    }
    let survives_quotes = word.bytes().all(|byte| is_plain(byte) || b" ~{}!$&<>|;#^\"`".contains(&byte));
    if survives_quotes && !word.contains("  ") {
        return Ok(format!("'{word}'"));
    }
    Ok(format!("\"$(printf '{}')\"", printf_format(word)))
}

/// Characters that no shell reads specially anywhere in a word.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte)
}

fn printf_format(word: &str) -> String {
    let mut format = String::new();
    for (position, byte) in word.bytes().enumerate() {
        match byte {
            // A format must not begin with what looks like an option of printf.
            b'-' if position == 0 => format.push_str("\\055"),
            // Not `\045`: dash reads escapes first and conversions second.
            b'%' => format.push_str("%%"),
            byte if is_plain(byte) => format.push(char::from(byte)),
            byte => write!(format, "\\{byte:03o}").expect("writing into a String cannot fail"),
        }
    }
    format
}

#[cfg(test)]
mod tests {
    use super::{WordError, eval_word};

    #[track_caller]
    fn check(word: &str, printed: &str) {
        assert_eq!(eval_word(word).as_deref(), Ok(printed));
    }

    #[test]
    fn plain_words_stay_as_they_are() {
        check("-v", "-v");
        check("/mnt:/data", "/mnt:/data");
        check("A=b,c%d", "A=b,c%d");
    }

    #[test]
    fn words_with_characters_of_the_shell_are_quoted() {
        check("", "''");
        check("A=b c", "'A=b c'");
        check("$HOME;`reboot`", "'$HOME;`reboot`'");
        check("~/data", "'~/data'");
    }

    #[test]
    fn runs_of_blanks_patterns_and_quotes_become_escapes() {
        check("A=b  c", "\"$(printf 'A=b\\040\\040c')\"");
        check("-*50%", "\"$(printf '\\055\\05250%%')\"");
        check("$(x)", "\"$(printf '\\044\\050x\\051')\"");
        check("it's", "\"$(printf 'it\\047s')\"");
        check("a\nb", "\"$(printf 'a\\012b')\"");
        check("é", "\"$(printf '\\303\\251')\"");
    }

    #[test]
    fn words_that_cannot_survive_are_refused() {
        assert_eq!(eval_word("a\n"), Err(WordError::EndsInLineBreak));
        assert_eq!(eval_word("a\0b"), Err(WordError::Nul));
    }
}
