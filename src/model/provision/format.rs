//! The forms that provisioning output has: what is usual on the machines that read one, and what it cannot say.
//!
//! To add one: a file beside this one that turns a [`Spec`] into text, a variant here, a match arm in each function.

use super::binary::Binary;
use super::draft::Draft;
use super::render::RenderError;
use super::spec::{AddressSource, DnsPort, Spec, SpecError};
use super::{butane, cloud_config, cloud_init, compose, ignition, sysext, units, vagrant};

/// One form of output; each is a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// CoreOS Container Linux.
    CloudConfig,
    /// Debian, Ubuntu and whatever else runs cloud-init.
    CloudInit,
    /// Flatcar and Fedora CoreOS.
    Ignition,
    /// The same, to be merged with what people have.
    Butane,
    /// Plain unit files.
    Units,
    /// Containers on a machine of any kind.
    Compose,
    /// A system extension, for Flatcar.
    Sysext,
    /// Machines on one desk.
    Vagrant,
}

/// One file of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its path in the output's folder.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl OutputFile {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

impl Format {
    /// All of them, in the order in which `--help` lists the commands.
    pub const ALL: [Self; 8] = [
        Self::CloudConfig,
        Self::CloudInit,
        Self::Ignition,
        Self::Butane,
        Self::Units,
        Self::Compose,
        Self::Sysext,
        Self::Vagrant,
    ];

    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CloudConfig => "cloud-config",
            Self::CloudInit => "cloud-init",
            Self::Ignition => "ignition",
            Self::Butane => "butane",
            Self::Units => "units",
            Self::Compose => "compose",
            Self::Sysext => "sysext",
            Self::Vagrant => "vagrant",
        }
    }

    /// Whether fleet can be on the machines.
    pub(super) fn has_fleet(self) -> bool {
        matches!(self, Self::CloudConfig | Self::Units)
    }

    /// Where a machine finds its address when nobody says it: only coreos-cloudinit, and our Vagrantfile, write
    /// `COREOS_PRIVATE_IPV4` into `/etc/environment`. Where it is there, `auto` takes it too.
    pub(super) fn usual_address(self) -> AddressSource {
        match self {
            Self::CloudConfig | Self::Vagrant => AddressSource::Private,
            Self::CloudInit | Self::Ignition | Self::Butane | Self::Units | Self::Compose | Self::Sysext => {
                AddressSource::Auto
            }
        }
    }

    /// The agent's DNS port when nobody says it. The last systemd that reads cloud-config, 241, can ask no other than the
    /// usual one, nor can any that ran fleet; its own resolver has that at 127.0.0.53, and the agent at 127.0.0.1.
    pub(super) fn usual_dns_port(self, fleet: bool) -> DnsPort {
        if self == Self::CloudConfig || fleet { DnsPort::STANDARD } else { DnsPort::default() }
    }

    /// How a machine gets the binary when nobody says it.
    pub(super) fn usual_binary(self) -> Binary {
        match self {
            Self::Compose => Binary::Image(compose::IMAGE_DEFAULT.to_owned()),
            Self::Sysext => Binary::Path(sysext::BINARY_PATH.to_owned()),
            _ => Binary::default(),
        }
    }

    /// Refuses what this form cannot say. A file of settings may be for several forms: only flags are checked.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check_flags(self, flags: &Draft) -> Result<(), SpecError> {
        match (self, &flags.binary) {
            (Self::Sysext, Some(binary)) if *binary != self.usual_binary() => {
                Err(SpecError::HoldsBinary(sysext::BINARY_PATH))
            }
            _ => Ok(()),
        }
    }

    /// The files of the output, in each variant's usual form.
    ///
    /// # Errors
    /// Never for a template of this program.
    pub fn files(self, spec: &Spec) -> Result<Vec<OutputFile>, RenderError> {
        let one = |name: &str, text: String| vec![OutputFile::new(name, text)];
        Ok(match self {
            Self::CloudConfig => one("coreos.yaml", cloud_config::cloud_config(spec)?),
            Self::CloudInit => one("cloud-init.yaml", cloud_init::cloud_init(spec)?),
            Self::Ignition => one("ignition.json", ignition::ignition(spec, ignition::Version::default())?),
            Self::Butane => one("butane.yaml", butane::butane(spec, butane::Variant::default())?),
            Self::Units => units::unit_files(spec, units::Manager::Systemd)?
                .into_iter()
                .map(|file| OutputFile::new(file.name, file.text))
                .collect(),
            Self::Compose => one("compose.yaml", compose::compose(spec)?),
            Self::Sysext => sysext::sysext(spec, &sysext::Host::default())?,
            Self::Vagrant => vagrant::vagrant(spec, vagrant::Machines::default())?,
        })
    }
}
