//! The address that the others are told: what would be chosen now, and what the agent says.

use std::net::IpAddr;

use super::{Check, Finding};
use crate::model::address::{
    AddressSource, Facts as Machine, Objection, Refusal, Verdict, choose, objection,
};
use crate::model::fleet::shell::quote;

/// The check's name.
pub const NAME: &str = "address";
/// What makes the agent look its address up again.
const RESTART: &str = "systemctl restart corediscover-agent.service";
/// The file that says addresses, where nothing else does.
const ENVIRONMENT: &str = "/etc/environment";

/// What the agent was told to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// This address.
    Fixed(IpAddr),
    /// What is found there.
    Source(AddressSource),
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What the agent was told to tell.
    pub advertise: Advertise,
    /// What the agent tells the others, or why that is not known.
    pub told: Result<IpAddr, String>,
    /// This machine's addresses.
    pub machine: Machine,
    /// The file of the agent's unit, if it has one.
    pub unit: Option<String>,
    /// The command that shows all addresses.
    pub show: String,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let mut findings = Vec::new();
    let chosen = match &facts.advertise {
        Advertise::Fixed(address) => {
            findings.extend(unusable(*address, facts, "the agent is to tell the others"));
            Some(*address)
        }
        Advertise::Source(source) => match choose(source, &facts.machine) {
            Ok(choice) => {
                findings.extend(unusable(
                    choice.address,
                    facts,
                    "the next start of the agent tells the others",
                ));
                Some(choice.address)
            }
            Err(refusal) => {
                findings.push(refused(source, &refusal, facts));
                None
            }
        },
    };
    let told = match &facts.told {
        Ok(told) => *told,
        Err(why) => {
            return Check::of(NAME, findings).but_not(format!("what the agent tells the others: {why}"));
        }
    };
    if findings.is_empty() && chosen != Some(told) {
        findings.extend(unusable(told, facts, "the agent tells the others"));
    }
    if let Some(chosen) = chosen
        && chosen != told
        && findings.is_empty()
    {
        findings.push(Finding::error(
            format!("the agent tells the others {told}, and `corediscover address` chooses {chosen} now"),
            "the machine's addresses, or what says them, changed since the agent started",
            RESTART,
        ));
    }
    Check::of(NAME, findings)
}

/// An address that others cannot use, or that left the machine. A public address that no interface has is usual where a
/// cloud translates it.
fn unusable(address: IpAddr, facts: &Facts, who: &str) -> Option<Finding> {
    let is_here = facts.machine.interface_of(address).is_some();
    let against = objection(address, &facts.machine)
        .or_else(|| (!is_here && !is_public(address)).then_some(Objection::Elsewhere))?;
    Some(Finding::error(
        format!("{who} {address}, which they cannot use"),
        against.to_string(),
        fix(facts, Some(address)),
    ))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_private() && !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unique_local() && !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn refused(source: &AddressSource, refusal: &Refusal, facts: &Facts) -> Finding {
    let bad = refusal.considered.iter().filter(|candidate| matches!(candidate.verdict, Verdict::Refused(_)));
    let reasons: Vec<String> = bad.map(ToString::to_string).collect();
    let cause = if reasons.is_empty() { refusal.advice.clone() } else { reasons.join("; ") };
    Finding::error(
        format!("the next start of the agent finds no address for the others ({source}): {}", refusal.reason),
        cause,
        fix(facts, None),
    )
}

/// How the agent gets an address that others can use.
fn fix(facts: &Facts, wrong: Option<IpAddr>) -> String {
    let usable = usable(facts);
    match (&facts.advertise, usable) {
        (Advertise::Source(source @ (AddressSource::Private | AddressSource::Public)), Some(address)) => {
            let name = source.variable();
            format!(
                "touch {ENVIRONMENT} && sed -i '/^{name}=/d' {ENVIRONMENT} && echo {name}={address} >>{ENVIRONMENT} && \
                 {RESTART}"
            )
        }
        (Advertise::Fixed(old), Some(address)) if wrong == Some(*old) && facts.unit.is_some() => {
            let unit = quote(facts.unit.as_deref().unwrap_or_default());
            format!(
                "sed -i 's/\\(--\\?advertise\\) {old} /\\1 {address} /' {unit} && systemctl daemon-reload && {RESTART}"
            )
        }
        (Advertise::Source(AddressSource::Auto), Some(_)) => RESTART.to_owned(),
        // The machine has to be given one first.
        _ => facts.show.clone(),
    }
}

/// An address that the machine has and others can use: the one that it tells already, else the one of the default route.
fn usable(facts: &Facts) -> Option<IpAddr> {
    let is_usable = |address: &IpAddr| {
        facts.machine.interface_of(*address).is_some() && objection(*address, &facts.machine).is_none()
    };
    let all = facts.machine.addresses.iter().map(|entry| entry.address);
    let told = facts.told.as_ref().ok().copied();
    let mut candidates = told.into_iter().chain(facts.machine.default_v4).chain(all);
    candidates.find(is_usable)
}

#[cfg(test)]
mod tests {
    use super::{Advertise, Facts, judge};
    use crate::model::address::variables::Variable;
    use crate::model::address::{AddressSource, Flags, InterfaceAddress};

    fn machine(addresses: &[(&str, &str)], private: &str) -> crate::model::address::Facts {
        let entry = |(interface, address): &(&str, &str)| InterfaceAddress {
            interface: (*interface).to_owned(),
            address: address.parse().unwrap(),
            prefix: 24,
            flags: Flags { up: true, ..Flags::default() },
        };
        let variable = Variable { name: "COREOS_PRIVATE_IPV4".to_owned(), value: private.to_owned() };
        crate::model::address::Facts {
            addresses: addresses.iter().map(entry).collect(),
            files: vec![("/etc/environment".to_owned(), Some(vec![variable]))],
            ..crate::model::address::Facts::default()
        }
    }

    fn facts(private: &str, told: &str) -> Facts {
        Facts {
            advertise: Advertise::Source(AddressSource::Private),
            told: Ok(told.parse().unwrap()),
            machine: machine(
                &[("eth0", "10.0.0.1"), ("eth1", "10.1.0.1"), ("docker0", "172.17.0.1")],
                private,
            ),
            unit: None,
            show: "show".to_owned(),
        }
    }

    #[test]
    fn the_address_that_would_be_chosen_and_that_is_told_is_fine() {
        assert!(judge(&facts("10.0.0.1", "10.0.0.1")).is_fine());
    }

    #[test]
    fn another_choice_than_what_is_told_asks_for_a_restart() {
        let found = judge(&facts("10.1.0.1", "10.0.0.1"));
        assert!(found.findings[0].symptom.contains("tells the others 10.0.0.1"), "{found:?}");
        assert_eq!(found.findings[0].fix, "systemctl restart corediscover-agent.service");
    }

    #[test]
    fn loopback_and_networks_of_containers_are_refused_with_an_address_to_use() {
        for bad in ["127.0.0.1", "172.17.0.1", "", "0.0.0.0"] {
            let found = judge(&facts(bad, "10.0.0.1"));
            assert!(found.findings[0].symptom.contains("finds no address"), "{found:?}");
            assert!(found.findings[0].fix.contains("echo COREOS_PRIVATE_IPV4=10.0.0.1 >>/etc/environment"));
        }
    }

    #[test]
    fn an_address_that_no_interface_has_any_more_is_found() {
        let found = judge(&facts("10.9.0.1", "10.9.0.1"));
        let [finding] = &found.findings[..] else { panic!("{found:?}") };
        assert_eq!(finding.cause, "no interface of this machine has it");
        assert!(finding.fix.contains("COREOS_PRIVATE_IPV4=10.0.0.1"), "{finding:?}");
        let auto = Facts {
            advertise: Advertise::Source("interface:eth0".parse().unwrap()),
            ..facts("", "10.9.0.1")
        };
        assert!(judge(&auto).findings[0].symptom.contains("the agent tells the others 10.9.0.1"));
    }

    #[test]
    fn a_fixed_address_is_looked_at_too_and_a_public_one_may_be_the_routers() {
        let fixed = |address: &str| Facts {
            advertise: Advertise::Fixed(address.parse().unwrap()),
            unit: Some("/etc/systemd/system/corediscover-agent.service".to_owned()),
            ..facts("", address)
        };
        assert!(judge(&fixed("192.0.2.1")).is_fine() && judge(&fixed("10.1.0.1")).is_fine());
        let found = judge(&fixed("10.9.0.1"));
        assert!(found.findings[0].fix.contains("\\1 10.0.0.1 /"), "{found:?}");
    }

    #[test]
    fn without_an_agent_the_choice_is_judged_all_the_same() {
        let found = judge(&Facts { told: Err("no agent".to_owned()), ..facts("127.0.0.1", "10.0.0.1") });
        assert_eq!((found.findings.len(), found.not_checked.len()), (1, 1));
    }
}
