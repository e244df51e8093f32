//! A system extension: the tree of an image that adds the binary and its units below a read-only `/usr`.
//!
//! systemd-sysext merges the tree only where `extension-release` fits the machine's os-release. Units of an extension
//! cannot be enabled; `multi-user.target` upholds them instead (systemd 249).

use std::str::FromStr;

use super::binary::Binary;
use super::format::OutputFile;
use super::render::RenderError;
use super::spec::{Spec, SpecError};
use super::units::{Manager, unit_files};

/// Where the binary is on the machine.
pub const BINARY_PATH: &str = "/usr/bin/corediscover";
/// Where it is in the tree.
pub const BINARY_FILE: &str = "usr/bin/corediscover";
/// The image's name: what follows `extension-release.`, and the file's name without `.raw`.
pub const NAME: &str = "corediscover";
/// What `ID=` says of an extension that fits every system (systemd 252).
const ANY: &str = "_any";
/// Flatcar's level for extensions whose programs are static: it changes never.
const FLATCAR_LEVEL: &str = "1.0";

/// The system that the extension is for: `ID` and, where a system has one, `SYSEXT_LEVEL` of its os-release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    id: String,
    level: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self { id: "flatcar".to_owned(), level: Some(FLATCAR_LEVEL.to_owned()) }
    }
}

impl FromStr for Host {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
        };
        if text == Self::default().id {
            return Ok(Self::default());
        }
        let (id, level) = match text.split_once('=') {
            Some((id, level)) => (id, Some(level)),
            None => (text, None),
        };
        // Without a level, only a version could be compared, and that one changes with each update.
        if (id == ANY) != level.is_none() || !plain(id) || level.is_some_and(|level| !plain(level)) {
            return Err(SpecError::SysextHost(text.to_owned()));
        }
        Ok(Self { id: id.to_owned(), level: level.map(str::to_owned) })
    }
}

/// The files of the tree, but for the binary.
///
/// # Errors
/// Never for a template of this program.
pub fn sysext(spec: &Spec, host: &Host) -> Result<Vec<OutputFile>, RenderError> {
    let spec = Spec { binary: Binary::Path(BINARY_PATH.to_owned()), ..spec.clone() };
    let units = unit_files(&spec, Manager::Systemd)?;
    let mut release = format!("ID={}\n", host.id);
    if let Some(level) = &host.level {
        release.push_str("SYSEXT_LEVEL=");
        release.push_str(level);
        release.push('\n');
    }
    let names: Vec<&str> = units.iter().map(|unit| unit.name).collect();
    let mut files = vec![
        OutputFile::new(format!("usr/lib/extension-release.d/extension-release.{NAME}"), release),
        OutputFile::new(
            "usr/lib/systemd/system/multi-user.target.d/10-corediscover.conf",
            format!("[Unit]\nUpholds={}\n", names.join(" ")),
        ),
    ];
    for unit in units {
        files.push(OutputFile::new(format!("usr/lib/systemd/system/{}", unit.name), unit.text));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{Host, sysext};
    use crate::model::provision::Spec;

    #[test]
    fn the_tree_says_which_system_it_fits() {
        let release = |host: &Host| sysext(&Spec::default(), host).unwrap().remove(0).text;
        assert_eq!(release(&Host::default()), "ID=flatcar\nSYSEXT_LEVEL=1.0\n");
        assert_eq!(release(&"fedora=2.0".parse().unwrap()), "ID=fedora\nSYSEXT_LEVEL=2.0\n");
        assert_eq!(release(&"_any".parse().unwrap()), "ID=_any\n");
        for wrong in ["", "debian", "a b=1", "_any=1", "a="] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn units_start_the_binary_of_the_tree_and_are_upheld() {
        let files = sysext(&Spec::default(), &Host::default()).unwrap();
        let text = |end: &str| &files.iter().find(|file| file.path.ends_with(end)).unwrap().text;
        assert!(text("corediscover-agent.service").contains("ExecStart=/usr/bin/corediscover bootstrap"));
        assert_eq!(
            text("10-corediscover.conf"),
            "[Unit]\nUpholds=corediscover-agent.service corediscover-registrator.service \
             corediscover-containers.service corediscover-resolved.service\n"
        );
    }
}
