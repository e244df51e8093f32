//! Ports of the machine that two units of one file publish: the second container does not start.

use super::yaml::{Kind, Node};
use super::{Finding, Rule, placed, unit};

/// A port that `docker run --publish` opens on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Published<'a> {
    /// The address that it is opened at; `None`: at all.
    address: Option<&'a str>,
    /// The first and the last port.
    ports: (u16, u16),
    /// `tcp`, `udp` or `sctp`.
    protocol: &'a str,
}

impl<'a> Published<'a> {
    /// Reads `[ADDRESS:]PORT[-PORT]:PORT[-PORT][/PROTOCOL]`; `None`: Docker chooses the port, or it is no such text.
    fn read(text: &'a str) -> Option<Self> {
        let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (host, _inside) = text.rsplit_once(':')?;
        let (address, ports) =
            host.rsplit_once(':').map_or((None, host), |(address, ports)| (Some(address), ports));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let every = |address: &&str| ["", "0.0.0.0", "[::]"].contains(address);
        let ports = (first.parse().ok()?, last.parse().ok()?);
        Some(Self { address: address.filter(|address| !every(address)), ports, protocol })
    }

    fn clashes(&self, other: &Self) -> bool {
        let meets = self.ports.0 <= other.ports.1 && other.ports.0 <= self.ports.1;
        // Variables and addresses that are written otherwise are taken for different ones.
        let everywhere = self.address.is_none() || other.address.is_none() || self.address == other.address;
        meets && everywhere && self.protocol == other.protocol
    }
}

/// What a command publishes.
fn published(command: &str) -> Vec<Published<'_>> {
    let words: Vec<&str> = unit::words(command).collect();
    let pairs = words.windows(2).filter(|pair| ["p", "publish"].contains(&pair[0]));
    pairs.filter_map(|pair| Published::read(pair[1])).collect()
}

/// Compares all units of a file with each other; `units` are their texts and names. Texts of one name are a unit and its
/// drop-ins.
pub(super) fn check(file: &str, units: &[(&Node, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let text = |node: &Node| match &node.kind {
        Kind::Scalar { text, .. } => text.clone(),
        _ => String::new(),
    };
    let read: Vec<_> = units.iter().map(|(node, name)| (*node, *name, text(node))).collect();
    let options: Vec<_> = read.iter().map(|(_, _, text)| unit::commands(text)).collect();
    for (later, (node, name, text)) in read.iter().enumerate() {
        for command in &options[later] {
            let clash = published(&command.value).iter().find_map(|mine| {
                let earlier = (0..later).filter(|earlier| read[*earlier].1 != *name);
                let mut earlier = earlier.filter(|earlier| {
                    !excludes(text, read[*earlier].1) && !excludes(&read[*earlier].2, name)
                });
                let of = |earlier: &usize| {
                    let mut theirs = options[*earlier].iter().flat_map(|command| published(&command.value));
                    theirs.any(|theirs| theirs.clashes(mine))
                };
                earlier.find(of).map(|earlier| (mine.ports.0, mine.protocol, read[earlier].1))
            });
            if let Some((port, protocol, other)) = clash {
                let reason = format!("{other} publishes port {port}/{protocol} of the machine too");
                let fix = "publish it at another port or address, or say `Conflicts=` if only one of them is to run";
                findings.push(placed(file, node, command.finding(Rule::PortClash, reason, fix)));
            }
        }
    }
    findings
}

/// Whether the unit says that it never runs beside the other.
fn excludes(text: &str, other: &str) -> bool {
    let options = unit::options(text);
    let mut conflicts = options.iter().filter(|option| option.section == "Unit" && option.key == "Conflicts");
    conflicts.any(|option| option.value.split_whitespace().any(|name| name == other))
}

#[cfg(test)]
mod tests {
    use crate::model::provision::lint::{Rule, cloud_config, cloud_init, ignition};

    /// The lines of a cloud-config with two units in which a clash is found.
    fn clashes(unit: &str, one: &str, other: &str) -> Vec<usize> {
        let text = format!(
            "#cloud-config\ncoreos:\n  units:\n    - name: \"a.service\"\n      content: |\n        [Service]\n        \
             ExecStart=/usr/bin/docker run {one} a\n    - name: \"b.service\"\n      content: |\n        {unit}[Service]\n        \
             ExecStart=/usr/bin/docker run {other} b\n"
        );
        let found = cloud_config(&text);
        found.iter().filter(|finding| finding.rule == Rule::PortClash).map(|finding| finding.line).collect()
    }

    #[test]
    fn two_units_that_publish_one_port_are_found() {
        for (one, other) in [
            ("-p 8500:8500", "-p 8500:80"),
            ("--publish=8500:8500", "-p 127.0.0.1:8500:80"),
            ("-p 10.0.0.1:53:53/udp", "-p 10.0.0.1:53:53/tcp -p 10.0.0.1:53:53/udp"),
            ("-p 8000-8010:8000-8010", "-p 0.0.0.0:8005:80"),
            ("-p ${COREOS_PRIVATE_IPV4}:8300:8300", "-p ${COREOS_PRIVATE_IPV4}:8300:8300"),
        ] {
            assert_eq!(clashes("", one, other), [11], "{one} {other}");
        }
    }

    #[test]
    fn ports_that_differ_in_number_address_or_protocol_or_are_dockers_to_choose_are_fine() {
        for (one, other) in [
            ("-p 8500:8500", "-p 8501:8500"),
            ("-p 127.0.0.1:8500:8500", "-p 10.0.0.1:8500:8500"),
            ("-p 53:53/udp", "-p 53:53"),
            ("-p 80", "-p 80"),
            ("-v /a:/b", "-v /a:/b"),
        ] {
            assert!(clashes("", one, other).is_empty(), "{one} {other}");
        }
        let never_both = "[Unit]\n        Conflicts=a.service\n        ";
        assert!(clashes(never_both, "-p 80:80", "-p 80:80").is_empty());
    }

    #[test]
    fn a_drop_in_takes_the_place_of_its_unit_and_ignition_is_read_too() {
        let unit = |name: &str, more: &str| {
            format!(
                r#"{{"name": "{name}", {more} "contents": "[Service]\nExecStart=/usr/bin/docker run -p 80:80 a\n"}}"#
            )
        };
        let text = |units: &[String]| {
            format!(
                r#"{{"ignition": {{"version": "3.3.0"}}, "systemd": {{"units": [{}]}}}}"#,
                units.join(", ")
            )
        };
        let found =
            |text: &str| ignition(text).into_iter().filter(|found| found.rule == Rule::PortClash).count();
        let drop_in = r#""dropins": [{"name": "1.conf", "contents": "[Service]\nExecStart=\nExecStart=/usr/bin/docker run -p 80:80 b\n"}],"#;
        assert_eq!(found(&text(&[unit("a.service", drop_in)])), 0);
        assert_eq!(found(&text(&[unit("a.service", ""), unit("b.service", "")])), 1);
    }

    #[test]
    fn units_among_the_files_of_cloud_init_are_compared_too() {
        let file = |path: &str| {
            format!(
                "  - path: \"/etc/systemd/system/{path}\"\n    content: |\n      [Service]\n      ExecStart=/usr/bin/docker run -p 80:80 a\n"
            )
        };
        let found = |one: &str, other: &str| {
            let text = format!("#cloud-config\nwrite_files:\n{}{}", file(one), file(other));
            cloud_init(&text).into_iter().filter(|found| found.rule == Rule::PortClash).count()
        };
        assert_eq!(found("a.service", "b.service"), 1);
        assert_eq!(found("a.service", "a.service.d/1.conf"), 0);
    }
}
