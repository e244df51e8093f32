//! Keys of the birth that nobody keeps true any more.

use super::identity::Member;
use super::{Check, Finding};
use crate::model::election::{Claim, View};
use crate::model::names::ClusterId;

/// The check's name.
pub const NAME: &str = "keys";

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What etcd has, or why that is not known.
    pub view: Result<View, String>,
    /// The members that the agent knows, or why they are not known.
    pub members: Result<Vec<Member>, String>,
    /// The cluster that this machine belongs to: its agent says it, else its disk.
    pub cluster: Option<ClusterId>,
    /// Where the machines meet, without a slash at the end.
    pub prefix: String,
    /// The command that removes a key; the key follows.
    pub remove: String,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let view = match &facts.view {
        Ok(view) => view,
        Err(why) => return Check::not_checked(NAME, why),
    };
    let mut findings = Vec::new();
    for stranger in &view.strangers {
        findings.push(Finding::warning(
            format!("{}/machines/{stranger} belongs to no machine of this cluster", facts.prefix),
            "another program wrote it, such as the scripts that we replace, and it does not expire by itself",
            format!("{} {}/machines/{stranger}", facts.remove, facts.prefix),
        ));
    }
    findings.extend(certificate(facts, view));
    let mut check = Check::of(NAME, Vec::new());
    match &facts.members {
        Ok(members) => findings.extend(view.claims.iter().filter_map(|claim| stale(claim, members, facts))),
        Err(why) => check = check.but_not(format!("claims of machines that are no members: {why}")),
    }
    check.findings = findings;
    check
}

fn stale(claim: &Claim, members: &[Member], facts: &Facts) -> Option<Finding> {
    let is_this = |member: &&Member| {
        member.address == claim.address || member.disk.as_deref() == Some(claim.details.incarnation.as_str())
    };
    let member = members.iter().find(is_this);
    let cause = match member {
        Some(member) if member.alive => return None,
        Some(member) => format!("gossip does not see {} alive; its claim is still kept", member.name),
        None => "that machine has claimed and is no member: it waits, cannot reach the others, or is gone"
            .to_owned(),
    };
    let (id, prefix) = (&claim.machine_id, &facts.prefix);
    Some(Finding::warning(
        format!(
            "{prefix}/machines/{id} is the claim of {} ({}), which is no member",
            claim.details.name, claim.address
        ),
        cause,
        format!("{0} {prefix}/machines/{id} && {0} {prefix}/incarnations/{id}", facts.remove),
    ))
}

fn certificate(facts: &Facts, view: &View) -> Option<Finding> {
    let (certificate, _) = view.certificate.as_ref()?;
    let own = facts.cluster.as_ref()?;
    (certificate.cluster_id != *own).then(|| {
        Finding::error(
            format!("{}/cluster names cluster {}, and this machine belongs to {own}", facts.prefix, certificate.cluster_id),
            "two clusters share one prefix, or etcd was restored from a copy; new machines join the one that etcd names",
            // The leader of a cluster that has formed writes its certificate again.
            format!("{} {}/cluster", facts.remove, facts.prefix),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::identity::tests::{ID, claim, member};
    use super::{Facts, judge};
    use crate::model::doctor::{Level, identity::Member};
    use crate::model::election::{Certificate, View};
    use crate::model::names::ClusterId;

    fn facts() -> Facts {
        let certificate = Certificate {
            cluster_id: ClusterId::from_random(1),
            epoch: 1,
            expect: 3,
            initial: Vec::new(),
            bound: BTreeSet::new(),
            formed: true,
            closed: Vec::new(),
        };
        let view = View {
            claims: vec![claim(ID, "10.0.0.1", 1)],
            strangers: Vec::new(),
            certificate: Some((certificate, 1)),
        };
        Facts {
            view: Ok(view),
            members: Ok(vec![member("a", "10.0.0.1", 1)]),
            cluster: Some(ClusterId::from_random(1)),
            prefix: "/p".to_owned(),
            remove: "etcdctl del".to_owned(),
        }
    }

    #[test]
    fn claims_of_members_and_our_certificate_are_fine() {
        assert!(judge(&facts()).is_fine());
    }

    #[test]
    fn a_claim_without_a_living_member_is_stale() {
        let gone = judge(&Facts { members: Ok(Vec::new()), ..facts() });
        assert_eq!(gone.findings[0].level, Level::Warning);
        assert_eq!(
            gone.findings[0].fix,
            format!("etcdctl del /p/machines/{ID} && etcdctl del /p/incarnations/{ID}")
        );
        let dead = Member { alive: false, ..member("a", "10.0.0.1", 1) };
        assert!(judge(&Facts { members: Ok(vec![dead]), ..facts() }).findings[0].cause.contains("alive"));
        let moved = member("a", "10.0.0.7", 1);
        assert!(judge(&Facts { members: Ok(vec![moved]), ..facts() }).is_fine());
    }

    #[test]
    fn a_key_of_another_program_is_found_with_the_command_that_removes_it() {
        let mut facts = facts();
        let Ok(view) = &mut facts.view else { panic!() };
        view.strangers.push("old".parse().unwrap());
        assert_eq!(judge(&facts).findings[0].fix, "etcdctl del /p/machines/old");
    }

    #[test]
    fn a_certificate_of_another_cluster_is_an_error() {
        let found = judge(&Facts { cluster: Some(ClusterId::from_random(2)), ..facts() });
        assert_eq!(
            (found.findings[0].level, &*found.findings[0].fix),
            (Level::Error, "etcdctl del /p/cluster")
        );
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        assert_eq!(judge(&Facts { view: Err("no etcd".to_owned()), ..facts() }).not_checked, ["no etcd"]);
        let alone = judge(&Facts { members: Err("no agent".to_owned()), ..facts() });
        assert_eq!((alone.findings.len(), alone.not_checked.len()), (0, 1));
    }
}
