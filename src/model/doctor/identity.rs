//! Who this machine is: a machine-id of its own, and a disk of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Check, Finding};
use crate::model::election::{Claim, Incarnation};
use crate::model::fleet::shell::quote;
use crate::model::names::MachineId;

/// The check's name.
pub const NAME: &str = "machine-id";
/// What systemd writes where the id is made at the first boot.
const UNINITIALISED: &str = "uninitialized";

/// What the file of the machine-id has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// It is not there.
    Missing,
    /// It cannot be read, and why.
    Unreadable(String),
    /// This text.
    Text(String),
}

/// A member of the gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its node name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Whether gossip sees it alive.
    pub alive: bool,
    /// The incarnation of its disk, as its tag says.
    pub disk: Option<String>,
    /// Its cluster, as its tag says.
    pub cluster: Option<String>,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The file's path.
    pub path: String,
    /// What is in it.
    pub file: File,
    /// Where the agent keeps its state.
    pub data_dir: String,
    /// The incarnation of this machine's disk, if there is one.
    pub own_disk: Option<Incarnation>,
    /// This machine's own addresses.
    pub own_addresses: Vec<IpAddr>,
    /// The claims in etcd, or why they are not known.
    pub claims: Result<Vec<Claim>, String>,
    /// The members that the agent knows, or why they are not known.
    pub members: Result<Vec<Member>, String>,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let mut findings = Vec::new();
    let restart = "systemctl restart corediscover-agent.service";
    let path = quote(&facts.path);
    let make = format!("rm -f {path} && systemd-machine-id-setup && {restart}");
    let mut id: Option<MachineId> = None;
    match &facts.file {
        File::Missing => findings.push(Finding::error(
            format!("{} is missing", facts.path),
            "the image was made without one, or the file was removed; the next start of the agent fails",
            make.clone(),
        )),
        File::Unreadable(why) => findings.push(Finding::error(
            format!("{} cannot be read", facts.path),
            why.clone(),
            format!("chmod 0444 {path}"),
        )),
        File::Text(text) => match text.trim() {
            "" => findings.push(Finding::error(
                format!("{} is empty", facts.path),
                "the image was made without an id, and none was made at boot; the next start of the agent fails",
                make.clone(),
            )),
            UNINITIALISED => findings.push(Finding::error(
                format!("{} says `{UNINITIALISED}`", facts.path),
                "systemd did not make an id at the first boot, or could not write it",
                make.clone(),
            )),
            text => match text.parse() {
                Ok(parsed) => id = Some(parsed),
                Err(error) => findings.push(Finding::error(
                    format!("{} holds no machine-id", facts.path),
                    error.to_string(),
                    make.clone(),
                )),
            },
        },
    }
    let mut check = Check::of(NAME, Vec::new());
    match &facts.claims {
        Ok(claims) => {
            if let Some(id) = &id {
                findings.extend(cloned_id(facts, id, claims, &make));
            }
            findings.extend(cloned_disks_of_claims(claims, &facts.data_dir));
        }
        Err(why) => check = check.but_not(format!("clones in etcd: {why}")),
    }
    match &facts.members {
        Ok(members) => findings.extend(cloned_disks_of_members(members, &facts.data_dir)),
        Err(why) => check = check.but_not(format!("clones among the members: {why}")),
    }
    check.findings = findings;
    check
}

/// Another machine claims with our id. Our own claim of an earlier disk is at one of our addresses.
fn cloned_id(facts: &Facts, id: &MachineId, claims: &[Claim], make: &str) -> Option<Finding> {
    let claim = claims.iter().find(|claim| claim.machine_id == *id)?;
    let is_ours = facts.own_disk.as_ref() == Some(&claim.details.incarnation)
        || claim.address.parse().is_ok_and(|address: IpAddr| facts.own_addresses.contains(&address));
    (!is_ours).then(|| {
        Finding::error(
            format!("machine-id {id} is in use twice: {} ({}) has it too", claim.details.name, claim.address),
            "one machine is a copy of the other's disk; only one of them can take part",
            make,
        )
    })
}

/// Two machine-ids claim with one data directory.
fn cloned_disks_of_claims(claims: &[Claim], data_dir: &str) -> Vec<Finding> {
    let mut disks: BTreeMap<&Incarnation, Vec<String>> = BTreeMap::new();
    for claim in claims {
        let who = format!("{} ({})", claim.details.name, claim.address);
        disks.entry(&claim.details.incarnation).or_default().push(who);
    }
    several(disks.into_values(), data_dir)
}

fn cloned_disks_of_members(members: &[Member], data_dir: &str) -> Vec<Finding> {
    let mut disks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for member in members.iter().filter(|member| member.alive) {
        if let Some(disk) = member.disk.as_deref().filter(|disk| !disk.is_empty()) {
            disks.entry(disk).or_default().push(format!("{} ({})", member.name, member.address));
        }
    }
    several(disks.into_values(), data_dir)
}

fn several(disks: impl Iterator<Item = Vec<String>>, data_dir: &str) -> Vec<Finding> {
    let copies = disks.filter(|machines| machines.len() > 1);
    copies
        .map(|machines| {
            Finding::error(
                format!("{} have one data directory", machines.join(" and ")),
                "one machine is a copy of the other's disk, with what the agent keeps there",
                format!(
                    "systemctl stop corediscover-agent.service && rm -rf {}/* && \
                     systemctl start corediscover-agent.service # on the copy",
                    quote(data_dir)
                ),
            )
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Facts, File, Member, judge};
    use crate::model::election::{Claim, ClaimDetails, Incarnation};

    pub(in crate::model::doctor) const ID: &str = "0123456789abcdef0123456789abcdef";

    pub(in crate::model::doctor) fn claim(id: &str, address: &str, disk: u128) -> Claim {
        Claim {
            machine_id: id.parse().unwrap(),
            address: address.to_owned(),
            details: ClaimDetails {
                incarnation: Incarnation::from_random(disk),
                name: format!("host-{address}"),
                boot_id: "boot".to_owned(),
                version: "1".to_owned(),
                cluster: None,
            },
            created: 1,
            revision: 1,
        }
    }

    pub(in crate::model::doctor) fn member(name: &str, address: &str, disk: u128) -> Member {
        Member {
            name: name.to_owned(),
            address: address.to_owned(),
            alive: true,
            disk: Some(Incarnation::from_random(disk).to_string()),
            cluster: None,
        }
    }

    fn facts(text: &str) -> Facts {
        Facts {
            path: "/etc/machine-id".to_owned(),
            file: File::Text(text.to_owned()),
            data_dir: "/var/lib/corediscover".to_owned(),
            own_disk: Some(Incarnation::from_random(1)),
            own_addresses: vec!["10.0.0.1".parse().unwrap()],
            claims: Ok(vec![claim(ID, "10.0.0.1", 1), claim("other", "10.0.0.2", 2)]),
            members: Ok(vec![member("a", "10.0.0.1", 1), member("b", "10.0.0.2", 2)]),
        }
    }

    #[test]
    fn a_machine_with_an_id_and_a_disk_of_its_own_is_fine() {
        assert!(judge(&facts(&format!("{ID}\n"))).is_fine());
    }

    #[test]
    fn a_file_without_an_id_is_found_whatever_is_in_it() {
        for (text, symptom) in [
            ("", "/etc/machine-id is empty"),
            ("\n", "/etc/machine-id is empty"),
            ("uninitialized\n", "/etc/machine-id says `uninitialized`"),
            ("a b", "/etc/machine-id holds no machine-id"),
        ] {
            let found = judge(&facts(text));
            assert_eq!(found.findings[0].symptom, symptom);
            assert!(found.findings[0].fix.starts_with("rm -f /etc/machine-id && systemd-machine-id-setup"));
        }
        let found = judge(&Facts { file: File::Missing, ..facts("") });
        assert_eq!(found.findings[0].symptom, "/etc/machine-id is missing");
        let found = judge(&Facts { file: File::Unreadable("no".to_owned()), ..facts("") });
        assert_eq!(found.findings[0].symptom, "/etc/machine-id cannot be read");
    }

    #[test]
    fn a_claim_of_another_machine_with_our_id_is_a_clone() {
        let clone = Facts { claims: Ok(vec![claim(ID, "10.0.0.9", 9)]), ..facts(ID) };
        let found = judge(&clone);
        assert_eq!(
            found.findings[0].symptom,
            format!("machine-id {ID} is in use twice: host-10.0.0.9 (10.0.0.9) has it too")
        );
        let lost_disk = Facts { claims: Ok(vec![claim(ID, "10.0.0.1", 9)]), ..facts(ID) };
        assert!(judge(&lost_disk).is_fine(), "our own claim, of before the disk was lost");
        let moved = Facts { claims: Ok(vec![claim(ID, "10.0.0.9", 1)]), ..facts(ID) };
        assert!(judge(&moved).is_fine(), "our own claim, of before the address changed");
    }

    #[test]
    fn two_machines_with_one_data_directory_are_found_in_etcd_and_among_the_members() {
        let twice =
            Facts { claims: Ok(vec![claim(ID, "10.0.0.1", 1), claim("b", "10.0.0.2", 1)]), ..facts(ID) };
        assert!(judge(&twice).findings[0].symptom.ends_with("have one data directory"));
        let members = vec![member("a", "10.0.0.1", 1), member("b", "10.0.0.2", 1)];
        let found = judge(&Facts { members: Ok(members.clone()), ..facts(ID) });
        assert_eq!(found.findings[0].symptom, "a (10.0.0.1) and b (10.0.0.2) have one data directory");
        let left = members.into_iter().map(|member| Member { alive: member.name == "a", ..member }).collect();
        assert!(judge(&Facts { members: Ok(left), ..facts(ID) }).is_fine());
    }

    #[test]
    fn without_etcd_and_agent_it_says_what_was_not_checked() {
        let alone =
            Facts { claims: Err("no etcd".to_owned()), members: Err("no agent".to_owned()), ..facts(ID) };
        let found = judge(&alone);
        assert_eq!((found.findings.len(), found.not_checked.len()), (0, 2));
    }
}
