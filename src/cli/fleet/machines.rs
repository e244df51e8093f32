//! The flags that all `fleet` commands share: which machines, and how they are reached.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cli::Usage;
use crate::fleet::{Keys, Settings};
use crate::hint::{WithHint as _, advise, fault};
use crate::model::duration;
use crate::model::fleet::machines::{Target, parse_file, parse_list, parse_ssh_config, vagrant_names};

/// Private keys of OpenSSH that are tried when none is named, in this order.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Says which machines, where no flag does.
const MACHINES_VARIABLE: &str = "COREDISCOVER_MACHINES";

/// Which machines, and how they are reached.
#[derive(clap::Args)]
pub(super) struct MachineArgs {
    /// Machines as [user@]host[:port], separated by commas; or a file with one on each line, then metadata as in
    /// `role=web,disk=ssd` for `MachineMetadata=`.
    #[arg(long, value_name = "HOSTS|FILE", global = true, env = MACHINES_VARIABLE)]
    machines: Option<String>,
    /// The machines of the Vagrantfile in this folder.
    #[arg(long, global = true)]
    vagrant: bool,
    /// Who to log in as, where the machine's name does not say it [default: who you are here].
    #[arg(long, value_name = "USER", global = true)]
    user: Option<String>,
    /// A private key; may be repeated [default: the agent's, then those of ~/.ssh].
    #[arg(long, short, value_name = "FILE", global = true)]
    identity: Vec<PathBuf>,
    /// The file with the keys of known hosts [default: that of ~/.ssh].
    #[arg(long, value_name = "FILE", global = true)]
    known_hosts: Option<PathBuf>,
    /// Add the keys of hosts that are not known yet; a changed key is refused all the same.
    #[arg(long, global = true)]
    accept_new: bool,
    /// How long connecting, the handshake and the login may take, each.
    #[arg(long, value_name = "DURATION", global = true, default_value = "10s")]
    timeout: String,
}

/// The machines that are meant.
pub(super) struct Chosen {
    /// Those that are to be connected to.
    pub(super) targets: Vec<Target>,
    /// The names of those of which it is not known how, with the reasons.
    pub(super) failed: Vec<(String, anyhow::Error)>,
}

impl MachineArgs {
    /// The machines.
    pub(super) fn targets(&self) -> anyhow::Result<Chosen> {
        if self.vagrant && self.listed() {
            let error = fault("--machines and --vagrant both name machines", "give one of the two");
            return Err(error.context(Usage("fleet does not know which machines")));
        }
        if self.vagrant {
            return vagrant();
        }
        let Some(text) = &self.machines else {
            let advice =
                "give --machines host-1,host-2 or a file with one machine on each line, or --vagrant";
            return Err(
                fault("no machine is named", advice).context(Usage("fleet does not know which machines"))
            );
        };
        Ok(Chosen { targets: Self::read(text)?, failed: Vec::new() })
    }

    /// Whether they are named by flags.
    pub(super) fn are_named(&self) -> bool {
        self.vagrant || self.listed()
    }

    /// Whether `--machines` was typed.
    fn listed(&self) -> bool {
        self.machines.is_some() && self.machines != std::env::var(MACHINES_VARIABLE).ok()
    }

    /// Reads the value of `--machines`: a file, if there is one.
    pub(super) fn read(text: &str) -> anyhow::Result<Vec<Target>> {
        let path = Path::new(text);
        let looks_like_a_path = text.contains('/');
        if path.is_file() || looks_like_a_path {
            let content = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the machines in {text}"))
                .hint("--machines takes a file, or hosts separated by commas")?;
            return parse_file(&content)
                .with_context(|| format!("{text} is no list of machines"))
                .hint("each line has a machine as [user@]host[:port], then metadata if it has any; `#` begins a comment");
        }
        let parsed = parse_list(text).map_err(anyhow::Error::from);
        parsed.map_err(|error| error.context(Usage("--machines is not understood")))
    }

    /// How they are reached.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let folder = home.map(|home| home.join(".ssh"));
        let known_hosts = match (&self.known_hosts, &folder) {
            (Some(file), _) => file.clone(),
            (None, Some(folder)) => folder.join("known_hosts"),
            (None, None) => {
                return Err(fault(
                    "HOME is not set, so there is no ~/.ssh/known_hosts",
                    "name it with --known-hosts",
                ));
            }
        };
        let usual =
            folder.map(|folder| USUAL_KEYS.map(|name| folder.join(name)).to_vec()).unwrap_or_default();
        let agent = std::env::var_os("SSH_AUTH_SOCK").is_some_and(|path| !path.is_empty());
        Ok(Settings {
            user: self.user()?,
            keys: Keys::new(self.identity.clone(), usual, agent),
            known_hosts,
            accept_new: self.accept_new,
            timeout: time("--timeout", &self.timeout, "--timeout is not understood")?,
        })
    }

    fn user(&self) -> anyhow::Result<String> {
        let named = self.user.clone().or_else(|| std::env::var("USER").ok()).filter(|user| !user.is_empty());
        match named {
            Some(user) => Ok(user),
            None if rustix::process::getuid().is_root() => Ok("root".to_owned()),
            None => Err(fault("USER is not set, so it is not clear who to log in as", "say it with --user")),
        }
    }
}

/// The time that `text` behind `flag` says.
pub(super) fn time(flag: &str, text: &str, usage: &'static str) -> anyhow::Result<Duration> {
    let why = match duration::parse_positive(text) {
        Ok(time) if time.is_zero() => "it must be more than nothing".to_owned(),
        Ok(time) => return Ok(time),
        Err(error) => error.to_string(),
    };
    Err(fault(format!("{flag}: {why}"), "write it as in 10s or 1m30s").context(Usage(usage)))
}

/// What vagrant says about its machines. Each is asked for by its name: asked for all, it stops at the first that is off.
fn vagrant() -> anyhow::Result<Chosen> {
    const ADVICE: &str = "run this in the folder of the Vagrantfile, after `vagrant up`";
    let status = ask_vagrant(&["status", "--machine-readable"]).hint(ADVICE)?;
    let mut chosen = Chosen { targets: Vec::new(), failed: Vec::new() };
    for name in vagrant_names(&status) {
        let text = ask_vagrant(&["ssh-config", &name]);
        match text.and_then(|text| Ok(parse_ssh_config(&text)?)) {
            Ok(targets) => chosen.targets.extend(targets),
            Err(error) => chosen.failed.push((name, advise(error, "is it on? `vagrant up` starts it"))),
        }
    }
    if chosen.targets.is_empty() && chosen.failed.is_empty() {
        return Err(fault("`vagrant status` lists no machine", ADVICE));
    }
    Ok(chosen)
}

/// What vagrant prints.
fn ask_vagrant(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("vagrant")
        .args(words)
        .output()
        .context("cannot run vagrant")
        .hint("install it, or name the machines with --machines")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("`vagrant {}` failed: {}", words.join(" "), errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
