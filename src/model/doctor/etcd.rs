//! etcd: whether each endpoint answers, with which version, and in which of its two key spaces the machines meet.

use super::{Check, Finding};

/// The check's name.
pub const NAME: &str = "etcd";

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// etcd's version there, or why there is none.
    pub version: Result<String, String>,
    /// It is on this machine.
    pub here: bool,
}

/// A key space, as the machines of a cluster see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spaces {
    /// The one that is used: `v2` or `v3`.
    pub used: String,
    /// What the other one has below the prefix, if anything: a certificate, claims.
    pub foreign: Option<String>,
    /// The command that removes the certificate of the other space.
    pub removal: String,
    /// The certificate of the used one has formed, so that nothing can be born twice.
    pub formed: bool,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The key spaces, or why they could not be read.
    pub spaces: Result<Spaces, String>,
    /// etcd's unit on this machine.
    pub unit: Option<String>,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    if facts.endpoints.is_empty() {
        return Check::not_checked(NAME, "no etcd is named; --etcd names one");
    }
    let answering = facts.endpoints.iter().filter(|endpoint| endpoint.version.is_ok()).count();
    let mut findings = Vec::new();
    for endpoint in &facts.endpoints {
        let Err(why) = &endpoint.version else { continue };
        let symptom = format!("etcd at {} does not answer: {why}", endpoint.url);
        let fix = fix(endpoint, facts);
        findings.push(if answering == 0 {
            Finding::error(symptom, "no etcd answers: machines that start now cannot join", fix)
        } else {
            Finding::warning(symptom, "others answer: one more that fails may be one too many", fix)
        });
    }
    let mut versions: Vec<&String> =
        facts.endpoints.iter().filter_map(|endpoint| endpoint.version.as_ref().ok()).collect();
    versions.sort();
    versions.dedup();
    if let [one, .., other] = versions[..] {
        findings.push(Finding::warning(
            format!("the endpoints are etcd {one} and etcd {other}"),
            "they are upgraded now, or belong to different clusters of etcd",
            facts
                .endpoints
                .iter()
                .map(|endpoint| format!("curl -sS {}/version; ", endpoint.url))
                .collect::<String>(),
        ));
    }
    match &facts.spaces {
        Ok(spaces) => {
            findings.extend(two_spaces(spaces));
            Check::of(NAME, findings)
        }
        Err(_) if answering == 0 => Check::of(NAME, findings),
        Err(why) => Check::of(NAME, findings).but_not(format!("the key spaces: {why}")),
    }
}

fn fix(endpoint: &Endpoint, facts: &Facts) -> String {
    match (&facts.unit, endpoint.here) {
        (Some(unit), true) => format!("systemctl restart {unit}"),
        (None, true) => "apt-get install -y etcd-server && systemctl enable --now etcd.service".to_owned(),
        (unit, false) => {
            let unit = unit.as_deref().unwrap_or("etcd.service");
            let host = endpoint.url.rsplit("://").next().unwrap_or(&endpoint.url);
            format!("systemctl restart {unit} # on {host}")
        }
    }
}

fn two_spaces(spaces: &Spaces) -> Option<Finding> {
    let foreign = spaces.foreign.as_ref()?;
    let symptom = format!("machines meet in etcd's {} keys, and its other API has {foreign}", spaces.used);
    let cause = "some machines were told another --etcd-api, or etcd was upgraded from 2 to 3";
    Some(if spaces.formed {
        Finding::warning(symptom, cause, &spaces.removal)
    } else {
        Finding::error(symptom, cause, &spaces.removal)
    })
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Facts, Spaces, judge};
    use crate::model::doctor::Level;

    fn endpoint(url: &str, version: Result<&str, &str>, here: bool) -> Endpoint {
        Endpoint { url: url.to_owned(), version: version.map(str::to_owned).map_err(str::to_owned), here }
    }

    fn facts(endpoints: Vec<Endpoint>) -> Facts {
        let spaces = Spaces {
            used: "v3".to_owned(),
            foreign: None,
            removal: "ETCDCTL_API=2 etcdctl rm /c".to_owned(),
            formed: false,
        };
        Facts { endpoints, spaces: Ok(spaces), unit: Some("etcd.service".to_owned()) }
    }

    #[test]
    fn endpoints_that_answer_with_one_version_are_fine() {
        let both =
            vec![endpoint("http://a:1", Ok("3.4.0"), true), endpoint("http://b:1", Ok("3.4.0"), false)];
        assert!(judge(&facts(both)).is_fine());
    }

    #[test]
    fn one_that_is_silent_is_a_warning_and_all_are_an_error() {
        let one =
            vec![endpoint("http://a:1", Ok("3.4.0"), true), endpoint("http://b:1", Err("refused"), false)];
        let found = judge(&facts(one));
        assert_eq!(found.findings[0].level, Level::Warning);
        assert_eq!(found.findings[0].fix, "systemctl restart etcd.service # on b:1");
        let found = judge(&facts(vec![endpoint("http://a:1", Err("refused"), true)]));
        assert_eq!(found.findings[0].level, Level::Error);
        assert_eq!(found.findings[0].symptom, "etcd at http://a:1 does not answer: refused");
        assert_eq!(found.findings[0].fix, "systemctl restart etcd.service");
    }

    #[test]
    fn different_versions_are_told() {
        let both =
            vec![endpoint("http://a:1", Ok("3.4.0"), true), endpoint("http://b:1", Ok("2.3.0"), false)];
        assert_eq!(judge(&facts(both)).findings[0].symptom, "the endpoints are etcd 2.3.0 and etcd 3.4.0");
    }

    #[test]
    fn keys_in_the_other_space_are_found() {
        let mut facts = facts(vec![endpoint("http://a:1", Ok("3.4.0"), true)]);
        let Ok(spaces) = facts.spaces.clone() else { panic!() };
        facts.spaces = Ok(Spaces { foreign: Some("a certificate".to_owned()), ..spaces.clone() });
        let found = judge(&facts);
        assert_eq!(
            (found.findings[0].level, &*found.findings[0].fix),
            (Level::Error, "ETCDCTL_API=2 etcdctl rm /c")
        );
        facts.spaces = Ok(Spaces { foreign: Some("a certificate".to_owned()), formed: true, ..spaces });
        assert_eq!(judge(&facts).findings[0].level, Level::Warning);
    }

    #[test]
    fn without_an_etcd_nothing_is_checked() {
        assert!(judge(&facts(Vec::new())).not_checked[0].contains("--etcd"));
    }
}
