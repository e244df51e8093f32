//! The units of this machine: installed, enabled, running, and not again and again.

use std::collections::BTreeMap;

use super::{Check, Finding};
use crate::model::provision::units::{AGENT, INSTALL, REGISTRATOR, RESOLVED};

/// The check's name.
pub const NAME: &str = "units";
/// Restarts by systemd that are no accident any more.
const RESTARTS_MAX: u32 = 3;
/// How long a unit must have run, in seconds, before its restarts are history.
const RUNS_SECONDS: u64 = 60;
/// What follows when unit files were written.
const ENABLE_ALL: &str = "systemctl daemon-reload && systemctl enable --now corediscover-agent.service \
     corediscover-registrator.service corediscover-resolved.service";

/// Properties that systemd is asked for.
pub const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,NeedDaemonReload,\
     ConditionResult,ActiveEnterTimestampMonotonic,FragmentPath";

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
    /// The command that writes the unit files.
    pub write: String,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let installed = |name: &str| facts.units.iter().any(|unit| unit.name() == name && unit.is_installed());
    let usual = [
        (AGENT, "without it this machine is no part of the cluster"),
        (REGISTRATOR, "without it what Docker runs is not registered"),
        (RESOLVED, "without it programs of this machine do not find names of the domain"),
    ];
    let install = format!("{} && {ENABLE_ALL}", facts.write);
    if !usual.iter().any(|(name, _)| installed(name)) {
        if facts.agent_answers {
            let why = "none are installed; the agent that answers was started in another way";
            return Check::not_checked(NAME, why);
        }
        let cause = "this machine was never provisioned, or its units are gone";
        return Check::of(NAME, vec![Finding::error("no corediscover units are installed", cause, install)]);
    }
    let missing = usual.iter().filter(|(name, _)| !installed(name));
    let mut findings: Vec<Finding> = missing
        .map(|(name, cause)| Finding::warning(format!("{name} is not installed"), *cause, &install))
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
    // A unit whose condition is not met is not meant for this machine.
    if state == "inactive" && unit.get("ConditionResult") != "no" && name != INSTALL {
        let symptom = format!("{name} does not run");
        return Some(Finding::error(
            symptom,
            "somebody stopped it, or nothing started it",
            format!("systemctl start {name}"),
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
    (enabled == "disabled").then(|| {
        let cause = "it was started by hand, and will not start at the next boot";
        Finding::warning(format!("{name} is not enabled"), cause, format!("systemctl enable {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{Facts, Unit, judge, read};
    use crate::model::doctor::Finding;

    fn text(name: &str, more: &str) -> String {
        format!(
            "Id={name}\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=0\n{more}\n"
        )
    }

    fn facts(units: Vec<Unit>) -> Facts {
        Facts { units, uptime_seconds: 1000, write: "write".to_owned(), ..Facts::default() }
    }

    fn units(agent: &str) -> Vec<Unit> {
        let rest =
            ["corediscover-registrator.service", "corediscover-resolved.service"].map(|name| text(name, ""));
        read(&format!("{}\n{}", text("corediscover-agent.service", agent), rest.join("\n")))
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
        assert!(judge(&facts(units("ActiveState=inactive\nConditionResult=no"))).is_fine());
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

    #[test]
    fn units_that_are_missing_are_found_unless_an_agent_runs_without_them() {
        let missing = read("Id=corediscover-agent.service\nLoadState=not-found\nActiveState=inactive\n");
        assert!(
            judge(&facts(missing.clone())).findings[0].fix.starts_with("write && systemctl daemon-reload")
        );
        assert!(judge(&Facts { agent_answers: true, ..facts(missing) }).findings.is_empty());
        let one = judge(&facts(read(&text("corediscover-agent.service", ""))));
        assert_eq!(one.findings.len(), 2, "{one:?}");
    }
}
