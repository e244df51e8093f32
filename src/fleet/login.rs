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
/// The server does not want this key (libssh2's `LIBSSH2_ERROR_AUTHENTICATION_FAILED`).
const NOT_WANTED: i32 = -18;
/// The server wanted the key and not the signature (`LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED`).
const UNVERIFIED: i32 = -19;

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
    let mut tried = Vec::new();
    let own: Vec<PathBuf> = target.identities.iter().map(PathBuf::from).collect();
    let (files, named) = if own.is_empty() { (&keys.files, keys.named) } else { (&own, true) };
    if keys.agent && with_agent(session, user, if named { Some(files) } else { None }, &mut tried)? {
        return Ok(());
    }
    let mut unusable = None;
    for file in files {
        if tried.len() >= TRIES_MAX {
            break;
        }
        match with_file(session, user, file, named, keys, &mut tried) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) if named => return Err(error),
            // Nobody named this one: another may do.
            Err(error) => unusable = unusable.or(Some(error)),
        }
    }
    if let Some(error) = unusable {
        return Err(error);
    }
    let (user, host) = (quote(user), quote(&target.host));
    if tried.is_empty() {
        return Err(fault(
            "there is no key to log in with: no agent has one, and ~/.ssh has no id_ed25519, id_ecdsa or id_rsa",
            format!(
                "make one with `ssh-keygen -t ed25519`, then `ssh-copy-id -p {} {user}@{host}`",
                target.port
            ),
        ));
    }
    Err(fault(
        format!("{user} is not let in with any of these keys: {}", tried.join(", ")),
        format!(
            "is the user right (--user)? `ssh-copy-id -p {} {user}@{host}` adds your key there",
            target.port
        ),
    ))
}

/// Tries the agent's keys; with `only`, those that belong to one of these files.
fn with_agent(
    session: &Session,
    user: &str,
    only: Option<&Vec<PathBuf>>,
    tried: &mut Vec<String>,
) -> anyhow::Result<bool> {
    let mut agent = session.agent().context("the SSH library has no agent")?;
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
        if tried.len() >= TRIES_MAX {
            break;
        }
        match agent.userauth(user, &identity) {
            Ok(()) => return Ok(true),
            Err(error) if matches!(error.code(), ErrorCode::Session(NOT_WANTED | UNVERIFIED)) => {}
            Err(error) => {
                let count = tried.len() + 1;
                return Err(error)
                    .with_context(|| format!("the machine ended the login at key {count} of the agent"))
                    .hint("it takes fewer keys than the agent has: --identity names the one to use");
            }
        }
        tried.push(format!("{} (agent)", identity.comment()));
    }
    Ok(false)
}

/// The key in `FILE.pub`.
fn public_half(file: &Path) -> Option<Vec<u8>> {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    let text = std::fs::read_to_string(PathBuf::from(name)).ok()?;
    STANDARD.decode(text.split_whitespace().nth(1)?).ok()
}

fn with_file(
    session: &Session,
    user: &str,
    file: &Path,
    named: bool,
    keys: &Keys,
    tried: &mut Vec<String>,
) -> anyhow::Result<bool> {
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
    let passphrase = if encrypted { Some(passphrase_of(file, keys)?) } else { None };
    match session.userauth_pubkey_memory(user, None, &text, passphrase.as_deref()) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.code(), ErrorCode::Session(NOT_WANTED | UNVERIFIED)) => {
            tried.push(file.display().to_string());
            Ok(false)
        }
        Err(error) if encrypted => Err(advise(
            anyhow::Error::from(error).context(format!("the passphrase does not open {}", file.display())),
            "try again, or give the key to an agent with ssh-add",
        )),
        Err(error) => Err(error).with_context(|| format!("cannot log in with {}", file.display())).hint(
            "--identity names another key; the machine may also have ended the login after too many keys",
        ),
    }
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
