//! How a machine gets the binary: it is there, it is downloaded and checked, or it comes out of a container image.

use std::fmt;
use std::str::FromStr;

use super::endpoint::is_plain_path;
use super::etcd::Url;
use super::spec::SpecError;

/// Where the binary is on every machine: CoreOS and Flatcar keep `/usr` read-only.
pub const BINARY_PATH: &str = "/opt/bin/corediscover";
/// Where the binary is in an image made by `make image`.
pub const IMAGE_BINARY_PATH: &str = "/bin/corediscover";
/// Longest image name in bytes: a repository of up to 255 and a tag of up to 128 (OCI distribution specification).
const IMAGE_BYTES_MAX: usize = 384;
/// Hexadecimal digits of a SHA-512 digest.
pub const SHA512_DIGITS: usize = 128;

/// How a machine gets the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binary {
    /// It is there already.
    Path(String),
    /// It is fetched at the first boot, and used only if it has this digest.
    Download {
        /// Where from.
        url: Url,
        /// SHA-512 of the binary, in lower case.
        sha512: String,
    },
    /// It is copied out of a container image.
    Image(String),
}

impl Binary {
    /// Where the binary is on the machine.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Download { .. } | Self::Image(_) => BINARY_PATH,
        }
    }
}

impl Default for Binary {
    fn default() -> Self {
        Self::Path(BINARY_PATH.to_owned())
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "path={path}"),
            Self::Download { url, sha512 } => write!(f, "url={url},sha512={sha512}"),
            Self::Image(name) => write!(f, "image={name}"),
        }
    }
}

impl FromStr for Binary {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (kind, value) = text.split_once('=').ok_or_else(|| SpecError::Binary(text.to_owned()))?;
        match kind {
            "path" => parse_path(value).map(Self::Path),
            "image" => parse_image(value).map(Self::Image),
            "url" => {
                let (url, digest) = value.rsplit_once(",sha512=").ok_or(SpecError::Digest)?;
                if !is_digest(digest, SHA512_DIGITS) {
                    return Err(SpecError::Digest);
                }
                Ok(Self::Download { url: url.parse()?, sha512: digest.to_ascii_lowercase() })
            }
            _ => Err(SpecError::Binary(text.to_owned())),
        }
    }
}

/// Whether a text is a digest of so many hexadecimal digits.
pub(super) fn is_digest(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse_path(text: &str) -> Result<String, SpecError> {
    if !is_plain_path(text) {
        return Err(SpecError::Path(text.to_owned()));
    }
    if text.starts_with("/tmp/") || text.starts_with("/var/tmp/") {
        return Err(SpecError::TemporaryPath(text.to_owned()));
    }
    Ok(text.to_owned())
}

/// An image name of the characters that registries allow.
///
/// # Errors
/// Names the text.
pub fn parse_image(text: &str) -> Result<String, SpecError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:@".contains(&byte);
    let fits = (1..=IMAGE_BYTES_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '_' || last == '-')
        && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(SpecError::Image(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::Binary;

    #[test]
    fn the_binary_comes_by_url_with_digest_by_image_or_is_there() {
        let digest = "AB".repeat(64);
        let binary: Binary = format!("url=https://a.example/c?x=1,2,sha512={digest}").parse().unwrap();
        let expected = digest.to_ascii_lowercase();
        assert!(
            matches!(&binary, Binary::Download { url, sha512 } if url.as_str() == "https://a.example/c?x=1,2" && *sha512 == expected)
        );
        assert_eq!("path=/usr/bin/cd".parse(), Ok(Binary::Path("/usr/bin/cd".to_owned())));
        let image = "registry.example:5000/corediscover:1";
        assert_eq!(format!("image={image}").parse(), Ok(Binary::Image(image.to_owned())));
    }

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let error = text.parse::<Binary>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }

    #[test]
    fn a_binary_that_no_machine_could_get_is_refused() {
        refused("/opt/bin/corediscover", "no way to get the binary");
        refused("url=https://a.example/c", "sha512sum");
        refused("url=https://a.example/c,sha512=12", "sha512sum");
        refused("path=bin/x", "absolute path");
        refused("path=/opt/../x", "absolute path");
        refused("path=/opt/b in", "absolute path");
        refused("path=/tmp/corediscover", "emptied at boot");
        refused("image=", "not an image name");
        refused("image=a;b", "not an image name");
    }
}
