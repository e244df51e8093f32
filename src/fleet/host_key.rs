//! Whether the machine that answers is the one that we know, as OpenSSH decides it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use parking_lot::Mutex;
use ssh2::{MethodType, Session};

use crate::hint::{WithHint as _, fault};
use crate::host::files::{MODE_PRIVATE, create_private_folder, read_if_there};
use crate::model::fleet::known_hosts::{
    KnownHosts, Verdict, fingerprint, kind_of, new_line, preferred_algorithms,
};
use crate::model::fleet::machines::Target;
use crate::model::fleet::shell::quote;

/// Machines are met at once, and their lines must not be mixed.
static ADDING: Mutex<()> = Mutex::new(());

/// A file of known hosts, as it was when we read it.
pub(super) struct KnownFile {
    path: PathBuf,
    text: String,
}

impl KnownFile {
    /// Reads the file; none knows nobody.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = read_if_there(path)
            .hint("--known-hosts names another file with the keys of hosts")?
            .unwrap_or_default();
        Ok(Self { path: path.to_owned(), text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Asks the host for the kind of key that is known: it has several, and another one would look like a stranger's.
    pub(super) fn prefer_known_kind(&self, session: &Session, target: &Target) -> anyhow::Result<()> {
        let known = KnownHosts::parse(&self.text).kinds(&target.host, target.port);
        if known.is_empty() {
            return Ok(());
        }
        let all =
            session.supported_algs(MethodType::HostKey).context("the SSH library knows no host keys")?;
        session
            .method_pref(MethodType::HostKey, &preferred_algorithms(&known, &all))
            .context("the SSH library does not take our choice of host keys")
    }

    /// Refuses a host that is not the one that we know.
    pub(super) fn check(&self, session: &Session, target: &Target, accept_new: bool) -> anyhow::Result<()> {
        let key = session.host_key().map(|(key, _)| key.to_vec()).context("the machine has no host key")?;
        let kind = kind_of(&key).context("the machine's host key is not understood")?;
        let (name, path, print) = (&target.name, self.path.display(), fingerprint(&key));
        match KnownHosts::parse(&self.text).look(&target.host, target.port, &key) {
            Verdict::Known => Ok(()),
            Verdict::Unknown if accept_new => self.add(target, &key),
            Verdict::Unknown => {
                let line =
                    new_line(&target.host, target.port, &key).context("the host key is not understood")?;
                Err(fault(
                    format!("the host key of {name} is not known: {kind} {print}"),
                    format!(
                        "compare it with `ssh-keygen -lf` of the machine's /etc/ssh/ssh_host_*_key.pub; if it is the \
                         same: `echo {} >>{}`; --accept-new adds unknown keys without a question",
                        quote(&line),
                        quote(&self.path.display().to_string())
                    ),
                ))
            }
            Verdict::Changed { line } => Err(fault(
                format!(
                    "THE HOST KEY OF {name} HAS CHANGED: it is now {kind} {print}, and line {line} of {path} has another \
                     one. Somebody may be listening in; nothing was sent"
                ),
                format!(
                    "if the machine was set up anew: `ssh-keygen -R {} -f {}`",
                    quote(&crate::model::fleet::known_hosts::entry_name(&target.host, target.port)),
                    quote(&self.path.display().to_string())
                ),
            )),
            Verdict::Revoked { line } => Err(fault(
                format!("THE HOST KEY OF {name} IS REVOKED: {kind} {print}, by line {line} of {path}"),
                "give the machine a new host key; nobody may use this one any more",
            )),
        }
    }

    /// Adds a host, as OpenSSH's `accept-new` does.
    fn add(&self, target: &Target, key: &[u8]) -> anyhow::Result<()> {
        let mut line = new_line(&target.host, target.port, key).context("the host key is not understood")?;
        line.push('\n');
        let _turn = ADDING.lock();
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty())
            && !folder.exists()
        {
            create_private_folder(folder)?;
        }
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().append(true).create(true).mode(MODE_PRIVATE).open(&self.path)?;
            // The last line may lack its end.
            let text = std::fs::read(&self.path)?;
            if text.last().is_some_and(|last| *last != b'\n') {
                line.insert(0, '\n');
            }
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        let mut write = write;
        write().with_context(|| format!("cannot add the host key to {}", self.path.display()))
    }
}
