//! Butane configs: Ignition as people write it, to be merged with what they have.

use std::str::FromStr;

use serde::Serialize;

use super::binary::{BINARY_PATH, Binary};
use super::ignition::{MODE_PROGRAM, units_after_fetch};
use super::render::{RenderError, indented, render};
use super::spec::{Spec, SpecError};

/// Indentation of a unit's text: below `contents:` of an entry in `systemd.units`.
const CONTENT_INDENT: usize = 8;

/// Which system a config is for, and in which version of its language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variant {
    /// Flatcar, becomes Ignition 3.3.
    #[default]
    Flatcar1_0,
    /// Flatcar, becomes Ignition 3.4.
    Flatcar1_1,
    /// Fedora CoreOS, becomes Ignition 3.4.
    Fcos1_5,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Flatcar1_0, Self::Flatcar1_1, Self::Fcos1_5];

    /// The words in the config: variant and version.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Flatcar1_0 => ("flatcar", "1.0.0"),
            Self::Flatcar1_1 => ("flatcar", "1.1.0"),
            Self::Fcos1_5 => ("fcos", "1.5.0"),
        }
    }
}

impl FromStr for Variant {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "flatcar" | "flatcar-1.0" | "flatcar-1.0.0" => Ok(Self::Flatcar1_0),
            "flatcar-1.1" | "flatcar-1.1.0" => Ok(Self::Flatcar1_1),
            "fcos" | "fcos-1.5" | "fcos-1.5.0" => Ok(Self::Fcos1_5),
            _ => Err(SpecError::ButaneVariant(text.to_owned())),
        }
    }
}

#[derive(Serialize)]
struct Values<'a> {
    variant: &'static str,
    version: &'static str,
    servers: u8,
    file: Option<FileValues<'a>>,
    units: Vec<UnitValues>,
}

#[derive(Serialize)]
struct FileValues<'a> {
    path: &'static str,
    mode: u32,
    url: &'a str,
    sha512: &'a str,
}

#[derive(Serialize)]
struct UnitValues {
    name: &'static str,
    contents: String,
}

/// The Butane config of `spec`.
///
/// # Errors
/// Never for a template of this program.
pub fn butane(spec: &Spec, variant: Variant) -> Result<String, RenderError> {
    let (name, version) = variant.words();
    let file = match &spec.binary {
        Binary::Download { url, sha512 } => {
            Some(FileValues { path: BINARY_PATH, mode: MODE_PROGRAM, url: url.as_str(), sha512 })
        }
        Binary::Path(_) | Binary::Image(_) => None,
    };
    render(
        "butane",
        &Values {
            variant: name,
            version,
            servers: spec.servers.count(),
            file,
            units: units_after_fetch(spec)?
                .into_iter()
                .map(|unit| UnitValues { name: unit.name, contents: indented(&unit.text, CONTENT_INDENT) })
                .collect(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::Variant;

    #[test]
    fn a_variant_is_named_with_or_without_its_version() {
        for variant in Variant::ALL {
            let (name, version) = variant.words();
            assert_eq!(format!("{name}-{version}").parse(), Ok(variant));
        }
        assert_eq!("flatcar".parse(), Ok(Variant::default()));
        assert!("rhcos".parse::<Variant>().unwrap_err().to_string().contains("flatcar-1.1"));
    }
}
