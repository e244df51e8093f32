//! Talks to the store for one machine: writes in order, reads after every change, keeps the lease, and when the
//! store is gone tries again for ever. What it learns becomes events; it decides nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::claims::{Changes, ClaimStore};
use crate::hint::{self, HINT_PREFIX};
use crate::model::election::{Certificate, ClaimDetails, Event, Revision, View};
use crate::model::names::MachineId;

/// A read without any change seen, against a watch that died silently.
const RESCAN_INTERVAL: Duration = Duration::from_secs(15);
/// First pause after the store failed, doubled up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause between attempts: a store that returns is seen soon, and is not run over.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The lease is renewed this many times within its time to live, so that two may fail.
const RENEWALS_PER_TTL: u32 = 3;

/// A write.
pub(super) enum StoreCommand {
    PutClaim { details: ClaimDetails, replaces: Option<Revision> },
    CreateCertificate(Certificate),
    SwapCertificate { revision: Revision, certificate: Certificate },
}

/// The store's side of one machine.
pub(super) struct StoreWorker {
    store: Arc<dyn ClaimStore>,
    machine_id: MachineId,
    address: String,
    stop: CancellationToken,
    changes: Option<Box<dyn Changes>>,
    sent: Option<View>,
    pause: Duration,
    lease_held: bool,
}

/// The machine has ended; nobody listens.
struct Unheard;

impl StoreWorker {
    pub(super) fn new(
        store: Arc<dyn ClaimStore>,
        machine_id: MachineId,
        address: String,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            machine_id,
            address,
            stop,
            changes: None,
            sent: None,
            pause: RETRY_PAUSE_MIN,
            lease_held: false,
        }
    }

    /// Runs until the stop token is cancelled.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<StoreCommand>,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            Unheard = self.work(&mut commands, &events) => debug!("the machine ended before its store"),
        }
        stop.cancelled().await;
        Ok(())
    }

    async fn work(
        &mut self,
        commands: &mut mpsc::Receiver<StoreCommand>,
        events: &mpsc::Sender<Event>,
    ) -> Unheard {
        let mut renewal = tokio::time::interval(self.store.ttl() / RENEWALS_PER_TTL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry_at = Instant::now();
        let mut rescan_at = Instant::now();
        loop {
            let connected = self.changes.is_some();
            let outcome = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.write(command, events).await,
                    None => return Unheard,
                },
                _ = renewal.tick(), if self.lease_held && connected => self.renew(events).await,
                changed = next_change(&mut self.changes) => match changed {
                    Ok(()) => self.look(events, false).await,
                    Err(error) => Ok(Err(error)),
                },
                () = tokio::time::sleep_until(retry_at), if !connected => self.connect(events).await,
                () = tokio::time::sleep_until(rescan_at), if connected => self.look(events, false).await,
            };
            rescan_at = Instant::now() + RESCAN_INTERVAL;
            match outcome {
                Err(unheard) => return unheard,
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.changes = None;
                    self.sent = None;
                    retry_at = Instant::now() + self.pause;
                    self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
                    let reason = one_line(&error);
                    if events.send(Event::StoreLost { reason }).await.is_err() {
                        return Unheard;
                    }
                }
            }
        }
    }

    async fn connect(&mut self, events: &mpsc::Sender<Event>) -> Result<anyhow::Result<()>, Unheard> {
        match self.store.watch().await {
            Ok(changes) => self.changes = Some(changes),
            Err(error) => return Ok(Err(error)),
        }
        if self.lease_held
            && let Err(error) = self.renew(events).await?
        {
            return Ok(Err(error));
        }
        let looked = self.look(events, true).await?;
        if looked.is_ok() {
            self.pause = RETRY_PAUSE_MIN;
            info!("connected to {}", self.store.describe());
        }
        Ok(looked)
    }

    /// Reads the store and tells, if there is news or it is `wanted` anyway.
    async fn look(
        &mut self,
        events: &mpsc::Sender<Event>,
        wanted: bool,
    ) -> Result<anyhow::Result<()>, Unheard> {
        let view = match self.store.snapshot().await {
            Ok(view) => view,
            Err(error) => return Ok(Err(error)),
        };
        if wanted || self.sent.as_ref() != Some(&view) {
            self.sent = Some(view.clone());
            events.send(Event::StoreChanged(view)).await.map_err(|_| Unheard)?;
        }
        Ok(Ok(()))
    }

    async fn renew(&mut self, events: &mpsc::Sender<Event>) -> Result<anyhow::Result<()>, Unheard> {
        match self.store.renew().await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => {
                self.lease_held = false;
                events.send(Event::LeaseLost).await.map_err(|_| Unheard)?;
                self.look(events, true).await
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn write(
        &mut self,
        command: StoreCommand,
        events: &mpsc::Sender<Event>,
    ) -> Result<anyhow::Result<()>, Unheard> {
        let (written, is_claim) = match command {
            StoreCommand::PutClaim { details, replaces } => {
                (self.store.put_claim(&self.machine_id, &self.address, &details, replaces).await, true)
            }
            StoreCommand::CreateCertificate(certificate) => {
                (self.store.create_certificate(&certificate).await, false)
            }
            StoreCommand::SwapCertificate { revision, certificate } => {
                (self.store.compare_and_swap_certificate(revision, &certificate).await, false)
            }
        };
        // With an unknown outcome nothing is won; the next look shows what happened.
        let won = *written.as_ref().unwrap_or(&false);
        if is_claim {
            self.lease_held = won;
        }
        let event = if is_claim { Event::ClaimWritten { won } } else { Event::CertificateWritten { won } };
        events.send(event).await.map_err(|_| Unheard)?;
        match written {
            Ok(_) => self.look(events, true).await,
            Err(error) => Ok(Err(error)),
        }
    }
}

/// The error, its causes and the advice for a line of the journal.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = hint::causes(error);
    for advice in
        error.chain().filter_map(|cause| cause.to_string().strip_prefix(HINT_PREFIX).map(str::to_owned))
    {
        text = format!("{text} (hint: {advice})");
    }
    text
}

async fn next_change(changes: &mut Option<Box<dyn Changes>>) -> anyhow::Result<()> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}
