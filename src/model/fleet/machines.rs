//! Which machines are meant: a list, a file, or what `vagrant ssh-config` says.

use std::collections::BTreeMap;

/// SSH's port.
pub const SSH_PORT: u16 = 22;
/// Most machines of one call: each is a connection.
pub const MACHINES_MAX: usize = 500;

/// Metadata of a machine: what `MachineMetadata=` asks for.
pub type Metadata = BTreeMap<String, String>;

/// One machine to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is called in messages: as it was written, without the user.
    pub name: String,
    /// Who to log in as; `None`: what the flags say.
    pub user: Option<String>,
    /// Address or host name.
    pub host: String,
    /// SSH's port.
    pub port: u16,
    /// Key files for this machine alone.
    pub identities: Vec<String>,
    /// Whether its host key is compared with those that are known.
    pub checks_host_key: bool,
    /// Its metadata.
    pub metadata: Metadata,
}

/// Why a text names no machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachinesError {
    /// Not a machine.
    #[error("`{0}` is no machine: write [user@]host[:port], and an IPv6 address with a port as [fd00::1]:22")]
    Machine(String),
    /// Not metadata.
    #[error("`{0}` is no metadata: write key=value pairs separated by commas, as in role=web,disk=ssd")]
    Metadata(String),
    /// More than machine and metadata.
    #[error("`{0}` is one word too many: write a machine, then its metadata, on each line")]
    Word(String),
    /// A line of a file.
    #[error("line {line}: {error}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        error: Box<MachinesError>,
    },
    /// Twice the same.
    #[error("{0} is there twice: name each machine once")]
    Twice(String),
    /// Nobody.
    #[error("no machine is named")]
    Nobody,
    /// So many that nobody meant it.
    #[error("{0} machines are too many: at most {MACHINES_MAX} at once")]
    Many(usize),
}

impl Target {
    /// Reads `[user@]host[:port]`.
    ///
    /// # Errors
    /// Names the text.
    pub fn parse(text: &str) -> Result<Self, MachinesError> {
        let fault = || MachinesError::Machine(text.to_owned());
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(fault)?;
            (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("22")).ok_or_else(fault)?)
        } else if place.matches(':').count() == 1 {
            place.split_once(':').ok_or_else(fault)?
        } else {
            (place, "22")
        };
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(fault)?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        let is_user = |byte: u8| byte.is_ascii_alphanumeric() || b".-_\\$+".contains(&byte);
        let fits = !host.is_empty()
            && !host.starts_with('-')
            && host.bytes().all(is_host)
            && user
                .is_none_or(|user| !user.is_empty() && !user.starts_with('-') && user.bytes().all(is_user));
        if !fits {
            return Err(fault());
        }
        Ok(Self {
            name: place.to_owned(),
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
            identities: Vec::new(),
            checks_host_key: true,
            metadata: Metadata::new(),
        })
    }
}

/// Reads `host1,host2`.
///
/// # Errors
/// Names what is no machine.
pub fn parse_list(text: &str) -> Result<Vec<Target>, MachinesError> {
    let targets: Result<Vec<_>, _> = text.split(',').map(|word| Target::parse(word.trim())).collect();
    checked(targets?)
}

/// Reads a file: on each line a machine, then its metadata if it has any; `#` begins a comment.
///
/// # Errors
/// Names the line.
pub fn parse_file(text: &str) -> Result<Vec<Target>, MachinesError> {
    let mut targets = Vec::new();
    for (line, words) in (1..).zip(text.lines()) {
        let words = words.split('#').next().unwrap_or_default();
        let at = |error| MachinesError::Line { line, error: Box::new(error) };
        let mut words = words.split_whitespace();
        let Some(machine) = words.next() else { continue };
        let mut target = Target::parse(machine).map_err(at)?;
        if let Some(metadata) = words.next() {
            target.metadata = parse_metadata(metadata).map_err(at)?;
        }
        if let Some(word) = words.next() {
            return Err(at(MachinesError::Word(word.to_owned())));
        }
        targets.push(target);
    }
    checked(targets)
}

/// Reads `role=web,disk=ssd`.
///
/// # Errors
/// Names the text.
pub fn parse_metadata(text: &str) -> Result<Metadata, MachinesError> {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    let pairs: Option<Metadata> = text.split(',').map(pair).collect();
    pairs.ok_or_else(|| MachinesError::Metadata(text.to_owned()))
}

/// Reads what `vagrant ssh-config` prints (OpenSSH's configuration, as vagrant writes it).
///
/// # Errors
/// When no machine is in it.
pub fn parse_ssh_config(text: &str) -> Result<Vec<Target>, MachinesError> {
    let mut targets: Vec<Target> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let at = |error| MachinesError::Line { line, error: Box::new(error) };
        let Some((key, value)) = text.trim().split_once(char::is_whitespace) else { continue };
        let value = value.trim().trim_matches('"');
        if key.eq_ignore_ascii_case("Host") {
            let mut target = Target::parse(value).map_err(at)?;
            value.clone_into(&mut target.name);
            targets.push(target);
            continue;
        }
        let Some(target) = targets.last_mut() else { continue };
        match key.to_ascii_lowercase().as_str() {
            "hostname" => target.host = Target::parse(value).map_err(at)?.host,
            "user" => target.user = Some(value.to_owned()),
            "port" => {
                target.port =
                    value.parse().map_err(|_| at(MachinesError::Machine(text.trim().to_owned())))?;
            }
            "identityfile" => target.identities.push(value.to_owned()),
            // Vagrant makes machines, and with them host keys, all the time.
            "stricthostkeychecking" => target.checks_host_key = !value.eq_ignore_ascii_case("no"),
            _ => {}
        }
    }
    checked(targets)
}

fn checked(targets: Vec<Target>) -> Result<Vec<Target>, MachinesError> {
    match targets.len() {
        0 => return Err(MachinesError::Nobody),
        1..=MACHINES_MAX => {}
        count => return Err(MachinesError::Many(count)),
    }
    for (number, target) in targets.iter().enumerate() {
        let same = |other: &Target| other.host == target.host && other.port == target.port;
        if targets[..number].iter().any(same) {
            return Err(MachinesError::Twice(target.name.clone()));
        }
    }
    Ok(targets)
}

/// The names in what `vagrant status --machine-readable` prints: lines of time, machine, kind, data.
pub fn vagrant_names(status: &str) -> Vec<String> {
    let name = |line: &str| {
        let mut words = line.split(',').skip(1);
        let (machine, kind) = (words.next()?, words.next()?);
        (kind == "state" && !machine.is_empty()).then(|| machine.to_owned())
    };
    status.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::{Target, parse_file, parse_list, parse_ssh_config};

    #[track_caller]
    fn reads(text: &str, user: Option<&str>, host: &str, port: u16) {
        let target = Target::parse(text).unwrap();
        assert_eq!((target.user.as_deref(), target.host.as_str(), target.port), (user, host, port), "{text}");
    }

    #[test]
    fn a_machine_is_written_as_for_ssh() {
        reads("host-1", None, "host-1", 22);
        reads("core@10.0.0.1:2222", Some("core"), "10.0.0.1", 2222);
        reads("fd00::1", None, "fd00::1", 22);
        reads("core@[fd00::1]:2222", Some("core"), "fd00::1", 2222);
        reads("[fd00::1]", None, "fd00::1", 22);
        for wrong in [
            "",
            "@a",
            "a:",
            "a:0",
            "a:70000",
            "a b",
            "-oProxyCommand=x",
            "core@-x",
            "[::1",
            "a;b",
            "a@[::1]x",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_names_each_machine_once() {
        assert_eq!(parse_list("a, b").unwrap().len(), 2);
        assert_eq!(
            parse_list("a,core@a").unwrap_err().to_string(),
            "a is there twice: name each machine once"
        );
        assert!(parse_list("a,,b").is_err());
    }

    #[test]
    fn a_file_has_machines_with_metadata_and_comments() {
        let targets = parse_file("# ours\ncore@a  role=web,disk=ssd # fast\n\nb:23\n").unwrap();
        assert_eq!(targets[0].metadata["disk"], "ssd");
        assert_eq!((targets[1].name.as_str(), targets[1].port), ("b:23", 23));
        for (text, said) in [
            ("a\nb role\n", "line 2: `role` is no metadata"),
            ("a role=web x\n", "line 1: `x` is one word too many"),
            ("a\n\n;b\n", "line 3: `;b` is no machine"),
            ("# nobody\n", "no machine is named"),
        ] {
            assert!(parse_file(text).unwrap_err().to_string().starts_with(said), "{text}");
        }
    }

    #[test]
    fn vagrants_ssh_config_is_understood() {
        let text = "Host host-1\n  HostName 127.0.0.1\n  User core\n  Port 2222\n  UserKnownHostsFile /dev/null\n  \
                    StrictHostKeyChecking no\n  PasswordAuthentication no\n  IdentityFile \"/a b/key\"\n\nHost host-2\n  \
                    HostName 127.0.0.1\n  Port 2200\n";
        let targets = parse_ssh_config(text).unwrap();
        assert_eq!((targets[0].name.as_str(), targets[0].host.as_str()), ("host-1", "127.0.0.1"));
        assert_eq!((targets[0].user.as_deref(), targets[0].port), (Some("core"), 2222));
        assert_eq!((targets[0].identities[0].as_str(), targets[0].checks_host_key), ("/a b/key", false));
        assert!(targets[1].checks_host_key && targets[1].port == 2200);
    }
}
