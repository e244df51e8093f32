//! Registers what Docker runs, with no change to the containers.
//!
//! A loop, not a chain of event handlers: it compares what should be registered (`model::registration` over what
//! the engine lists) with what the agent says is registered, carries out the difference, and looks again at every
//! event, every few seconds and, with growing pauses, after every failure. So a lost event, a restarted agent or
//! engine, and an end of this process at any point are all the same case. At its end the services stay.

mod consul;
mod docker;
mod engine;
mod reconcile;
mod registry;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use consul::Consul;
pub use docker::{DockerEngine, EngineVersion, SOCKET_DEFAULT, a_container, bridge_address, version};
pub use engine::{Engine, Identity, Listing, Twin};
pub use registry::{Registry, RegistryUri, RegistryUriError};

use crate::model::registration::Compat;
use crate::tasks::Spawner;
use reconcile::Reconciler;

/// How often the agent is asked what it knows when nothing happens. An agent that has lost its state says
/// nothing, so this is the longest time its services are missing.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// How often every container is read again although no event said so; Docker may drop events under load.
const READ_AFRESH_INTERVAL: Duration = Duration::from_mins(1);
/// First and longest pause after a failure; each is twice the one before.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// When the services of a container that has ended are removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deregister {
    /// Always.
    #[default]
    Always,
    /// Not if it ended by itself with an error code.
    OnSuccess,
}

/// What the user asks for.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// First part of every id; without one, the engine's name of this machine.
    pub hostname: Option<String>,
    /// `-ip`.
    pub address: Option<String>,
    /// `-internal`.
    pub internal: bool,
    /// `-explicit`.
    pub explicit: bool,
    /// `-useIpFromLabel`.
    pub address_label: Option<String>,
    /// `-tags`.
    pub tags: Vec<String>,
    /// `-deregister`.
    pub deregister: Deregister,
    /// `-cleanup`.
    pub cleanup: bool,
    /// `-resync`: read every container again this often.
    pub resync: Option<Duration>,
    /// `-retry-attempts`: tries after the first to reach the registry at the start; `None` for ever.
    pub retry_attempts: Option<u32>,
    /// `-retry-interval`: pause between them.
    pub retry_interval: Duration,
    /// `-compat`.
    pub compat: Compat,
}

/// Keeps `registry` equal to what `engine` runs, until stopped.
///
/// # Errors
/// Only at the start: the registry cannot be reached within the attempts, or the engine does not answer.
/// Later failures are logged and tried again.
pub async fn run(
    settings: Settings,
    engine: Arc<dyn Engine>,
    registry: Arc<dyn Registry>,
    spawner: Spawner,
) -> anyhow::Result<()> {
    let stop = spawner.stop_token();
    tokio::select! {
        connected = connect(&settings, &*registry) => connected?,
        () = stop.cancelled() => return Ok(()),
    }
    let identity = engine.identity().await?;
    let look_again = Arc::new(Notify::new());
    let follower = follow(Arc::clone(&engine), Arc::clone(&look_again), spawner.clone());
    spawner.start("docker events", follower);
    tracing::info!("Listening for Docker events ...");
    let reconciler = Reconciler::new(settings, &identity, engine, registry);
    tokio::select! {
        () = keep_equal(reconciler, &look_again) => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}

async fn connect(settings: &Settings, registry: &dyn Registry) -> anyhow::Result<()> {
    let mut attempt = 0;
    loop {
        let of = settings.retry_attempts.map_or_else(|| "-1".to_owned(), |attempts| attempts.to_string());
        tracing::info!("Connecting to backend ({attempt}/{of})");
        match registry.ping().await {
            Ok(line) => {
                tracing::info!("{line}");
                return Ok(());
            }
            Err(error) if settings.retry_attempts.is_some_and(|attempts| attempt >= attempts) => {
                return Err(error).context("cannot reach the registry");
            }
            Err(error) => tracing::warn!("{error:#}"),
        }
        attempt = attempt.saturating_add(1);
        tokio::time::sleep(settings.retry_interval).await;
    }
}

/// Follows the engine's events for ever; whatever was missed between two streams is found by looking again.
async fn follow(engine: Arc<dyn Engine>, look_again: Arc<Notify>, spawner: Spawner) -> anyhow::Result<()> {
    let stop = spawner.stop_token();
    let mut pause = RETRY_FIRST;
    loop {
        let begun = Instant::now();
        tokio::select! {
            ended = engine.follow(&look_again) => if let Err(error) = ended {
                tracing::warn!("{error:#}; following Docker's events again in {pause:?}");
            },
            () = stop.cancelled() => return Ok(()),
        }
        look_again.notify_one();
        if begun.elapsed() > RETRY_LAST {
            pause = RETRY_FIRST;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(RETRY_LAST);
    }
}

async fn keep_equal(mut reconciler: Reconciler, look_again: &Notify) {
    let mut retry = RETRY_FIRST;
    loop {
        let pause = if reconciler.look().await {
            retry = RETRY_FIRST;
            LOOK_INTERVAL
        } else {
            let pause = retry;
            retry = (retry * 2).min(RETRY_LAST);
            pause
        };
        tokio::select! {
            () = look_again.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
