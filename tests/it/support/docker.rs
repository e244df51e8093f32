//! Containers of the real Docker engine: an image from scratch with static busybox, gone when the test ends.
//!
//! The engine is shared with whatever else runs on this machine: names are unique, and a test looks only at its own.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Image of the tests: busybox's httpd on the exposed port 80, a shell, nothing else.
pub(crate) const IMAGE: &str = "corediscover-test-web:1";

/// The image's name without its tag: what a service is called unless it says otherwise.
pub(crate) const IMAGE_NAME: &str = "corediscover-test-web";

/// Programs of busybox that the tests and their HEALTHCHECKs use.
const PROGRAMS: &[&str] = &["sh", "httpd", "sleep", "test", "rm", "touch", "wget", "nslookup"];

/// Builds [`IMAGE`] once per run of the tests; a later build with the same content replaces the same name.
pub(crate) fn image() -> &'static str {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let root = tempfile::tempdir().unwrap();
        let programs = root.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        std::fs::copy("/bin/busybox", programs.join("busybox"))
            .expect("the Debian package busybox-static is installed");
        for program in PROGRAMS {
            std::os::unix::fs::symlink("busybox", programs.join(program)).unwrap();
        }
        let tar = Command::new("tar").arg("-C").arg(root.path()).args(["-c", "."]).output().unwrap();
        assert!(tar.status.success());
        let mut import = Command::new("docker")
            .args(["import", "--change", "EXPOSE 80", "--change", r#"CMD ["/bin/httpd","-f","-p","80"]"#])
            .args(["-", IMAGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker is installed");
        import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
        assert!(import.wait().unwrap().success(), "docker import");
    });
    IMAGE
}

/// Runs `docker` with `args` and gives what it printed, without the newline at its end.
#[track_caller]
pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {errors}", args.join(" "));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A name that no other test, in this process or another, uses.
pub(crate) fn unique_name(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("cd-test-{word}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A container that is removed when the test ends, however it ends.
pub(crate) struct Container {
    /// Its unique name.
    pub(crate) name: String,
    /// Its full id.
    pub(crate) id: String,
}

impl Container {
    /// `docker run -d --name … options IMAGE`; the name begins with `word`.
    #[track_caller]
    pub(crate) fn run(word: &str, options: &[&str]) -> Self {
        Self::run_command(word, options, &[])
    }

    /// As [`Container::run`], with another command than the image's.
    #[track_caller]
    pub(crate) fn run_command(word: &str, options: &[&str], command: &[&str]) -> Self {
        let name = unique_name(word);
        let mut args = vec!["run", "-d", "--name", &name];
        args.extend(options);
        args.push(image());
        args.extend(command);
        let id = docker(&args);
        Self { name, id }
    }

    /// Runs `docker VERB … NAME`.
    #[track_caller]
    pub(crate) fn tell(&self, verb: &[&str]) -> String {
        let mut args = verb.to_vec();
        args.push(&self.name);
        docker(&args)
    }

    /// Runs a command inside.
    #[track_caller]
    pub(crate) fn execute(&self, command: &[&str]) -> String {
        let mut args = vec!["exec", &self.name];
        args.extend(command);
        docker(&args)
    }

    /// The machine's port for `port` (`80/tcp`).
    #[track_caller]
    pub(crate) fn published_port(&self, port: &str) -> u16 {
        let text = docker(&["port", &self.name, port]);
        text.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok()).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Fails only when the test has removed it already.
        drop(Command::new("docker").args(["rm", "-f", "-v", &self.name]).output());
    }
}
