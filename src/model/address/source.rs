//! Where a machine looks for the address that it tells the others.

use std::fmt;
use std::str::FromStr;

use super::template;

/// Longest name of an interface in bytes (`IFNAMSIZ` of Linux, less its final zero).
const INTERFACE_BYTES_MAX: usize = 15;
/// What an interface is named by, before its name.
const INTERFACE_PREFIX: &str = "interface:";

/// Why a text is no source of an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressSourceError {
    /// Not one of the words.
    #[error(
        "`{0}` is no source of an address: use private, public, auto, interface:NAME or a template such as \
         {{{{ GetInterfaceIP \"eth0\" }}}}"
    )]
    Unknown(String),
    /// Not a name that an interface can have.
    #[error("`{0}` is no name of an interface: 1 to {INTERFACE_BYTES_MAX} letters, digits and `.-_:@`")]
    Interface(String),
    /// A line break or the like.
    #[error("the template has a line break or another control character: write it in one line")]
    ControlCharacter,
    /// Not a template.
    #[error("the template cannot be used: {0}")]
    Template(#[from] template::TemplateError),
}

/// Where a machine looks for the address that it tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AddressSource {
    /// The private address that coreos-cloudinit, coreos-metadata or Afterburn has written down.
    #[default]
    Private,
    /// The public one: machines in several networks or clouds.
    Public,
    /// What is written down as private, else the address towards the default route.
    Auto,
    /// The first usable address of this interface.
    Interface(String),
    /// What a template of go-sockaddr gives, as for Consul.
    Template(String),
}

impl AddressSource {
    /// The variable of `/etc/environment` that this source is for old CoreOS, where other programs need it too.
    pub fn variable(&self) -> &'static str {
        match self {
            Self::Public => "COREOS_PUBLIC_IPV4",
            Self::Private | Self::Auto | Self::Interface(_) | Self::Template(_) => "COREOS_PRIVATE_IPV4",
        }
    }

    /// What coreos-cloudinit replaces by the address; cloud-config has no other way to name it than one of these two.
    pub fn substitution(&self) -> &'static str {
        match self {
            Self::Public => "$public_ipv4",
            Self::Private | Self::Auto | Self::Interface(_) | Self::Template(_) => "$private_ipv4",
        }
    }
}

/// As a user writes it.
impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::Public => f.write_str("public"),
            Self::Auto => f.write_str("auto"),
            Self::Interface(name) => write!(f, "{INTERFACE_PREFIX}{name}"),
            Self::Template(text) => f.write_str(text),
        }
    }
}

impl FromStr for AddressSource {
    type Err = AddressSourceError;
    fn from_str(text: &str) -> Result<Self, AddressSourceError> {
        match text {
            "private" => Ok(Self::Private),
            "public" => Ok(Self::Public),
            "auto" => Ok(Self::Auto),
            text if text.contains("{{") => {
                // One line of a unit has to hold it.
                if text.contains(char::is_control) {
                    return Err(AddressSourceError::ControlCharacter);
                }
                template::parse(text)?;
                Ok(Self::Template(text.to_owned()))
            }
            text => match text.strip_prefix(INTERFACE_PREFIX) {
                Some(name) => interface_name(name).map(Self::Interface),
                None => Err(AddressSourceError::Unknown(text.to_owned())),
            },
        }
    }
}

/// A name that an interface can have, of characters that units and shells read alike.
///
/// # Errors
/// Names the text.
pub fn interface_name(text: &str) -> Result<String, AddressSourceError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:@".contains(&byte);
    let fits = (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err(AddressSourceError::Interface(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::AddressSource;

    #[test]
    fn a_source_is_printed_as_it_was_written() {
        for text in ["private", "public", "auto", "interface:eth0", r#"{{ GetInterfaceIP "eth0" }}"#] {
            assert_eq!(text.parse::<AddressSource>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_is_refused_with_the_forms_to_use() {
        for (text, part) in [
            ("", "interface:NAME"),
            ("eth0", "interface:NAME"),
            ("10.0.0.1", "interface:NAME"),
            ("interface:", "name of an interface"),
            ("interface:a b", "name of an interface"),
            ("interface:0123456789abcdef", "name of an interface"),
            ("{{ GetMyIP }}", "GetMyIP"),
            ("{{ GetPrivateIP\n}}", "line break"),
        ] {
            let error = text.parse::<AddressSource>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
