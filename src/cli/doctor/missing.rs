//! What the settings of this machine are for units that are missing: those of the units that are there.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::settings::Settings;
use crate::agent::{GOSSIP_BIRTH_FILE, PEERS_FILE};
use crate::bootstrap::remembered;
use crate::host::files::read_if_there;
use crate::host::{unit_files, versioned};
use crate::model::doctor::command_line;
use crate::model::doctor::missing_units::Known;
use crate::model::election::BirthRecord;
use crate::model::provision::etcd::ETCD_LOCAL;
use crate::model::provision::spec::Servers;
use crate::model::provision::units::{AGENT, INSTALL, RESOLVED};
use crate::model::resolved::RESOLVER;

/// Where fleet puts the units that it runs.
const FLEET_FOLDER: &str = "/run/fleet/units";

impl Settings {
    /// What is known; `docker`: whether it is there.
    pub(super) fn known(&self, docker: bool) -> Known {
        Known { docker, resolver: unit_files::find(RESOLVER).is_some(), ..self.of_units() }
    }

    fn of_units(&self) -> Known {
        let local = || vec![("--etcd", ETCD_LOCAL.to_owned())];
        let mut meet = without_etcd(&self.data_dir).unwrap_or_else(local);
        if let Some(given) = &self.etcd {
            meet = vec![("--etcd", given.endpoints().join(","))];
            let files = [
                ("--etcd-ca", &given.etcd_ca),
                ("--etcd-cert", &given.etcd_cert),
                ("--etcd-key", &given.etcd_key),
            ];
            let named = files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
            meet.extend(named.map(|(flag, path)| (flag, path.display().to_string())));
        }
        let is_fleets = |name: &str| self.file_of(name).is_some_and(|path| path.starts_with(FLEET_FOLDER));
        Known {
            program: self.program.clone(),
            binary: self.binary(),
            domain: self.domain.clone(),
            dns_port: self.dns_port,
            client: self.dns.clone(),
            meet,
            fleet: is_fleets(AGENT) || is_fleets(RESOLVED),
            docker: false,
            resolver: false,
        }
    }

    /// What the units run: not the one that fetches it, which is a shell's.
    fn binary(&self) -> Option<String> {
        let units = self.units.iter().filter(|(name, _)| *name != INSTALL);
        let mut commands = units.flat_map(|(_, unit)| command_line::commands(&unit.texts()));
        let program = commands.find(|command| command.option == "ExecStart")?.words.into_iter().next()?;
        Path::new(&program).is_absolute().then_some(program)
    }
}

/// Where the machines of a cluster meet that was born without etcd, as the agent's data says; with an etcd a machine that has
/// lost its unit would wait for one that never was. A server knows the first servers by the birth; all others know only that
/// they are none of those, and whom to join. `None`: nothing is known of such a cluster.
fn without_etcd(data_dir: &Path) -> Option<Vec<(&'static str, String)>> {
    // A file that cannot be read is another check's.
    if remembered(data_dir).is_ok_and(|(_, local)| local.record.is_some()) {
        return None;
    }
    let file = |name: &str| read_if_there(&data_dir.join(name)).ok().flatten();
    let birth = file(GOSSIP_BIRTH_FILE).and_then(|bytes| versioned::decode::<BirthRecord>(&bytes).ok());
    let born = birth.filter(|birth| birth.born || birth.cluster.is_some()).and_then(|birth| birth.accepted);
    let first = born.and_then(|certificate| {
        let places = certificate.initial.iter().map(|member| member.address.parse::<SocketAddr>());
        let servers: Servers = certificate.expect.to_string().parse().ok()?;
        Some((servers, places.collect::<Result<Vec<_>, _>>().ok()?))
    });
    let remembers = || {
        let peers = file(PEERS_FILE).and_then(|bytes| versioned::decode::<Vec<SocketAddr>>(&bytes).ok());
        peers.filter(|peers| !peers.is_empty()).map(|peers| (Servers::one(), peers))
    };
    let (servers, places) = first.or_else(remembers)?;
    let places: Vec<IpAddr> = places.iter().map(SocketAddr::ip).collect();
    let join: Vec<String> = places.iter().map(ToString::to_string).collect();
    Some(vec![("--join", join.join(",")), ("--servers", servers.count().to_string())])
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::of;
    use std::collections::BTreeSet;

    use super::{BirthRecord, GOSSIP_BIRTH_FILE, Known, PEERS_FILE, Settings, versioned};
    use crate::host::files::{MODE_PRIVATE, write_atomic};
    use crate::model::election::{Certificate, Incarnation, InitialMember};
    use crate::model::names::ClusterId;
    use crate::model::provision::Spec;
    use crate::model::provision::draft::Draft;
    use crate::model::provision::etcd::{Etcd, TlsFiles};
    use crate::model::provision::format::Format;
    use crate::model::provision::units::{AGENT, CONTAINERS, Place, REGISTRATOR, RESOLVED, unit_files_at};

    /// The settings of a machine whose units are those of `draft`, but for the one that is missing.
    fn without(missing: &str, draft: Draft) -> Settings {
        let mut settings = of(&draft.into_spec(Format::Units).unwrap());
        settings.units.retain(|(name, _)| *name != missing);
        settings
    }

    /// The command that writes it, without the program.
    #[track_caller]
    fn written(missing: &str, draft: Draft) -> String {
        let command = without(missing, draft).of_units().command(&[missing]);
        let (_, words) = command.split_once(" units --systemd --only ").unwrap();
        words.strip_suffix(" --out /etc/systemd/system").unwrap().to_owned()
    }

    #[test]
    fn a_missing_unit_is_written_alone_and_with_the_settings_of_those_that_are_there() {
        let etcd = |url: &str| vec![url.parse().unwrap()];
        let gossip = Draft {
            join: ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|peer| peer.parse().unwrap()).to_vec(),
            ..Draft::default()
        };
        assert_eq!(written(REGISTRATOR, gossip), REGISTRATOR, "nothing about etcd");
        let encrypted = Draft {
            etcd: etcd("https://10.0.0.9"),
            etcd_files: TlsFiles { ca: Some("/etc/etcd/ca.pem".parse().unwrap()), ..TlsFiles::default() },
            ..Draft::default()
        };
        assert_eq!(written(REGISTRATOR, encrypted), REGISTRATOR, "nothing that needs --etcd-ca");
        let own = Draft {
            servers: Some("5".parse().unwrap()),
            datacenter: Some("ams".parse().unwrap()),
            domain: Some("corp.example".parse().unwrap()),
            dns_port: Some("5353".parse().unwrap()),
            client: vec!["127.0.0.1".parse().unwrap(), "172.17.0.1".parse().unwrap()],
            binary: Some("path=/usr/bin/corediscover".parse().unwrap()),
            ..Draft::default()
        };
        for missing in [REGISTRATOR, CONTAINERS, RESOLVED] {
            assert_eq!(
                written(missing, own.clone()),
                format!(
                    "{missing} --binary path=/usr/bin/corediscover --domain corp.example --dns-port 5353 \
                     --client 127.0.0.1,172.17.0.1"
                )
            );
        }
    }

    #[test]
    fn a_unit_of_fleet_up_is_not_taken_for_one_of_etcd() {
        let spec = Spec {
            etcd: Etcd::Absent { join: vec!["10.0.0.1".parse().unwrap()] },
            dns_port: "5353".parse().unwrap(),
            ..Spec::default()
        };
        let place = Place { head: "here", advertise: [10, 0, 0, 1].into(), is_server: true };
        let mut settings = of(&Spec::default());
        settings.units.retain(|(name, _)| *name == AGENT);
        settings.units[0].1.text = unit_files_at(&spec, place).unwrap().remove(0).text;
        settings.read_units();
        let known = Known { resolver: true, ..settings.of_units() };
        assert_eq!(known.wanted().unwrap(), [AGENT, RESOLVED], "without Docker");
        let command = known.command(&[REGISTRATOR]);
        assert!(!command.contains("--etcd") && command.contains(" --dns-port 5353 "), "{command}");
    }

    /// The command for a machine without its agent's unit whose data has these files.
    #[track_caller]
    fn with_data(files: &[(&str, &[u8])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            write_atomic(&folder.path().join(name), bytes, MODE_PRIVATE).unwrap();
        }
        let mut settings = Settings::usual(Vec::new());
        folder.path().clone_into(&mut settings.data_dir);
        let command = settings.of_units().command(&[AGENT]);
        let flags = command.split_once(&format!(" --only {AGENT} ")).unwrap().1;
        flags.strip_suffix(" --out /etc/systemd/system").unwrap().to_owned()
    }

    #[test]
    fn an_agents_unit_looks_for_no_etcd_where_the_cluster_was_born_without() {
        let peers = br#"{"format": 1, "data": ["10.0.0.2:8301", "[fd00::3]:8301"]}"#;
        let member = |number: u8| InitialMember {
            machine_id: format!("m{number}").parse().unwrap(),
            incarnation: Incarnation::from_random(number.into()),
            address: format!("10.0.0.{number}:8300"),
        };
        let certificate = Certificate {
            cluster_id: ClusterId::from_random(1),
            epoch: 1,
            expect: 3,
            initial: (1..=3).map(member).collect(),
            bound: BTreeSet::new(),
            formed: true,
            closed: Vec::new(),
        };
        let record = BirthRecord { accepted: Some(certificate), born: true, ..BirthRecord::default() };
        let born = versioned::encode(&record).unwrap();
        let unborn = versioned::encode(&BirthRecord::default()).unwrap();
        let (birth_file, peers_file) = (GOSSIP_BIRTH_FILE, PEERS_FILE);
        let servers = "--join 10.0.0.1,10.0.0.2,10.0.0.3 --servers 3";
        assert_eq!(with_data(&[(birth_file, &born), (peers_file, peers)]), servers);
        // A client: it is none of those that it remembers.
        let client = "--join 10.0.0.2,fd00::3 --servers 1";
        assert_eq!(with_data(&[(peers_file, peers)]), client);
        assert_eq!(with_data(&[(birth_file, &unborn), (peers_file, peers)]), client);
        for files in [&[][..], &[(peers_file, &b"{"[..])], &[(peers_file, b"[]")]] {
            assert_eq!(with_data(files), "--etcd http://127.0.0.1:2379");
        }
        // What the command says is taken: one that is none of the named is a client, whatever it is called.
        let joins = vec!["10.0.0.2".parse().unwrap(), "fd00::3".parse().unwrap()];
        let draft = Draft { join: joins, servers: Some("1".parse().unwrap()), ..Draft::default() };
        assert!(draft.into_spec(Format::Units).is_ok());
    }

    #[test]
    fn an_agents_unit_is_written_with_what_the_other_units_and_the_flags_say() {
        let own = Draft { domain: Some("corp.example".parse().unwrap()), ..Draft::default() };
        let mut settings = without(AGENT, own.clone());
        settings.read_units();
        assert_eq!(
            settings.of_units().command(&[AGENT]).split_once(" --only ").unwrap().1,
            format!("{AGENT} --etcd http://127.0.0.1:2379 --domain corp.example --out /etc/systemd/system")
        );
    }
}
