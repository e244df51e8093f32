//! Claims in etcd, by whichever API is right, and never by both: they are separate key spaces in one etcd.
//!
//! Left to itself a machine uses v3 if the etcd *cluster's* version is 3.0 or later, else v2; all members tell the
//! same version, so all machines choose the same. Machines that were told otherwise are noticed: before a machine
//! connects, and before it writes a certificate that has not formed, it reads the other space. Each side writes its
//! certificate before it binds and reads the other side's certificate before it binds, so that at most one of two
//! births can go on (I1).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::debug;

use super::claims::{Changes, ClaimStore, NewClaim};
use super::etcd_v2::{EtcdV2, Http};
use super::etcd_v3::EtcdV3;
use super::keys::Keys;
use super::version::{Space, Version};
use crate::hint::fault;
use crate::model::election::{Certificate, Claim, Revision, View};

/// PEM texts for etcd's TLS.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authority that signed etcd's certificate.
    pub authority: Vec<u8>,
    /// Our certificate and its key, if etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// What the user said about the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// What etcd's version says.
    Auto,
    /// This one.
    Only(Space),
}

/// What is known of the etcd that was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) space: Space,
    /// Whether the other space can hold anything.
    other_is_served: bool,
}

/// One machine's connection to etcd.
pub struct Etcd {
    pub(super) api: Api,
    endpoints: String,
    keys: Keys,
    pub(super) http: Arc<Http>,
    v2: EtcdV2,
    pub(super) v3: EtcdV3,
    chosen: Mutex<Option<Chosen>>,
}

impl Etcd {
    /// Connects when first used.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn new(
        endpoints: Vec<String>,
        prefix: &str,
        tls: Option<Tls>,
        ttl: Duration,
        api: Api,
    ) -> Result<Self> {
        let http = Arc::new(Http::new(&endpoints, tls.as_ref())?);
        Ok(Self {
            api,
            endpoints: endpoints.join(", "),
            keys: Keys::new(prefix),
            v2: EtcdV2::with_http(Arc::clone(&http), &endpoints, prefix, ttl),
            v3: EtcdV3::new(endpoints, prefix, tls, ttl),
            http,
            chosen: Mutex::new(None),
        })
    }

    pub(super) fn store(&self, space: Space) -> &dyn ClaimStore {
        match space {
            Space::V2 => &self.v2,
            Space::V3 => &self.v3,
        }
    }

    /// The store that was chosen, or is now.
    async fn chosen(&self) -> Result<&dyn ClaimStore> {
        let chosen = *self.chosen.lock();
        match chosen {
            Some(chosen) => Ok(self.store(chosen.space)),
            None => self.choose().await,
        }
    }

    /// Asks anew: an etcd may have been upgraded since.
    async fn choose(&self) -> Result<&dyn ClaimStore> {
        let version = self.http.version().await?;
        let chosen = choose(self.api, version.as_ref())?;
        *self.chosen.lock() = Some(chosen);
        self.refuse_two_spaces(chosen).await?;
        Ok(self.store(chosen.space))
    }

    pub(super) async fn other_view(&self, chosen: Chosen) -> Result<Option<View>> {
        match chosen.space {
            _ if !chosen.other_is_served => Ok(None),
            Space::V3 => self.v2.snapshot_if_served().await,
            Space::V2 => self.v3.snapshot().await.map(Some),
        }
    }

    async fn refuse_two_spaces(&self, chosen: Chosen) -> Result<()> {
        let other =
            self.other_view(chosen).await.context("cannot see whether others use etcd's other API")?;
        let Some(other) = other.filter(|view| view.certificate.is_some() || !view.claims.is_empty()) else {
            return Ok(());
        };
        let own = self.store(chosen.space).snapshot().await?;
        if own.certificate.is_some_and(|(certificate, _)| certificate.formed) {
            debug!("the other key space is not empty, but the cluster of this one has formed");
            return Ok(());
        }
        Err(self.conflict(chosen.space, &other))
    }

    fn conflict(&self, own: Space, other: &View) -> anyhow::Error {
        let (foreign, key) = (if own == Space::V3 { Space::V2 } else { Space::V3 }, self.keys.cluster());
        if let Some((certificate, _)) = &other.certificate {
            let cluster = &certificate.cluster_id;
            return fault(
                format!(
                    "this machine uses etcd's {own} API, but the birth certificate of cluster {cluster} is {key} of \
                     its {foreign} API"
                ),
                format!(
                    "start this machine with --etcd-api {foreign}; if that cluster is gone, or all its machines use \
                     {own} now, remove the key: `{}`",
                    removal(foreign, &key)
                ),
            );
        }
        let machines: Vec<&str> =
            other.claims.iter().map(|Claim { machine_id, .. }| machine_id.as_str()).collect();
        fault(
            format!(
                "this machine uses etcd's {own} API, but {} claim by its {foreign} API",
                machines.join(", ")
            ),
            "give all machines the same --etcd-api; a claim that nobody renews is gone after a minute",
        )
    }

    /// Before a certificate is written that may lead to a birth.
    async fn refuse_two_births(&self, certificate: &Certificate) -> Result<()> {
        let chosen = *self.chosen.lock();
        match chosen {
            Some(chosen) if !certificate.formed => self.refuse_two_spaces(chosen).await,
            _ => Ok(()),
        }
    }
}

/// The command that removes a key of that API.
fn removal(space: Space, key: &str) -> String {
    match space {
        Space::V2 => format!("ETCDCTL_API=2 etcdctl rm {key}"),
        Space::V3 => format!("ETCDCTL_API=3 etcdctl del {key}"),
    }
}

pub(super) fn choose(api: Api, version: Option<&Version>) -> Result<Chosen> {
    let served = version.map(Version::space);
    let space = match (api, served) {
        (Api::Auto, served) => served.unwrap_or(Space::V3),
        (Api::Only(Space::V3), Some(Space::V2)) => {
            let version = version.map(ToString::to_string).unwrap_or_default();
            return Err(fault(
                format!("this is etcd {version}, which has no v3 API"),
                "use --etcd-api v2 or auto, on all machines",
            ));
        }
        (Api::Only(Space::V2), None) => {
            return Err(fault("it does not answer /version by HTTP", "use --etcd-api v3 or auto"));
        }
        (Api::Only(space), _) => space,
    };
    // A v3 etcd may serve both; what serves no HTTP has no v2, and etcd 2 has no v3.
    Ok(Chosen { space, other_is_served: served == Some(Space::V3) })
}

#[async_trait]
impl ClaimStore for Etcd {
    fn describe(&self) -> String {
        match *self.chosen.lock() {
            Some(Chosen { space: Space::V2, .. }) => self.v2.describe(),
            _ => format!("etcd at {}", self.endpoints),
        }
    }

    fn ttl(&self) -> Duration {
        self.v3.ttl()
    }

    async fn snapshot(&self) -> Result<View> {
        self.chosen().await?.snapshot().await
    }

    async fn watch(&self) -> Result<Box<dyn Changes>> {
        self.choose().await?.watch().await
    }

    async fn write_claim(&self, claim: NewClaim<'_>) -> Result<bool> {
        self.chosen().await?.write_claim(claim).await
    }

    async fn renew(&self) -> Result<bool> {
        self.chosen().await?.renew().await
    }

    async fn write_certificate(&self, certificate: &Certificate, replaces: Option<Revision>) -> Result<bool> {
        let store = self.chosen().await?;
        self.refuse_two_births(certificate).await?;
        store.write_certificate(certificate, replaces).await
    }

    async fn release(&self) -> Result<()> {
        let chosen = *self.chosen.lock();
        match chosen {
            Some(chosen) => self.store(chosen.space).release().await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Api, Chosen, Space, Version, choose};

    fn version(text: &str) -> Version {
        Version::read(format!(r#"{{"etcdserver":"{text}","etcdcluster":"{text}"}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn the_api_follows_the_version_unless_it_was_given() {
        let (new, old) = (version("3.4.0"), version("2.3.0"));
        let only = |space, other_is_served| Some(Chosen { space, other_is_served });
        for (api, version, wanted) in [
            (Api::Auto, Some(&new), only(Space::V3, true)),
            (Api::Auto, Some(&old), only(Space::V2, false)),
            (Api::Auto, None, only(Space::V3, false)),
            (Api::Only(Space::V2), Some(&new), only(Space::V2, true)),
            (Api::Only(Space::V2), Some(&old), only(Space::V2, false)),
            (Api::Only(Space::V2), None, None),
            (Api::Only(Space::V3), Some(&new), only(Space::V3, true)),
            (Api::Only(Space::V3), Some(&old), None),
            (Api::Only(Space::V3), None, only(Space::V3, false)),
        ] {
            assert_eq!(choose(api, version).ok(), wanted, "{api:?} {version:?}");
        }
    }

    #[test]
    fn a_version_without_v3_is_named_with_what_to_do() {
        let error = choose(Api::Only(Space::V3), Some(&version("2.3.8"))).unwrap_err();
        let report = crate::hint::report(&error);
        assert!(report.contains("etcd 2.3.8") && report.contains("--etcd-api v2"), "{report}");
    }
}
