//! Claims in etcd, by its v2 HTTP API: what etcd 2 of old CoreOS speaks.
//!
//! There are no transactions and no leases. A claim is two keys, each with a time to live; the `machines` key decides
//! whose claim it is, and its `createdIndex` gives the order. The `incarnations` key is written first, because alone
//! it means nothing, and names the address, so that halves of different writers are never read as one claim.
//! The certificate is one key without time to live, changed only with `prevIndex`.

mod answer;
mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use reqwest::Method;

use super::claims::{Changes, ClaimStore, NewClaim};
use super::etcd::Tls;
use super::keys::{Keys, StoredDetails};
use crate::hint::WithHint as _;
use crate::model::election::{Certificate, Revision, View};
use answer::{COMPARE_FAILED, INDEX_CLEARED, KEY_EXISTS, KEY_NOT_FOUND, Read, Tree};
pub(super) use http::Http;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use answer::fuzz_event;
pub use answer::view_of_answer;

/// Pause before a watch that the server ended is begun again: etcd does so when it changes its leader.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// One machine's connection to etcd by its v2 API.
pub struct EtcdV2 {
    http: Arc<Http>,
    endpoints: String,
    keys: Keys,
    ttl: Duration,
    /// Whether this etcd renews a time to live without a value; learnt with every watch.
    can_refresh: AtomicBool,
    held: Mutex<Option<Held>>,
}

/// Our claim as we wrote it.
#[derive(Clone)]
struct Held {
    machine_key: String,
    address: String,
    details_key: String,
    details: String,
}

/// What must hold for a write.
enum If<'a> {
    Free,
    Index(Revision),
    Value(&'a str),
}

impl EtcdV2 {
    /// `ttl` is rounded up to seconds, etcd's unit. Connects when first used.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn new(endpoints: &[String], prefix: &str, tls: Option<&Tls>, ttl: Duration) -> Result<Self> {
        Ok(Self::with_http(Arc::new(Http::new(endpoints, tls)?), endpoints, prefix, ttl))
    }

    pub(super) fn with_http(http: Arc<Http>, endpoints: &[String], prefix: &str, ttl: Duration) -> Self {
        Self {
            http,
            endpoints: endpoints.join(", "),
            keys: Keys::new(prefix),
            ttl,
            can_refresh: AtomicBool::new(false),
            held: Mutex::new(None),
        }
    }

    /// What is there, or `None` where the v2 API is not served.
    pub(super) async fn snapshot_if_served(&self) -> Result<Option<View>> {
        self.tree().await?.map(|(tree, _)| tree.view(&self.keys)).transpose()
    }

    /// All below the prefix and etcd's index, read through its log; `None` where the API is not served.
    async fn tree(&self) -> Result<Option<(Tree, Revision)>> {
        let path = format!("{}?recursive=true&quorum=true", http::path_of(self.keys.prefix()));
        let what = "cannot read the claims";
        let reply = self.http.ask(Method::GET, &path, &[]).await.context(what)?;
        let tree = answer::tree_of(self.keys.prefix(), reply.status, &reply.body).context(what)?;
        let Some(tree) = tree else { return Ok(None) };
        let index = reply.index.context("etcd's answer does not say its index").context(what)?;
        Ok(Some((tree, index)))
    }

    async fn served_tree(&self) -> Result<(Tree, Revision)> {
        self.tree().await?.with_context(|| format!("etcd at {} does not serve the v2 API", self.endpoints)).hint(
            "etcd 3.4 and 3.5 serve it only when started with --enable-v2, later ones never: use --etcd-api v3",
        )
    }

    /// `false`: the condition does not hold.
    async fn put(&self, key: &str, value: &str, lives: bool, condition: If<'_>) -> Result<bool> {
        let ttl = self.ttl_seconds();
        let mut form = vec![("value", value)];
        if lives {
            form.push(("ttl", &ttl));
        }
        let index;
        match condition {
            If::Free => form.push(("prevExist", "false")),
            If::Index(revision) => {
                index = revision.to_string();
                form.push(("prevIndex", &index));
            }
            If::Value(value) => form.push(("prevValue", value)),
        }
        self.write(Method::PUT, key, &form).await
    }

    /// Gives the key its whole time to live again if it still has our value.
    async fn refresh(&self, key: &str, value: &str) -> Result<bool> {
        if !self.can_refresh.load(Ordering::Relaxed) {
            return self.put(key, value, true, If::Value(value)).await;
        }
        let ttl = self.ttl_seconds();
        let form = [("refresh", "true"), ("ttl", &*ttl), ("prevExist", "true"), ("prevValue", value)];
        self.write(Method::PUT, key, &form).await
    }

    /// Removes the key if it still has our value.
    async fn remove(&self, key: &str, value: &str) -> Result<bool> {
        self.write(Method::DELETE, key, &[("prevValue", value)]).await
    }

    async fn write(&self, method: Method, key: &str, form: &[(&str, &str)]) -> Result<bool> {
        let what = || format!("cannot write {key}");
        let mut path = http::path_of(key);
        // Only a PUT may have its fields in the body.
        let in_body = method == Method::PUT;
        if !in_body {
            path = format!("{path}?{}", http::encoded(form));
        }
        let body = if in_body { form } else { &[] };
        let reply = self.http.ask(method, &path, body).await.with_context(what)?;
        match answer::read(reply.status, &reply.body).with_context(what)? {
            Read::Done(_) => Ok(true),
            Read::Refused(fault) if [KEY_NOT_FOUND, COMPARE_FAILED, KEY_EXISTS].contains(&fault.code) => {
                Ok(false)
            }
            Read::Refused(fault) => Err(fault.error(key).context(what())),
            Read::Foreign | Read::Empty => {
                Err(anyhow!("etcd's answer is not understood (status {})", reply.status).context(what()))
            }
        }
    }

    fn ttl_seconds(&self) -> String {
        self.ttl.as_millis().div_ceil(1000).max(1).to_string()
    }

    /// Removes what is still ours of a claim.
    async fn take_back(&self, held: &Held) -> Result<()> {
        self.remove(&held.machine_key, &held.address).await?;
        self.remove(&held.details_key, &held.details).await?;
        Ok(())
    }
}

#[async_trait]
impl ClaimStore for EtcdV2 {
    fn describe(&self) -> String {
        format!("etcd at {} (v2 API)", self.endpoints)
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    async fn snapshot(&self) -> Result<View> {
        self.served_tree().await?.0.view(&self.keys)
    }

    async fn watch(&self) -> Result<Box<dyn Changes>> {
        let can_refresh = self.http.version().await?.is_some_and(|version| version.can_refresh());
        self.can_refresh.store(can_refresh, Ordering::Relaxed);
        let (_, index) = self.served_tree().await?;
        Ok(Box::new(V2Changes {
            http: Arc::clone(&self.http),
            path: format!("{}?wait=true&recursive=true", http::path_of(self.keys.prefix())),
            seen: index,
            waiting: None,
        }))
    }

    async fn write_claim(&self, claim: NewClaim<'_>) -> Result<bool> {
        let NewClaim { machine_id, address, details, replaces } = claim;
        let stored = StoredDetails { details: details.clone(), address: Some(address.to_owned()) };
        let ours = Held {
            machine_key: self.keys.machine(machine_id),
            address: address.to_owned(),
            details_key: self.keys.incarnation(machine_id),
            details: serde_json::to_string(&stored).context("cannot encode the claim")?,
        };
        let (tree, _) = self.served_tree().await?;
        tree.refuse_directory(&ours.machine_key)?;
        tree.refuse_directory(&ours.details_key)?;
        let machine = tree.value_at(&ours.machine_key);
        let other_half = tree.value_at(&ours.details_key);
        let there = machine.map(|machine| other_half.map(|half| answer::claim_revision(machine, half)));
        if there != replaces.map(Some) {
            return Ok(false);
        }
        let condition = other_half.map_or(If::Free, |half| If::Index(half.modified));
        if !self.put(&ours.details_key, &ours.details, true, condition).await? {
            return Ok(false);
        }
        let mut won = match machine {
            None => self.put(&ours.machine_key, address, true, If::Free).await?,
            Some(machine) if machine.value == address.as_bytes() => {
                self.refresh(&ours.machine_key, address).await?
            }
            Some(machine) => self.put(&ours.machine_key, address, true, If::Index(machine.modified)).await?,
        };
        if won {
            // Another machine with our id may have written its half between our two writes.
            let (tree, _) = self.served_tree().await?;
            let half = tree.value_at(&ours.details_key);
            won = half.is_some_and(|half| half.value == ours.details.as_bytes());
        }
        if won {
            *self.held.lock() = Some(ours);
        } else {
            self.take_back(&ours).await?;
        }
        Ok(won)
    }

    async fn renew(&self) -> Result<bool> {
        let Some(held) = self.held.lock().clone() else { return Ok(false) };
        let renewed = self.refresh(&held.machine_key, &held.address).await?
            && self.refresh(&held.details_key, &held.details).await?;
        if !renewed {
            *self.held.lock() = None;
            self.take_back(&held).await?;
        }
        Ok(renewed)
    }

    async fn write_certificate(&self, certificate: &Certificate, replaces: Option<Revision>) -> Result<bool> {
        let value = serde_json::to_string(certificate).context("cannot encode the birth certificate")?;
        self.put(&self.keys.cluster(), &value, false, replaces.map_or(If::Free, If::Index)).await
    }

    async fn release(&self) -> Result<()> {
        let held = self.held.lock().take();
        match held {
            Some(held) => self.take_back(&held).await.context("cannot give the claim back"),
            None => Ok(()),
        }
    }
}

/// One request that waits for the next event, again and again.
struct V2Changes {
    http: Arc<Http>,
    path: String,
    /// The index of the last event seen.
    seen: Revision,
    /// Kept when the caller turns to something else, so that the connection is.
    waiting: Option<BoxFuture<'static, Result<http::Reply, http::Unanswered>>>,
}

#[async_trait]
impl Changes for V2Changes {
    async fn next(&mut self) -> Result<()> {
        loop {
            let waiting = self.waiting.get_or_insert_with(|| {
                let (http, path) =
                    (Arc::clone(&self.http), format!("{}&waitIndex={}", self.path, self.seen + 1));
                Box::pin(async move { http.wait(&path).await })
            });
            let reply = waiting.await;
            self.waiting = None;
            let reply = reply.context("the watch failed")?;
            match answer::read(reply.status, &reply.body).context("the watch failed")? {
                Read::Done(event) => {
                    self.seen = self.seen.max(event.node.modified);
                    if event.is_news() {
                        return Ok(());
                    }
                }
                // More happened than etcd remembers: whoever looks now sees all that happened up to this index.
                Read::Refused(fault) if fault.code == INDEX_CLEARED => {
                    self.seen = reply.index.unwrap_or(fault.index);
                    return Ok(());
                }
                Read::Refused(fault) => return Err(fault.error(&self.path).context("the watch failed")),
                Read::Empty => tokio::time::sleep(WATCH_PAUSE).await,
                Read::Foreign => {
                    bail!("the watch failed: the answer (status {}) is not understood", reply.status)
                }
            }
        }
    }
}
