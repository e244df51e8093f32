//! Claims in etcd, by its v3 API: both halves of a claim in one transaction, under one lease.
//! The only file that knows etcd's client.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use async_trait::async_trait;
use etcd_client::{
    Certificate as TlsCertificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity,
    PutOptions, TlsOptions, Txn, TxnOp, WatchOptions, WatchStream,
};
use parking_lot::Mutex;

use super::claims::{Changes, ClaimStore, NewClaim};
use super::etcd::Tls;
use super::keys::{Keys, Pair, view_of};
use crate::model::election::{Certificate, Revision, View};

/// How long one call may take: an etcd that elects a leader answers within two election timeouts (2 s).
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long a TCP connection may take to come up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How often a silent connection is asked whether it lives; etcd refuses more than one in 5 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to that may take.
const KEEP_ALIVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long looking for the reason of a failure may take, per endpoint.
const DIAGNOSIS_DEADLINE: Duration = Duration::from_millis(500);

/// One machine's connection to etcd; made anew after every failure.
pub struct EtcdV3 {
    endpoints: Vec<String>,
    options: ConnectOptions,
    keys: Keys,
    ttl: Duration,
    client: Mutex<Option<Client>>,
    lease: Mutex<Option<i64>>,
}

impl EtcdV3 {
    /// `ttl` is rounded up to seconds, etcd's unit. Connects when first used.
    pub fn new(endpoints: Vec<String>, prefix: &str, tls: Option<Tls>, ttl: Duration) -> Self {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_DEADLINE);
        if let Some(tls) = tls {
            let mut wanted = TlsOptions::new().ca_certificate(TlsCertificate::from_pem(tls.authority));
            if let Some((certificate, key)) = tls.identity {
                wanted = wanted.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(wanted);
        }
        Self {
            endpoints,
            options,
            keys: Keys::new(prefix),
            ttl,
            client: Mutex::new(None),
            lease: Mutex::new(None),
        }
    }

    async fn client(&self) -> Result<Client> {
        if let Some(client) = &*self.client.lock() {
            return Ok(client.clone());
        }
        let client = Client::connect(&self.endpoints, Some(self.options.clone())).await;
        let client = client.with_context(|| format!("cannot use {}", self.describe()))?;
        *self.client.lock() = Some(client.clone());
        Ok(client)
    }

    /// Where etcd's members say that they answer.
    pub(super) async fn member_urls(&self) -> Result<Vec<String>> {
        let mut client = self.client().await?;
        let found = self.call("list etcd's members", client.member_list()).await?;
        Ok(found.members().iter().flat_map(|member| member.client_urls().to_vec()).collect())
    }

    /// One call with a deadline; after a failure the next call connects anew.
    async fn call<T>(&self, what: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T> {
        let failure = match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.reason_unless(&error).await,
            Err(_) => self.reason().await.unwrap_or_else(|| anyhow!("no answer within {CALL_DEADLINE:?}")),
        };
        *self.client.lock() = None;
        Err(failure.context(format!("cannot {what}")))
    }

    /// What a failed call says, or better why nobody could be called.
    async fn reason_unless(&self, error: &Error) -> anyhow::Error {
        let answered = !matches!(error, Error::GRpcStatus(_) | Error::TransportError(_));
        let reason = if answered { None } else { self.reason().await };
        reason.unwrap_or_else(|| {
            let encrypted = self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
            let advice = if answered || !encrypted {
                ""
            } else {
                " (etcd and this machine may not accept each other's certificates: check --etcd-ca, --etcd-cert)"
            };
            anyhow!("{}{advice}", plain(error))
        })
    }

    /// Why nobody answers: what plain connections say, if none comes up.
    async fn reason(&self) -> Option<anyhow::Error> {
        let mut reasons = Vec::new();
        for endpoint in &self.endpoints {
            let host = endpoint.rsplit("://").next().unwrap_or(endpoint).trim_end_matches('/');
            let connecting = tokio::net::TcpStream::connect(host);
            match tokio::time::timeout(DIAGNOSIS_DEADLINE, connecting).await {
                Ok(Ok(_)) => return None,
                Ok(Err(error)) => reasons.push(format!("{endpoint}: {error}")),
                Err(_) => reasons.push(format!("{endpoint}: no connection within {DIAGNOSIS_DEADLINE:?}")),
            }
        }
        Some(anyhow!(reasons.join(", ")))
    }

    async fn lease(&self) -> Result<i64> {
        if self.renew().await?
            && let Some(lease) = *self.lease.lock()
        {
            return Ok(lease);
        }
        let mut client = self.client().await?;
        let seconds =
            i64::try_from(self.ttl.as_millis().div_ceil(1000).max(1)).context("the lease is too long")?;
        let granted = self.call("get a lease", client.lease_grant(seconds, None)).await?;
        *self.lease.lock() = Some(granted.id());
        Ok(granted.id())
    }
}

/// etcd's error without its type names.
fn plain(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        error => error.to_string(),
    }
}

#[async_trait]
impl ClaimStore for EtcdV3 {
    fn describe(&self) -> String {
        format!("etcd at {}", self.endpoints.join(", "))
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn snapshot(&self) -> Result<View> {
        let mut client = self.client().await?;
        let all = GetOptions::new().with_prefix();
        let found =
            self.call("read the claims", client.get(format!("{}/", self.keys.prefix()), Some(all))).await?;
        let pairs: Vec<Pair> = found
            .kvs()
            .iter()
            .map(|pair| Pair {
                key: String::from_utf8_lossy(pair.key()).into_owned(),
                value: pair.value().to_vec(),
                created: pair.create_revision(),
                modified: pair.mod_revision(),
            })
            .collect();
        view_of(self.keys.prefix(), &pairs, |machine, _| machine.modified)
    }

    async fn watch(&self) -> Result<Box<dyn Changes>> {
        let mut client = self.client().await?;
        let all = WatchOptions::new().with_prefix();
        let watched = client.watch(format!("{}/", self.keys.prefix()), Some(all));
        let mut stream = self.call("watch the claims", watched).await?;
        // etcd acknowledges first; from then on nothing is missed.
        match self.call("watch the claims", stream.message()).await? {
            Some(first) if first.created() && !first.canceled() => Ok(Box::new(EtcdChanges(stream))),
            _ => bail!("etcd refused to watch the claims"),
        }
    }

    async fn write_claim(&self, claim: NewClaim<'_>) -> Result<bool> {
        let NewClaim { machine_id, address, details, replaces } = claim;
        let lease = self.lease().await?;
        let key = self.keys.machine(machine_id);
        let details = serde_json::to_vec(details).context("cannot encode the claim")?;
        let leased = || Some(PutOptions::new().with_lease(lease));
        let txn = Txn::new().when([is_revision(&key, replaces)]).and_then([
            TxnOp::put(key, address, leased()),
            TxnOp::put(self.keys.incarnation(machine_id), details, leased()),
        ]);
        let mut client = self.client().await?;
        let done = self.call("write the claim", client.txn(txn)).await?;
        Ok(done.succeeded())
    }

    async fn renew(&self) -> Result<bool> {
        let Some(lease) = *self.lease.lock() else { return Ok(false) };
        let mut client = self.client().await?;
        // This renews once, and fails if there is no such lease.
        let renewed = async { not_found_is_none(client.lease_keep_alive(lease).await.map(Some)) };
        let renewed = self.call("renew the lease", renewed).await?.is_some();
        if !renewed {
            *self.lease.lock() = None;
        }
        Ok(renewed)
    }

    async fn write_certificate(&self, certificate: &Certificate, replaces: Option<Revision>) -> Result<bool> {
        let key = self.keys.cluster();
        let value = serde_json::to_vec(certificate).context("cannot encode the birth certificate")?;
        let txn = Txn::new().when([is_revision(&key, replaces)]).and_then([TxnOp::put(key, value, None)]);
        let mut client = self.client().await?;
        let done = self.call("write the birth certificate", client.txn(txn)).await?;
        Ok(done.succeeded())
    }

    async fn release(&self) -> Result<()> {
        let Some(lease) = self.lease.lock().take() else { return Ok(()) };
        let mut client = self.client().await?;
        let revoked = async { not_found_is_none(client.lease_revoke(lease).await.map(Some)) };
        self.call("give the claim back", revoked).await.map(|_| ())
    }
}

/// That the key still has this revision; `None`: that it is not there.
fn is_revision(key: &str, revision: Option<Revision>) -> Compare {
    match revision {
        None => Compare::create_revision(key, CompareOp::Equal, 0),
        Some(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
    }
}

fn not_found_is_none<T>(answer: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(Error::LeaseKeepAliveError(_)) => Ok(None),
        Err(Error::GRpcStatus(status)) if status.message().contains("requested lease not found") => Ok(None),
        answer => answer,
    }
}

struct EtcdChanges(WatchStream);

#[async_trait]
impl Changes for EtcdChanges {
    async fn next(&mut self) -> Result<()> {
        match self.0.message().await {
            Ok(Some(news)) if news.canceled() => bail!("etcd ended the watch: {}", news.cancel_reason()),
            Ok(Some(_)) => Ok(()),
            Ok(None) => bail!("etcd closed the watch"),
            Err(error) => bail!("the watch failed: {}", plain(&error)),
        }
    }
}
