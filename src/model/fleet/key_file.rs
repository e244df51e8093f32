//! What a private key's file says about itself: whether a passphrase is needed to read it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How OpenSSH's own format begins (PROTOCOL.key of OpenSSH).
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Whether a private key is there at all, and whether it is encrypted; `None`: this is no private key.
pub fn is_encrypted(text: &str) -> Option<bool> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
    let kind = lines.next()?.strip_prefix("-----BEGIN ")?.strip_suffix(" PRIVATE KEY-----");
    let body: Vec<&str> = lines.take_while(|line| !line.starts_with("-----")).collect();
    match kind {
        Some("OPENSSH") => {
            let bytes = STANDARD.decode(body.concat()).ok()?;
            let rest = bytes.strip_prefix(MAGIC)?;
            let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
            let cipher = rest.get(4..)?.get(..usize::try_from(length).ok()?)?;
            Some(cipher != b"none")
        }
        Some("ENCRYPTED") => Some(true),
        Some(_) => Some(body.iter().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))),
        None => text.starts_with("-----BEGIN PRIVATE KEY-----").then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::is_encrypted;

    #[test]
    fn a_key_says_whether_it_needs_a_passphrase() {
        // openssh-key-v1, cipher `none` and `aes256-ctr`.
        let plain = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n";
        assert_eq!(is_encrypted(plain), Some(false));
        let locked = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHI=\n-----END OPENSSH PRIVATE KEY-----\n";
        assert_eq!(is_encrypted(locked), Some(true));
        assert_eq!(
            is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n"),
            Some(true)
        );
        assert_eq!(is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"), Some(false));
        assert_eq!(is_encrypted("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE\n"), Some(true));
        assert_eq!(is_encrypted("-----BEGIN PRIVATE KEY-----\nMIIE\n"), Some(false));
        assert_eq!(is_encrypted("ssh-ed25519 AAAA me\n"), None);
        assert_eq!(is_encrypted(""), None);
    }
}
