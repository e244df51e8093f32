//! Ignition configs: what Flatcar and Fedora CoreOS apply once, before the first boot.
//!
//! Ignition fetches and checks the binary itself, so no unit does; an image that has a file there already is no obstacle.

use std::str::FromStr;

use serde::Serialize;

use super::binary::{BINARY_PATH, Binary};
use super::render::RenderError;
use super::spec::{Spec, SpecError};
use super::units::{Manager, UnitFile, unit_files};

/// Mode of programs; Ignition and Butane want a number, which YAML versions read alike only in decimal.
pub(super) const MODE_PROGRAM: u32 = 0o755;

/// Version of Ignition's specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// Flatcar since 3185, Fedora CoreOS since 34.
    #[default]
    V3_3,
    /// Flatcar since 3760, Fedora CoreOS since 38.
    V3_4,
}

impl Version {
    /// As the config says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V3_3 => "3.3.0",
            Self::V3_4 => "3.4.0",
        }
    }
}

impl FromStr for Version {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "3.3.0" => Ok(Self::V3_3),
            "3.4.0" => Ok(Self::V3_4),
            _ => Err(SpecError::IgnitionVersion(text.to_owned())),
        }
    }
}

#[derive(Serialize)]
struct Config<'a> {
    ignition: Header,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Storage<'a>>,
    systemd: Systemd<'a>,
}

#[derive(Serialize)]
struct Header {
    version: &'static str,
}

#[derive(Serialize)]
struct Storage<'a> {
    files: [File<'a>; 1],
}

#[derive(Serialize)]
struct File<'a> {
    path: &'static str,
    overwrite: bool,
    mode: u32,
    contents: Contents<'a>,
}

#[derive(Serialize)]
struct Contents<'a> {
    source: &'a str,
    verification: Verification,
}

#[derive(Serialize)]
struct Verification {
    hash: String,
}

#[derive(Serialize)]
struct Systemd<'a> {
    units: Vec<Unit<'a>>,
}

#[derive(Serialize)]
struct Unit<'a> {
    name: &'static str,
    enabled: bool,
    contents: &'a str,
}

/// The units of machines on which Ignition has put the binary in place.
///
/// # Errors
/// Never for a template of this program.
pub(super) fn units_after_fetch(spec: &Spec) -> Result<Vec<UnitFile>, RenderError> {
    match spec.binary {
        Binary::Download { .. } => {
            let there = Spec { binary: Binary::Path(BINARY_PATH.to_owned()), ..spec.clone() };
            unit_files(&there, Manager::Systemd)
        }
        Binary::Path(_) | Binary::Image(_) => unit_files(spec, Manager::Systemd),
    }
}

/// The Ignition config of `spec`.
///
/// # Errors
/// Never for a template of this program.
pub fn ignition(spec: &Spec, version: Version) -> Result<String, RenderError> {
    let files = units_after_fetch(spec)?;
    let storage = match &spec.binary {
        Binary::Download { url, sha512 } => Some(Storage {
            files: [File {
                path: BINARY_PATH,
                overwrite: true,
                mode: MODE_PROGRAM,
                contents: Contents {
                    source: url.as_str(),
                    verification: Verification { hash: format!("sha512-{sha512}") },
                },
            }],
        }),
        Binary::Path(_) | Binary::Image(_) => None,
    };
    let config = Config {
        ignition: Header { version: version.as_str() },
        storage,
        systemd: Systemd {
            units: files
                .iter()
                .map(|file| Unit { name: file.name, enabled: true, contents: &file.text })
                .collect(),
        },
    };
    let mut text =
        serde_json::to_string_pretty(&config).map_err(|error| RenderError::json("ignition", &error))?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Version, ignition};
    use crate::model::provision::Spec;

    fn read(spec: &Spec, version: Version) -> serde_json::Value {
        serde_json::from_str(&ignition(spec, version).unwrap()).unwrap()
    }

    #[test]
    fn ignition_fetches_and_checks_the_binary_so_that_no_unit_has_to() {
        let binary = format!("url=https://a.example/c%20d,sha512={}", "ab".repeat(64)).parse().unwrap();
        let config = read(&Spec { binary, ..Spec::default() }, Version::V3_4);
        assert_eq!(config["ignition"]["version"], "3.4.0");
        let file = &config["storage"]["files"][0];
        assert_eq!(file["path"], "/opt/bin/corediscover");
        assert_eq!(file["mode"], 0o755);
        assert_eq!(file["contents"]["source"], "https://a.example/c%20d");
        assert_eq!(file["contents"]["verification"]["hash"], format!("sha512-{}", "ab".repeat(64)));
        let units = config["systemd"]["units"].as_array().unwrap();
        assert_eq!(units.len(), 4);
        assert!(units.iter().all(|unit| !unit["contents"].as_str().unwrap().contains("install")));
    }

    #[test]
    fn a_binary_out_of_an_image_comes_by_a_unit() {
        let binary = "image=a/b:1".parse().unwrap();
        let config = read(&Spec { binary, ..Spec::default() }, Version::default());
        assert_eq!(config["ignition"]["version"], "3.3.0");
        assert!(config.get("storage").is_none());
        assert_eq!(config["systemd"]["units"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn versions_that_are_not_written_are_refused() {
        assert_eq!("3.4.0".parse(), Ok(Version::V3_4));
        assert!("3.5.0".parse::<Version>().unwrap_err().to_string().contains("3.3.0"));
    }
}
