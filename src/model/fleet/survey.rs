//! What a machine says about itself and its units, in one answer: the script that asks, and the reading of it.
//!
//! The machines are the memory: a submitted unit is a file below [`UNITS`] on the machine that it was given to. It is
//! *loaded* when systemd has it as well, *launched* when it also starts at boot.

use std::net::IpAddr;
use std::str::FromStr;

use ring::digest;

use crate::model::provision::lint::unit_options;

/// Where a machine keeps the units that it was given.
pub const UNITS: &str = "/var/lib/corediscover-fleet/units";
/// A file here has the name of a unit that fleet gave to systemd: others in [`SYSTEM`] are somebody else's.
pub const LOADED: &str = "/var/lib/corediscover-fleet/loaded";
/// Where systemd finds them.
pub const SYSTEM: &str = "/etc/systemd/system";
/// What starts launched units at boot.
pub const TARGET: &str = "multi-user.target";

/// Asks a machine. No word of a user is in it; any POSIX shell runs it, as any user.
pub const SCRIPT: &str = r#"export LC_ALL=C
printf 'machine-id %s\n' "$(cat /etc/machine-id 2>/dev/null)"
printf 'user %s\n' "$(id -u)"
printf 'hostname %s\n' "$(uname -n)"
printf 'architecture %s\n' "$(uname -m)"
printf 'connection %s\n' "$SSH_CONNECTION"
[ -d /run/systemd/system ] && echo 'systemd yes'
[ -d /var/lib/corediscover-fleet ] || exit 0
closed() { echo "this user may not read /var/lib/corediscover-fleet and what is in it" >&2; exit 13; }
cd /var/lib/corediscover-fleet 2>/dev/null || closed
[ -d units ] || exit 0
cd /var/lib/corediscover-fleet/units 2>/dev/null && [ -r . ] || closed
[ ! -e ../loaded ] || [ -x ../loaded ] || closed
for unit in *; do
  [ -f "$unit" ] || continue
  # What somebody else left here, and systemd would not take.
  case $unit in *[!A-Za-z0-9:_.@\\-]*) continue ;; esac
  [ -r "$unit" ] || closed
  desired=inactive
  [ -e "../loaded/$unit" ] && [ -e "/etc/systemd/system/$unit" ] && desired=loaded
  [ $desired = loaded ] && [ -L "/etc/systemd/system/multi-user.target.wants/$unit" ] && desired=launched
  printf 'unit %s %s %s\n' "$unit" "$desired" "$(wc -c <"$unit")"
  cat "./$unit"
  echo
  systemctl show --property=LoadState,ActiveState,SubState -- "$unit"
  echo end
done"#;

/// The exit code of [`SCRIPT`] where this user may not read the units.
pub const CLOSED: i32 = 13;

/// What a unit is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Desired {
    /// Only known.
    Inactive,
    /// systemd has it.
    Loaded,
    /// It runs, and starts at boot.
    Launched,
}

impl Desired {
    /// fleet's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Loaded => "loaded",
            Self::Launched => "launched",
        }
    }
}

impl FromStr for Desired {
    type Err = SurveyError;
    fn from_str(text: &str) -> Result<Self, SurveyError> {
        [Self::Inactive, Self::Loaded, Self::Launched]
            .into_iter()
            .find(|desired| desired.word() == text)
            .ok_or_else(|| SurveyError(text.to_owned()))
    }
}

/// A unit on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitRecord {
    /// Its name.
    pub name: String,
    /// The text that was submitted.
    pub text: String,
    /// What it is to be.
    pub desired: Desired,
    /// systemd's `LoadState`.
    pub load: String,
    /// systemd's `ActiveState`.
    pub active: String,
    /// systemd's `SubState`.
    pub sub: String,
}

impl UnitRecord {
    /// fleet's word for what it is.
    pub fn state(&self) -> &'static str {
        match (self.desired, self.active.as_str()) {
            (Desired::Inactive, _) => "inactive",
            (_, "active" | "activating" | "reloading") => "launched",
            _ => "loaded",
        }
    }

    /// See [`hash`].
    pub fn hash(&self) -> String {
        hash(&self.text)
    }
}

/// SHA-1 of the options, in hexadecimal digits: comments and blanks do not count.
pub fn hash(text: &str) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut section = None;
    for option in unit_options(text) {
        if section.as_ref() != Some(&option.section) {
            said.extend(section.is_some().then(String::new));
            said.push(format!("[{}]", option.section));
            section = Some(option.section);
        }
        said.push(format!("{}={}", option.key, option.value));
    }
    // Every line has its end.
    said.push(String::new());
    let said = said.join("\n");
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, said.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A machine's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Its machine-id.
    pub machine_id: String,
    /// The number of the user who asked; 0 is root.
    pub user: u32,
    /// What it calls itself.
    pub hostname: String,
    /// Its kind of processor, as uname(1) says it.
    pub architecture: String,
    /// The address at which sshd was reached, as the machine sees it.
    pub reached_at: Option<IpAddr>,
    /// Whether systemd runs.
    pub systemd: bool,
    /// The units that it was given, in the order of their names.
    pub units: Vec<UnitRecord>,
}

/// An answer that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the machine's answer is not understood at `{0}`")]
pub struct SurveyError(String);

/// Reads the answer to [`SCRIPT`]. Texts of units are bytes: their lengths are counted before anything is decoded.
///
/// # Errors
/// Shows what is not understood.
pub fn parse(answer: impl AsRef<[u8]>) -> Result<Survey, SurveyError> {
    let mut survey = Survey::default();
    let mut rest = answer.as_ref();
    while let Some((line, after)) = split_line(rest) {
        rest = after;
        let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
        let value = value.trim();
        match key {
            "machine-id" => value.clone_into(&mut survey.machine_id),
            "user" => survey.user = value.parse().map_err(|_| SurveyError(line.clone()))?,
            "hostname" => value.clone_into(&mut survey.hostname),
            "architecture" => value.clone_into(&mut survey.architecture),
            // sshd: the client's address and port, then the server's.
            "connection" => {
                let address = value.split(' ').nth(2).and_then(|word| word.split('%').next());
                survey.reached_at = address.and_then(|word| word.parse().ok());
            }
            "systemd" => survey.systemd = true,
            "unit" => {
                let (unit, after) = parse_unit(value, rest).ok_or_else(|| SurveyError(line.clone()))?;
                survey.units.push(unit);
                rest = after;
            }
            _ => return Err(SurveyError(line)),
        }
    }
    if survey.machine_id.is_empty() {
        return Err(SurveyError("machine-id".to_owned()));
    }
    survey.units.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(survey)
}

/// The first line, and what follows it.
fn split_line(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 1..]))
}

/// `head` is what follows the word `unit`; gives the unit and the rest of the answer.
fn parse_unit<'a>(head: &str, rest: &'a [u8]) -> Option<(UnitRecord, &'a [u8])> {
    let mut words = head.split_whitespace();
    let (name, desired) = (words.next()?, words.next()?.parse().ok()?);
    let length: usize = words.next()?.parse().ok()?;
    let (text, rest) = (rest.get(..length)?, rest.get(length..)?.strip_prefix(b"\n")?);
    let mut unit = UnitRecord {
        name: name.to_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
        desired,
        load: String::new(),
        active: String::new(),
        sub: String::new(),
    };
    let mut rest = rest;
    loop {
        let (line, after) = split_line(rest)?;
        rest = after;
        match line.split_once('=') {
            Some(("LoadState", value)) => value.clone_into(&mut unit.load),
            Some(("ActiveState", value)) => value.clone_into(&mut unit.active),
            Some(("SubState", value)) => value.clone_into(&mut unit.sub),
            None if line == "end" => return Some((unit, rest)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CLOSED, Desired, LOADED, SCRIPT, SYSTEM, TARGET, UNITS, hash, parse};

    #[test]
    fn the_script_looks_where_the_units_are() {
        assert!(SCRIPT.contains(&format!("cd {UNITS} ")));
        assert_eq!(LOADED.rsplit_once('/').unwrap().0, UNITS.rsplit_once('/').unwrap().0);
        assert!(SCRIPT.contains("../loaded/$unit") && SCRIPT.contains(&format!("exit {CLOSED};")));
        assert!(SCRIPT.contains(&format!("{SYSTEM}/{TARGET}.wants/$unit")));
    }

    #[test]
    fn an_answer_says_what_the_machine_is_and_which_units_it_has() {
        let text = "[Service]\nExecStart=/bin/true\nend\n";
        let answer = format!(
            "machine-id 0123\nuser 1000\nhostname host-1\narchitecture x86_64\nconnection 10.0.0.9 5 10.0.0.1 22\n\
             systemd yes\nunit web.service launched  {}\n{text}\nLoadState=loaded\nActiveState=active\nSubState=running\n\
             end\nunit a.service inactive 0\n\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nend\n",
            text.len()
        );
        let survey = parse(&answer).unwrap();
        assert_eq!((survey.machine_id.as_str(), survey.user, survey.systemd), ("0123", 1000, true));
        assert_eq!(survey.reached_at.unwrap().to_string(), "10.0.0.1");
        let [a, web] = survey.units.as_slice() else { panic!("two units") };
        assert_eq!((a.text.as_str(), a.state(), a.desired), ("", "inactive", Desired::Inactive));
        assert_eq!((web.text.as_str(), web.state(), web.sub.as_str()), (text, "launched", "running"));
        // A text of other bytes than UTF-8 is as long as it is.
        let odd = [b"machine-id 0123\nunit b.service loaded 2\n\xff#\nend\n".as_slice(), answer.as_bytes()]
            .concat();
        assert_eq!(parse(odd).unwrap().units[1].text, "\u{fffd}#");
        let failed = parse(answer.replace("=active", "=failed")).unwrap();
        assert_eq!(failed.units[1].state(), "loaded");
    }

    #[test]
    fn an_answer_that_is_none_is_an_error_that_shows_it() {
        for answer in [
            "",
            "hello\n",
            "user x\n",
            "machine-id a\nunit b launched 5\nab\n",
            "machine-id a\nunit b gone 0\n\nend\n",
        ] {
            assert!(parse(answer).is_err(), "{answer}");
        }
    }

    #[test]
    fn comments_do_not_change_the_hash_and_options_do() {
        let unit = "[Unit]\nDescription=a\n\n[Service]\nExecStart=/bin/true\n";
        // `printf '[Unit]\nDescription=a\n\n[Service]\nExecStart=/bin/true\n' | sha1sum`
        assert_eq!(hash(unit), "7ae8b9630f184657efd74aaf009e656accb67d87");
        assert_eq!(hash(&format!("# why\n{unit}\n")), hash(unit));
        assert_ne!(hash(&unit.replace("true", "false")), hash(unit));
    }
}
