//! The binary that users get.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What `make release` makes.
const PATH: &str = "target/x86_64-unknown-linux-gnu/release/corediscover";

/// Its path.
pub(crate) fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    assert!(path.exists(), "{PATH} is missing: `make release` builds it");
    path
}

/// `serve-provision` on an address of the host; ends with the test.
pub(crate) struct ProvisionServer {
    process: Child,
    url: String,
}

impl ProvisionServer {
    /// Serves the binary, and user-data with these settings.
    #[track_caller]
    pub(crate) fn start(address: &str, settings: &[&str]) -> Self {
        let mut process = Command::new(binary())
            .args(["serve-provision", "--listen", &format!("{address}:0")])
            .args(settings)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let url = url.trim_end().to_owned();
        assert!(url.starts_with("http://"), "{url}");
        Self { process, url }
    }

    /// Where it is, with a final slash.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What is there under this path.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> String {
        let url = format!("{}{path}", self.url);
        let output = Command::new("curl").args(["-fsS", &url]).output().expect("curl is installed");
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for ProvisionServer {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What a command of it prints.
#[track_caller]
pub(crate) fn corediscover(arguments: &[&str]) -> String {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
