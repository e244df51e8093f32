//! Processes that end with the run, and what the kernel says they used.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Length of a tick in /proc/PID/stat: `USER_HZ` is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A process that is killed and reaped when it goes out of scope.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command` with an environment of PATH only; both outputs go to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        super::place::tail(&self.log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Fails with the names when `program` is not in PATH.
pub(crate) fn require(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        bail!("{program} is missing; install it: apt-get install {package}");
    }
    Ok(())
}

/// The first line that `program` prints about its version.
pub(crate) fn version(program: &str, flag: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| format!("cannot run {program}"))?;
    // Some say it on stderr.
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// The program under test: beside this one.
pub(crate) fn corediscover() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("corediscover");
    if !program.is_file() {
        bail!("{} is missing; build it: make release", program.display());
    }
    Ok(program)
}

/// CPU time that these processes have used, user and system.
pub(crate) fn cpu(ids: &[u32]) -> Result<Duration> {
    let mut ticks = 0;
    for id in ids {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("a process has ended")?;
        let fields = stat.rsplit_once(") ").context("an unknown form of /proc/PID/stat")?.1;
        let mut times = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
        while let Some(Ok(time)) = times.next() {
            ticks += time;
        }
    }
    Ok(TICK * ticks)
}

/// CPU time of the threads that live now, in nanoseconds: fine enough for a process that does next to nothing.
pub(crate) fn fine_cpu(id: u32) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task")).context("a process has ended")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Resident memory in MiB.
pub(crate) fn resident(id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("a process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / 1024.0)
}
