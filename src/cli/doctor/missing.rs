//! What the settings of this machine are for units that are missing: those of the units that are there.

use std::path::Path;

use super::settings::Settings;
use crate::host::unit_files;
use crate::model::doctor::command_line;
use crate::model::doctor::missing_units::Known;
use crate::model::provision::etcd::ETCD_LOCAL;
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
        let mut etcd = vec![("--etcd", ETCD_LOCAL.to_owned())];
        if let Some(given) = &self.etcd {
            etcd = vec![("--etcd", given.endpoints().join(","))];
            let files = [
                ("--etcd-ca", &given.etcd_ca),
                ("--etcd-cert", &given.etcd_cert),
                ("--etcd-key", &given.etcd_key),
            ];
            let named = files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?)));
            etcd.extend(named.map(|(flag, path)| (flag, path.display().to_string())));
        }
        let is_fleets = |name: &str| self.file_of(name).is_some_and(|path| path.starts_with(FLEET_FOLDER));
        Known {
            program: self.program.clone(),
            binary: self.binary(),
            domain: self.domain.clone(),
            dns_port: self.dns_port,
            client: self.dns.clone(),
            etcd,
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

#[cfg(test)]
mod tests {
    use super::super::settings::tests::of;
    use super::{Known, Settings};
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
