//! Errors that end in advice: what the user can do about it.
//!
//! A hint is a context layer of an [`anyhow::Error`]; `cli::output` prints it last, as `hint: …`.

use std::fmt;

/// What every hint starts with in an error chain.
pub const HINT_PREFIX: &str = "hint: ";

/// One sentence of advice, carried in an error chain.
#[derive(Debug)]
struct Hint(String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HINT_PREFIX}{}", self.0)
    }
}

/// Adds advice to an error.
pub trait WithHint<T> {
    /// Adds `advice` ("use `--base` to choose other addresses") to the error, if there is one.
    fn hint(self, advice: impl fmt::Display) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, advice: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|error| advise(error.into(), advice))
    }
}

/// An error with advice: `fault("…", "…")`.
pub fn fault(message: impl fmt::Display, advice: impl fmt::Display) -> anyhow::Error {
    advise(anyhow::anyhow!("{message}"), advice)
}

/// Adds advice to an error that is at hand.
pub fn advise(error: anyhow::Error, advice: impl fmt::Display) -> anyhow::Error {
    error.context(Hint(advice.to_string()))
}

/// Adds advice to an error that carries none yet.
pub fn advise_if_none(error: anyhow::Error, advice: impl fmt::Display) -> anyhow::Error {
    let advised = error.chain().any(|cause| cause.to_string().starts_with(HINT_PREFIX));
    if advised { error } else { advise(error, advice) }
}

/// The error and its causes in one line, without advice: for programs.
pub fn causes(error: &anyhow::Error) -> String {
    let texts = error.chain().map(ToString::to_string).filter(|text| !text.starts_with(HINT_PREFIX));
    texts.collect::<Vec<_>>().join(": ")
}

/// The error and its causes in one text, with the advice on a line of its own: for the answer to a program that shows
/// it to a person.
pub fn answer(error: &anyhow::Error) -> String {
    let advice = error.chain().map(ToString::to_string).find(|text| text.starts_with(HINT_PREFIX));
    let mut text = causes(error).trim_end().to_owned();
    if let Some(advice) = advice {
        text.push('\n');
        text.push_str(&advice);
    }
    text
}

/// Takes such a text apart.
pub fn split_answer(text: &str) -> (&str, Option<&str>) {
    let start = format!("\n{HINT_PREFIX}");
    text.split_once(&start).map_or((text, None), |(error, advice)| (error, Some(advice)))
}

/// The lines for a person: `error: …`, one ` -> cause` each, then `hint: …`. A cause whose text the line before it
/// ends with already is left out.
pub fn report(error: &anyhow::Error) -> String {
    let texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    let (hints, mut causes): (Vec<_>, Vec<_>) =
        texts.into_iter().partition(|text| text.starts_with(HINT_PREFIX));
    causes.dedup_by(|cause, before| before.ends_with(cause.as_str()));
    let mut lines = Vec::new();
    for (position, cause) in causes.iter().enumerate() {
        lines.push(if position == 0 { format!("error: {cause}") } else { format!(" -> {cause}") });
    }
    lines.extend(hints);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{WithHint as _, advise_if_none, fault, report};
    use anyhow::Context as _;

    #[test]
    fn a_report_names_the_error_its_causes_and_ends_with_the_hint() {
        let result: Result<(), std::io::Error> = Err(std::io::Error::other("address in use"));
        let error = result.hint("stop the other agent").context("cannot listen on 8500").unwrap_err();
        assert_eq!(
            report(&error),
            "error: cannot listen on 8500\n -> address in use\nhint: stop the other agent"
        );
        assert_eq!(report(&fault("bad", "good")), "error: bad\nhint: good");
    }

    #[test]
    fn a_report_says_nothing_twice_and_has_one_hint() {
        let error = anyhow::anyhow!("no such key").context("cannot read: no such key").context("failed");
        assert_eq!(report(&error), "error: failed\n -> cannot read: no such key");
        let error = advise_if_none(advise_if_none(error, "first"), "second");
        assert_eq!(report(&error), "error: failed\n -> cannot read: no such key\nhint: first");
    }
}
