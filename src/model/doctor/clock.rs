//! The machine's clock: whether somebody keeps it right, and whether it is.

use super::{Check, Finding};

/// The check's name.
pub const NAME: &str = "clock";
/// How far the clock may be from another's, in seconds: HTTP's dates have whole seconds, and answers take a moment.
const DIFFERENCE_SECONDS_MAX: i64 = 5;
/// What makes the machine keep its clock right.
const FIX: &str = "timedatectl set-ntp true";

/// What another machine says about the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Who.
    pub name: String,
    /// By how many seconds our clock is ahead of its clock.
    pub ahead_seconds: i64,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether the kernel's clock is synchronised, or why that is not known.
    pub synchronised: Result<bool, String>,
    /// Whether this is a container: its clock is the host's, and it may not set it.
    pub container: bool,
    /// What other machines say.
    pub others: Vec<Other>,
}

/// Judges it.
pub fn judge(facts: &Facts) -> Check {
    let mut findings = Vec::new();
    for other in facts.others.iter().filter(|other| other.ahead_seconds.abs() > DIFFERENCE_SECONDS_MAX) {
        let way = if other.ahead_seconds > 0 { "ahead of" } else { "behind" };
        findings.push(Finding::error(
            format!("the clock is {} s {way} that of {}", other.ahead_seconds.abs(), other.name),
            "one of the two machines does not keep its clock right; certificates and logs do not fit together",
            FIX,
        ));
    }
    let check = match &facts.synchronised {
        _ if facts.container => Check::of(NAME, findings)
            .but_not("whether it is kept right: this is a container, its clock is the host's; ask there"),
        Ok(true) => Check::of(NAME, findings),
        Ok(false) => {
            findings.push(Finding::warning(
                "the clock is not synchronised",
                "no NTP client keeps it right, or it has not reached its servers yet",
                FIX,
            ));
            Check::of(NAME, findings)
        }
        Err(why) => Check::of(NAME, findings).but_not(format!("whether it is synchronised: {why}")),
    };
    if facts.others.is_empty() {
        return check.but_not("against other clocks: no other machine's etcd tells its time");
    }
    check
}

#[cfg(test)]
mod tests {
    use super::{Facts, Other, judge};
    use crate::model::doctor::Level;

    fn facts(ahead_seconds: i64) -> Facts {
        let other = Other { name: "http://10.0.0.2:2379".to_owned(), ahead_seconds };
        Facts { synchronised: Ok(true), container: false, others: vec![other] }
    }

    #[test]
    fn a_clock_that_is_right_is_fine() {
        assert!(judge(&facts(-2)).is_fine());
    }

    #[test]
    fn a_clock_that_differs_is_an_error_that_names_the_other_machine() {
        let found = judge(&facts(90));
        assert_eq!(found.findings[0].level, Level::Error);
        assert_eq!(found.findings[0].symptom, "the clock is 90 s ahead of that of http://10.0.0.2:2379");
        assert!(judge(&facts(-6)).findings[0].symptom.contains("6 s behind"));
    }

    #[test]
    fn a_clock_that_nobody_sets_is_a_warning_but_in_a_container() {
        let found = judge(&Facts { synchronised: Ok(false), ..facts(0) });
        assert_eq!(
            (found.findings[0].level, &*found.findings[0].fix),
            (Level::Warning, "timedatectl set-ntp true")
        );
        let found = judge(&Facts { synchronised: Ok(false), container: true, ..facts(0) });
        assert!(found.findings.is_empty() && found.not_checked[0].contains("container"), "{found:?}");
    }

    #[test]
    fn what_nobody_tells_is_not_checked() {
        let found =
            judge(&Facts { synchronised: Err("no timedatectl".to_owned()), others: Vec::new(), ..facts(0) });
        assert_eq!((found.findings.len(), found.not_checked.len()), (0, 2));
    }
}
