//! What happens by itself: TTL checks expire, outputs become due, services that stay critical go, states reach the
//! disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Shared, unix_milliseconds};

/// Time between two looks for services that were critical for too long (Consul's reaper).
const REAP_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two writes of the states of checks: a crash loses at most so much of a TTL.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// When there is no deadline at all. Any value does: new deadlines wake the task.
const IDLE: Duration = Duration::from_hours(1);

pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut reap = interval(REAP_INTERVAL);
    let mut save = interval(SAVE_INTERVAL);
    reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
    save.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = shared.state.lock().tick(shared.now());
        if due.changed {
            shared.changed.notify_one();
        }
        let next = due.next.map_or_else(|| Instant::now() + IDLE, |next| shared.started + next);
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(next) => {}
            () = shared.timers.notified() => {}
            _ = reap.tick() => remove_overdue(&shared).await,
            _ = save.tick() => save_states(&shared).await,
        }
    }
    save_states(&shared).await;
    Ok(())
}

async fn remove_overdue(shared: &Arc<Shared>) {
    let overdue = shared.state.lock().overdue_services(shared.now());
    for (service_id, check_id) in overdue {
        let shared = shared.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _door = shared.door.lock();
            // Two of its checks may be overdue, or a client was faster.
            if !shared.state.lock().owned.services.contains_key(&service_id) {
                return;
            }
            match shared.deregister_service(&service_id) {
                Ok(()) => {
                    tracing::warn!("service {service_id} is deregistered: {check_id} was critical too long");
                }
                Err(error) => tracing::error!("cannot deregister the critical service {service_id}: {error}"),
            }
            shared.publish();
        });
        if let Err(error) = done.await {
            tracing::error!("the removal of a critical service was interrupted: {error}");
        }
    }
}

async fn save_states(shared: &Arc<Shared>) {
    if shared.store.is_none() {
        return;
    }
    let states = {
        let mut state = shared.state.lock();
        if !std::mem::take(&mut state.unsaved) {
            return;
        }
        state.states(shared.now(), unix_milliseconds())
    };
    let saving = shared.clone();
    let saved = tokio::task::spawn_blocking(move || match &saving.store {
        Some(store) => store.put_states(&states),
        None => Ok(()),
    });
    let error = match saved.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(error) => error.to_string(),
    };
    shared.state.lock().unsaved = true;
    tracing::error!("the states of checks are not saved: {error}");
}
