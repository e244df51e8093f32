//! What etcd says about its version, and which API that means: the same for every machine that asks.

use std::fmt;

use serde::Deserialize;

/// Which of etcd's two APIs; each sees keys of its own, even in one etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// HTTP below `/v2/keys`: etcd 2, and later ones that were told to (`--enable-v2`).
    V2,
    /// gRPC: etcd 3.
    V3,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "v2",
            Self::V3 => "v3",
        })
    }
}

/// Why a version decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// The members of a new etcd have not yet told each other; it passes.
    #[error("etcd's members have not agreed on its version yet")]
    Undecided,
    /// Before 2.0 the API could not compare and swap safely on every member.
    #[error("this is etcd {0}; 2.0 is the oldest that can be used")]
    TooOld(String),
    /// Something else answers there.
    #[error("`{0}` is no version of etcd")]
    NotEtcd(String),
}

/// The version of an etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
    text: String,
}

#[derive(Deserialize)]
struct Answer {
    etcdcluster: Option<String>,
    etcdserver: Option<String>,
    #[serde(rename = "releaseVersion")]
    release: Option<String>,
}

/// Longest answer that an error repeats, in bytes: more is not etcd's.
const QUOTED_BYTES_MAX: usize = 80;

impl Version {
    /// Reads the answer to `/version`: JSON, or `etcd 2.0.12` as etcd 2.0 wrote it.
    ///
    /// The cluster's version counts, not the member's: all members tell the same one, and it is the one whose
    /// abilities all of them have, even while they are being upgraded one by one.
    ///
    /// # Errors
    /// See [`VersionError`].
    pub fn read(body: &[u8]) -> Result<Self, VersionError> {
        let body = String::from_utf8_lossy(body);
        let text = match serde_json::from_str::<Answer>(&body) {
            Ok(answer) => answer.etcdcluster.or(answer.etcdserver).or(answer.release),
            Err(_) => body.trim().strip_prefix("etcd ").map(str::to_owned),
        };
        let not_etcd = || VersionError::NotEtcd(body.chars().take(QUOTED_BYTES_MAX).collect());
        let text = text.ok_or_else(not_etcd)?;
        if text == "not_decided" {
            return Err(VersionError::Undecided);
        }
        let mut numbers = text.trim_start_matches('v').split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Err(not_etcd());
        };
        if major < 2 {
            return Err(VersionError::TooOld(text));
        }
        Ok(Self { major, minor, text })
    }

    /// The API of all machines that are told no other: v3 wherever it is served.
    pub fn space(&self) -> Space {
        if self.major >= 3 { Space::V3 } else { Space::V2 }
    }

    /// Whether `refresh=true` is understood; older ones would take it for an empty value.
    pub fn can_refresh(&self) -> bool {
        (self.major, self.minor) >= (2, 3)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::{Space, Version, VersionError};

    #[track_caller]
    fn check(answer: &str, space: Space, can_refresh: bool) {
        let version = Version::read(answer.as_bytes()).unwrap();
        assert_eq!((version.space(), version.can_refresh()), (space, can_refresh), "{answer}");
    }

    #[test]
    fn the_clusters_version_decides_the_api() {
        check(r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#, Space::V3, true);
        check(r#"{"etcdserver":"3.6.1","etcdcluster":"3.6.0","storage":"3.6.0"}"#, Space::V3, true);
        check(r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#, Space::V2, true);
        check(r#"{"etcdserver":"2.2.5","etcdcluster":"2.2.0"}"#, Space::V2, false);
        check("etcd 2.0.12", Space::V2, false);
        check(r#"{"releaseVersion":"2.0.0","internalVersion":"2"}"#, Space::V2, false);
    }

    #[test]
    fn while_members_are_upgraded_one_by_one_all_of_them_still_mean_v2() {
        check(r#"{"etcdserver":"3.0.17","etcdcluster":"2.3.0"}"#, Space::V2, true);
        check(r#"{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}"#, Space::V2, true);
        check(r#"{"etcdserver":"2.3.8","etcdcluster":"2.2.0"}"#, Space::V2, false);
    }

    #[test]
    fn what_decides_nothing_says_why() {
        let undecided = Version::read(br#"{"etcdserver":"2.3.8","etcdcluster":"not_decided"}"#);
        assert_eq!(undecided, Err(VersionError::Undecided));
        assert_eq!(Version::read(b"etcd 0.4.9"), Err(VersionError::TooOld("0.4.9".to_owned())));
        for other in ["", "<html>", "{}", r#"{"etcdserver":"x"}"#, "etcd", r#"{"etcdserver":"3"}"#, "[]"] {
            assert!(matches!(Version::read(other.as_bytes()), Err(VersionError::NotEtcd(_))), "{other}");
        }
    }
}
