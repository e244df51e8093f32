//! Logging in with a key: those of the agent first, then those in files. No password, ever.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use ssh2::{ErrorCode, Session};

use super::passphrase;
use crate::hint::{WithHint as _, advise, fault};
use crate::model::fleet::key_file::is_encrypted;
use crate::model::fleet::machines::Target;
use crate::model::fleet::shell::quote;

/// sshd ends the connection at the sixth key that it does not want (`MaxAuthTries`).
const TRIES_MAX: usize = 5;
/// What libssh2 says when the server does not want this key (`LIBSSH2_ERROR_AUTHENTICATION_FAILED`).
const NOT_WANTED: i32 = -18;
/// What it says when the server wanted the key and not the signature, but also when no answer came
/// (`LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED`).
const UNVERIFIED: i32 = -19;
/// What it says of a connection that is gone (`LIBSSH2_ERROR_SOCKET_SEND`, `_SOCKET_DISCONNECT`, `_SOCKET_RECV`).
const GONE: [i32; 3] = [-7, -13, -43];
/// What it says when no answer came in time (`LIBSSH2_ERROR_TIMEOUT`).
const NO_ANSWER: i32 = -9;

/// The keys of the user, the same for all machines.
pub struct Keys {
    /// Key files, in the order in which they are tried.
    files: Vec<PathBuf>,
    /// The user named the files: no other key is tried.
    named: bool,
    /// Whether there is an agent.
    agent: bool,
    /// Passphrases that were typed: each is asked for once.
    passphrases: Mutex<BTreeMap<PathBuf, String>>,
}

impl Keys {
    /// `named`: the files that the user gave, `usual`: those that are tried when none are.
    pub fn new(named: Vec<PathBuf>, usual: Vec<PathBuf>, agent: bool) -> Self {
        let is_named = !named.is_empty();
        let files = if is_named { named } else { usual };
        Self { files, named: is_named, agent, passphrases: Mutex::default() }
    }
}

/// Logs in.
///
/// # Errors
/// Names the keys that were tried.
pub(super) fn log_in(session: &Session, target: &Target, user: &str, keys: &Keys) -> anyhow::Result<()> {
    let methods = match session.auth_methods(user) {
        Ok(methods) => methods.to_owned(),
        // A machine that lets everybody in.
        Err(_) if session.authenticated() => return Ok(()),
        Err(error) => {
            return Err(error)
                .context("the machine does not say how to log in")
                .hint("--timeout waits longer");
        }
    };
    if !methods.split(',').any(|method| method == "publickey") {
        return Err(fault(
            format!("{user} cannot log in with a key there, only by {methods}"),
            "allow keys on that machine: `PubkeyAuthentication yes` in /etc/ssh/sshd_config",
        ));
    }
    let own: Vec<PathBuf> = target.identities.iter().map(PathBuf::from).collect();
    let (files, named) = if own.is_empty() { (&keys.files, keys.named) } else { (&own, true) };
    let mut login = Login { session, user, keys, tried: Vec::new(), left: 0, ended: false };
    if keys.agent && login.with_agent(if named { Some(files) } else { None })? {
        return Ok(());
    }
    let mut unusable = None;
    for file in files {
        match login.with_file(file, named) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if named || login.ended => return Err(error),
            // Nobody named this one: another may do.
            Err(error) => unusable = unusable.or(Some(error)),
        }
    }
    match unusable {
        Some(error) => Err(error),
        None => Err(login.refused(target)),
    }
}

/// One login, with what was tried so far.
struct Login<'a> {
    session: &'a Session,
    user: &'a str,
    keys: &'a Keys,
    /// The keys that did not let us in.
    tried: Vec<String>,
    /// How many more there are, which were not tried.
    left: usize,
    /// The machine listens no more.
    ended: bool,
}

impl Login<'_> {
    /// Tries the agent's keys; with `only`, those that belong to one of these files.
    fn with_agent(&mut self, only: Option<&Vec<PathBuf>>) -> anyhow::Result<bool> {
        let mut agent = self.session.agent().context("the SSH library has no agent")?;
        // An agent that has ended leaves its address behind: then there are still files.
        if agent.connect().is_err() || agent.list_identities().is_err() {
            return Ok(false);
        }
        let wanted: Option<Vec<Vec<u8>>> =
            only.map(|files| files.iter().filter_map(|file| public_half(file)).collect());
        for identity in agent.identities().context("the agent does not list its keys")? {
            if wanted.as_ref().is_some_and(|wanted| !wanted.iter().any(|blob| blob == identity.blob())) {
                continue;
            }
            if self.is_enough() {
                continue;
            }
            let name = format!("{} (agent)", identity.comment());
            match agent.userauth(self.user, &identity) {
                Ok(()) => return Ok(true),
                Err(error) if self.was_refused(&error, name)? => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("the agent does not log in with {}", identity.comment()))
                        .hint("`ssh-add -l` lists its keys; --identity names the one to use");
                }
            }
        }
        Ok(false)
    }

    /// Tries the key in a file. One that nobody named may be missing.
    fn with_file(&mut self, file: &Path, named: bool) -> anyhow::Result<bool> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the key {}", file.display()))
                    .hint("--identity names the file of a private key");
            }
        };
        let Some(encrypted) = is_encrypted(&text) else {
            return Err(fault(
                format!("{} is no private key", file.display()),
                "--identity names the private half, the file without .pub",
            ));
        };
        if self.is_enough() {
            return Ok(false);
        }
        let passphrase = if encrypted { Some(passphrase_of(file, self.keys)?) } else { None };
        let name = file.display().to_string();
        let Err(error) = self.session.userauth_pubkey_memory(self.user, None, &text, passphrase.as_deref())
        else {
            return Ok(true);
        };
        if self.was_refused(&error, name)? {
            return Ok(false);
        }
        let error = anyhow::Error::from(error);
        Err(if encrypted {
            advise(
                error.context(format!("the passphrase does not open {}", file.display())),
                "try again, or give the key to an agent with ssh-add",
            )
        } else {
            advise(
                error.context(format!("cannot log in with {}", file.display())),
                "--identity names another key",
            )
        })
    }

    /// Whether no more keys may be tried; counts one that is left then.
    fn is_enough(&mut self) -> bool {
        let is_enough = self.tried.len() >= TRIES_MAX;
        self.left += usize::from(is_enough);
        is_enough
    }

    /// Whether the machine refused the key `name`, which is remembered then; if not, it never saw it.
    ///
    /// # Errors
    /// When the machine listens no more: then nothing is known about the key.
    fn was_refused(&mut self, error: &ssh2::Error, name: String) -> anyhow::Result<bool> {
        let ErrorCode::Session(code) = error.code() else { return Ok(false) };
        let end = match code {
            NOT_WANTED => None,
            UNVERIFIED => match self.session.auth_methods(self.user) {
                // It still answers, so it is the signature.
                Ok(_) => {
                    self.tried.push(format!("{name}: taken, but not its signature"));
                    return Ok(true);
                }
                Err(error) => Some(error.code()),
            },
            code if code == NO_ANSWER || GONE.contains(&code) => Some(error.code()),
            _ => return Ok(false),
        };
        self.tried.push(name);
        end.map_or(Ok(true), |code| Err(self.end(code == ErrorCode::Session(NO_ANSWER))))
    }

    /// The machine ended the login, or says nothing any more, at the last key that was tried.
    fn end(&mut self, is_silent: bool) -> anyhow::Error {
        self.ended = true;
        let (count, tried) = (self.tried.len(), self.tried.join(", "));
        let keys = if count == 1 { "key" } else { "keys" };
        if is_silent {
            return fault(
                format!("the machine says nothing any more after {count} {keys}: {tried}"),
                "--timeout waits longer",
            );
        }
        fault(
            format!("the machine cut the connection after {count} {keys}: {tried}"),
            "sshd does that when it is offered too many keys (`MaxAuthTries` there) or waits too long for one \
             (`LoginGraceTime`): --identity names the one key to use, `ssh-add -d` takes others out of the agent",
        )
    }

    /// No key let us in.
    fn refused(&self, target: &Target) -> anyhow::Error {
        let (user, host) = (quote(self.user), quote(&target.host));
        if self.tried.is_empty() {
            return fault(
                "there is no key to log in with: no agent has one, and ~/.ssh has no id_ed25519, id_ecdsa or id_rsa",
                format!(
                    "make one with `ssh-keygen -t ed25519`, then `ssh-copy-id -p {} {user}@{host}`",
                    target.port
                ),
            );
        }
        let tried = self.tried.join(", ");
        if self.left > 0 {
            return fault(
                format!(
                    "{user} is not let in with any of these keys: {tried}; {} more were not tried",
                    self.left
                ),
                "sshd takes few tries: --identity names the one key to use, `ssh-add -d` takes others out of the agent",
            );
        }
        fault(
            format!("{user} is not let in with any of these keys: {tried}"),
            format!(
                "is the user right (--user)? `ssh-copy-id -p {} {user}@{host}` adds your key there",
                target.port
            ),
        )
    }
}

/// The key in `FILE.pub`.
fn public_half(file: &Path) -> Option<Vec<u8>> {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    let text = std::fs::read_to_string(PathBuf::from(name)).ok()?;
    STANDARD.decode(text.split_whitespace().nth(1)?).ok()
}

/// The passphrase, which the first thread that needs it asks for; the others wait.
fn passphrase_of(file: &Path, keys: &Keys) -> anyhow::Result<String> {
    let mut known = keys.passphrases.lock();
    if let Some(passphrase) = known.get(file) {
        return Ok(passphrase.clone());
    }
    let passphrase = passphrase::ask(&file.display().to_string())?;
    known.insert(file.to_owned(), passphrase.clone());
    Ok(passphrase)
}
