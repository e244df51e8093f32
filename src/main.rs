//! The binary: hands the command line to `cli` and turns its answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    corediscover::cli::main(std::env::args_os().collect())
}
