//! The text of `known_hosts`: which key a host must have (sshd(8)).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::{digest, hmac};

/// How a hashed host name begins: HMAC-SHA1 of the name, with a salt of its own.
const HASHED: &str = "|1|";

/// What the file says about a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the host's.
    Known,
    /// The file does not know the host.
    Unknown,
    /// The host has another key, in this line (from 1).
    Changed {
        /// The line.
        line: usize,
    },
    /// The key is revoked, in this line.
    Revoked {
        /// The line.
        line: usize,
    },
}

struct Entry<'a> {
    line: usize,
    marker: Option<&'a str>,
    hosts: &'a str,
    kind: &'a str,
    key: Vec<u8>,
}

/// A `known_hosts` file.
pub struct KnownHosts<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> KnownHosts<'a> {
    /// Reads the text. Lines that make no sense are passed over, as OpenSSH does.
    pub fn parse(text: &'a str) -> Self {
        let entry = |(line, text): (usize, &'a str)| {
            let mut words = text.split_whitespace();
            let first = words.next().filter(|word| !word.starts_with('#'))?;
            let (marker, hosts) =
                if first.starts_with('@') { (Some(first), words.next()?) } else { (None, first) };
            let kind = words.next()?;
            Some(Entry { line, marker, hosts, kind, key: STANDARD.decode(words.next()?).ok()? })
        };
        Self { entries: (1..).zip(text.lines()).filter_map(entry).collect() }
    }

    /// What the file says about `key`, as the host sent it, for the host at this port.
    pub fn look(&self, host: &str, port: u16, key: &[u8]) -> Verdict {
        let name = entry_name(host, port);
        if let Some(entry) = self.of(&name).find(|entry| entry.marker == Some("@revoked") && entry.key == key)
        {
            return Verdict::Revoked { line: entry.line };
        }
        let plain = || self.of(&name).filter(|entry| entry.marker.is_none());
        if plain().any(|entry| entry.key == key) {
            return Verdict::Known;
        }
        // Also when the key that is known is of another kind: we asked for that kind first, so the host has lost it.
        plain().next().map_or(Verdict::Unknown, |entry| Verdict::Changed { line: entry.line })
    }

    /// The kinds of key that the file has for a host.
    pub fn kinds(&self, host: &str, port: u16) -> Vec<&'a str> {
        let name = entry_name(host, port);
        self.of(&name).filter(|entry| entry.marker.is_none()).map(|entry| entry.kind).collect()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |entry| matches_host(entry.hosts, name))
    }
}

/// What a host is called in the file: with its port, unless that is 22.
pub fn entry_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == super::machines::SSH_PORT { host } else { format!("[{host}]:{port}") }
}

/// The line for a new host. `None`: `key` is none.
pub fn new_line(host: &str, port: u16, key: &[u8]) -> Option<String> {
    Some(format!("{} {} {}", entry_name(host, port), kind_of(key)?, STANDARD.encode(key)))
}

/// The kind of a key, which is the first string in it (RFC 4253 section 6.6).
pub fn kind_of(key: &[u8]) -> Option<&str> {
    let length = u32::from_be_bytes(key.get(..4)?.try_into().ok()?);
    let kind = std::str::from_utf8(key.get(4..)?.get(..usize::try_from(length).ok()?)?).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-@.".contains(&byte);
    (!kind.is_empty() && kind.bytes().all(plain)).then_some(kind)
}

/// A key's fingerprint as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest::digest(&digest::SHA256, key)))
}

/// The algorithms to ask a host for, the known kinds first. `all` are those of the SSH library, in its own order.
pub fn preferred_algorithms(known: &[&str], all: &[&str]) -> String {
    let is_known = |algorithm: &&str| {
        // One kind of key, three ways to sign with it.
        let kind = if algorithm.starts_with("rsa-sha2-") { "ssh-rsa" } else { algorithm };
        known.contains(&kind)
    };
    let (first, rest): (Vec<&str>, Vec<&str>) = all.iter().copied().partition(is_known);
    [first, rest].concat().join(",")
}

fn matches_host(hosts: &str, name: &str) -> bool {
    if hosts.starts_with(HASHED) {
        return is_hash_of(hosts, name).unwrap_or(false);
    }
    let mut found = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if wildcard(pattern, name) => return false,
            None if wildcard(pattern, name) => found = true,
            _ => {}
        }
    }
    found
}

fn is_hash_of(hosts: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hosts.strip_prefix(HASHED)?.split_once('|')?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &STANDARD.decode(salt).ok()?);
    Some(hmac::verify(&key, name.as_bytes(), &STANDARD.decode(hash).ok()?).is_ok())
}

/// `*` and `?` of OpenSSH's patterns, without regard to case.
fn wildcard(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut back) = ((0, 0), None);
    loop {
        match pattern.get(at.0) {
            Some(b'*') => {
                back = Some((at.0 + 1, at.1));
                at.0 += 1;
                continue;
            }
            Some(b'?') if at.1 < name.len() => {
                at = (at.0 + 1, at.1 + 1);
                continue;
            }
            Some(byte) if name.get(at.1).is_some_and(|other| other.eq_ignore_ascii_case(byte)) => {
                at = (at.0 + 1, at.1 + 1);
                continue;
            }
            None if at.1 == name.len() => return true,
            _ => {}
        }
        // The last `*` takes one more.
        match back {
            Some((star, begin)) if begin < name.len() => {
                back = Some((star, begin + 1));
                at = (star, begin + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KnownHosts, Verdict, fingerprint, new_line, preferred_algorithms};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    fn key(kind: &str, number: u8) -> Vec<u8> {
        let length = u32::try_from(kind.len()).unwrap().to_be_bytes();
        [&length[..], kind.as_bytes(), &[0, 0, 0, 1, number]].concat()
    }

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, key: &[u8], want: Verdict) {
        assert_eq!(KnownHosts::parse(text).look(host, port, key), want, "{text}");
    }

    #[test]
    fn a_key_is_known_unknown_or_another_one() {
        let (ours, theirs) = (key("ssh-ed25519", 1), key("ssh-ed25519", 2));
        let line = |host: &str| format!("{host} ssh-ed25519 {} a comment\n", STANDARD.encode(&ours));
        check(&line("host-1"), "HOST-1", 22, &ours, Verdict::Known);
        check(&line("host-1,10.0.0.1"), "10.0.0.1", 22, &ours, Verdict::Known);
        check(&line("host-1"), "host-1", 2222, &ours, Verdict::Unknown);
        check(&line("[host-1]:2222"), "host-1", 2222, &ours, Verdict::Known);
        check(&line("# x\nhost-1"), "host-1", 22, &theirs, Verdict::Changed { line: 2 });
        check(&line("host-*,!host-2"), "host-1", 22, &ours, Verdict::Known);
        check(&line("host-*,!host-2"), "host-2", 22, &ours, Verdict::Unknown);
        check(&line("h?st-1"), "host-1", 22, &ours, Verdict::Known);
        check("", "host-1", 22, &ours, Verdict::Unknown);
    }

    #[test]
    fn a_key_of_another_kind_than_the_known_one_is_no_new_host() {
        let text = format!("host-1 ssh-ed25519 {}\n", STANDARD.encode(key("ssh-ed25519", 1)));
        check(&text, "host-1", 22, &key("ssh-rsa", 1), Verdict::Changed { line: 1 });
    }

    #[test]
    fn hashed_names_are_found() {
        // From `ssh-keygen -H` for the name `host.example`.
        let key = key("ssh-ed25519", 1);
        let salt = [7_u8; 20];
        let mac = ring::hmac::sign(
            &ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt),
            b"[host.example]:2222",
        );
        let text = format!(
            "|1|{}|{} ssh-ed25519 {}\n",
            STANDARD.encode(salt),
            STANDARD.encode(mac.as_ref()),
            STANDARD.encode(&key)
        );
        check(&text, "host.example", 2222, &key, Verdict::Known);
        check(&text, "host.example", 22, &key, Verdict::Unknown);
    }

    #[test]
    fn a_revoked_key_is_refused_though_it_is_known() {
        let key = key("ssh-ed25519", 1);
        let text = format!(
            "host-1 ssh-ed25519 {0}\n@revoked * ssh-ed25519 {0}\n@cert-authority * ssh-ed25519 {0}\n",
            STANDARD.encode(&key)
        );
        check(&text, "host-1", 22, &key, Verdict::Revoked { line: 2 });
    }

    #[test]
    fn the_line_of_a_new_host_makes_it_known() {
        let key = key("ssh-ed25519", 1);
        let line = new_line("Host-1", 2222, &key).unwrap();
        assert!(line.starts_with("[host-1]:2222 ssh-ed25519 AAAA"), "{line}");
        check(&line, "host-1", 2222, &key, Verdict::Known);
        assert_eq!(new_line("a", 22, b"\0\0\0\xffx"), None);
        assert!(fingerprint(&key).starts_with("SHA256:") && !fingerprint(&key).ends_with('='));
    }

    #[test]
    fn a_host_is_asked_for_the_kind_of_key_that_is_known() {
        let all = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "ssh-rsa"];
        assert_eq!(
            preferred_algorithms(&["ssh-rsa"], &all),
            "rsa-sha2-512,ssh-rsa,ssh-ed25519,ecdsa-sha2-nistp256"
        );
        assert_eq!(preferred_algorithms(&[], &all), all.join(","));
    }
}
