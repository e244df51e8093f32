//! How long a suspect has to deny its death (Lifeguard's suspicion, with evidence).

use std::collections::BTreeSet;
use std::time::Duration;

use super::config::{Config, Patience};
use super::message::Evidence;

/// One running suspicion.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    started: Duration,
    accusers: BTreeSet<String>,
    evidence: Evidence,
}

impl Suspicion {
    pub(super) fn new(now: Duration, accuser: String, evidence: Evidence) -> Self {
        Self { started: now, accusers: BTreeSet::from([accuser]), evidence }
    }

    /// Adds an accuser. True when that is news worth telling.
    pub(super) fn accuse(&mut self, accuser: &str, evidence: Evidence, config: &Config) -> bool {
        let stronger = evidence > self.evidence;
        self.evidence = self.evidence.max(evidence);
        let wanted = self.confirmations() < config.confirmations;
        stronger | (wanted && self.accusers.insert(accuser.to_owned()))
    }

    /// When the suspect counts as dead, if `others` could have confirmed it.
    pub(super) fn deadline(&self, others: usize, config: &Config) -> Duration {
        let patience: Patience = match self.evidence {
            Evidence::Refused => config.patience_refused,
            Evidence::Silent => config.patience_silent,
            Evidence::Stalled => config.patience_stalled,
        };
        let enough = u32::try_from(others).unwrap_or(u32::MAX).min(config.confirmations);
        if enough == 0 {
            return self.started + patience.alone;
        }
        // Each confirmation says less than the one before, hence the logarithm (Lifeguard §3.2).
        let share = f64::from(self.confirmations() + 1).ln() / f64::from(enough + 1).ln();
        let saved = patience.most.saturating_sub(patience.least).mul_f64(share.clamp(0.0, 1.0));
        self.started + patience.most.saturating_sub(saved)
    }

    /// Gives `time` more, because we were not there to hear a denial.
    pub(super) fn prolong(&mut self, time: Duration) {
        self.started += time;
    }

    /// What has been seen of the suspect.
    pub(super) fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// One of the accusers, for telling the suspect.
    pub(super) fn accuser(&self) -> &str {
        self.accusers.first().map_or("", String::as_str)
    }

    fn confirmations(&self) -> u32 {
        u32::try_from(self.accusers.len()).unwrap_or(u32::MAX).saturating_sub(1)
    }
}
