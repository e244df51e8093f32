//! The binary that users get.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What `make release` makes.
const PATH: &str = "target/x86_64-unknown-linux-gnu/release/corediscover";

/// Its path.
pub(crate) fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    assert!(path.exists(), "{PATH} is missing: `make release` builds it");
    path
}

/// What a command of it prints.
#[track_caller]
pub(crate) fn corediscover(arguments: &[&str]) -> String {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
