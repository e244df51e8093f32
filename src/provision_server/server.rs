//! The socket: accepts within limits, answers, logs each request, lets downloads end when it stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answer::answer;
use super::{Program, Settings};
use crate::hint::WithHint as _;

/// Open connections: more machines than that, booting in the same second, wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a request's head; what fetches user-data sends a few hundred.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// How long a connection may be without the whole head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long what we sent may stay unacknowledged before the kernel ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// How long a connection may be open: nobody keeps one of the places for ever by acknowledging and hardly reading. The
/// binary's 20 MB come through a line of 200 kbit/s in that time; whoever is slower goes on with a range.
const CONNECTION_DEADLINE: Duration = Duration::from_mins(15);
/// How long downloads may go on after a stop request; less than the deadline of all tasks.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no file descriptors left), so that it is not tried in a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that is ready and does not answer yet.
pub struct Bound {
    listener: TcpListener,
    settings: Arc<Settings>,
    program: Arc<Program>,
}

impl Bound {
    /// Where it listens.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("the socket has no address")
    }
}

/// Reads the binary, makes all texts once, and takes the address.
///
/// # Errors
/// When something cannot be served, or the address is taken.
pub async fn bind(settings: Settings) -> anyhow::Result<Bound> {
    let program = Program::open(settings.program.clone())
        .hint("name the file that machines are to get with --program")?;
    let pages = settings.pages(&settings.base(settings.listen), &program.look()?.digest)?;
    if let Some(error) = pages.documents.first().and_then(|document| document.text.as_ref().err())
        && pages.documents.iter().all(|document| document.text.is_err())
    {
        return Err(error.clone()).hint("see `corediscover serve-provision --help`");
    }
    for document in &pages.documents {
        if let Err(error) = &document.text {
            tracing::warn!("{} is not there: {error}", document.path);
        }
    }
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))
        .hint("choose another address or port with --listen; `ss -lntp` shows who has this one")?;
    Ok(Bound { listener, settings: Arc::new(settings), program: Arc::new(program) })
}

/// Answers requests until `stop` is cancelled.
///
/// # Errors
/// None while it runs: a connection's trouble is that connection's.
pub async fn run(bound: Bound, stop: CancellationToken) -> anyhow::Result<()> {
    let Bound { listener, settings, program } = bound;
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= CONNECTIONS_MAX;
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve(settings.clone(), program.clone(), stream, peer, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
        tracing::warn!("{} downloads were cut off by the stop", connections.len());
        connections.shutdown().await;
    }
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}

async fn serve(
    settings: Arc<Settings>,
    program: Arc<Program>,
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
) {
    let set = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
    let local = match set.and_then(|()| stream.local_addr()) {
        Ok(local) => local,
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection ended at once");
            return;
        }
    };
    let service = service_fn(move |request| {
        let (settings, program) = (settings.clone(), program.clone());
        async move {
            let look = tokio::task::spawn_blocking(move || {
                let response = answer(&settings, &program, local, &request);
                tracing::info!(
                    %peer,
                    method = %request.method(),
                    path = request.uri().path(),
                    range = request.headers().get("range").and_then(|value| value.to_str().ok()),
                    status = response.status().as_u16(),
                    "request"
                );
                response
            });
            // The answer of a task that panicked is a closed connection.
            look.await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let all = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    let Ok(ended) = tokio::time::timeout(CONNECTION_DEADLINE, all).await else {
        tracing::warn!(%peer, "a connection was cut off after {CONNECTION_DEADLINE:?}");
        return;
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::{CONNECTION_DEADLINE, Program, Settings, serve};
    use crate::model::provision::draft::Draft;

    /// More than sockets hold, so that most of it waits for the client.
    const PROGRAM_BYTES: usize = 64 << 20;

    #[tokio::test(start_paused = true)]
    async fn who_hardly_reads_keeps_a_place_until_the_deadline_and_no_longer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(PROGRAM_BYTES as u64).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap();
        let program = Arc::new(Program::open(file.path().to_owned()).unwrap());
        let settings = Settings {
            listen,
            url: None,
            program: file.path().to_owned(),
            draft: Draft::default(),
            explained: false,
        };
        let mut client = TcpStream::connect(listen).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        client.write_all(b"GET /corediscover HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let place = serve(Arc::new(settings), program, stream, peer, CancellationToken::new());
        let mut first = [0; 1024];
        // The clock of this test goes on by itself whenever everybody waits.
        let (read, ()) = tokio::join!(client.read_exact(&mut first), place);
        read.unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200 OK"));
        let lasted = began.elapsed();
        assert!(lasted >= CONNECTION_DEADLINE && lasted < CONNECTION_DEADLINE * 2, "{lasted:?}");
        let mut rest = Vec::new();
        // A reset is an end as well.
        drop(client.read_to_end(&mut rest).await);
        assert!(rest.len() < PROGRAM_BYTES, "{} bytes came", rest.len());
    }
}
