//! Whether names of the domain are found: by programs of this machine, and by containers.

use std::net::IpAddr;

use super::{Check, Finding};
use crate::model::resolved::docker::DAEMON_FILE;
use crate::model::resolved::firewall::Firewall;
use crate::model::resolved::{KEEP_SERVERS, LINK_ADDRESS, PACKAGES, RESOLVER};

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
    /// An answer that is none, or no way to ask, and why.
    Failed(String),
    /// No answer, and why.
    Silent(String),
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
    /// What our resolver says itself, where a server of Docker's inside asks it and brought nothing.
    pub behind: Option<Answer>,
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
    /// systemd-resolved is installed.
    pub installed: bool,
    /// Docker is installed.
    pub docker: bool,
    /// The unit is to make the resolver answer containers.
    pub wanted: bool,
    /// Docker gives containers the resolver's address.
    pub told: bool,
    /// What the unit could not do at its last start.
    pub said: Option<String>,
    /// Who decides what comes in.
    pub firewall: Firewall,
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
            if facts.installed {
                "systemd-resolved does not run"
            } else {
                "systemd-resolved is not installed"
            },
            "programs of this machine cannot find names of the domain without it",
            if facts.installed {
                format!(
                    "{KEEP_SERVERS} && systemctl enable --now {RESOLVER} && ln -sf {STUB} /etc/resolv.conf"
                )
            } else {
                format!("{KEEP_SERVERS} && apt-get update && apt-get install -y {PACKAGES} && {apply}")
            },
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
            format!("{KEEP_SERVERS} && systemctl restart {RESOLVER} && ln -sf {STUB} /etc/resolv.conf"),
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
    let serve = if facts.unit { apply.to_owned() } else { format!("{apply} --docker") };
    if let Some(said) = facts.for_containers.as_ref().and_then(told) {
        check.findings.push(Finding::error(
            format!("containers do not find {name}: {said}"),
            "systemd-resolved does not answer at the address that containers ask",
            serve,
        ));
        return check;
    }
    if facts.for_containers.is_none() && facts.wanted && facts.docker {
        check.findings.push(Finding::error(
            format!("containers do not find {name}: systemd-resolved answers none"),
            said_or(facts, "the unit did not get so far: Docker was not there yet, or it was stopped"),
            after_said(facts, serve),
        ));
        return check;
    }
    if facts.for_containers.is_some() && !facts.told && facts.docker {
        check.findings.push(Finding::error(
            format!("containers that Docker starts do not find {name}: it does not tell them to ask {LINK_ADDRESS}"),
            said_or(facts, &format!("`dns` of {DAEMON_FILE} does not name it first: somebody wrote that file again")),
            after_said(facts, format!("{serve} && systemctl restart docker.service")),
        ));
        return check;
    }
    match &facts.inside {
        Err(why) => check.but_not(format!("from inside a container: {why}")),
        Ok(inside) => {
            check.findings.extend(judge_inside(facts, inside));
            check
        }
    }
}

/// What the unit told, where that is known.
fn said_or(facts: &Facts, usually: &str) -> String {
    facts.said.as_ref().map_or_else(|| usually.to_owned(), |said| format!("the unit says `{said}`"))
}

/// The unit will say the same again, unless that is seen to first.
fn after_said(facts: &Facts, fix: String) -> String {
    if facts.said.is_some() { format!("{fix} # after what the cause tells to do") } else { fix }
}

fn judge_inside(facts: &Facts, inside: &Inside) -> Option<Finding> {
    let said = told(&inside.answer)?;
    let (name, container) = (&facts.name, &inside.container);
    let symptom = format!("the container {container} does not find {name}: {said}");
    // The machine itself is answered at this address, or we would not have come here.
    let ours = if inside.server == LINK_ADDRESS { Some(&inside.answer) } else { inside.behind.as_ref() };
    if let Some(Answer::Silent(_)) = ours {
        let kept = facts.firewall.kept().map_or_else(String::new, |how| format!("; after the fix, {how}"));
        return Some(Finding::error(
            symptom,
            format!(
                "a firewall of this machine does not let through what containers ask: the resolver answers the machine \
                 itself{kept}"
            ),
            facts.firewall.allow(),
        ));
    }
    let server = inside.server;
    Some(Finding::error(
        symptom,
        format!(
            "it asks {server}; it was started before Docker was told about our resolver, or Docker was not restarted since"
        ),
        format!("systemctl restart docker.service && docker restart {container}"),
    ))
}

fn told(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Found => None,
        Answer::Unknown => Some("no such name".to_owned()),
        Answer::Failed(reason) | Answer::Silent(reason) => Some(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Facts, Inside, judge};
    use crate::model::resolved::KEEP_SERVERS;
    use crate::model::resolved::firewall::Firewall;

    fn facts() -> Facts {
        let inside = Inside {
            container: "cache".to_owned(),
            server: "169.254.53.1".parse().unwrap(),
            answer: Answer::Found,
            behind: None,
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
            installed: true,
            docker: true,
            wanted: true,
            told: true,
            said: None,
            firewall: Firewall::Iptables,
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
            (Facts { runs: false, resolver: failed(), ..facts() }, "without it", KEEP_SERVERS),
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
            (Facts { library: Ok(Answer::Unknown), ..facts() }, "/etc/resolv.conf", KEEP_SERVERS),
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
    fn a_machine_without_the_resolver_is_given_it() {
        let found = judge(&Facts { runs: false, installed: false, resolver: failed(), ..facts() });
        let [finding] = &found.findings[..] else { panic!("{found:?}") };
        assert_eq!(finding.symptom, "systemd-resolved is not installed");
        for part in [
            "/etc/systemd/resolved.conf.d",
            "apt-get install -y systemd-resolved libnss-resolve && systemctl restart corediscover-resolved.service",
        ] {
            assert!(finding.fix.contains(part), "{}", finding.fix);
        }
    }

    #[test]
    fn containers_that_nobody_answers_are_found_where_they_are_to_be_served() {
        let unserved = Facts { for_containers: None, inside: Err("not told".to_owned()), ..facts() };
        let found = judge(&unserved);
        let [finding] = &found.findings[..] else { panic!("{found:?}") };
        assert!(finding.symptom.starts_with("containers do not find"), "{finding:?}");
        assert_eq!(finding.fix, "systemctl restart corediscover-resolved.service");
        let said = "error: dockerd runs with --dns; hint: take --dns out";
        let found = judge(&Facts { said: Some(said.to_owned()), ..unserved.clone() });
        assert!(
            found.findings[0].cause.contains(said) && found.findings[0].fix.contains(" # after"),
            "{found:?}"
        );
        // Nobody asked for it, or there is nobody to serve.
        assert_eq!(judge(&Facts { wanted: false, ..unserved.clone() }).findings, []);
        assert_eq!(judge(&Facts { docker: false, ..unserved }).findings, []);
    }

    #[test]
    fn a_docker_that_no_longer_names_the_resolver_is_found_although_an_old_container_is_answered() {
        let found = judge(&Facts { told: false, ..facts() });
        let [finding] = &found.findings[..] else { panic!("{found:?}") };
        assert!(finding.cause.contains("/etc/docker/daemon.json"), "{finding:?}");
        assert_eq!(
            finding.fix,
            "systemctl restart corediscover-resolved.service && systemctl restart docker.service"
        );
        // A firewall kept the unit from telling a Docker that may come one day.
        let none = Facts { told: false, docker: false, inside: Err("no Docker".to_owned()), ..facts() };
        assert_eq!(judge(&none).findings, []);
    }

    #[test]
    fn a_container_that_our_resolver_does_not_answer_is_behind_a_firewall() {
        let Ok(inside) = facts().inside else { panic!() };
        let silent = Answer::Silent("no answer from 169.254.53.1:53".to_owned());
        let behind = Facts { inside: Ok(Inside { answer: silent.clone(), ..inside.clone() }), ..facts() };
        // In a network that a user made, Docker's server inside asks ours, and says that it brought nothing.
        let docker = "127.0.0.11".parse().unwrap();
        let asks_docker = |behind| Facts {
            inside: Ok(Inside { server: docker, answer: failed(), behind, ..inside.clone() }),
            ..facts()
        };
        for firewall in [Firewall::Ufw, Firewall::Iptables] {
            for behind in [behind.clone(), asks_docker(Some(silent.clone()))] {
                let found = judge(&Facts { firewall: firewall.clone(), ..behind });
                let [finding] = &found.findings[..] else { panic!("{found:?}") };
                assert!(finding.cause.contains("firewall") && finding.fix == firewall.allow(), "{finding:?}");
            }
        }
        let found = judge(&asks_docker(Some(Answer::Found)));
        assert!(found.findings[0].fix.starts_with("systemctl restart docker.service"), "{found:?}");
        // One that asks somebody else is no matter of our firewall.
        let server = "10.0.0.2".parse().unwrap();
        let found =
            judge(&Facts { inside: Ok(Inside { server, answer: silent, ..inside.clone() }), ..facts() });
        assert!(found.findings[0].fix.starts_with("systemctl restart docker.service"), "{found:?}");
    }

    #[test]
    fn without_the_unit_the_command_says_where_the_agent_is() {
        let found = judge(&Facts { applied: false, unit: false, ..facts() });
        assert_eq!(found.findings[0].fix, "/opt/bin/corediscover resolved apply --dns-port 53");
    }
}
