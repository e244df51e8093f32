//! TTL checks: a status that a client sets, and that expires when the client does not come back.
//!
//! Time comes in as the time since a start that the caller chooses and keeps.

use std::time::Duration;

use super::output::cap_head;
use crate::model::catalog::Status;

/// The timer of one TTL check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ttl {
    length: Duration,
    expires: Duration,
    reported: Option<Status>,
    last_output: String,
}

impl Ttl {
    /// Starts the time of a check that is in `initial` state.
    pub fn start(ttl: Duration, initial: Status, now: Duration) -> Self {
        Self {
            length: ttl,
            expires: now.saturating_add(ttl),
            reported: Some(initial),
            last_output: String::new(),
        }
    }

    /// Takes a report: the time starts again. Gives the output to show, capped to `output_max` bytes.
    pub fn report(&mut self, status: Status, output: &str, output_max: usize, now: Duration) -> String {
        self.expires = now.saturating_add(self.length);
        self.reported = Some(status);
        self.last_output = cap_head(output, output_max);
        self.last_output.clone()
    }

    /// The status at `now`: what was reported, and critical once the time is over.
    pub fn status(&self, now: Duration) -> Status {
        match self.reported {
            Some(status) if now < self.expires => status,
            _ => Status::Critical,
        }
    }

    /// When it expires; `None` when it has been expired already by [`Ttl::expire`].
    pub fn expires(&self) -> Option<Duration> {
        self.reported.map(|_| self.expires)
    }

    /// If the time is over: the output of the expired check. Given once; a new report starts the time again.
    pub fn expire(&mut self, now: Duration) -> Option<String> {
        if self.reported.is_none() || now < self.expires {
            return None;
        }
        self.reported = None;
        Some(if self.last_output.is_empty() {
            "TTL expired".to_owned()
        } else {
            format!("TTL expired (last output before timeout follows): {}", self.last_output)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Ttl;
    use crate::model::catalog::Status;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_check_that_is_never_reported_expires_once() {
        let mut ttl = Ttl::start(at(10), Status::Passing, at(5));
        assert_eq!(ttl.status(at(14)), Status::Passing);
        assert_eq!(ttl.status(at(15)), Status::Critical);
        assert_eq!(ttl.expire(at(14)), None);
        assert_eq!(ttl.expire(at(15)).as_deref(), Some("TTL expired"));
        assert_eq!(ttl.expire(at(16)), None);
        assert_eq!(ttl.expires(), None);
    }

    #[test]
    fn a_report_restarts_the_time_and_its_output_is_in_the_expiry() {
        let mut ttl = Ttl::start(at(10), Status::Critical, at(0));
        assert_eq!(ttl.report(Status::Warning, "slow", 4096, at(9)), "slow");
        assert_eq!(ttl.status(at(18)), Status::Warning);
        assert_eq!(
            ttl.expire(at(19)).as_deref(),
            Some("TTL expired (last output before timeout follows): slow")
        );
        assert_eq!(ttl.report(Status::Passing, "abcdef", 4, at(30)), "abcd ... (captured 4 of 6 bytes)");
        assert_eq!(ttl.status(at(31)), Status::Passing);
    }
}
