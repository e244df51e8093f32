//! What a user said about the cluster, in flags or in a file, before the gaps are filled: then it is a [`Spec`].

use std::net::IpAddr;

use super::binary::Binary;
use super::etcd::{Endpoint, Etcd, MachineFile, Peer, TlsFiles, Url};
use super::format::Format;
use super::spec::{AddressSource, DnsPort, Domain, NodeSource, Servers, Spec, SpecError};
use crate::model::names::Datacenter;

/// Settings that may be left out; the names are those of the flags and of `corediscover.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// How many of the machines become servers.
    pub servers: Option<Servers>,
    /// An etcd that is there already.
    pub etcd: Vec<Endpoint>,
    /// Files on the machines for its encryption.
    pub etcd_files: TlsFiles<MachineFile>,
    /// Where the machines' own etcd2 members find each other.
    pub discovery: Option<Url>,
    /// Machines to join at, where there is no etcd.
    pub join: Vec<Peer>,
    /// Whether machines run fleet.
    pub fleet: Option<bool>,
    /// How they get the binary.
    pub binary: Option<Binary>,
    /// The datacenter's name.
    pub datacenter: Option<Datacenter>,
    /// The domain of DNS.
    pub domain: Option<Domain>,
    /// Where a machine finds its address.
    pub advertise: Option<AddressSource>,
    /// What a machine is called.
    pub node: Option<NodeSource>,
    /// The agent's DNS port.
    pub dns_port: Option<DnsPort>,
    /// Where HTTP and DNS listen.
    pub client: Vec<IpAddr>,
}

impl Draft {
    /// These settings where they say something, else those of `below`. Where the machines meet is one setting: whoever
    /// names an etcd here has not got the discovery URL of `below` as well, nor the files for its etcd.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let meets = !self.etcd.is_empty() || self.discovery.is_some() || !self.join.is_empty();
        let (etcd, discovery, join, etcd_files) = if meets {
            (self.etcd, self.discovery, self.join, self.etcd_files)
        } else {
            (below.etcd, below.discovery, below.join, self.etcd_files.or(below.etcd_files))
        };
        Self {
            servers: self.servers.or(below.servers),
            etcd,
            etcd_files,
            discovery,
            join,
            fleet: self.fleet.or(below.fleet),
            binary: self.binary.or(below.binary),
            datacenter: self.datacenter.or(below.datacenter),
            domain: self.domain.or(below.domain),
            advertise: self.advertise.or(below.advertise),
            node: self.node.or(below.node),
            dns_port: self.dns_port.or(below.dns_port),
            client: if self.client.is_empty() { below.client } else { self.client },
        }
    }

    /// The spec, with what is usual on the machines that read `format` in the gaps.
    ///
    /// # Errors
    /// When settings exclude each other, or the format cannot express one.
    pub fn into_spec(self, format: Format) -> Result<Spec, SpecError> {
        let etcd = Etcd::new(self.etcd, self.discovery, self.join, self.etcd_files)?;
        let is_usual = format == Format::CloudConfig && matches!(etcd, Etcd::Local { .. });
        let fleet = format.has_fleet() && self.fleet.unwrap_or(is_usual);
        if fleet && matches!(etcd, Etcd::Absent { .. }) {
            return Err(SpecError::FleetWithoutEtcd);
        }
        let servers = self.servers.unwrap_or_default();
        let peers = etcd.join().len();
        if peers > 0 && peers < usize::from(servers.count()) {
            return Err(SpecError::FewPeers { peers, servers: servers.count() });
        }
        let is_for_containers = format == Format::Compose;
        if is_for_containers && matches!(self.binary, Some(Binary::Path(_) | Binary::Download { .. })) {
            return Err(SpecError::NeedsImage);
        }
        Ok(Spec {
            servers,
            etcd,
            fleet,
            binary: self.binary.unwrap_or_else(|| format.usual_binary()),
            datacenter: self.datacenter.unwrap_or_default(),
            domain: self.domain.unwrap_or_default(),
            address: self.advertise.unwrap_or_else(|| format.usual_address()),
            node: self.node.unwrap_or_default(),
            dns_port: self.dns_port.unwrap_or_else(|| format.usual_dns_port(fleet)),
            client: self.client,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Draft;
    use crate::model::provision::endpoint::TlsError;
    use crate::model::provision::etcd::{Etcd, TlsFiles};
    use crate::model::provision::format::Format;
    use crate::model::provision::spec::{AddressSource, SpecError};
    use crate::model::resolved::Mode;

    #[test]
    fn what_is_said_above_wins_and_where_machines_meet_is_one_setting() {
        let file = Draft {
            servers: Some("5".parse().unwrap()),
            discovery: Some("https://discovery.example/1".parse().unwrap()),
            dns_port: Some("53".parse().unwrap()),
            ..Draft::default()
        };
        let flags = Draft {
            servers: Some("3".parse().unwrap()),
            etcd: vec!["http://10.0.0.1:2379".parse().unwrap()],
            ..Draft::default()
        };
        let spec = flags.clone().over(file).into_spec(Format::CloudConfig).unwrap();
        assert_eq!(spec.servers.count(), 3);
        assert_eq!(spec.dns_port.number(), 53);
        assert_eq!(spec.etcd, Etcd::Given { endpoints: flags.etcd, tls: None });
    }

    #[test]
    fn an_etcd_with_encryption_is_refused_without_its_authority_and_a_file_goes_with_its_etcd() {
        let file = |path: &str| Some(path.parse().unwrap());
        let closed = Draft { etcd: vec!["https://10.0.0.9".parse().unwrap()], ..Draft::default() };
        for format in Format::ALL {
            let refused = closed.clone().into_spec(format);
            assert_eq!(refused, Err(SpecError::Tls(TlsError::NoAuthority)), "{format:?}");
        }
        let files = TlsFiles { ca: file("/etc/etcd/ca.pem"), ..TlsFiles::default() };
        let whole = Draft { etcd_files: files.clone(), ..closed };
        assert!(whole.clone().into_spec(Format::Units).is_ok());
        let flags = Draft { etcd: vec!["http://10.0.0.1".parse().unwrap()], ..Draft::default() };
        assert!(
            flags.over(whole.clone()).into_spec(Format::Units).is_ok(),
            "the file was for the other etcd"
        );
        let (cert, key) = (file("/etc/etcd/cert.pem"), file("/etc/etcd/key.pem"));
        let flags = Draft { etcd_files: TlsFiles { ca: None, cert, key }, ..Draft::default() };
        let spec = flags.over(whole).into_spec(Format::Units).unwrap();
        assert!(spec.etcd.tls().is_some_and(|tls| tls.identity.is_some()));
    }

    #[test]
    fn gaps_are_filled_with_what_is_usual_on_those_machines() {
        for format in Format::ALL {
            let spec = Draft::default().into_spec(format).unwrap();
            assert_eq!(spec.fleet, format == Format::CloudConfig, "{format:?}");
            let from_file = matches!(format, Format::CloudConfig | Format::Vagrant);
            assert_eq!(spec.address == AddressSource::Private, from_file, "{format:?}");
        }
    }

    #[test]
    fn the_resolver_of_the_machines_that_read_a_form_can_ask_its_usual_port() {
        // Container Linux, and fleet with it, ended with systemd 241; what reads the others goes on.
        for (format, fleet, version) in [
            (Format::CloudConfig, None, 241),
            (Format::CloudConfig, Some(false), 241),
            (Format::Ignition, None, 252),
            (Format::Units, None, 252),
            (Format::Units, Some(true), 241),
        ] {
            let port = Draft { fleet, ..Draft::default() }.into_spec(format).unwrap().dns_port.number();
            assert!(Mode::choose(None, version, port).is_ok(), "{format:?}, {fleet:?}: {port}");
        }
    }

    #[test]
    fn what_a_format_cannot_say_is_refused() {
        let one = "1".parse().unwrap();
        let join = Draft { join: vec!["10.0.0.1".parse().unwrap()], servers: Some(one), ..Draft::default() };
        let few = Draft { servers: None, ..join.clone() };
        assert_eq!(few.into_spec(Format::Units), Err(SpecError::FewPeers { peers: 1, servers: 3 }));
        assert!(join.clone().into_spec(Format::CloudConfig).is_ok_and(|spec| !spec.fleet));
        let fleet = Draft { fleet: Some(true), ..join };
        assert_eq!(fleet.clone().into_spec(Format::Units), Err(SpecError::FleetWithoutEtcd));
        assert!(fleet.into_spec(Format::Ignition).is_ok_and(|spec| !spec.fleet));
        let path = Draft { binary: Some("path=/opt/bin/x".parse().unwrap()), ..Draft::default() };
        assert_eq!(path.clone().into_spec(Format::Compose), Err(SpecError::NeedsImage));
        assert!(matches!(Format::Sysext.check_flags(&path), Err(SpecError::HoldsBinary(_))));
    }
}
