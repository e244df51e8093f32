//! Looks at etcd without changing anything: each endpoint by itself, then what is below the prefix in both key spaces.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use futures_util::future::join_all;

use super::disk;
use super::etcd::{Etcd, Tls, choose};
use super::etcd_v2::Http;
use super::version::{Space, Version};
use crate::hint::causes;
use crate::host::files::read_if_there;
use crate::host::versioned;
use crate::model::election::{Incarnation, LocalState, View};

/// What one endpoint says.
#[derive(Debug, Clone)]
pub struct Answered {
    /// Its URL.
    pub url: String,
    /// Its version, or why there is none.
    pub version: Result<String, String>,
    /// By how many seconds this machine's clock is ahead of its clock, if it tells the time.
    pub ahead_seconds: Option<i64>,
}

/// What is below the prefix.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The key space that machines use.
    pub space: Space,
    /// What it has.
    pub view: View,
    /// What the other one has, where it is served.
    pub other: Option<View>,
    /// Where etcd's members say that they answer.
    pub members: Vec<String>,
}

impl Etcd {
    /// Looks at both key spaces.
    ///
    /// # Errors
    /// When etcd does not answer, or the certificate's key holds something else.
    pub async fn examine(&self) -> Result<Examined> {
        let chosen = choose(self.api, self.http.version().await?.as_ref())?;
        let members = match chosen.space {
            Space::V2 => self.http.member_urls().await?,
            Space::V3 => self.v3.member_urls().await?,
        };
        Ok(Examined {
            space: chosen.space,
            view: self.store(chosen.space).snapshot().await?,
            other: self.other_view(chosen).await?,
            members,
        })
    }
}

/// Asks each endpoint by itself for its version and the time; all at once.
pub async fn ask_each(urls: &[String], tls: Option<&Tls>) -> Vec<Answered> {
    join_all(urls.iter().map(|url| ask(url, tls))).await
}

async fn ask(url: &str, tls: Option<&Tls>) -> Answered {
    let failed = |error: &anyhow::Error| Answered {
        url: url.to_owned(),
        version: Err(causes(error)),
        ahead_seconds: None,
    };
    let http = match Http::new(&[url.to_owned()], tls) {
        Ok(http) => http,
        Err(error) => return failed(&error),
    };
    let before = now_millis();
    match http.version_and_date().await {
        Err(error) => failed(&error),
        Ok((version, date)) => Answered {
            url: url.to_owned(),
            version: Ok(version.as_ref().map_or_else(|| "3".to_owned(), Version::to_string)),
            ahead_seconds: date.and_then(|date| ahead_seconds(i64::midpoint(before, now_millis()), &date)),
        },
    }
}

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `Date: Sat, 21 Nov 2026 22:24:04 GMT` is cut to whole seconds: on average it is half a second late.
fn ahead_seconds(own_millis: i64, date: &str) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    Some((own_millis - (theirs * 1000 + 500)) / 1000)
}

/// What a data directory remembers: its incarnation, and the cluster that it belongs to.
///
/// # Errors
/// When a file of it cannot be read, or is damaged.
pub fn remembered(data_dir: &Path) -> Result<(Option<Incarnation>, LocalState)> {
    let incarnation = read_if_there(&data_dir.join(disk::INCARNATION_FILE))?;
    let incarnation = incarnation.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok());
    let path = data_dir.join(disk::BIRTH_FILE);
    let local = match read_if_there(&path)? {
        Some(bytes) => versioned::decode(&bytes).map_err(|error| error.about(&path, "restore the file"))?,
        None => LocalState::default(),
    };
    Ok((incarnation, local))
}

#[cfg(test)]
mod tests {
    use super::{ahead_seconds, ask_each};

    #[test]
    fn a_date_of_http_tells_how_far_the_clocks_are_from_each_other() {
        let date = "Sat, 21 Nov 2026 22:24:04 GMT";
        let second = 1_795_299_844;
        assert_eq!(ahead_seconds(second * 1000 + 999, date), Some(0));
        assert_eq!(ahead_seconds((second + 90) * 1000 + 500, date), Some(90));
        assert_eq!(ahead_seconds((second - 90) * 1000 + 500, date), Some(-90));
        assert_eq!(ahead_seconds(0, "yesterday"), None);
    }

    #[tokio::test]
    async fn an_endpoint_where_nobody_is_says_why() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", taken.local_addr().unwrap());
        drop(taken);
        let found = ask_each(std::slice::from_ref(&url), None).await;
        assert!(found[0].version.as_ref().unwrap_err().contains(&url), "{found:?}");
    }
}
