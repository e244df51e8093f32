//! The units of this machine: installed, enabled, running, and not again and again.

use std::collections::BTreeMap;

use super::missing_units::Known;
use super::{Check, Finding};
use crate::model::provision::units::{AGENT, CONTAINERS, INSTALL, REGISTRATOR, RESOLVED};

/// The check's name.
pub const NAME: &str = "units";
/// Restarts by systemd that are no accident any more.
const RESTARTS_MAX: u32 = 3;
/// How long a unit must have run, in seconds, before its restarts are history.
const RUNS_SECONDS: u64 = 60;
/// Properties that systemd is asked for.
pub const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,NeedDaemonReload,\
     ConditionResult,ConditionTimestampMonotonic,Job,ActiveEnterTimestampMonotonic,FragmentPath,UpheldBy";

/// A unit, as systemd has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its properties.
    properties: BTreeMap<String, String>,
    /// The last line of its journal that tells an error.
    pub said: Option<String>,
}

impl Unit {
    fn get(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", String::as_str)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.get("Id")
    }

    /// Whether systemd has a file of it.
    pub fn is_installed(&self) -> bool {
        !matches!(self.get("LoadState"), "" | "not-found")
    }

    /// Whether its journal may tell why it does not run.
    pub fn is_troubled(&self) -> bool {
        self.get("ActiveState") != "active" || self.restarts() > 0
    }

    /// Whether systemd looked at its conditions, and they were not met. Of a unit that was never started it says the same,
    /// but for the time.
    fn is_not_meant_for_here(&self) -> bool {
        let never = matches!(self.get("ConditionTimestampMonotonic"), "" | "0");
        self.get("ConditionResult") == "no" && !never
    }

    /// Whether systemd is about to do something with it.
    fn has_job(&self) -> bool {
        !matches!(self.get("Job"), "" | "0")
    }

    fn restarts(&self) -> u32 {
        self.get("NRestarts").parse().unwrap_or(0)
    }
}

/// Reads what `systemctl show` prints: a block for each unit.
pub fn read(text: &str) -> Vec<Unit> {
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    let properties = |block: &str| {
        let pairs = block.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    blocks.map(|block| Unit { properties: properties(block), said: None }).collect()
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The units, as systemd has them.
    pub units: Vec<Unit>,
    /// An agent answers, however it was started.
    pub agent_answers: bool,
    /// Seconds since the boot.
    pub uptime_seconds: u64,
    /// The names of those whose files are there, whether or not systemd has read them.
    pub files: Vec<&'static str>,
    /// The units that this machine should have.
    pub wanted: Vec<&'static str>,
    /// What those that are missing are written with.
    pub known: Known,
}

impl Facts {
    /// Brings these units. What is there is left alone.
    fn install(&self, names: &[&str]) -> String {
        let absent: Vec<&str> = names.iter().copied().filter(|name| !self.files.contains(name)).collect();
        let write = (!absent.is_empty()).then(|| format!("{} && ", self.known.command(&absent)));
        let write = write.unwrap_or_default();
        format!("{write}systemctl daemon-reload && systemctl enable --now {}", names.join(" "))
    }
}

/// What a machine lacks without a unit.
fn lack(name: &str) -> &'static str {
    match name {
        AGENT => {
            "without it this machine is no part of the cluster; the command needs the options that the cluster's other \
             machines were made with"
        }
        REGISTRATOR => "without it what Docker runs is not registered",
        RESOLVED => "without it programs of this machine do not find names of the domain",
        CONTAINERS => "without it containers that start with Docker at boot find no names at first",
        _ => "without it the binary is not brought",
    }
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let installed = |name: &str| facts.units.iter().any(|unit| unit.name() == name && unit.is_installed());
    if !facts.units.iter().any(|unit| unit.is_installed() && unit.name() != INSTALL) {
        if facts.agent_answers {
            let why = "none are installed; the agent that answers was started in another way";
            return Check::not_checked(NAME, why);
        }
        let cause = "this machine was never provisioned, or its units are gone";
        let fix = facts.install(&facts.wanted);
        return Check::of(NAME, vec![Finding::error("no corediscover units are installed", cause, fix)]);
    }
    let missing = facts.wanted.iter().filter(|name| !installed(name));
    let mut findings: Vec<Finding> = missing
        .map(|name| Finding::warning(format!("{name} is not installed"), lack(name), facts.install(&[name])))
        .collect();
    for unit in facts.units.iter().filter(|unit| unit.is_installed()) {
        findings.extend(judge_one(unit, facts.uptime_seconds));
    }
    Check::of(NAME, findings)
}

fn judge_one(unit: &Unit, uptime_seconds: u64) -> Option<Finding> {
    let name = unit.name();
    let said = || unit.said.clone().unwrap_or_else(|| format!("`journalctl -u {name}` says more"));
    let again = format!("systemctl reset-failed {name}; systemctl restart {name}");
    let enabled = unit.get("UnitFileState");
    if unit.get("LoadState") == "masked" || enabled.starts_with("masked") {
        let fix = format!("systemctl unmask {name} && systemctl enable --now {name}");
        return Some(Finding::error(format!("{name} is masked"), "somebody forbade it to start", fix));
    }
    if unit.get("LoadState") != "loaded" {
        let cause = format!("systemd says {}: a line of it is wrong", unit.get("LoadState"));
        let fix = format!("systemd-analyze verify {}", unit.get("FragmentPath"));
        return Some(Finding::error(format!("{name} cannot be read"), cause, fix));
    }
    let state = unit.get("ActiveState");
    if state == "failed" {
        let symptom = format!("{name} has failed ({})", unit.get("Result"));
        return Some(Finding::error(symptom, said(), again));
    }
    let since = unit.get("ActiveEnterTimestampMonotonic").parse::<u64>().unwrap_or(0) / 1_000_000;
    let is_young = state != "active" || uptime_seconds.saturating_sub(since) < RUNS_SECONDS;
    let waits = unit.get("SubState") == "auto-restart";
    if waits || (unit.restarts() >= RESTARTS_MAX && is_young) {
        let symptom = format!("{name} is restarted again and again ({} times)", unit.restarts());
        return Some(Finding::error(symptom, said(), again));
    }
    let is_idle = state == "inactive" && !unit.has_job() && !unit.is_not_meant_for_here();
    if is_idle && name != INSTALL {
        let (cause, fix) = match enabled {
            "disabled" => ("it is not enabled: nothing starts it at boot", "enable --now"),
            _ => ("somebody stopped it, or nothing started it", "start"),
        };
        return Some(Finding::error(
            format!("{name} does not run"),
            cause,
            format!("systemctl {fix} {name}"),
        ));
    }
    if unit.get("NeedDaemonReload") == "yes" {
        let fix = format!("systemctl daemon-reload && systemctl restart {name}");
        return Some(Finding::warning(
            format!("{name} runs as it was before its file changed"),
            "systemd has not read the file again",
            fix,
        ));
    }
    // An extension of the system enables nothing: the target of its boot upholds its units.
    (enabled == "disabled" && unit.get("UpheldBy").is_empty()).then(|| {
        let cause = "it was started by hand, and will not start at the next boot";
        Finding::warning(format!("{name} is not enabled"), cause, format!("systemctl enable {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{AGENT, Facts, INSTALL, Known, REGISTRATOR, Unit, judge, read};
    use crate::model::doctor::{Finding, Level};
    use crate::model::provision::Spec;
    use crate::model::provision::units::{Manager, UnitFile, unit_files};

    fn text(name: &str, more: &str) -> String {
        format!(
            "Id={name}\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=0\n{more}\n"
        )
    }

    fn facts(units: Vec<Unit>) -> Facts {
        let known = Known { docker: true, resolver: true, domain: "consul".to_owned(), ..Known::default() };
        let wanted = known.wanted().unwrap();
        Facts { units, uptime_seconds: 1000, wanted, known, ..Facts::default() }
    }

    /// The units of a machine with everything; `agent`: what else systemd says of the agent's.
    fn shown(agent: &str) -> String {
        let all = unit_files(&Spec::default(), Manager::Systemd).unwrap().into_iter();
        let text = |file: UnitFile| text(file.name, if file.name == AGENT { agent } else { "" });
        all.map(text).collect::<Vec<_>>().join("\n")
    }

    fn units(agent: &str) -> Vec<Unit> {
        read(&shown(agent))
    }

    #[track_caller]
    fn found(agent: &str) -> Finding {
        let mut units = units(agent);
        units[0].said = Some("error: no disk".to_owned());
        let check = judge(&facts(units));
        let [finding] = &check.findings[..] else { panic!("{check:?}") };
        finding.clone()
    }

    #[test]
    fn units_that_run_and_are_enabled_are_fine() {
        assert!(judge(&facts(units(""))).is_fine());
        assert!(judge(&facts(units("NRestarts=9\nActiveEnterTimestampMonotonic=1000000"))).is_fine());
    }

    #[test]
    fn a_unit_that_was_never_started_is_told_from_one_whose_condition_is_not_met() {
        let idle = "ActiveState=inactive\nSubState=dead\nConditionResult=no\nConditionTimestampMonotonic=";
        assert!(judge(&facts(units(&format!("{idle}5000000")))).is_fine());
        // As after `systemctl disable` and a reboot: systemd says `no` of what it never looked at.
        let never = found(&format!("{idle}0\nUnitFileState=disabled"));
        assert_eq!(never.symptom, "corediscover-agent.service does not run");
        assert_eq!(never.level, Level::Error);
        assert_eq!(never.fix, "systemctl enable --now corediscover-agent.service");
        // Enabled, and its start was given up.
        let dropped = found(&format!("{idle}0"));
        assert_eq!(
            (dropped.level, dropped.fix.as_str()),
            (Level::Error, "systemctl start corediscover-agent.service")
        );
        assert!(judge(&facts(units(&format!("{idle}0\nJob=217")))).is_fine(), "it is about to start");
    }

    #[test]
    fn a_unit_that_a_target_upholds_need_not_be_enabled() {
        assert!(judge(&facts(units("UnitFileState=disabled\nUpheldBy=multi-user.target"))).is_fine());
    }

    #[test]
    fn a_unit_in_trouble_is_found_with_what_it_said_and_what_to_do() {
        let failed = found("ActiveState=failed\nResult=exit-code");
        assert_eq!(failed.symptom, "corediscover-agent.service has failed (exit-code)");
        assert_eq!(failed.cause, "error: no disk");
        assert!(failed.fix.ends_with("; systemctl restart corediscover-agent.service"));
        let looping = found("ActiveState=activating\nSubState=auto-restart\nNRestarts=7");
        assert_eq!(looping.symptom, "corediscover-agent.service is restarted again and again (7 times)");
        let young = found("NRestarts=7\nActiveEnterTimestampMonotonic=990000000");
        assert!(young.symptom.contains("again and again"));
        for (state, fix) in [
            ("ActiveState=inactive", "systemctl start corediscover-agent.service"),
            ("UnitFileState=disabled", "systemctl enable corediscover-agent.service"),
            (
                "LoadState=masked",
                "systemctl unmask corediscover-agent.service && systemctl enable --now corediscover-agent.service",
            ),
            (
                "NeedDaemonReload=yes",
                "systemctl daemon-reload && systemctl restart corediscover-agent.service",
            ),
            ("LoadState=bad-setting\nFragmentPath=/u", "systemd-analyze verify /u"),
        ] {
            assert_eq!(found(state).fix, fix);
        }
    }

    fn absent(name: &str) -> String {
        format!("Id={name}\nLoadState=not-found\nActiveState=inactive\n")
    }

    #[test]
    fn units_that_are_missing_are_found_unless_an_agent_runs_without_them() {
        let missing = read(&absent(AGENT));
        let all = unit_files(&Spec::default(), Manager::Systemd).unwrap();
        let names: Vec<&str> = all.iter().map(|file| file.name).collect();
        let fix = judge(&facts(missing.clone())).findings[0].fix.clone();
        let enable = format!(" && systemctl daemon-reload && systemctl enable --now {}", names.join(" "));
        assert!(fix.ends_with(&enable), "{fix}");
        assert!(judge(&Facts { agent_answers: true, ..facts(missing) }).findings.is_empty());
        let one = judge(&facts(read(&text(AGENT, ""))));
        assert_eq!(one.findings.len(), 3, "{one:?}");
    }

    #[test]
    fn what_is_missing_is_written_alone_and_nothing_that_is_there_is_written_again() {
        let mut units = units("");
        units[1] = read(&absent(REGISTRATOR)).remove(0);
        let before = Facts { files: vec![AGENT], ..facts(units) };
        let check = judge(&before);
        let [finding] = &check.findings[..] else { panic!("{check:?}") };
        assert_eq!(
            finding.fix,
            format!(
                " units --systemd --only {REGISTRATOR} --out /etc/systemd/system && systemctl daemon-reload && systemctl \
                 enable --now {REGISTRATOR}"
            )
        );
        // A file that systemd has not read yet is no less there.
        let check = judge(&Facts { files: vec![AGENT, REGISTRATOR], ..before });
        assert_eq!(
            check.findings[0].fix,
            format!("systemctl daemon-reload && systemctl enable --now {REGISTRATOR}")
        );
    }

    #[test]
    fn a_machine_without_docker_or_without_the_resolver_needs_no_units_for_them() {
        let alone = Known { domain: "consul".to_owned(), ..Known::default() };
        for (docker, resolver, wanted) in
            [(false, false, 1), (false, true, 2), (true, false, 2), (true, true, 4)]
        {
            let known = Known { docker, resolver, ..alone.clone() };
            let facts = Facts { wanted: known.wanted().unwrap(), ..facts(read(&text(AGENT, ""))) };
            assert_eq!(judge(&facts).findings.len(), wanted - 1, "{docker} {resolver}");
        }
        let by_fleet = Known { docker: true, resolver: true, fleet: true, ..alone };
        assert_eq!(by_fleet.wanted().unwrap().len(), 3, "fleet starts its units after Docker");
    }

    #[test]
    fn the_unit_that_fetches_the_binary_may_be_at_rest() {
        let rest = text(INSTALL, "ActiveState=inactive\nSubState=dead");
        let all = read(&format!("{}\n{rest}", shown("")));
        assert!(judge(&facts(all)).is_fine());
    }
}
