//! The only place that prints: data on stdout, everything else on stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one module that prints")]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::EXIT_USAGE;
use crate::hint;

/// Where a command's words go.
pub(crate) struct Output(());

impl Output {
    /// Stdout and stderr of this process.
    pub(super) fn standard() -> Self {
        Self(())
    }

    /// Prints data exactly as given, with no newline added.
    ///
    /// # Errors
    /// When stdout is closed or full; a pipe that a reader closed is one too.
    #[allow(clippy::unused_self, reason = "the output is a value so that tests and commands share one")]
    pub(crate) fn data(&mut self, text: &str) -> anyhow::Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes exactly as given.
    ///
    /// # Errors
    /// As [`Output::data`].
    #[allow(clippy::unused_self, reason = "the output is a value so that tests and commands share one")]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to standard output")
    }

    /// Tells a person something on stderr; one line is ended.
    #[allow(clippy::unused_self, reason = "the output is a value so that tests and commands share one")]
    pub(crate) fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }

    /// Prints an error with its causes and its hint.
    pub(super) fn failure(&mut self, error: &anyhow::Error, code: u8) -> ExitCode {
        self.note(&hint::report(error));
        ExitCode::from(code)
    }

    /// Prints what clap says about the command line; help goes to stdout and is no failure.
    #[allow(clippy::unused_self, reason = "the output is a value so that tests and commands share one")]
    pub(super) fn usage(&mut self, error: &clap::Error) -> ExitCode {
        if error.print().is_err() {
            return ExitCode::FAILURE;
        }
        if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
    }
}
