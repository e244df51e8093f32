//! Reads the configuration again while the agent runs (SIGHUP, `PUT /v1/agent/reload`): all of it comes into force, or
//! nothing and why not. One after the other, and never ended half way because who asked has gone away.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::assembly;
use super::config::Source;
use super::handle::ReloadRequest;
use super::local::LocalState;
use crate::hint;

/// Requests that wait while another one is carried out; who comes later is told so at once.
const REQUESTS_WAITING_MAX: usize = 16;

/// Where requests are handed in, and where they come out.
pub(super) fn desk() -> (mpsc::Sender<ReloadRequest>, mpsc::Receiver<ReloadRequest>) {
    mpsc::channel(REQUESTS_WAITING_MAX)
}

/// Carries requests out until `stop` is cancelled.
pub(super) async fn run(
    source: Arc<Source>,
    local: Arc<LocalState>,
    mut requests: mpsc::Receiver<ReloadRequest>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let request = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(request) = requests.recv() => Some(request),
            () = source.asked() => None,
        };
        let done = reload(&source, &local).await.map_err(|error| {
            let text = hint::answer(&error);
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            tracing::error!("nothing of the configuration is changed: {line}");
            text
        });
        if let Some(request) = request {
            // Who asked may have gone away.
            drop(request.send(done));
        }
    }
}

async fn reload(source: &Arc<Source>, local: &LocalState) -> anyhow::Result<()> {
    let reader = source.clone();
    let read = tokio::task::spawn_blocking(move || {
        let settings = reader.read()?;
        let definitions = assembly::definitions(&settings)?;
        anyhow::Ok((settings, definitions))
    });
    let (settings, (services, checks)) = read.await.context("the reading was interrupted")??;
    let (services_count, checks_count) = (services.len(), checks.len());
    local.reload(services, checks).await?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let others = source.take(settings);
    if !others.is_empty() {
        tracing::warn!("changed, and not before the next start of the agent in force: {}", others.join(", "));
    }
    tracing::info!("the configuration was read again: {services_count} services, {checks_count} checks");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::sync::{oneshot, watch};
    use tokio_util::sync::CancellationToken;

    use super::{desk, run};
    use crate::agent::assembly::local_settings;
    use crate::agent::config::{Fragment, Settings, Source, read_paths};
    use crate::agent::handle::{Local as _, ReloadRequest};
    use crate::agent::local::LocalState;
    use crate::hint::advise_if_none;
    use crate::host::files::{MODE_PRIVATE, write_atomic};

    fn read(file: &Path) -> anyhow::Result<Settings> {
        let flags = Fragment { dev: Some(true), ..Fragment::default() };
        let read = || Settings::check(read_paths(&[file.to_owned()], None)?.merge(flags), "m1");
        read().map_err(|error| advise_if_none(error, "see `--help`"))
    }

    /// An agent's local state with the configuration in a file.
    struct Subject {
        file: std::path::PathBuf,
        source: Arc<Source>,
        local: Arc<LocalState>,
        /// The level of the log, each time that something came into force.
        level: watch::Receiver<Option<String>>,
        requests: tokio::sync::mpsc::Sender<ReloadRequest>,
        stop: CancellationToken,
        running: tokio::task::JoinHandle<anyhow::Result<()>>,
        _folder: tempfile::TempDir,
    }

    impl Subject {
        #[allow(clippy::disallowed_methods, reason = "a test's task of its own")]
        fn start(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("agent.json");
            write_atomic(&file, text.as_bytes(), MODE_PRIVATE).unwrap();
            let settings = read(&file).unwrap();
            let local = LocalState::open(local_settings(&settings, "id").unwrap()).unwrap();
            let (heard, level) = watch::channel(None);
            let path = file.clone();
            let source = Arc::new(Source::new(
                settings,
                move || read(&path),
                move |settings| _ = heard.send_replace(Some(settings.log_level.clone())),
            ));
            let (requests, receiver) = desk();
            let stop = CancellationToken::new();
            let running = tokio::spawn(run(source.clone(), local.clone(), receiver, stop.clone()));
            Self { file, source, local, level, requests, stop, running, _folder: folder }
        }

        fn write(&self, text: &str) {
            write_atomic(&self.file, text.as_bytes(), MODE_PRIVATE).unwrap();
        }

        async fn reload(&self) -> Result<(), String> {
            let (request, done) = oneshot::channel();
            self.requests.send(request).await.unwrap();
            done.await.unwrap()
        }

        fn services(&self) -> Vec<String> {
            self.local.services().into_keys().collect()
        }
    }

    #[tokio::test]
    async fn a_changed_file_comes_into_force_and_says_what_waits_for_the_next_start() {
        let subject = Subject::start(r#"{"services": [{"name": "a"}, {"name": "b"}]}"#);
        let text = r#"{"services": [{"name": "b"}, {"name": "c"}], "log_level": "warn", "domain": "other"}"#;
        subject.write(text);
        subject.reload().await.unwrap();
        assert_eq!(subject.services(), ["b", "c"]);
        assert_eq!(subject.level.borrow().as_deref(), Some("warn"));
        let in_force = subject.source.settings();
        assert_eq!((in_force.services.len(), in_force.domain.as_str()), (2, "consul"));
        let again = subject.source.take(subject.source.read().unwrap());
        assert_eq!(again, ["domain"]);
        subject.stop.cancel();
        subject.running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_bad_file_changes_nothing_and_the_error_names_file_reason_and_hint() {
        let mut subject = Subject::start(r#"{"service": {"name": "a"}}"#);
        for (text, reason) in [
            (r#"{"service": {"name": "b"}"#, "EOF while parsing"),
            (r#"{"service": {"name": "b"}, "nonsense": 1}"#, "invalid config key nonsense"),
            (r#"{"service": {"name": "b", "port": "x"}}"#, "service \"b\" is not valid"),
            (
                r#"{"service": {"name": "b"}, "check": {"name": "up", "ttl": "1s", "service_id": "zz"}}"#,
                "ServiceID \"zz\" does not exist",
            ),
        ] {
            subject.write(text);
            let told = subject.reload().await.unwrap_err();
            let file = subject.file.display().to_string();
            assert!(told.contains(&file) && told.contains(reason) && told.contains("\nhint: "), "{told}");
            assert_eq!(subject.services(), ["a"], "{text}");
        }
        assert!(!subject.level.has_changed().unwrap());
        subject.write(r#"{"service": {"name": "b"}}"#);
        subject.source.ask();
        subject.level.changed().await.unwrap();
        assert_eq!(subject.services(), ["b"]);
    }
}
