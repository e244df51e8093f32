//! Which machine a unit goes to: of those that may have it, the one with the fewest units; of equal ones, the one whose
//! id comes first. So everybody who looks at the same machines chooses the same one.

use super::machines::Metadata;
use super::requirements::Requirements;

/// A machine that a unit could go to.
#[derive(Debug)]
pub struct Host<'a> {
    /// What people call it.
    pub name: &'a str,
    /// Its machine-id.
    pub id: &'a str,
    /// Its metadata.
    pub metadata: &'a Metadata,
    /// The units that it has, with what they ask for.
    pub units: Vec<(&'a str, &'a Requirements)>,
}

/// Why no machine can have the unit: each with its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no machine can have it: {}", .0.join("; "))]
pub struct NoPlace(pub Vec<String>);

/// The place among `hosts` for a unit that is to be on one machine.
///
/// # Errors
/// Says of each machine why it cannot have the unit.
pub fn place(unit: &str, asks: &Requirements, hosts: &[Host<'_>]) -> Result<usize, NoPlace> {
    let mut best: Option<(usize, &Host<'_>)> = None;
    let mut reasons = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        if let Some(reason) = objection(unit, asks, host) {
            reasons.push(format!("{}: {reason}", host.name));
            continue;
        }
        let load = |host: &Host<'_>| host.units.iter().filter(|(_, asks)| !asks.global).count();
        if best.is_none_or(|(_, other)| (load(host), host.id) < (load(other), other.id)) {
            best = Some((number, host));
        }
    }
    best.map(|(number, _)| number).ok_or(NoPlace(reasons))
}

/// Why `host` cannot have the unit; `None`: it can.
pub fn objection(unit: &str, asks: &Requirements, host: &Host<'_>) -> Option<String> {
    if let Some(reason) = asks.objection(host.id, host.metadata) {
        return Some(reason);
    }
    let others = || host.units.iter().filter(|(name, _)| *name != unit);
    if let Some(peer) = asks.machine_of.iter().find(|peer| !others().any(|(name, _)| name == peer)) {
        return Some(format!("it has not {peer}"));
    }
    others()
        .find(|(name, theirs)| asks.conflicts_with(name) || theirs.conflicts_with(unit))
        .map(|(name, _)| format!("the unit conflicts with {name}"))
}

#[cfg(test)]
mod tests {
    use super::{Host, place};
    use crate::model::fleet::machines::{Metadata, parse_metadata};
    use crate::model::fleet::requirements::Requirements;

    type Unit = (&'static str, Requirements);

    struct World {
        hosts: Vec<(&'static str, &'static str, Metadata, Vec<Unit>)>,
    }

    fn asks(name: &str, section: &str) -> Requirements {
        Requirements::read(name, &format!("[X-Fleet]\n{section}")).unwrap()
    }

    impl World {
        /// `units`: names, each with its section.
        fn with(
            mut self,
            name: &'static str,
            id: &'static str,
            metadata: &str,
            units: &[(&'static str, &str)],
        ) -> Self {
            let metadata =
                if metadata.is_empty() { Metadata::new() } else { parse_metadata(metadata).unwrap() };
            let units = units.iter().map(|(unit, section)| (*unit, asks(unit, section))).collect();
            self.hosts.push((name, id, metadata, units));
            self
        }

        fn place(&self, unit: &str, section: &str) -> Result<&str, String> {
            let hosts: Vec<Host<'_>> = self
                .hosts
                .iter()
                .map(|(name, id, metadata, units)| Host {
                    name,
                    id,
                    metadata,
                    units: units.iter().map(|(name, asks)| (*name, asks)).collect(),
                })
                .collect();
            place(unit, &asks(unit, section), &hosts)
                .map(|number| self.hosts[number].0)
                .map_err(|error| error.to_string())
        }
    }

    fn three() -> World {
        World { hosts: Vec::new() }
            .with("a", "3333", "role=web", &[("x.service", ""), ("g.service", "Global=true")])
            .with("b", "1111", "role=db,disk=ssd", &[("y.service", "Conflicts=lonely*")])
            .with("c", "2222", "role=web", &[("z.service", ""), ("z2.service", "")])
    }

    #[test]
    fn a_unit_goes_to_the_machine_with_the_fewest_units_and_then_to_the_first_id() {
        assert_eq!(three().place("n.service", ""), Ok("b"));
        assert_eq!(three().place("n.service", "MachineMetadata=role=web"), Ok("a"));
        let equal = World { hosts: Vec::new() }.with("a", "2", "", &[]).with("b", "1", "", &[]);
        assert_eq!(equal.place("n.service", ""), Ok("b"));
    }

    #[test]
    fn what_a_unit_asks_for_decides_and_the_answer_says_why_not() {
        assert_eq!(three().place("n.service", "MachineOf=z.service"), Ok("c"));
        assert_eq!(three().place("n.service", "Conflicts=[xy].service"), Ok("c"));
        assert_eq!(three().place("lonely.service", ""), Ok("a"));
        assert_eq!(three().place("n.service", "MachineID=22"), Ok("c"));
        assert_eq!(
            three().place("n.service", "MachineMetadata=role=web\nConflicts=[xz].service"),
            Err("no machine can have it: a: the unit conflicts with x.service; b: its metadata has not role=web; \
                 c: the unit conflicts with z.service"
                .to_owned())
        );
        assert_eq!(
            three().place("n.service", "MachineOf=none.service\nMachineMetadata=role=db"),
            Err("no machine can have it: a: its metadata has not role=db; b: it has not none.service; \
                 c: its metadata has not role=db"
                .to_owned())
        );
    }
}
