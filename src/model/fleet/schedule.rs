//! Which machines get which units, when several are started at once.

use super::machines::Metadata;
use super::placement::{Host, objection, place};
use super::requirements::Requirements;
use super::survey::Survey;

/// A unit that is to be somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What it asks for.
    pub asks: Requirements,
}

/// A machine as the schedule sees it.
#[derive(Debug)]
pub struct Known<'a> {
    /// What people call it.
    pub name: &'a str,
    /// Its metadata.
    pub metadata: &'a Metadata,
    /// What it said.
    pub survey: &'a Survey,
}

/// Where units go: for each of `wanted` the numbers of its machines, or why there is none. A unit that is somewhere
/// already stays there. `missing`: machines that did not answer, which may have the unit.
pub fn schedule(known: &[Known<'_>], wanted: &[Wanted], missing: &[&str]) -> Vec<Result<Vec<usize>, String>> {
    let asks_of = |name: &str, text: &str| Requirements::read(name, text).unwrap_or_default();
    let held: Vec<Vec<(String, Requirements)>> = known
        .iter()
        .map(|machine| {
            let units = machine.survey.units.iter();
            units
                .filter(|unit| !is_template(&unit.name))
                .map(|unit| (unit.name.clone(), asks_of(&unit.name, &unit.text)))
                .collect()
        })
        .collect();
    let mut schedule = Schedule { known, held };
    let mut results: Vec<Option<Result<Vec<usize>, String>>> = wanted.iter().map(|_| None).collect();
    // A unit may ask to be where another one is that comes later in the list.
    loop {
        let mut placed = false;
        for (unit, result) in wanted.iter().zip(&mut results) {
            if result.as_ref().is_none_or(Result::is_err) {
                let found = schedule.find(unit, missing);
                placed |= found.is_ok();
                *result = Some(found);
            }
        }
        if !placed {
            break;
        }
    }
    results.into_iter().flatten().collect()
}

struct Schedule<'a> {
    known: &'a [Known<'a>],
    held: Vec<Vec<(String, Requirements)>>,
}

impl Schedule<'_> {
    fn find(&mut self, unit: &Wanted, missing: &[&str]) -> Result<Vec<usize>, String> {
        if is_template(&unit.name) {
            // It only lies somewhere: what it asks for is for its instances.
            return self.choose(&Wanted { asks: Requirements::default(), ..unit.clone() }, missing);
        }
        let chosen = self.choose(unit, missing)?;
        for number in &chosen {
            let held = &mut self.held[*number];
            if !held.iter().any(|(name, _)| *name == unit.name) {
                held.push((unit.name.clone(), unit.asks.clone()));
            }
        }
        Ok(chosen)
    }

    fn choose(&self, unit: &Wanted, missing: &[&str]) -> Result<Vec<usize>, String> {
        let hosts: Vec<Host<'_>> = self
            .known
            .iter()
            .zip(&self.held)
            .map(|(machine, held)| Host {
                name: machine.name,
                id: &machine.survey.machine_id,
                metadata: machine.metadata,
                units: held.iter().map(|(name, asks)| (name.as_str(), asks)).collect(),
            })
            .collect();
        if unit.asks.global {
            let fits = |(number, host)| objection(&unit.name, &unit.asks, host).is_none().then_some(number);
            let all: Vec<usize> = hosts.iter().enumerate().filter_map(fits).collect();
            return if all.is_empty() {
                Err("no machine matches what it asks for".to_owned())
            } else {
                Ok(all)
            };
        }
        let there: Vec<usize> = homes(self.known, &unit.name);
        if !there.is_empty() {
            return Ok(there);
        }
        if !missing.is_empty() {
            return Err(format!(
                "it is on none of the machines that answered, and may be on {}: repair them, or leave them out if they \
                 are gone for good",
                missing.join(", ")
            ));
        }
        place(&unit.name, &unit.asks, &hosts).map(|number| vec![number]).map_err(|error| error.to_string())
    }
}

/// Whether it is a template, which nobody runs.
pub fn is_template(name: &str) -> bool {
    name.contains("@.")
}

/// The machines that have the unit.
pub fn homes(known: &[Known<'_>], unit: &str) -> Vec<usize> {
    let has = |machine: &Known<'_>| machine.survey.units.iter().any(|there| there.name == unit);
    (0..).zip(known).filter(|(_, machine)| has(machine)).map(|(number, _)| number).collect()
}

/// The text of a unit that the machines have, or of the template that it is an instance of.
pub fn text_of(known: &[Known<'_>], unit: &str) -> Option<String> {
    let find = |name: &str| {
        known
            .iter()
            .flat_map(|machine| &machine.survey.units)
            .find(|there| there.name == name)
            .map(|there| there.text.clone())
    };
    find(unit).or_else(|| find(&super::requirements::template_of(unit)?))
}

#[cfg(test)]
mod tests {
    use super::{Known, Wanted, schedule, text_of};
    use crate::model::fleet::machines::{Metadata, parse_metadata};
    use crate::model::fleet::requirements::Requirements;
    use crate::model::fleet::survey::{Desired, Survey, UnitRecord};

    fn survey(id: &str, units: &[(&str, &str)]) -> Survey {
        let unit = |(name, section): &(&str, &str)| UnitRecord {
            name: (*name).to_owned(),
            text: format!("[X-Fleet]\n{section}\n"),
            desired: Desired::Launched,
            load: String::new(),
            active: String::new(),
            sub: String::new(),
        };
        Survey { machine_id: id.to_owned(), units: units.iter().map(unit).collect(), ..Survey::default() }
    }

    fn wanted(name: &str, section: &str) -> Wanted {
        let text = format!("[X-Fleet]\n{section}\n");
        Wanted { name: name.to_owned(), asks: Requirements::read(name, &text).unwrap(), text }
    }

    #[track_caller]
    fn check(surveys: &[Survey], units: &[Wanted], missing: &[&str], want: &str) {
        let web = parse_metadata("role=web").unwrap();
        let none = Metadata::new();
        let known: Vec<Known<'_>> = surveys
            .iter()
            .enumerate()
            .map(|(number, survey)| Known {
                name: ["a", "b", "c"][number],
                metadata: if number == 0 { &web } else { &none },
                survey,
            })
            .collect();
        let told: Vec<String> = schedule(&known, units, missing)
            .into_iter()
            .map(|result| match result {
                Ok(numbers) => numbers.iter().map(|number| known[*number].name).collect::<Vec<_>>().join("+"),
                Err(why) => why,
            })
            .collect();
        assert_eq!(told.join("; "), want);
    }

    #[test]
    fn units_that_are_started_together_are_spread_and_one_that_is_somewhere_stays_there() {
        let three = [survey("1", &[]), survey("2", &[]), survey("3", &[("old.service", "")])];
        let units = [
            wanted("x.service", ""),
            wanted("y.service", ""),
            wanted("z.service", ""),
            wanted("old.service", ""),
        ];
        check(&three, &units, &[], "a; b; a; c");
        check(
            &three,
            &[
                wanted("g.service", "Global=true"),
                wanted("w.service", "Global=true\nMachineMetadata=role=web"),
            ],
            &[],
            "a+b+c; a",
        );
        let apart = [
            wanted("h@1.service", "Conflicts=h@*.service"),
            wanted("h@2.service", "Conflicts=h@*.service"),
            wanted("h@3.service", "Conflicts=h@*.service"),
        ];
        check(&three, &apart, &[], "a; b; c");
    }

    #[test]
    fn a_template_is_in_the_way_of_none_of_its_instances() {
        let apart = "Conflicts=h@*.service";
        let two = [survey("1", &[("h@.service", apart)]), survey("2", &[])];
        let units = ["h@1.service", "h@2.service", "h@3.service"].map(|name| wanted(name, apart));
        check(
            &two,
            &units,
            &[],
            "a; b; no machine can have it: a: the unit conflicts with h@1.service; b: the unit conflicts with h@2.service",
        );
        check(&two, &[wanted("g@.service", "Global=true\nMachineMetadata=role=none")], &[], "a");
    }

    #[test]
    fn a_unit_finds_its_peer_that_comes_later_in_the_list() {
        let three = [survey("1", &[]), survey("2", &[]), survey("3", &[])];
        check(
            &three,
            &[wanted("x.service", "MachineOf=y.service"), wanted("y.service", "MachineID=2")],
            &[],
            "b; b",
        );
        check(
            &three[..1],
            &[wanted("x.service", "MachineOf=y.service")],
            &[],
            "no machine can have it: a: it has not y.service",
        );
        check(
            &three[1..],
            &[wanted("x.service", "Global=true\nMachineMetadata=role=db")],
            &[],
            "no machine matches what it asks for",
        );
    }

    #[test]
    fn a_unit_that_a_silent_machine_may_have_is_not_put_elsewhere() {
        let two = [survey("1", &[]), survey("2", &[("old.service", "")])];
        check(
            &two,
            &[wanted("old.service", ""), wanted("x.service", "")],
            &["c"],
            "b; it is on none of the machines that answered, and may be on c: repair them, or leave them out if they \
             are gone for good",
        );
    }

    #[test]
    fn an_instance_has_the_text_of_its_template() {
        let survey = survey("1", &[("web@.service", "Global=true")]);
        let known = [Known { name: "a", metadata: &Metadata::new(), survey: &survey }];
        assert_eq!(text_of(&known, "web@1.service").as_deref(), Some("[X-Fleet]\nGlobal=true\n"));
        assert_eq!(text_of(&known, "web.service"), None);
    }
}
