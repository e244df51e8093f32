//! Whether names of the domain are found: by programs of this machine, and by containers.

use std::net::IpAddr;

use super::{Check, Finding};

/// The check's name.
pub const NAME: &str = "resolved";
/// What makes the resolver ask the agent.
const APPLY_BY_UNIT: &str = "systemctl restart corediscover-resolved.service";
/// What the C library reads to find the machine's resolver.
const STUB: &str = "/run/systemd/resolve/stub-resolv.conf";

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is an address.
    Found,
    /// The answer is that there is none.
    Unknown,
    /// No answer, and why.
    Failed(String),
}

/// What a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The container's name.
    pub container: String,
    /// The server that it asks.
    pub server: IpAddr,
    /// What that says.
    pub answer: Answer,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The name that was asked for.
    pub name: String,
    /// systemd-resolved runs.
    pub runs: bool,
    /// It was told about the agent, in some way.
    pub applied: bool,
    /// What the agent says.
    pub agent: Answer,
    /// What the resolver says.
    pub resolver: Answer,
    /// What the C library gives programs; `None` where it was not asked, and why.
    pub library: Result<Answer, String>,
    /// What the resolver says at the address for containers, where it is to answer them.
    pub for_containers: Option<Answer>,
    /// What a running container gets, or why that is not known.
    pub inside: Result<Inside, String>,
    /// The unit that tells the resolver is installed.
    pub unit: bool,
    /// The command that tells the resolver without the unit.
    pub apply: String,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let mut findings = Vec::new();
    let apply = if facts.unit { APPLY_BY_UNIT.to_owned() } else { facts.apply.clone() };
    let name = &facts.name;
    if !facts.runs {
        findings.push(Finding::error(
            "systemd-resolved does not run",
            "programs of this machine cannot find names of the domain without it",
            "systemctl enable --now systemd-resolved.service && ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
        ));
    } else if !facts.applied {
        findings.push(Finding::error(
            format!("programs of this machine do not find {name}"),
            "systemd-resolved was not told to ask the agent",
            apply.clone(),
        ));
    } else if let Some(agent) = told(&facts.agent) {
        findings.push(Finding::error(
            format!("the agent does not find {name}: {agent}"),
            "it does not run, its DNS listens elsewhere, or it knows no server yet",
            "systemctl restart corediscover-agent.service",
        ));
    } else if let Some(resolver) = told(&facts.resolver) {
        findings.push(Finding::error(
            format!("systemd-resolved does not find {name}: {resolver}"),
            "the agent does; the resolver asks somebody else, or lost its settings",
            apply.clone(),
        ));
    } else if let Ok(library) = &facts.library
        && let Some(library) = told(library)
    {
        findings.push(Finding::error(
            format!("programs of this machine do not find {name}: {library}"),
            format!(
                "systemd-resolved does; /etc/resolv.conf does not lead to it (it should be a link to {STUB})"
            ),
            format!("ln -sf {STUB} /etc/resolv.conf"),
        ));
    }
    let mut check = Check::of(NAME, findings);
    if let (Err(why), true) = (&facts.library, check.findings.is_empty()) {
        check = check.but_not(format!("what programs get: {why}"));
    }
    containers(facts, &apply, check)
}

fn containers(facts: &Facts, apply: &str, mut check: Check) -> Check {
    // What programs do not find, containers do not find either, for the same reason.
    if !check.findings.is_empty() {
        return check.but_not("containers: the machine itself does not find names");
    }
    let name = &facts.name;
    if let Some(said) = facts.for_containers.as_ref().and_then(told) {
        check.findings.push(Finding::error(
            format!("containers do not find {name}: {said}"),
            "systemd-resolved does not answer at the address that containers ask",
            if facts.unit { apply.to_owned() } else { format!("{apply} --docker") },
        ));
        return check;
    }
    match &facts.inside {
        Err(why) => check.but_not(format!("from inside a container: {why}")),
        Ok(inside) => {
            if let Some(said) = told(&inside.answer) {
                check.findings.push(Finding::error(
                    format!("the container {} does not find {name}: {said}", inside.container),
                    format!(
                        "it asks {}; it was started before Docker was told about our resolver, or Docker was not restarted since",
                        inside.server
                    ),
                    format!("systemctl restart docker.service && docker restart {}", inside.container),
                ));
            }
            check
        }
    }
}

fn told(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Found => None,
        Answer::Unknown => Some("no such name".to_owned()),
        Answer::Failed(reason) => Some(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Facts, Inside, judge};

    fn facts() -> Facts {
        let inside = Inside {
            container: "cache".to_owned(),
            server: "169.254.53.1".parse().unwrap(),
            answer: Answer::Found,
        };
        Facts {
            name: "consul.service.consul".to_owned(),
            runs: true,
            applied: true,
            agent: Answer::Found,
            resolver: Answer::Found,
            library: Ok(Answer::Found),
            for_containers: Some(Answer::Found),
            inside: Ok(inside),
            unit: true,
            apply: "/opt/bin/corediscover resolved apply --dns-port 53".to_owned(),
        }
    }

    fn failed() -> Answer {
        Answer::Failed("refused".to_owned())
    }

    #[test]
    fn names_that_are_found_by_all_are_fine() {
        assert!(judge(&facts()).is_fine());
    }

    #[test]
    fn the_first_link_that_breaks_is_the_cause_and_the_only_one() {
        for (broken, cause, fix) in [
            (
                Facts { runs: false, resolver: failed(), ..facts() },
                "without it",
                "systemctl enable --now systemd-resolved",
            ),
            (
                Facts { applied: false, resolver: failed(), ..facts() },
                "was not told",
                "systemctl restart corediscover-resolved",
            ),
            (
                Facts { agent: failed(), resolver: failed(), ..facts() },
                "does not run",
                "systemctl restart corediscover-agent",
            ),
            (
                Facts { resolver: Answer::Unknown, ..facts() },
                "somebody else",
                "systemctl restart corediscover-resolved",
            ),
            (
                Facts { library: Ok(Answer::Unknown), ..facts() },
                "/etc/resolv.conf",
                "ln -sf /run/systemd/resolve",
            ),
        ] {
            let found = judge(&broken);
            let [finding] = &found.findings[..] else { panic!("{found:?}") };
            assert!(finding.cause.contains(cause) && finding.fix.starts_with(fix), "{finding:?}");
        }
    }

    #[test]
    fn what_containers_get_is_judged_when_the_machine_itself_finds_names() {
        let found = judge(&Facts { for_containers: Some(failed()), ..facts() });
        assert!(found.findings[0].symptom.starts_with("containers do not find"), "{found:?}");
        let Ok(inside) = facts().inside else { panic!() };
        let found = judge(&Facts { inside: Ok(Inside { answer: Answer::Unknown, ..inside }), ..facts() });
        assert_eq!(found.findings[0].fix, "systemctl restart docker.service && docker restart cache");
        let found = judge(&Facts { inside: Err("no container runs".to_owned()), ..facts() });
        assert_eq!(found.not_checked, ["from inside a container: no container runs"]);
    }

    #[test]
    fn without_the_unit_the_command_says_where_the_agent_is() {
        let found = judge(&Facts { applied: false, unit: false, ..facts() });
        assert_eq!(found.findings[0].fix, "/opt/bin/corediscover resolved apply --dns-port 53");
    }
}
