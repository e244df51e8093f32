//! The binary: hands the command line to `cli` and turns its answer into an exit code.

#[cfg(not(debug_assertions))]
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(not(debug_assertions))]
    if let Some(error) = backtraces::begin_again_without() {
        let text =
            format!("error: cannot begin again without backtraces: {error}\nhint: unset RUST_BACKTRACE\n");
        // Where there is no stderr, the exit code tells.
        drop(std::io::stderr().write_all(text.as_bytes()));
        return ExitCode::FAILURE;
    }
    corediscover::cli::main(std::env::args_os().collect())
}

/// A release has no tables for walking the stack, and ends with SIGABRT where somebody asks for a backtrace, as these
/// variables do for every error.
#[cfg(not(debug_assertions))]
mod backtraces {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    const VARIABLES: [&str; 2] = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"];

    /// Where one is asked for, becomes the same program, with the same arguments, that is not asked. Comes back with an error.
    pub(super) fn begin_again_without() -> Option<std::io::Error> {
        let is_asked = |name| std::env::var_os(name).is_some_and(|value| value != "0");
        if !VARIABLES.into_iter().any(is_asked) {
            return None;
        }
        let mut arguments = std::env::args_os();
        let mut again = Command::new("/proc/self/exe");
        again.arg0(arguments.next().unwrap_or_default()).args(arguments);
        Some(again.envs(VARIABLES.map(|name| (name, "0"))).exec())
    }
}
