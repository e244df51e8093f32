//! Domain names as they are on the wire, uncompressed, in the spelling they came in.

use std::fmt;
use std::sync::Arc;

use crate::model::names::DNS_LABEL_BYTES_MAX;

/// Longest name in bytes on the wire, with its lengths and the root (RFC 1035 §2.3.4).
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Why a text is not a domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a domain name: labels have 1 to 63 bytes, a name at most 255")]
pub struct NameError(pub String);

/// A domain name: `\x03web\x07service\x06consul\x00`. Equality is by spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// The root, `.`.
    pub fn root() -> Self {
        Self(Arc::from([0]))
    }

    /// A name of these labels; `None` when a label or the whole is too long, or a label is empty.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            let length = u8::try_from(label.len()).ok()?;
            if length == 0 || label.len() > DNS_LABEL_BYTES_MAX {
                return None;
            }
            wire.push(length);
            wire.extend_from_slice(label);
        }
        wire.push(0);
        (wire.len() <= NAME_BYTES_MAX).then(|| Self(wire.into()))
    }

    /// A name whose wire form was already checked (by [`super::wire::parse_query`]).
    pub(super) fn from_checked_wire(wire: &[u8]) -> Self {
        Self(Arc::from(wire))
    }

    /// The name on the wire, uncompressed.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from left to right, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first()?;
            if length == 0 {
                return None;
            }
            let (label, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            Some(label)
        })
    }

    /// Number of labels, without the root.
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// Whether both names are the same to DNS, in any case (RFC 4343).
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }

    /// Whether this is `zone` or below it.
    pub fn is_in(&self, zone: &Self) -> bool {
        let (own, zone_labels) = (self.label_count(), zone.label_count());
        own >= zone_labels
            && self
                .labels()
                .skip(own - zone_labels)
                .zip(zone.labels())
                .all(|(mine, theirs)| mine.eq_ignore_ascii_case(theirs))
    }

    /// `prefix.` + this name, where `prefix` is text whose dots separate labels.
    pub fn under(&self, prefix: &str) -> Option<Self> {
        Self::from_labels(prefix.split('.').map(str::as_bytes).chain(self.labels()))
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    /// Reads a name, absolute with or without its last dot, with `\.` and `\DDD` as in zone files.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError(text.to_owned());
        if text == "." {
            return Ok(Self::root());
        }
        let mut labels: Vec<Vec<u8>> = vec![Vec::new()];
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'.' => {
                    labels.push(Vec::new());
                    continue;
                }
                b'\\' => match bytes.next().ok_or_else(error)? {
                    first @ b'0'..=b'9' => {
                        let mut value = u32::from(first - b'0');
                        for _ in 0..2 {
                            let digit = bytes.next().filter(u8::is_ascii_digit).ok_or_else(error)?;
                            value = value * 10 + u32::from(digit - b'0');
                        }
                        u8::try_from(value).map_err(|_| error())?
                    }
                    other => other,
                },
                other => other,
            };
            if let Some(label) = labels.last_mut() {
                label.push(byte);
            }
        }
        if labels.len() > 1 && labels.last().is_some_and(Vec::is_empty) {
            labels.pop();
        }
        Self::from_labels(labels.iter().map(Vec::as_slice)).ok_or_else(error)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_root = true;
        for label in self.labels() {
            is_root = false;
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                        write!(f, "\\{}", byte as char)?;
                    }
                    0x21..=0x7e => write!(f, "{}", byte as char)?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if is_root { f.write_str(".") } else { Ok(()) }
    }
}
