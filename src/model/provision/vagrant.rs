//! Machines on one desk: a Vagrantfile, and the units that it brings to them.
//!
//! The units go over SSH after the first boot, so neither a box's user-data nor Ignition's limit of 1024 bytes under
//! `VirtualBox` matters, and Flatcar, Debian and containers are provisioned alike.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::Serialize;

use super::binary::Binary;
use super::etcd::Etcd;
use super::format::OutputFile;
use super::render::{RenderError, render};
use super::spec::{SERVERS_DEFAULT, Spec, SpecError};
use super::units::{INSTALL, Manager, unit_files};
use crate::model::resolved::{KEEP_SERVERS, PACKAGES};

/// The first machine's address; `VirtualBox`'s network of this name begins here, and so did the clusters that we replace.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 28, 128, 3);
/// The network that has all addresses; `VirtualBox` has to be told to allow it.
const NETWORK: Ipv4Addr = Ipv4Addr::new(172, 28, 128, 0);
const NETWORK_PREFIX: u32 = 24;
/// Most machines: what one desk carries.
pub const MACHINES_MAX: u8 = 9;

/// How many machines there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machines(u8);

impl Machines {
    /// Refuses fewer machines than servers: they would wait for each other for ever.
    ///
    /// # Errors
    /// Names both numbers.
    pub fn check(self, spec: &Spec) -> Result<(), SpecError> {
        let servers = spec.servers.count();
        if servers > self.0 { Err(SpecError::FewMachines { machines: self.0, servers }) } else { Ok(()) }
    }

    fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..u32::from(self.0)).map(|n| Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + n))
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self(SERVERS_DEFAULT)
    }
}

impl FromStr for Machines {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.parse::<u8>() {
            Ok(count) if (1..=MACHINES_MAX).contains(&count) => Ok(Self(count)),
            _ => Err(SpecError::Machines(text.to_owned(), MACHINES_MAX)),
        }
    }
}

#[derive(Serialize)]
struct Values {
    machines: Vec<Machine>,
    /// Where the binary must be, when it has to be brought.
    brought: Option<Brought>,
    units: Vec<&'static str>,
    /// What has all their addresses.
    network: String,
    keep_servers: &'static str,
    resolver_packages: &'static str,
}

#[derive(Serialize)]
struct Machine {
    name: String,
    address: String,
}

#[derive(Serialize)]
struct Brought {
    folder: String,
    file: String,
}

/// `Vagrantfile`, and `units/` beside it. Machines with no etcd given meet by gossip at their addresses.
///
/// # Errors
/// Never for a template of this program.
pub fn vagrant(spec: &Spec, machines: Machines) -> Result<Vec<OutputFile>, RenderError> {
    let etcd = match &spec.etcd {
        Etcd::Local { .. } => {
            let join = machines.addresses().map(|address| IpAddr::V4(address).into()).collect();
            Etcd::Absent { join }
        }
        known => known.clone(),
    };
    let spec = Spec { etcd, ..spec.clone() };
    let brought = match &spec.binary {
        Binary::Path(path) => {
            let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
            Some(Brought { folder: folder.to_owned(), file: file.to_owned() })
        }
        Binary::Download { .. } | Binary::Image(_) => None,
    };
    let units = unit_files(&spec, Manager::Systemd)?;
    let text = render(
        "vagrant",
        &Values {
            machines: (1..)
                .zip(machines.addresses())
                .map(|(number, address)| Machine {
                    name: format!("host-{number}"),
                    address: address.to_string(),
                })
                .collect(),
            brought,
            units: units.iter().map(|unit| unit.name).filter(|name| *name != INSTALL).collect(),
            network: format!("{NETWORK}/{NETWORK_PREFIX}"),
            keep_servers: KEEP_SERVERS,
            resolver_packages: PACKAGES,
        },
    )?;
    let mut files = vec![OutputFile::new("Vagrantfile", text)];
    files.extend(units.into_iter().map(|unit| OutputFile::new(format!("units/{}", unit.name), unit.text)));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::str::FromStr as _;

    use super::{MACHINES_MAX, Machines, NETWORK, NETWORK_PREFIX, vagrant};
    use crate::model::provision::Spec;
    use crate::model::provision::spec::AddressSource;

    #[test]
    fn machines_without_etcd_join_at_each_others_addresses() {
        let files = vagrant(&Spec::default(), "5".parse().unwrap()).unwrap();
        assert!(files[0].text.contains("\"host-5\" => \"172.28.128.7\""), "{}", files[0].text);
        let agent = &files.iter().find(|file| file.path == "units/corediscover-agent.service").unwrap().text;
        assert!(
            agent.contains("  -join 172.28.128.3 \\\n") && agent.contains("  -join 172.28.128.7 \\\n"),
            "{agent}"
        );
        assert!(agent.contains("  -bootstrap-expect 3 \\\n") && !agent.contains("--etcd"), "{agent}");
    }

    #[test]
    fn the_script_writes_the_address_that_the_units_look_for() {
        for (source, variable) in [("private", "COREOS_PRIVATE_IPV4"), ("public", "COREOS_PUBLIC_IPV4")] {
            let address: AddressSource = source.parse().unwrap();
            assert_eq!(address.variable(), variable);
            let spec = Spec { address, ..Spec::default() };
            let files = vagrant(&spec, Machines::default()).unwrap();
            let agent = files.iter().find(|file| file.path == "units/corediscover-agent.service").unwrap();
            assert!(agent.text.contains(&format!("-advertise {source} ")), "{}", agent.text);
            let script: String =
                files[0].text.lines().filter(|line| line.contains(">>/etc/environment")).collect();
            assert!(script.contains(&format!("{variable}=%s")), "{script}");
        }
    }

    #[test]
    fn virtualbox_is_told_of_a_network_that_has_all_machines() {
        let most = Machines::from_str(&MACHINES_MAX.to_string()).unwrap();
        let network = |address: Ipv4Addr| address.to_bits() >> (32 - NETWORK_PREFIX);
        assert!(most.addresses().all(|address| network(address) == network(NETWORK)));
        let line = format!("'* {NETWORK}/{NETWORK_PREFIX}' | sudo tee -a /etc/vbox/networks.conf");
        for (name, text) in [
            ("Vagrantfile", vagrant(&Spec::default(), most).unwrap().remove(0).text.as_str()),
            ("vagrant/README.md", include_str!("../../../vagrant/README.md")),
            ("README.md", include_str!("../../../README.md")),
        ] {
            assert!(text.contains(&line), "{name}");
        }
    }

    #[test]
    fn the_binary_is_brought_only_where_it_is_not_fetched() {
        let text = |binary: &str| {
            let spec = Spec { binary: binary.parse().unwrap(), ..Spec::default() };
            vagrant(&spec, Machines::default()).unwrap().remove(0).text
        };
        assert!(text("path=/opt/bin/corediscover").contains("COREDISCOVER_BINARY"));
        assert!(!text("image=a:1").contains("COREDISCOVER_BINARY"));
    }

    #[test]
    fn fewer_machines_than_servers_are_refused() {
        let spec = Spec { servers: "5".parse().unwrap(), ..Spec::default() };
        assert!(Machines::default().check(&spec).unwrap_err().to_string().contains("5 servers"));
        for wrong in ["0", "10", "x"] {
            assert!(wrong.parse::<Machines>().is_err(), "{wrong}");
        }
    }
}
