//! Conversations over TCP: a length, a frame; a length, a frame; done. Both ways, with limits on everything.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::agent::places::{Place, Places};
use crate::host::net::{Listener, Network, ReadHalf, Stream, WriteHalf};
use crate::model::membership::{FRAME_BYTES_MAX, Input, StreamFailure};
use crate::tasks::Spawner;

/// Conversations that others may have with us at one time. Probes are over in milliseconds; more than this many
/// at once is somebody holding connections open. Then the oldest of whoever has most gives way.
const INCOMING_MAX: usize = 64;
/// Those of one address, by the same measure; with one more its oldest gives way.
const INCOMING_PER_ADDRESS_MAX: usize = 16;
/// Conversations that we have with others at one time: as many as there are failed probes in a large partition.
const OUTGOING_MAX: usize = 128;
/// Longest time for a whole incoming conversation, so that nobody holds a place by sending byte after byte.
const INCOMING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept (too many open files), so that the task does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Reports waiting for the driver, which answers in microseconds; the conversations are limited anyway.
pub(super) const REPORTS_WAITING_MAX: usize = 256;
/// Bytes of memory reserved for a frame before its content has come.
const FRAME_BYTES_RESERVED: usize = 16 * 1024;

/// What conversations have to say to the driver.
#[derive(Debug)]
pub(super) enum Report {
    /// Somebody asks; the answer is a frame, or nothing.
    Request { bytes: Vec<u8>, reply: oneshot::Sender<Option<Vec<u8>>> },
    /// One of our own made progress.
    Progress(Input),
}

/// Starts conversations.
#[derive(Clone)]
pub(super) struct Streams {
    network: Network,
    own: IpAddr,
    spawner: Spawner,
    reports: mpsc::Sender<Report>,
    incoming: Places,
    outgoing: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn new(
        network: Network,
        own: IpAddr,
        spawner: Spawner,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let outgoing = Arc::new(Semaphore::new(OUTGOING_MAX));
        Self { network, own, spawner, reports, incoming: Places::default(), outgoing }
    }

    /// Takes in connections until the process stops.
    pub(super) async fn accept(self, listener: Listener) -> anyhow::Result<()> {
        let stop = self.spawner.stop_token();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.serve(stream, from),
                Err(error) => {
                    warn!(%error, "cannot accept a gossip connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: Stream, from: SocketAddr) {
        let client = Some(from.ip().to_canonical());
        let Some(place) = self.incoming.enter_in_turn(client, INCOMING_PER_ADDRESS_MAX, INCOMING_MAX) else {
            debug!(%from, "a gossip connection is refused: {INCOMING_MAX} are open");
            return;
        };
        let reports = self.reports.clone();
        self.spawner.start_short("gossip answer", async move {
            tokio::select! {
                biased;
                () = place.must_give_way() => debug!(%from, "a gossip connection gave way to a newer one"),
                answered = timeout(INCOMING_TIMEOUT, answer(stream, reports, &place)) => match answered {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%from, %error, "a gossip connection broke"),
                    Err(_) => debug!(%from, "a gossip connection took too long"),
                },
            }
        });
    }

    /// Begins a conversation; what comes of it is reported.
    pub(super) fn begin(&self, exchange: u64, to: SocketAddr, bytes: Vec<u8>, limit: Duration) {
        let (network, reports, own) = (self.network.clone(), self.reports.clone(), self.own);
        let place = Arc::clone(&self.outgoing).try_acquire_owned();
        self.spawner.start_short("gossip question", async move {
            let outcome = match &place {
                Ok(_) => ask(exchange, &network, own, to, &bytes, limit, &reports).await,
                Err(_) => Err(StreamFailure::Unreachable),
            };
            let input = match outcome {
                Ok(bytes) => Input::StreamReply { exchange, bytes },
                Err(failure) => Input::StreamFailed { exchange, failure },
            };
            if reports.send(Report::Progress(input)).await.is_err() {
                debug!("gossip stopped during a conversation");
            }
        });
    }
}

async fn answer(stream: Stream, reports: mpsc::Sender<Report>, place: &Place) -> anyhow::Result<()> {
    let (mut reading, mut writing) = stream.into_split();
    let bytes = read_frame(&mut reading).await?;
    // Who has asked is answered; who has not may give way.
    place.begin();
    let (reply, answer) = oneshot::channel();
    reports.send(Report::Request { bytes, reply }).await?;
    if let Some(bytes) = answer.await? {
        write_frame(&mut writing, &bytes).await?;
    }
    Ok(())
}

async fn ask(
    exchange: u64,
    network: &Network,
    own: IpAddr,
    to: SocketAddr,
    bytes: &[u8],
    limit: Duration,
    reports: &mpsc::Sender<Report>,
) -> Result<Vec<u8>, StreamFailure> {
    let deadline = tokio::time::Instant::now() + limit;
    // From the address that we are bound to, so that others see us where we say we are.
    let connected = tokio::time::timeout_at(deadline, network.connect(Some(own), to)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(StreamFailure::Refused);
        }
        Ok(Err(error)) => {
            debug!(%to, %error, "cannot connect for gossip");
            return Err(StreamFailure::Unreachable);
        }
        Err(_) => return Err(StreamFailure::Unreachable),
    };
    let progress = Report::Progress(Input::StreamConnected { exchange });
    reports.send(progress).await.map_err(|_| StreamFailure::NoReply)?;
    let conversation = async {
        let (mut reading, mut writing) = stream.into_split();
        write_frame(&mut writing, bytes).await?;
        read_frame(&mut reading).await
    };
    match tokio::time::timeout_at(deadline, conversation).await {
        Ok(Ok(reply)) => Ok(reply),
        // The process ended with our question unread.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(StreamFailure::Refused),
        Ok(Err(error)) => {
            debug!(%to, %error, "a gossip conversation broke");
            Err(StreamFailure::NoReply)
        }
        Err(_) => Err(StreamFailure::NoReply),
    }
}

/// One question to an agent over TCP, and its answer.
pub(super) async fn converse(
    network: &Network,
    own: IpAddr,
    to: SocketAddr,
    question: &[u8],
) -> std::io::Result<Vec<u8>> {
    let (mut reading, mut writing) = network.connect(Some(own), to).await?.into_split();
    write_frame(&mut writing, question).await?;
    read_frame(&mut reading).await
}

async fn read_frame(stream: &mut ReadHalf) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(std::io::Error::other("a frame beyond the limit is announced"));
    }
    let mut bytes = Vec::with_capacity(length.min(FRAME_BYTES_RESERVED));
    let wanted = u64::try_from(length).unwrap_or(u64::MAX);
    stream.take(wanted).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

async fn write_frame(stream: &mut WriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut framed = Vec::with_capacity(bytes.len() + size_of::<u32>());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    stream.flush().await
}
