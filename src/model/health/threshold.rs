//! Thresholds: how many results in a row it takes until a check changes its status.
//!
//! The rules are Consul's (`SuccessBeforePassing`, `FailuresBeforeWarning`, `FailuresBeforeCritical`).

use super::CheckDefinition;
use crate::model::catalog::Status;

/// Counts the results of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    success_before_passing: u32,
    failures_before_warning: u32,
    failures_before_critical: u32,
    successes: u32,
    failures: u32,
}

impl Thresholds {
    /// The counters begin at their thresholds, so that the first result counts at once.
    pub fn new(definition: &CheckDefinition) -> Self {
        let critical = definition.failures_before_critical;
        let warning = match definition.failures_before_warning {
            0 => critical,
            warning => warning,
        };
        Self {
            success_before_passing: definition.success_before_passing,
            failures_before_warning: warning,
            failures_before_critical: critical,
            successes: definition.success_before_passing,
            failures: critical,
        }
    }

    /// Takes one result and gives the status that the check has now, or `None` when it stays as it is.
    ///
    /// Passing and warning both count as success.
    pub fn judge(&mut self, result: Status) -> Option<Status> {
        if result == Status::Critical {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
            if self.failures >= self.failures_before_critical {
                return Some(Status::Critical);
            }
            return (self.failures >= self.failures_before_warning).then_some(Status::Warning);
        }
        self.successes = self.successes.saturating_add(1);
        self.failures = 0;
        (self.successes >= self.success_before_passing).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Thresholds;
    use crate::model::catalog::Status;
    use crate::model::health::{CheckDefinition, CheckKind};

    /// `p`, `w`, `c` are results and statuses; `-` is "no change".
    #[track_caller]
    fn check(passing: u32, warning: u32, critical: u32, results: &str, want: &str) {
        let mut thresholds = Thresholds::new(&CheckDefinition {
            kind: CheckKind::Tcp { address: "127.0.0.1:1".to_owned() },
            interval: Duration::from_secs(1),
            timeout: None,
            success_before_passing: passing,
            failures_before_warning: warning,
            failures_before_critical: critical,
            deregister_critical_service_after: None,
            output_max_size: None,
        });
        let got: String = results
            .chars()
            .map(|result| {
                let result = match result {
                    'p' => Status::Passing,
                    'w' => Status::Warning,
                    _ => Status::Critical,
                };
                match thresholds.judge(result) {
                    Some(Status::Passing) => 'p',
                    Some(Status::Warning) => 'w',
                    Some(Status::Critical) => 'c',
                    None => '-',
                }
            })
            .collect();
        assert_eq!(got, want, "{passing}/{warning}/{critical} {results}");
    }

    #[test]
    fn without_thresholds_every_result_counts() {
        check(0, 0, 0, "pcwcp", "pcwcp");
        check(1, 1, 1, "pcp", "pcp");
    }

    #[test]
    fn the_first_result_counts_at_once_whatever_the_thresholds() {
        check(3, 0, 3, "p", "p");
        check(3, 0, 3, "c", "c");
    }

    #[test]
    fn later_results_count_when_the_threshold_is_reached() {
        check(3, 0, 3, "pccpccc", "p-----c");
        check(3, 0, 3, "cppp", "c--p");
        check(2, 0, 0, "cwpp", "c-pp");
    }

    #[test]
    fn failures_warn_before_they_are_critical() {
        check(0, 1, 3, "pccc", "pwwc");
        check(0, 2, 4, "pcccc", "p-wwc");
    }
}
